//! Keeps the state that finds and dialects are answered from in a file, for a restart while no control plane
//! answers.
//!
//! In: the state of now, from time to time. Out: a file that is always whole, because a new one replaces the
//! old one at once; and at the start, the state that the last process left. A file that cannot be used
//! changes nothing but what is known after such a restart, so the gateway starts without it and says why.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use shared::clock::Clock;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::state::{decode, encode};
use super::{EdgeView, Reads};
use crate::metrics::ReadsMetrics;

/// The end of the name of a file that is still being written.
const UNFINISHED: &str = ".new";
/// The end of the name of the file whose lock its only writer holds.
const LOCK: &str = ".lock";

/// The file of the state.
#[derive(Clone, Debug)]
pub struct StateFile {
    /// Its path. Each gateway has one of its own. Of two processes with the same one, the second reads it, and
    /// writes it only after the first has ended.
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
        // Held until the process ends. Two processes that took turns would each replace what the other follows.
        let lock = Arc::<OnceLock<File>>::default();
        loop {
            let is_last = stop.run_until_cancelled(tokio::time::sleep(self.file.interval)).await.is_none();
            let view = self.reads.view();
            // Without a bookmark since, the state is the same, and so is its age.
            // While the last process still knows things that this one does not, the file says more as it is.
            let is_better = self.reads.remembered().is_none();
            if view.heard.is_some() && view.heard != written && is_better {
                let heard = view.heard;
                let path = self.file.path.clone();
                let lock = lock.clone();
                let writing = tokio::task::spawn_blocking(move || {
                    if lock.get().is_none() {
                        _ = lock.set(lock_of(&path)?);
                    }
                    write(&path, &view)
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
                            warn!(%error, path = %self.file.path.display(), "the state cannot be kept; a restart without a control plane would begin with nothing");
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

fn read(path: &Path) -> io::Result<EdgeView> {
    let bytes = std::fs::read(path)?;
    decode(&bytes, Instant::now(), Clock::system().micros())
        .map_err(|reason| io::Error::new(ErrorKind::InvalidData, reason))
}

/// The lock of the only process that writes this file. The system releases it when that process ends.
///
/// # Errors
/// When another process has it, or the file beside the state cannot be opened.
fn lock_of(path: &Path) -> io::Result<File> {
    std::fs::create_dir_all(directory_of(path))?;
    let mut name = path.as_os_str().to_owned();
    name.push(LOCK);
    // Its contents do not matter. It stays, because removing it would let a third process lock a new one.
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(ErrorKind::WouldBlock, "another process keeps its state in the same file"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Replaces the file. Returns its size.
fn write(path: &Path, view: &Arc<EdgeView>) -> io::Result<usize> {
    let Some(bytes) = encode(view, Instant::now(), Clock::system().micros()) else { return Ok(0) };
    let directory = directory_of(path);
    std::fs::create_dir_all(directory)?;
    // Its owner alone may read it: properties of instances are not for everybody on the machine.
    let mut file =
        tempfile::Builder::new().prefix(&unfinished(path)).suffix(UNFINISHED).tempfile_in(directory)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // Without this a crash of the machine could bring the old file back, which is harmless, or none.
    File::open(directory)?.sync_all()?;
    Ok(bytes.len())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// The beginning of the name of a file that is to replace this one. Random letters follow.
fn unfinished(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().display())
}

/// Removes what a process that was killed while it wrote has left. Without this each one would leave a file
/// of the size of the state, until the disk is full.
fn clear(path: &Path) {
    let beginning = unfinished(path);
    let is_left = |name: &str| {
        let letters = name.strip_prefix(&beginning).and_then(|rest| rest.strip_suffix(UNFINISHED));
        letters.is_some_and(|letters| letters.bytes().all(|letter| letter.is_ascii_alphanumeric()))
    };
    // A directory that is absent or cannot be read is told of when the state is read or written.
    for entry in std::fs::read_dir(directory_of(path)).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_left)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            warn!(%error, path = %entry.path().display(), "an unfinished state of an earlier process cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::reads::{ReadsConfig, shared_view};

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

    #[test]
    fn a_file_is_replaced_whole_and_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/state");
        let shared = shared_view();
        let empty = shared.load();
        assert_eq!(write(&path, &empty).expect("nothing to write"), 0);
        assert_eq!(read(&path).err().map(|error| error.kind()), Some(ErrorKind::NotFound));
        for _ in 0..2 {
            let view = EdgeView { heard: Some(Instant::now()), ..(*empty).clone() };
            assert!(write(&path, &Arc::new(view)).expect("is written") > 0);
        }
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path().join("made")).expect("a directory").count(), 1);
        assert!(read(&path).expect("is read").heard.is_some());
        std::fs::write(&path, "something else").expect("is written");
        assert_eq!(read(&path).err().map(|error| error.kind()), Some(ErrorKind::InvalidData));
    }
}
