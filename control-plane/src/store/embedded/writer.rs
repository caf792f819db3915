//! The one task that changes the state. It takes all waiting commands, writes them as one batch, then
//! replies.
//!
//! ```text
//! commands ─┐                       ┌─> file (one durable write) ──> shared state ──> watchers
//! due leases┴─> draft of the state ─┤                                    └──> replies
//!                                   └─> discarded when the file could not be written
//! ```
//!
//! While one batch is being written the next one gathers, so the rate of writes is not bound by the disk's
//! latency. The shared state is never ahead of the file. After a failed write the file is opened again, which
//! shows whether the batch is in it. Until that succeeds, every write fails with the reason.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::backoff::Backoff;
use shared::maybe::or_pending;
use shared::model::Revision;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::file::{OpenError, StoreFile, WriteBatch, WriteError};
use super::log::HistoryBounds;
use super::shared_state::SharedState;
use super::state::{LeaseEntry, StoreState};
use crate::store::{LeaseId, StoreError, Txn, TxnReply};

/// The most commands in one batch. It bounds the writes that a crash can leave unacknowledged, and the time
/// for which the writer holds the lock of readers.
const MAX_COMMANDS: usize = 512;

/// The longest lease in seconds: etcd's limit.
const LONGEST_LEASE: i64 = 9_000_000_000;
/// The longest sleep. A timer cannot be set as far ahead as the longest lease.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Replies to one caller, once the outcome of the batch is known.
type PendingReply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type ReplySender<T> = oneshot::Sender<Result<T, StoreError>>;

/// A write, and the sender of its reply.
pub(super) enum WriteCommand {
    Txn(Txn, ReplySender<TxnReply>),
    Grant(i64, ReplySender<LeaseId>),
    Revoke(LeaseId, ReplySender<()>),
    Compact(Revision, ReplySender<()>),
}

/// The writer and its state.
pub(super) struct CommitWriter {
    pub(super) path: PathBuf,
    /// `None` after a failed write, until the file could be opened again.
    pub(super) file: Option<StoreFile>,
    pub(super) shared: Arc<SharedState>,
    pub(super) commands: mpsc::Receiver<WriteCommand>,
    pub(super) head: watch::Sender<Revision>,
    pub(super) bounds: HistoryBounds,
    /// The most bytes of keys and values.
    pub(super) quota: u64,
    /// The reason for which writes are refused while the file is not open.
    pub(super) trouble: String,
}

/// A state that is not in the file yet, and the replies that depend on it.
struct Draft {
    state: StoreState,
    batch: WriteBatch,
    /// Leases that end because their time is over. Their times are kept in case that the batch fails.
    due: Vec<(LeaseId, i64)>,
    replies: Vec<PendingReply>,
}

/// A batch that may be in the file or not.
struct Unresolved {
    /// The draft, or `None` when it was lost with the thread that wrote it.
    draft: Option<Draft>,
    /// The file's number of batches, if it contains this one.
    number: u64,
}

impl CommitWriter {
    /// Serves until every handle of the store is dropped, or `abort`.
    pub(super) async fn run(mut self, abort: CancellationToken) {
        let mut unresolved: Option<Unresolved> = None;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // After a failed write, the next one is not tried before this time: a full disk stays full for a
        // while.
        let mut pause = Instant::now();
        let mut commands = Vec::new();
        loop {
            let due = self.shared.deadlines.next();
            tokio::select! {
                () = abort.cancelled() => break,
                taken = self.commands.recv_many(&mut commands, MAX_COMMANDS) => if taken == 0 { break },
                () = or_pending(due.map(sleep_until_at_most_a_day)) => {}
                () = tokio::time::sleep_until(pause), if self.file.is_none() => {}
            }
            if Instant::now() >= pause
                && let Some(lost) = unresolved.take()
            {
                unresolved = self.reopen(lost).await;
                if unresolved.is_some() {
                    pause = Instant::now() + backoff.next_wait();
                }
            }
            if self.file.is_none() || Instant::now() < pause {
                for command in commands.drain(..) {
                    refuse(command, &self.trouble);
                }
                // The end of a lease cannot be written now, so it is put off by a second.
                self.put_off_due();
                continue;
            }
            let draft = self.draft(commands.drain(..));
            if draft.batch.is_empty() {
                draft.reply(Ok(()));
                continue;
            }
            match self.write(draft).await {
                Ok(()) => backoff.reset(),
                Err(lost) => {
                    pause = Instant::now() + backoff.next_wait();
                    unresolved = self.reopen(lost).await;
                    // The outcome may stay open for longer than the callers' deadlines, so they get their
                    // error now.
                    if let Some(Unresolved { draft: Some(draft), .. }) = &mut unresolved {
                        draft.fail(&self.trouble);
                    }
                }
            }
        }
    }

