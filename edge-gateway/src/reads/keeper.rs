//! Keeps the state that finds and dialects are answered from in a file, for a restart while no control plane
//! answers.
//!
//! In: the state of now, from time to time. Out: a file that is always whole, because a new one replaces the
//! old one at once; and at the start, the state that the last process left. A file that cannot be used
//! changes nothing but what is known after such a restart, so the gateway starts without it and says why.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Reads;
use super::state::Claims;
use crate::metrics::ReadsMetrics;

mod disk;

use disk::{clear, lock_of, read, target_of, write};

/// The file of the state.
#[derive(Clone, Debug)]
pub struct StateFile {
    /// Its path. Each gateway has one of its own. Of two processes with the same one, the second reads it,
    /// and writes it only after the first has ended.
    pub path: PathBuf,
    /// The time between two writes.
    pub interval: Duration,
}

/// The task that keeps the state.
pub(crate) struct Keeper {
    pub(crate) file: StateFile,
    pub(crate) reads: Reads,
    pub(crate) metrics: ReadsMetrics,
}

impl Keeper {
    /// Reads what the last process left, and has it answer while nobody can be asked.
    pub(crate) async fn load(&self) {
        let path = self.file.path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let path = target_of(path)?;
            clear(&path);
            read(&path)
        });
        match reading.await.map_err(io::Error::other).flatten() {
            Ok(view) => {
                let age = view.heard.map_or(0, |heard| heard.elapsed().as_secs());
                let (consumers, tenants) = (view.read.consumers.size(), view.read.tenants.size());
                info!(
                    consumers,
                    tenants, age, "the state of the last process answers while no control plane does"
                );
                self.reads.remember(view);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                self.metrics.kept(Err(()));
                warn!(%error, path = %self.file.path.display(), "the state of the last process cannot be used; starting without it");
            }
        }
    }

    /// Writes the state from time to time, and once more at the end.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut written = None;
        let mut has_failed = false;
        // Held until the process ends. Two processes that took turns would each replace what the other
        // follows.
        let lock = Arc::<OnceLock<File>>::default();
        let claims = Arc::<Mutex<Claims>>::default();
        loop {
            let is_last = stop.run_until_cancelled(tokio::time::sleep(self.file.interval)).await.is_none();
            let view = self.reads.view();
            // Without a bookmark since, the state is the same, and so is its age.
            // While the last process still knows things that this one does not, the file says more as it is.
            let is_better = self.reads.remembered().is_none();
            if view.heard.is_some() && view.heard != written && is_better {
                let heard = view.heard;
                let path = self.file.path.clone();
                let (lock, claims) = (lock.clone(), claims.clone());
                let writing = tokio::task::spawn_blocking(move || {
                    let path = target_of(path)?;
                    if lock.get().is_none() {
                        _ = lock.set(lock_of(&path)?);
                    }
                    write(&path, &view, &mut claims.lock())
                });
                match writing.await.map_err(io::Error::other).flatten() {
                    Ok(bytes) => {
                        written = heard;
                        has_failed = false;
                        self.metrics.kept(Ok(bytes));
                    }
                    Err(error) => {
                        self.metrics.kept(Err(()));
                        // Once for each row of failures.
                        if !std::mem::replace(&mut has_failed, true) {
                            warn!(%error, path = %self.file.path.display(), "the state cannot be kept; a restart without a control plane would begin with what was kept before, or with nothing");
                        }
                    }
                }
            }
            if is_last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::reads::{EdgeView, ReadsConfig, shared_view};

    #[tokio::test]
    async fn a_better_state_is_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let shared = shared_view();
        let view = EdgeView { heard: Some(Instant::now()), ..(*shared.load()).clone() };
        shared.store(view.clone());
        let reads = Reads::new(ReadsConfig::default(), shared.clone(), Instant::now());
        let keeper = || Keeper {
            file: StateFile { path: path.clone(), interval: Duration::from_secs(3600) },
            reads: reads.clone(),
            metrics: ReadsMetrics::none(),
        };
        let ended = CancellationToken::new();
        ended.cancel();
        reads.remember(view);
        keeper().run(ended.clone()).await;
        assert!(!path.exists(), "the file of the last process stays");
        shared.forget_remembered();
        keeper().run(ended).await;
        assert!(path.exists());
    }

    #[tokio::test]
    async fn the_second_of_two_processes_writes_after_the_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/state");
        let shared = shared_view();
        shared.store(EdgeView { heard: Some(Instant::now()), ..(*shared.load()).clone() });
        let keeper = || Keeper {
            file: StateFile { path: path.clone(), interval: Duration::from_secs(3600) },
            reads: Reads::new(ReadsConfig::default(), shared.clone(), Instant::now()),
            metrics: ReadsMetrics::none(),
        };
        let ended = CancellationToken::new();
        ended.cancel();
        let first = lock_of(&path).expect("nobody has it");
        keeper().run(ended.clone()).await;
        assert!(!path.exists(), "the first one writes it");
        drop(first);
        keeper().run(ended).await;
        assert!(path.exists());
    }

    #[tokio::test]
    async fn unfinished_files_of_a_killed_process_go_at_the_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let unfinished =
            tempfile::Builder::new().prefix(".state.").suffix(".new").tempfile_in(directory.path());
        unfinished.expect("a file").keep().expect("stays");
        let others = [".state.b.aBc123.new", ".stat.aBc123.new", "state.aBc123.new", ".state.old"];
        for other in others {
            std::fs::write(directory.path().join(other), "not ours").expect("is written");
        }
        let shared = shared_view();
        let keeper = Keeper {
            file: StateFile { path, interval: Duration::from_secs(3600) },
            reads: Reads::new(ReadsConfig::default(), shared, Instant::now()),
            metrics: ReadsMetrics::none(),
        };
        keeper.load().await;
        let mut left: Vec<_> = std::fs::read_dir(directory.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        left.sort();
        let mut expected = others.map(str::to_owned);
        expected.sort();
        assert_eq!(left, expected);
    }
}
