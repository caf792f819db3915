//! `muster store`: checks the file of a standalone registry, and saves what is whole in a damaged one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use control_plane::store::embedded::{self, OpenError, Salvage, SalvageWay, StoreSummary};
use serde_json::json;

use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::standalone::STORE_FILE;

/// Arguments of `muster store`.
#[derive(Debug, Args)]
pub(crate) struct Store {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read the whole store, and tell whether a registry would serve it. Changes nothing.
    Check {
        /// The registry's data directory, or its file.
        #[arg(default_value = "./muster-data")]
        path: PathBuf,
        /// Format of the result.
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
    },
    /// Save what is whole in a damaged store to a new directory. The damaged store stays as it is.
    Salvage {
        /// The damaged registry's data directory, or its file.
        #[arg(default_value = "./muster-data")]
        path: PathBuf,
        /// The data directory to create.
        #[arg(long, value_name = "DIRECTORY")]
        to: PathBuf,
        /// Format of the result.
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
    },
}

/// A file can be whole and old.
const NOT_WITNESSED: &str = "muster.head beside the store is missing or damaged, so nothing shows whether the store holds \
                             all that was acknowledged";

impl Store {
    pub(crate) fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        match self.command {
            StoreCommand::Check { path, output } => {
                let file = file_of(&path);
                let summary = embedded::check(&file).map_err(failure)?;
                if !summary.witnessed {
                    screen.note(NOT_WITNESSED);
                }
                match output {
                    OutputFormat::Json => screen.json(&json!({"sound": true, "store": of(&summary)})),
                    OutputFormat::Table => {
                        screen.line(&format!("{} is sound: {}", file.display(), words(&summary)))
                    }
                }
            }
            StoreCommand::Salvage { path, to, output } => {
                let file = to.join(STORE_FILE);
                let Salvage { way, summary } = embedded::salvage(&file_of(&path), &file).map_err(failure)?;
                if let Some(warning) = warning(way) {
                    screen.note(warning);
                }
                match output {
                    OutputFormat::Json => {
                        screen.json(&json!({"way": name(way), "file": file, "store": of(&summary)}))
                    }
                    OutputFormat::Table => {
                        screen.line(&format!("saved to {}: {}", file.display(), words(&summary)))
                    }
                }
            }
        }
    }
}

/// The store's file in a data directory, or the path itself if it is no directory.
fn file_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(STORE_FILE) } else { path.to_owned() }
}

fn words(summary: &StoreSummary) -> String {
    format!("revision {}, {} keys, {} leases", summary.revision, summary.keys, summary.leases)
}

fn of(summary: &StoreSummary) -> serde_json::Value {
    let StoreSummary { revision, keys, leases, witnessed } = summary;
    json!({"revision": revision, "keys": keys, "leases": leases, "witnessed": witnessed})
}

fn name(way: SalvageWay) -> &'static str {
    match way {
        SalvageWay::Whole => "whole",
        SalvageWay::Older => "older",
        SalvageWay::Records => "records",
    }
}

fn warning(way: SalvageWay) -> Option<&'static str> {
    match way {
        SalvageWay::Whole => None,
        SalvageWay::Older => Some("the last writes that were acknowledged are lost"),
        SalvageWay::Records => Some(
            "only single records could be read: some may be missing or older than acknowledged, and some that were \
             deleted long ago may be back; look through the services",
        ),
    }
}

fn failure(error: OpenError) -> CommandFailure {
    let problem = match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    CommandFailure::Unwell(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_plane::store::embedded::{EmbeddedConfig, EmbeddedStore};
    use host::lifecycle::Tasks;

    fn run(command: StoreCommand) -> Result<(), CommandFailure> {
        Store { command }.run(&mut Screen::plain(std::io::sink(), std::io::sink()))
    }

    #[tokio::test]
    async fn a_store_is_checked_and_salvaged_by_its_directory() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("data");
        let to = directory.path().join("saved");
        let output = OutputFormat::Table;
        let tasks = Tasks::new();
        let store = EmbeddedStore::open(path.join(STORE_FILE), EmbeddedConfig::default(), &tasks);
        let in_use = run(StoreCommand::Check { path: path.clone(), output }).expect_err("in use");
        assert!(in_use.to_string().contains("in use by another process"), "{in_use}");
        drop(store);
        tasks.drain().cancel();
        assert!(tasks.finish(std::time::Duration::from_secs(30)).await, "closed");
        run(StoreCommand::Check { path: path.clone(), output }).expect("sound");
        run(StoreCommand::Salvage { path: path.clone(), to: to.clone(), output }).expect("saved");
        run(StoreCommand::Check { path: to.clone(), output }).expect("sound");
        let again = run(StoreCommand::Salvage { path, to, output }).expect_err("nothing is overwritten");
        assert_eq!(again.status(), 1, "{again}");
        let missing = directory.path().join("missing");
        assert!(run(StoreCommand::Check { path: missing, output }).is_err());
    }
}