    fn draft(&self, commands: impl Iterator<Item = WriteCommand>) -> Draft {
        let state = self.shared.state();
        let mut draft = Draft { state, batch: WriteBatch::default(), due: Vec::new(), replies: Vec::new() };
        // Expired leases come first, so that the commands of this batch already see their keys gone.
        for lease in self.shared.deadlines.take_due(MAX_COMMANDS) {
            let Some(ttl) = draft.state.leases.get(&lease).map(|lease| lease.ttl) else { continue };
            draft.due.push((lease, ttl));
            _ = draft.revoke(lease);
        }
        for command in commands {
            draft.take(command, &self.shared, self.quota);
        }
        let excess = self.shared.read(|_, log| log.excess(&draft.batch.commits, self.bounds));
        draft.batch.forget = draft.batch.forget.max(excess);
        draft
    }

    /// Writes a draft and shares its state. On failure the draft comes back, unless the database has lost it.
    async fn write(&mut self, draft: Draft) -> Result<(), Unresolved> {
        let mut file = self.file.take().expect("the caller has seen that the file is open");
        let number = file.batch + 1;
        // The write blocks on the disk, so it runs on a thread of its own. The file and the draft go with it
        // and come back.
        let written = tokio::task::spawn_blocking(move || {
            let result = file.write(&draft.batch);
            (file, draft, result)
        });
        match written.await {
            Ok((file, draft, Ok(()))) => {
                self.file = Some(file);
                self.publish(draft);
                Ok(())
            }
            Ok((file, draft, Err(WriteError(reason)))) => {
                error!(%reason, "the store's file cannot be written; opening the file again");
                self.trouble = format!("the store's file cannot be written: {reason}");
                // Closing the file may block on the disk as well.
                _ = tokio::task::spawn_blocking(move || drop(file)).await;
                Err(Unresolved { draft: Some(draft), number })
            }
            Err(panic) => {
                // The draft is lost, and its callers get "unavailable". The file is read again to find its
                // state.
                error!(%panic, "the store's database panicked; opening the file again");
                self.trouble = "the store's database failed".into();
                Err(Unresolved { draft: None, number })
            }
        }
    }

    /// Opens the file again, and finds out whether it contains the last batch. Returns the batch if that is
    /// still open.
    async fn reopen(&mut self, lost: Unresolved) -> Option<Unresolved> {
        let path = self.path.clone();
        let number = lost.number;
        let read_all = lost.draft.is_none();
        let opened = tokio::task::spawn_blocking(move || {
            let file = StoreFile::reopen(&path, number)?;
            let contents = if read_all { Some(file.load()?) } else { None };
            Ok::<_, OpenError>((file, contents))
        });
        let opened = match opened.await {
            Ok(opened) => opened.map_err(|error| match error.source() {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            }),
            Err(panic) => Err(panic.to_string()),
        };
        let (file, contents) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                error!(reason, "the store's file cannot be opened again; writes fail until it can");
                return Some(lost);
            }
        };
        info!("the store's file is open again");
        let held = file.batch;
        self.file = Some(file);
        match (lost.draft, contents) {
            (Some(draft), _) if held == number => self.publish(draft),
            (Some(mut draft), _) => {
                draft.fail(&self.trouble);
                for (lease, ttl) in &draft.due {
                    self.shared.deadlines.retry(*lease, *ttl);
                }
            }
            (None, Some((state, log))) => self.adopt(state, log),
            (None, None) => {}
        }
        None
    }

    /// Shares the state that is now in the file, then replies. A caller with a reply can read its write.
    fn publish(&self, mut draft: Draft) {
        for (lease, ttl) in &draft.batch.granted {
            self.shared.deadlines.start(*lease, *ttl);
        }
        for lease in &draft.batch.ended {
            self.shared.deadlines.end(*lease);
        }
        let state = draft.state.clone();
        let rev = state.rev;
        self.shared.advance(state, &mut draft.batch);
        // Only now, because a woken watch reads the log at once.
        self.head.send_replace(rev);
        draft.reply(Ok(()));
    }

    /// Shares a state that was read from the file, after the draft was lost.
    fn adopt(&self, state: StoreState, log: super::log::CommitLog) {
        let rev = state.rev;
        for (lease, LeaseEntry { ttl, .. }) in state.leases.iter() {
            // A lease that is running keeps its deadline: the file does not know about renewals.
            if !self.shared.deadlines.knows(*lease) {
                self.shared.deadlines.start(*lease, *ttl);
            }
        }
        self.shared.replace(state, log);
        self.head.send_replace(rev);
    }

    fn put_off_due(&self) {
        let state = self.shared.state();
        for lease in self.shared.deadlines.take_due(usize::MAX) {
            if let Some(LeaseEntry { ttl, .. }) = state.leases.get(&lease) {
                self.shared.deadlines.retry(lease, *ttl);
            }
        }
    }
}

