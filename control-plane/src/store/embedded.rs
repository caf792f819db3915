//! The embedded store: one file, for `muster standalone`.
//!
//! In: the calls of [`Store`]. Out: a reply to each write once the file contains it, and the items of
//! watches. Keys and the recent history are in memory as well, so reads and watches never touch the file.
//!
//! Promises: an acknowledged write survives `kill -9`. A file that is damaged, or older than what was
//! acknowledged, is refused. After a crash the file contains whole revisions only.
//! Readers see only durable state. The history never grows past its bounds.
//!
//! | room | holds |
//! | --- | --- |
//! | `state` | keys and leases at one revision, and the effect of a transaction on them |
//! | `log` | the recent commits |
//! | `leases` | the deadlines of leases |
//! | `writer` | the one task that changes the state |
//! | `shared_state` | the durable state for readers |
//! | `watcher` | one watch: a cursor over the log |
//! | `file`, `record` | the file and the encoding of its records |
//! | `head` | the second witness of how far writes were acknowledged |
//! | `contents`, `overlay` | verifying a file before anything is written to it |
//! | `repair` | checking a file, and saving what is whole in a damaged one |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use host::lifecycle::Tasks;
use shared::model::Revision;
use tokio::sync::{mpsc, oneshot, watch};

use super::{LeaseId, RangeReply, RangeRequest, Store, StoreError, StoreSpace, Txn, TxnReply, WatchStream};

mod contents;
mod file;
mod head;
mod leases;
mod log;
mod overlay;
mod record;
mod repair;
mod shared_state;
mod state;
mod watcher;
mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;

pub use file::OpenError;
pub use repair::{Salvage, SalvageWay, StoreSummary, check, salvage};

use file::StoreFile;
use log::HistoryBounds;
use shared_state::SharedState;
use writer::{CommitWriter, WriteCommand};

/// The most writes in the queue. Further callers wait for room, within their deadlines.
const MAX_WAITING: usize = 1024;

/// The bounds of an embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// The number of revisions to keep for watches and for reads of older revisions.
    pub revisions_kept: usize,
    /// The most bytes of history, in memory and about as many in the file. The newest revision is always
    /// kept.
    pub history_bytes: u64,
    /// The most bytes of keys and values. A write that would make them more is refused as [`StoreError::Full`]; deletes
    /// and smaller values make room.
    pub quota: u64,
    /// Deadline of a call.
    pub request_timeout: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            revisions_kept: 100_000,
            history_bytes: 64 * 1024 * 1024,
            // etcd's own default.
            quota: 2 << 30,
            request_timeout: Duration::from_secs(5),
        }
    }
}

/// A store in one file. Dropping the last handle closes the file, after all queued writes.
pub struct EmbeddedStore {
    path: PathBuf,
    shared: Arc<SharedState>,
    commands: mpsc::Sender<WriteCommand>,
    head: watch::Receiver<Revision>,
    quota: u64,
    request_timeout: Duration,
}

impl EmbeddedStore {
    /// Opens the file at `path`, or creates it with its directories, and starts the writer among `tasks`.
    ///
    /// The writer goes on while `tasks` drain, so that others can write during their drain. It ends when the
    /// last handle is dropped or the tasks are aborted. Blocks while the file is read. Needs a runtime.
    ///
    /// # Errors
    /// If the file cannot be opened, is in use, is damaged or empty, lacks what was acknowledged, or has an
    /// unknown format.
    pub fn open(
        path: impl AsRef<Path>,
        config: EmbeddedConfig,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let path = path.as_ref().to_path_buf();
        let file = StoreFile::open(&path)?;
        let (state, log) = file.load()?;
        let (commands, waiting) = mpsc::channel(MAX_WAITING);
        let (head, head_receiver) = watch::channel(state.rev);
        let shared = Arc::new(SharedState::new(state, log));
        let writer = CommitWriter {
            path: path.clone(),
            file: Some(file),
            shared: shared.clone(),
            commands: waiting,
            head,
            bounds: HistoryBounds { commits: config.revisions_kept, bytes: config.history_bytes },
            quota: config.quota,
            trouble: String::new(),
        };
        tasks.spawn_named("store_writer", writer.run(tasks.abort().clone()));
        let EmbeddedConfig { quota, request_timeout, .. } = config;
        Ok(Arc::new(Self { path, shared, commands, head: head_receiver, quota, request_timeout }))
    }

    async fn write<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> WriteCommand,
    ) -> Result<T, StoreError> {
        let (reply, replied) = oneshot::channel();
        let reply = async {
            self.commands.send(command(reply)).await.map_err(|_| closed())?;
            replied.await.map_err(|_| closed())?
        };
        tokio::time::timeout(self.request_timeout, reply)
            .await
            .map_err(|_| StoreError::Unavailable("the store's disk did not answer in time".into()))?
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        let state = self.shared.state();
        let Some(rev) = request.revision.filter(|rev| *rev != Revision::ZERO && *rev != state.rev) else {
            return Ok(state.range(&request));
        };
        if rev > state.rev {
            return Err(StoreError::Refused(format!("revision {rev} is not reached yet")));
        }
        // The older state is made from the newest one by undoing all commits since. Copies of old states
        // would cost memory all the time, for a read that hardly ever happens.
        let (mut state, since) = self.shared.read(|state, log| {
            if rev < log.compacted() {
                return Err(StoreError::Compacted(log.compacted()));
            }
            let since = log.since(rev.next(), usize::MAX).map_err(StoreError::Compacted)?;
            Ok((state.clone(), since))
        })?;
        for commit in since.iter().rev() {
            state.undo(commit);
        }
        Ok(state.range(&request))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        self.write(|reply| WriteCommand::Txn(txn, reply)).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.write(|reply| WriteCommand::Grant(ttl, reply)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // Past the writer, so that no lease expires because the disk is slow.
        self.shared.deadlines.renew(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.write(|reply| WriteCommand::Revoke(lease, reply)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        Ok(watcher::watch(self.shared.clone(), self.head.clone(), prefix, from))
    }

    async fn barrier(&self, _prefix: &str) -> Result<Revision, StoreError> {
        // Every acknowledged write is in the shared state, so its revision covers them all.
        Ok(self.shared.read(|state, _| state.rev))
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        self.write(|reply| WriteCommand::Compact(rev, reply)).await
    }

    async fn space(&self) -> Result<Option<StoreSpace>, StoreError> {
        let used = self.shared.read(|state, _| state.bytes);
        Ok(Some(StoreSpace { used, quota: self.quota, full: used >= self.quota }))
    }

    /// Only present values count against the quota.
    fn growth(&self, txn: &Txn) -> u64 {
        self.shared.read(|state, _| state.growth(txn))
    }

    fn endpoints(&self) -> Vec<String> {
        vec![format!("file://{}", self.path.display())]
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store was closed".into())
}
