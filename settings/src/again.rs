//! A configuration that is read again while the process runs: what changed, and what of it counts at once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use clap::ArgMatches;

use super::declared::Declared;
use super::sources::file_of;
use super::{Config, Mistakes, Settings, Sources, render};

/// What was read at the start, and what is needed to read it again.
#[derive(Debug)]
pub struct Loaded<C> {
    /// The settings.
    pub config: C,
    /// What deserves a warning, once there is a log.
    pub notes: Vec<String>,
    /// The way to the settings of later.
    pub again: Again,
}

/// The settings in force, and where they came from.
#[derive(Debug)]
pub struct Again {
    matches: ArgMatches,
    environment: HashMap<String, String>,
    in_force: Vec<Declared>,
    shown: Arc<ArcSwap<String>>,
}

/// What another reading brought.
#[derive(Debug)]
pub struct Change<C> {
    /// Everything as it was read; only settings that are live are to be taken from it.
    pub config: C,
    /// Keys whose new value counts from now on.
    pub live: Vec<String>,
    /// Keys whose new value counts from the next start on.
    pub later: Vec<String>,
}

impl Again {
    pub(super) fn new(
        matches: ArgMatches,
        environment: HashMap<String, String>,
        in_force: Vec<Declared>,
    ) -> Self {
        let shown = Arc::new(ArcSwap::from_pointee(render::toml(&in_force)));
        Self { matches, environment, in_force, shown }
    }

    /// The settings in force as text, without secrets; changes with them.
    pub fn shown(&self) -> Arc<ArcSwap<String>> {
        self.shown.clone()
    }

    /// The file, if there is one, with the time of its last change.
    pub fn file(&self) -> Option<(PathBuf, Option<SystemTime>)> {
        let lookup = |name: &str| self.environment.get(name).cloned();
        let (path, _) = file_of(&self.matches, lookup)?;
        let changed = std::fs::metadata(&path).and_then(|it| it.modified()).ok();
        Some((path, changed))
    }

    /// Reads everything once more.
    ///
    /// # Errors
    /// All mistakes; then nothing has changed.
    pub fn read<C: Config>(&mut self) -> Result<Change<C>, Mistakes> {
        let lookup = |name: &str| self.environment.get(name).cloned();
        let sources = Sources::of_process(&self.matches, &self.in_force, lookup)?;
        let mut settings = Settings::new(&sources);
        let config = C::read(&mut settings);
        let (read, _) = settings.finish()?;
        let (mut live, mut later) = (Vec::new(), Vec::new());
        for new in read {
            let Some(old) = self.in_force.iter_mut().find(|it| it.key == new.key) else { continue };
            if old.shown == new.shown {
                continue;
            }
            if new.live {
                live.push(new.key.clone());
                *old = new;
            } else {
                later.push(new.key);
            }
        }
        self.shown.store(Arc::new(render::toml(&self.in_force)));
        Ok(Change { config, live, later })
    }
}
