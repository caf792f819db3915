//! The settings in force, and reading them again while the process runs.
//!
//! In: the arguments and the environment of the start, the file as it is now. Out: the new values, and the
//! keys that have changed: those that take effect at once and those that need a restart.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use clap::ArgMatches;

use super::declared::Declared;
use super::sources::file_of;
use super::{Config, Mistakes, Settings, Sources, render};

/// A configuration as the start read it, with the means to read it again.
#[derive(Debug)]
pub struct Loaded<C> {
    /// The values.
    pub config: C,
    /// Warnings for the operator, to be logged as soon as there is a log.
    pub notes: Vec<String>,
    /// Reads the settings again and knows the ones in force.
    pub reloader: Reloader,
}

/// The settings in force, with everything that is needed to read them again.
#[derive(Debug)]
pub struct Reloader {
    matches: ArgMatches,
    environment: HashMap<String, String>,
    in_force: Vec<Declared>,
    shown: Arc<ArcSwap<String>>,
}

/// The result of reading the settings again.
#[derive(Debug)]
pub struct Change<C> {
    /// All values as they were read. Only those of live settings may be applied: the others are not in force.
    pub config: C,
    /// Keys whose new value takes effect now.
    pub live: Vec<String>,
    /// Keys whose new value takes effect when the process is started again.
    pub later: Vec<String>,
}

impl Reloader {
    pub(super) fn new(
        matches: ArgMatches,
        environment: HashMap<String, String>,
        in_force: Vec<Declared>,
    ) -> Self {
        let shown = Arc::new(ArcSwap::from_pointee(render::toml(&in_force)));
        Self { matches, environment, in_force, shown }
    }

    /// The settings in force as TOML, without secrets. The text is replaced whenever a reload changes them.
    pub fn shown(&self) -> Arc<ArcSwap<String>> {
        self.shown.clone()
    }

    /// The path of the configuration file. `None` when no file is configured.
    pub fn path(&self) -> Option<PathBuf> {
        file_of(&self.matches, |name| self.environment.get(name).cloned()).map(|(path, _)| path)
    }

    /// Reads all settings once more.
    ///
    /// # Errors
    /// All mistakes at once. The settings in force are then as they were.
    pub fn read<C: Config>(&mut self) -> Result<Change<C>, Mistakes> {
        // Only the file can have changed. Flags and environment are read again, from the copies made at the
        // start, because they still rank above it.
        let sources =
            Sources::of_process(&self.matches, &self.in_force, |name| self.environment.get(name).cloned())?;
        let mut settings = Settings::new(&sources);
        let config = C::read(&mut settings);
        // Nothing below may fail: from here on `in_force` is changed key by key.
        let (read, _) = settings.finish()?;
        let mut live = Vec::new();
        let mut later = Vec::new();
        for new in read {
            let Some(old) = self.in_force.iter_mut().find(|old| old.key == new.key) else { continue };
            // All secrets look the same here, so a new one is not reported as a change.
            if old.shown == new.shown {
                continue;
            }
            if new.live {
                live.push(new.key.clone());
                *old = new;
            } else {
                // The old value stays in `in_force`, which is what `/config` shows: it is what the
                // process uses.
                later.push(new.key);
            }
        }
        self.shown.store(Arc::new(render::toml(&self.in_force)));
        Ok(Change { config, live, later })
    }
}
