//! Settings: each is declared once and read from flags, environment and file. All mistakes are
//! reported together.
//!
//! A declaration such as `settings.get("watch.ping-interval", "30s", "Pause between pings to a watcher.")`
//! is at the same time
//! - the flag `--watch-ping-interval 30s`,
//! - the environment variable `MUSTER_WATCH_PING_INTERVAL=30s`,
//! - the key `ping-interval = "30s"` in the section `[watch]` of the file named by `--config` or
//!   `MUSTER_CONFIG`,
//! - a line of `--help`, of `--print-config` and of the table in the documentation.
//!
//! The first source that has a value wins: flag, environment, file, default. An empty variable is absent; an
//! unknown key in the file is a mistake. The variables and the file of Service-Center rank between our
//! environment and our file.
//!
//! Settings that are declared as live are read again while the process runs ([`Reloader`]). Nothing here
//! touches the network or changes the environment.
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
//! let pings: Pings = settings::parse(&sources).expect("the variable holds a duration");
//! assert_eq!(pings.every.as_secs(), 5);
//! ```

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::ArgMatches;

mod declared;
mod mistake;
mod origin;
mod reload;
mod render;
mod service_center;
mod settings;
mod sources;
#[cfg(test)]
mod tests;
mod text;
mod value;

pub use mistake::{Mistake, Mistakes};
pub use origin::Origin;
pub use reload::{Change, Loaded, Reloader};
pub use render::render_markdown;
pub use settings::Settings;
pub use sources::Sources;
pub use value::{Choice, Kind, Secret, Setting, Size, Url};

/// The exit status after mistakes in the arguments or the configuration (`EX_USAGE` of `sysexits.h`).
pub const EXIT_USAGE: u8 = 64;

/// A value made of settings. An implementation declares the same settings each time it is read.
pub trait Config: Sized {
    /// Declares the settings and takes their values. Always returns a value: `settings` collects the
    /// mistakes, and a caller that finds any there throws the value away.
    fn read(settings: &mut Settings<'_>) -> Self;
}

/// Reads a configuration from `sources`.
///
/// # Errors
/// All mistakes at once.
pub fn parse<C: Config>(sources: &Sources) -> Result<C, Mistakes> {
    let mut settings = Settings::new(sources);
    let config = C::read(&mut settings);
    settings.finish().map(|_| config)
}

/// The configuration with every setting at its default.
///
/// # Errors
/// When the defaults contradict each other, or a setting that must be set has none.
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

/// Reads the process's arguments, environment and file. Prints the output of `--help`, `--version` and
/// `--print-config` on standard output, and mistakes on standard error.
///
/// # Errors
/// The status with which the process must exit now: 0 after one of these flags, 64 after mistakes.
pub fn start<C: Config>(command: clap::Command) -> Result<Loaded<C>, ExitCode> {
    match augment::<C>(command).try_get_matches() {
        Ok(matches) => resolve(&matches),
        Err(e) => {
            // A closed standard output is no reason for another exit status.
            let _ = e.print();
            Err(if e.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS })
        }
    }
}

/// Like [`start`], for the arguments of a subcommand that was built with [`augment`].
///
/// # Errors
/// As [`start`].
pub fn resolve<C: Config>(matches: &ArgMatches) -> Result<Loaded<C>, ExitCode> {
    let mut environment = HashMap::new();
    for (name, value) in std::env::vars_os() {
        environment.insert(lossy(name), lossy(value));
    }
    resolve_in(matches, environment)
}

/// Reads the settings that a program would have with the environment of this process and the given file, and
/// starts nothing.
///
/// # Errors
/// All mistakes at once.
pub fn check<C: Config>(file: Option<&Path>) -> Result<C, Mistakes> {
    let nothing = Sources::default();
    let mut catalogue = Settings::new(&nothing);
    C::read(&mut catalogue);
    let flags = file.map(|path| format!("--{}={}", origin::CONFIG, path.display()));
    let matches = augment::<C>(clap::Command::new("check").no_binary_name(true)).get_matches_from(flags);
    let sources =
        Sources::of_process(&matches, catalogue.declared(), |name| std::env::var_os(name).map(lossy))?;
    parse(&sources)
}

/// Replaces what is not Unicode. `std::env::vars` would panic instead, also because of a variable that is no
/// setting.
fn lossy(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

fn resolve_in<C: Config>(
    matches: &ArgMatches,
    environment: HashMap<String, String>,
) -> Result<Loaded<C>, ExitCode> {
    // The first reading only collects the keys. Without them nobody knows which flags and
    // variables to look for.
    let nothing = Sources::default();
    let mut catalogue = Settings::new(&nothing);
    C::read(&mut catalogue);
    let sources = Sources::of_process(matches, catalogue.declared(), |name| environment.get(name).cloned())
        .map_err(refused)?;

    let mut settings = Settings::new(&sources);
    let config = C::read(&mut settings);
    // Mistakes come before `--print-config`: a printed file must be one that a program can start with.
    let (declared, notes) = settings.finish().map_err(refused)?;
    if matches.get_flag(origin::PRINT_CONFIG) {
        print!("{}", render::toml(&declared));
        return Err(ExitCode::SUCCESS);
    }
    let reloader = Reloader::new(matches.clone(), environment, declared);
    Ok(Loaded { config, notes, reloader })
}

fn refused(mistakes: Mistakes) -> ExitCode {
    // Not logged: how to log is itself a setting, and it may be the one that is wrong.
    eprintln!("{mistakes}");
    ExitCode::from(EXIT_USAGE)
}