impl Draft {
    fn take(&mut self, command: WriteCommand, shared: &SharedState, quota: u64) {
        match command {
            // A caller that has stopped waiting got "unavailable", and expects no write after that.
            WriteCommand::Txn(_, reply) if reply.is_closed() => {}
            WriteCommand::Grant(_, reply) if reply.is_closed() => {}
            WriteCommand::Txn(txn, reply) => {
                let result = self.txn(txn, quota);
                self.reply_later(reply, result);
            }
            WriteCommand::Grant(ttl, reply) => {
                let result = self.grant(ttl);
                self.reply_later(reply, result);
            }
            WriteCommand::Revoke(lease, reply) => {
                let result = self.revoke(lease);
                self.reply_later(reply, result);
            }
            WriteCommand::Compact(rev, reply) => {
                let result = self.compact(rev, shared);
                self.reply_later(reply, result);
            }
        }
    }

    /// Runs a transaction, unless it would make the store larger than the quota. What makes it smaller always passes.
    fn txn(&mut self, txn: Txn, quota: u64) -> Result<TxnReply, StoreError> {
        // A copy costs a few reference counts.
        let before = self.state.clone();
        let (reply, commit) = self.state.apply(txn)?;
        let bytes = self.state.bytes;
        if bytes > quota && bytes > before.bytes {
            let used = before.bytes;
            self.state = before;
            return Err(StoreError::Full(format!("{used} of {quota} bytes are used")));
        }
        self.batch.commits.extend(commit.map(Arc::new));
        Ok(reply)
    }

    fn grant(&mut self, ttl: i64) -> Result<LeaseId, StoreError> {
        if ttl > LONGEST_LEASE {
            return Err(StoreError::Refused(format!(
                "the lease is too long: {ttl} > {LONGEST_LEASE} seconds"
            )));
        }
        let ttl = ttl.max(1);
        let id = std::iter::repeat_with(|| fastrand::i64(1..))
            .filter_map(LeaseId::new)
            .find(|id| !self.state.leases.contains_key(id))
            .expect("there are more numbers than leases");
        self.state.leases.insert_mut(id, LeaseEntry { ttl, keys: rpds::RedBlackTreeSetSync::new_sync() });
        self.batch.granted.push((id, ttl));
        Ok(id)
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.batch.commits.extend(self.state.revoke(lease)?.map(Arc::new));
        // A lease that is granted and revoked in one batch must not be started when the batch is shared.
        self.batch.granted.retain(|(granted, _)| *granted != lease);
        self.batch.ended.push(lease);
        Ok(())
    }

    fn compact(&mut self, rev: Revision, shared: &SharedState) -> Result<(), StoreError> {
        if rev > self.state.rev {
            return Err(StoreError::Refused(format!("revision {rev} is not reached yet")));
        }
        let compacted =
            shared.read(|_, log| log.compacted()).max(self.batch.forget.unwrap_or(Revision::ZERO));
        if rev <= compacted {
            return Err(StoreError::Compacted(compacted));
        }
        self.batch.forget = Some(rev);
        Ok(())
    }

    /// Keeps the reply until the outcome of the write is known.
    fn reply_later<T: Send + 'static>(&mut self, reply: ReplySender<T>, result: Result<T, StoreError>) {
        // Sending fails when the caller has stopped waiting; then nothing is left to do.
        self.replies.push(Box::new(move |outcome| _ = reply.send(outcome.and(result))));
    }

    fn reply(self, outcome: Result<(), StoreError>) {
        for reply in self.replies {
            reply(outcome.clone());
        }
    }

    fn fail(&mut self, reason: &str) {
        let error = StoreError::Unavailable(reason.to_owned());
        for reply in self.replies.drain(..) {
            reply(Err(error.clone()));
        }
    }
}

fn refuse(command: WriteCommand, reason: &str) {
    let error = StoreError::Unavailable(reason.to_owned());
    match command {
        WriteCommand::Txn(_, reply) => _ = reply.send(Err(error)),
        WriteCommand::Grant(_, reply) => _ = reply.send(Err(error)),
        WriteCommand::Revoke(_, reply) | WriteCommand::Compact(_, reply) => _ = reply.send(Err(error)),
    }
}

fn sleep_until_at_most_a_day(due: Instant) -> Sleep {
    tokio::time::sleep_until(due.min(Instant::now() + DAY))
}
