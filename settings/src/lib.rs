//! Settings: each declared once, read from flags, environment and file, with all mistakes told together.
//!
//! A declaration such as `settings.get("watch.ping-interval", "30s", "Pause between pings to a watcher.")`
//! is at the same time
//! - the flag `--watch-ping-interval 30s`,
//! - the environment variable `MUSTER_WATCH_PING_INTERVAL=30s`,
//! - the key `ping-interval = "30s"` in the section `[watch]` of the file given with `--config` or `MUSTER_CONFIG`,
//! - a line of `--help`, of `--print-config` and of the table in the documentation.
//!
//! The first of flag, environment, file and default that is present counts. An empty variable is absent; an
//! unknown key in the file is a mistake. Between environment and file stand the variables and the file of Service-Center.
//! What is declared as live is read again while the process runs ([`Again`]). Nothing here touches the network or changes the environment.
//!
//! ```
//! use settings::{Config, Settings, Sources};
//!
//! struct Pings { every: std::time::Duration }
//!
//! impl Config for Pings {
//!     fn read(settings: &mut Settings<'_>) -> Self {
//!         Self { every: settings.get("watch.ping-interval", "30s", "Pause between pings to a watcher.") }
//!     }
//! }
//!
//! let sources = Sources::default().with_variable("MUSTER_WATCH_PING_INTERVAL", "5s");
//! let pings: Pings = config::parse(&sources).expect("no mistakes");
//! assert_eq!(pings.every.as_secs(), 5);
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use clap::ArgMatches;

mod again;
mod declared;
mod mistake;
mod origin;
mod render;
mod service_center;
mod settings;
mod sources;
#[cfg(test)]
mod tests;
mod value;

pub use again::{Again, Change, Loaded};
pub use mistake::{Mistake, Mistakes};
pub use origin::Origin;
pub use render::render_markdown;
pub use settings::Settings;
pub use sources::Sources;
pub use value::{Choice, Kind, Secret, Setting, Size, Url};

/// The exit status for mistakes of the one who started the process (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;

/// A value made of settings. Declares the same settings each time it is read.
pub trait Config: Sized {
    /// Declares the settings and takes their values. Always yields something: mistakes are kept in `settings`.
    fn read(settings: &mut Settings<'_>) -> Self;
}

/// Reads a configuration out of `sources`.
///
/// # Errors
/// All mistakes at once.
pub fn parse<C: Config>(sources: &Sources) -> Result<C, Mistakes> {
    let mut settings = Settings::new(sources);
    let config = C::read(&mut settings);
    settings.finish().map(|_| config)
}

/// The configuration when nobody sets anything.
///
/// # Errors
/// When the defaults contradict each other, or something has no default.
pub fn defaults<C: Config>() -> Result<C, Mistakes> {
    parse(&Sources::default())
}

/// Adds the flags of `C`, `--config` and `--print-config` to a command.
pub fn augment<C: Config>(command: clap::Command) -> clap::Command {
    let nothing = Sources::default();
    let mut settings = Settings::new(&nothing);
    C::read(&mut settings);
    render::flags(command, settings.declared())
}

/// Parses the process's arguments, environment and file. Answers `--help`, `--version` and `--print-config`
/// and tells mistakes by itself.
///
/// # Errors
/// The status with which the process is to exit now: 0 after an answer, 64 after mistakes.
pub fn start<C: Config>(command: clap::Command) -> Result<Loaded<C>, ExitCode> {
    match augment::<C>(command).try_get_matches() {
        Ok(matches) => resolve(&matches),
        Err(e) => {
            // Nothing is left to do when even this cannot be told.
            let _ = e.print();
            Err(if e.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS })
        }
    }
}

/// Like [`start`], for the arguments of a subcommand that went through [`augment`].
///
/// # Errors
/// As [`start`].
pub fn resolve<C: Config>(matches: &ArgMatches) -> Result<Loaded<C>, ExitCode> {
    // What is not Unicode cannot be any setting's value; its parser will say so.
    let text = |it: std::ffi::OsString| it.to_string_lossy().into_owned();
    resolve_in(matches, std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
}

/// Reads what a program would with this environment and the given file, without starting anything.
///
/// # Errors
/// All mistakes at once.
pub fn check<C: Config>(file: Option<&Path>) -> Result<C, Mistakes> {
    let nothing = Sources::default();
    let mut catalogue = Settings::new(&nothing);
    C::read(&mut catalogue);
    let flags = file.map(|path| format!("--{}={}", origin::CONFIG, path.display()));
    let matches = augment::<C>(clap::Command::new("check").no_binary_name(true)).get_matches_from(flags);
    let lookup = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    parse(&Sources::of_process(&matches, catalogue.declared(), lookup)?)
}

fn resolve_in<C: Config>(
    matches: &ArgMatches,
    environment: HashMap<String, String>,
) -> Result<Loaded<C>, ExitCode> {
    let refuse = |mistakes: Mistakes| {
        eprintln!("{mistakes}");
        ExitCode::from(EXIT_USAGE)
    };
    let nothing = Sources::default();
    let mut catalogue = Settings::new(&nothing);
    C::read(&mut catalogue);
    let sources = Sources::of_process(matches, catalogue.declared(), |name| environment.get(name).cloned())
        .map_err(refuse)?;

    let mut settings = Settings::new(&sources);
    let config = C::read(&mut settings);
    let (declared, notes) = settings.finish().map_err(refuse)?;
    if matches.get_flag(origin::PRINT_CONFIG) {
        print!("{}", render::toml(&declared));
        return Err(ExitCode::SUCCESS);
    }
    Ok(Loaded { config, notes, again: Again::new(matches.clone(), environment, declared) })
}
