//! Notices that files have changed, for settings and certificates that are read again while a process runs.
//!
//! In: paths. Out: [`FileWatch::changed`] returns when a file has changed. The content is read by the caller.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::{Interval, interval};

/// The pause between two looks at the modification times.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Some files and the times at which they were modified last.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    /// The modification time of each file at the last look; `None` for a file that could not be read.
    modified: Vec<Option<SystemTime>>,
    checks: Interval,
}

impl FileWatch {
    /// Watches from now on. Must be called in a runtime.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let modified = modification_times(&paths);
        // Polled: notifications do not work on every volume, and Kubernetes replaces files by way of links.
        Self { paths, modified, checks: interval(CHECK_INTERVAL) }
    }

    /// Waits until a file has been modified, has appeared or has disappeared since the last return. Waits for
    /// ever when there are no files. Cancel-safe: a change that was not returned is found by the next call.
    pub async fn changed(&mut self) {
        loop {
            self.checks.tick().await;
            let modified = modification_times(&self.paths);
            if modified != self.modified {
                // Noted before the caller reads the files. If they are halfway replaced, the second half
                // changes a time again.
                self.modified = modified;
                return;
            }
        }
    }

    /// True if every file could be read at the last look. A file that is being replaced may be absent.
    pub fn all_present(&self) -> bool {
        self.modified.iter().all(Option::is_some)
    }
}

fn modification_times(paths: &[PathBuf]) -> Vec<Option<SystemTime>> {
    paths.iter().map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_change_is_reported_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "a").expect("written");
        let mut watch = FileWatch::new(vec![path.clone()]);
        tokio::time::advance(CHECK_INTERVAL).await;
        assert!(watch.changed().now_or_never().is_none(), "nothing has changed");

        // The time is set by hand, because two writes may fall into one tick of the file system's clock.
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        std::fs::File::options().write(true).open(&path).expect("opened").set_modified(later).expect("set");
        watch.changed().await;
        assert!(watch.all_present());
        tokio::time::advance(CHECK_INTERVAL).await;
        assert!(watch.changed().now_or_never().is_none(), "it has been reported");

        std::fs::remove_file(&path).expect("removed");
        watch.changed().await;
        assert!(!watch.all_present());
        std::fs::write(&path, "b").expect("written");
        watch.changed().await;
        assert!(watch.all_present());
    }
}
