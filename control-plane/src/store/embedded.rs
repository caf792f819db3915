//! The embedded store: one file, for `muster standalone`.
//!
//! In: the calls of [`Store`]. Out: answers once the file holds them, and the items of watches. Keys and the
//! recent history are in memory as well, so that reads and watches never touch the file. It promises: what
//! was answered survives kill -9; what is found after it is a whole revision; readers see only what is
//! durable. It never grows past the configured history.
//!
//! | room | holds |
//! | --- | --- |
//! | `state` | keys and leases at one revision, and what a transaction makes of them |
//! | `log` | the recent commits |
//! | `leases` | when leases end |
//! | `writer` | the one task that changes anything |
//! | `shared_state` | what readers see |
//! | `watcher` | a cursor over the log |
//! | `file`, `record` | the file and its bytes |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use host::lifecycle::Tasks;
use shared::model::Revision;
use tokio::sync::{mpsc, oneshot, watch};

use super::{LeaseId, RangeReply, RangeRequest, Store, StoreError, Txn, TxnReply, WatchStream};

mod file;
mod leases;
mod log;
mod record;
mod shared_state;
mod state;
mod watcher;
mod writer;

#[cfg(test)]
mod tests;

pub use file::OpenError;

use file::File;
use log::Bounds;
use shared_state::Shared;
use writer::{Command, Writer};

/// Writes that wait for the writer at most. When they are more, callers wait within their deadline.
const WAITING: usize = 1024;

/// How an embedded store behaves.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Revisions of history kept for watches and reads of older revisions.
    pub revisions_kept: usize,
    /// Bytes of history kept at most, in memory and about as much in the file. The newest revision is always kept.
    pub history_bytes: u64,
    /// Deadline of a call.
    pub request_timeout: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            revisions_kept: 100_000,
            history_bytes: 64 * 1024 * 1024,
            request_timeout: Duration::from_secs(5),
        }
    }
}

/// A store in one file. The last handle that is dropped closes the file, once what waits is written.
pub struct EmbeddedStore {
    path: PathBuf,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    head: watch::Receiver<Revision>,
    request_timeout: Duration,
}

impl EmbeddedStore {
    /// Opens the file at `path`, or makes it with its directories, and starts the writer among `tasks`. The
    /// writer goes on while `tasks` drain, so that others can write during their drain; it ends when the last
    /// handle is dropped or the tasks are aborted. Blocks while the file is read. Needs a runtime.
    ///
    /// # Errors
    /// When the file cannot be opened, is in use, is damaged, or has a format that this program does not know.
    pub fn open(
        path: impl AsRef<Path>,
        config: EmbeddedConfig,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path)?;
        let (state, log) = file.load()?;
        let (commands, waiting) = mpsc::channel(WAITING);
        let (head, head_receiver) = watch::channel(state.rev);
        let shared = Arc::new(Shared::new(state, log));
        let writer = Writer {
            path: path.clone(),
            file: Some(file),
            shared: shared.clone(),
            commands: waiting,
            head,
            bounds: Bounds { commits: config.revisions_kept, bytes: config.history_bytes },
            trouble: String::new(),
        };
        tasks.spawn(writer.run(tasks.abort().clone()));
        let request_timeout = config.request_timeout;
        Ok(Arc::new(Self { path, shared, commands, head: head_receiver, request_timeout }))
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store was closed".into());
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.commands.send(command(answer)).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        tokio::time::timeout(self.request_timeout, asked)
            .await
            .map_err(|_| StoreError::Unavailable("the store's disk did not answer in time".into()))?
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        let state = self.shared.state();
        let Some(rev) = request.revision.filter(|rev| *rev != 0 && *rev != state.rev) else {
            return Ok(state.range(&request));
        };
        if rev > state.rev {
            return Err(StoreError::Refused(format!("revision {rev} is not reached yet")));
        }
        // The state at `rev` is that of now with everything since undone.
        let (mut state, since) = self.shared.read(|state, log| {
            if rev < log.compacted() {
                return Err(StoreError::Compacted(log.compacted()));
            }
            let since = log.since(rev + 1, usize::MAX).map_err(StoreError::Compacted)?;
            Ok((state.clone(), since))
        })?;
        since.iter().rev().for_each(|commit| state.undo(commit));
        Ok(state.range(&request))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        self.ask(|answer| Command::Txn(txn, answer)).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.ask(|answer| Command::Grant(ttl, answer)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.deadlines.renew(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Command::Revoke(lease, answer)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        Ok(watcher::watch(self.shared.clone(), self.head.clone(), prefix, from))
    }

    async fn barrier(&self, _prefix: &str) -> Result<Revision, StoreError> {
        Ok(self.shared.read(|state, _| state.rev))
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        self.ask(|answer| Command::Compact(rev, answer)).await
    }

    fn endpoints(&self) -> Vec<String> {
        vec![format!("file://{}", self.path.display())]
    }
}
