//! The only one who changes the state: takes what waits, writes it as one batch, then answers.
//!
//! ```text
//! commands ─┐                       ┌─> file (one durable write) ──> shared state ──> watchers
//! due leases┴─> draft of the state ─┤                                    └──> answers
//!                                   └─> discarded when the file could not be written
//! ```
//!
//! While one batch is being written the next one gathers, so the rate of writes is not bound by the disk's
//! latency. What is shared is never ahead of the file. After a failed write the file is opened anew, which
//! tells whether the batch is in it; until that succeeds every write is answered with the reason.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::backoff::Backoff;
use shared::model::Revision;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::file::{Batch, File, OpenError, WriteError};
use super::log::Bounds;
use super::shared_state::Shared;
use super::state::{Lease, State};
use crate::store::{LeaseId, StoreError, Txn, TxnReply};

/// Commands in one batch at most: bounds what a crash can leave unanswered and how long a reader's
/// write lock is held.
const BATCH: usize = 512;

/// Seconds of a lease at most, as etcd has it.
const LONGEST_LEASE: i64 = 9_000_000_000;
/// The longest sleep: timers have an end, leases hardly.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Tells one caller, once it is known whether the batch was written.
type AnswerLater = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Command {
    Txn(Txn, Answer<TxnReply>),
    Grant(i64, Answer<LeaseId>),
    Revoke(LeaseId, Answer<()>),
    Compact(Revision, Answer<()>),
}

/// The writer's belongings.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    /// `None` after a failed write, until the file could be opened again.
    pub(super) file: Option<File>,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) head: watch::Sender<Revision>,
    pub(super) bounds: Bounds,
    /// Why writes are refused, while they are.
    pub(super) trouble: String,
}

/// A state that is not yet in the file, and who waits for it to be.
struct Draft {
    state: State,
    batch: Batch,
    /// Leases that end because their time is over, with that time in case they do not.
    due: Vec<(LeaseId, i64)>,
    answers: Vec<AnswerLater>,
}

/// A batch of which nobody knows whether it is in the file.
struct Unresolved {
    /// `None` when it was lost with the thread that wrote it.
    draft: Option<Draft>,
    /// The number the file has if it holds the batch.
    number: u64,
}

impl Writer {
    /// Serves until every handle of the store is dropped, or `abort`.
    pub(super) async fn run(mut self, abort: CancellationToken) {
        let mut unresolved: Option<Unresolved> = None;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // After a failed write, none is tried before this: a full disk stays full for a while.
        let mut pause = Instant::now();
        let mut commands = Vec::new();
        loop {
            let due = self.shared.deadlines.next();
            tokio::select! {
                () = abort.cancelled() => break,
                taken = self.commands.recv_many(&mut commands, BATCH) => if taken == 0 { break },
                () = wait_until(due) => {}
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
                commands.drain(..).for_each(|command| refuse(command, &self.trouble));
                // A lease cannot end now; it is looked at again in a second.
                self.put_off_due();
                continue;
            }
            let draft = self.draft(commands.drain(..));
            if draft.batch.is_empty() {
                draft.answer(Ok(()));
                continue;
            }
            match self.write(draft).await {
                Ok(()) => backoff.reset(),
                Err(lost) => {
                    pause = Instant::now() + backoff.next_wait();
                    unresolved = self.reopen(lost).await;
                    if let Some(Unresolved { draft: Some(draft), .. }) = &mut unresolved {
                        draft.fail(&self.trouble);
                    }
                }
            }
        }
    }

    fn draft(&self, commands: impl Iterator<Item = Command>) -> Draft {
        let state = self.shared.state();
        let mut draft = Draft { state, batch: Batch::default(), due: Vec::new(), answers: Vec::new() };
        for lease in self.shared.deadlines.take_due(BATCH) {
            let Some(ttl) = draft.state.leases.get(&lease).map(|lease| lease.ttl) else { continue };
            draft.due.push((lease, ttl));
            _ = draft.revoke(lease);
        }
        commands.for_each(|command| draft.take(command, &self.shared));
        let excess = self.shared.read(|_, log| log.excess(&draft.batch.commits, self.bounds));
        draft.batch.forget = draft.batch.forget.max(excess);
        draft
    }

    /// Writes a draft and shares it. A failure gives it back, unless the database has lost it.
    async fn write(&mut self, draft: Draft) -> Result<(), Unresolved> {
        let mut file = self.file.take().expect("the caller has seen that the file is open");
        let number = file.batch + 1;
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
                error!(%reason, "the store's file cannot be written; opening it again");
                self.trouble = format!("its file cannot be written: {reason}");
                // Closing takes the disk too.
                _ = tokio::task::spawn_blocking(move || drop(file)).await;
                Err(Unresolved { draft: Some(draft), number })
            }
            Err(panic) => {
                // The draft is lost with its callers, who get "unavailable"; what the file holds is read again.
                error!(%panic, "the store's database failed; opening the file again");
                self.trouble = "its database failed".into();
                Err(Unresolved { draft: None, number })
            }
        }
    }

    /// Opens the file again and settles what became of the last batch. Gives it back when that cannot be known yet.
    async fn reopen(&mut self, lost: Unresolved) -> Option<Unresolved> {
        let (path, number, read_all) = (self.path.clone(), lost.number, lost.draft.is_none());
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::reopen(&path, number)?;
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
                error!(reason, "the store's file cannot be opened again");
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
                draft.due.iter().for_each(|(lease, ttl)| self.shared.deadlines.retry(*lease, *ttl));
            }
            (None, Some((state, log))) => self.adopt(state, log),
            (None, None) => {}
        }
        None
    }

    /// Shares what is now in the file, then answers: whoever is answered reads their write.
    fn publish(&self, mut draft: Draft) {
        for (lease, ttl) in &draft.batch.granted {
            self.shared.deadlines.start(*lease, *ttl);
        }
        draft.batch.ended.iter().for_each(|lease| self.shared.deadlines.end(*lease));
        let state = draft.state.clone();
        let rev = state.rev;
        self.shared.advance(state, &mut draft.batch);
        self.head.send_replace(rev);
        draft.answer(Ok(()));
    }

    /// Takes over a state that came from the file rather than from a draft.
    fn adopt(&self, state: State, log: super::log::Log) {
        let rev = state.rev;
        for (lease, Lease { ttl, .. }) in state.leases.iter() {
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
            if let Some(Lease { ttl, .. }) = state.leases.get(&lease) {
                self.shared.deadlines.retry(lease, *ttl);
            }
        }
    }
}

impl Draft {
    fn take(&mut self, command: Command, shared: &Shared) {
        match command {
            // Who has stopped waiting was told "unavailable"; the least surprising is then not to do it.
            Command::Txn(_, answer) if answer.is_closed() => {}
            Command::Grant(_, answer) if answer.is_closed() => {}
            Command::Txn(txn, answer) => {
                let result = self.state.apply(txn).map(|(reply, commit)| {
                    self.batch.commits.extend(commit.map(Arc::new));
                    reply
                });
                self.answer_later(answer, result);
            }
            Command::Grant(ttl, answer) => {
                let result = self.grant(ttl);
                self.answer_later(answer, result);
            }
            Command::Revoke(lease, answer) => {
                let result = self.revoke(lease);
                self.answer_later(answer, result);
            }
            Command::Compact(rev, answer) => {
                let result = self.compact(rev, shared);
                self.answer_later(answer, result);
            }
        }
    }

    fn grant(&mut self, ttl: i64) -> Result<LeaseId, StoreError> {
        if ttl > LONGEST_LEASE {
            return Err(StoreError::Refused(format!("too long a lease: {ttl} > {LONGEST_LEASE} seconds")));
        }
        let ttl = ttl.max(1);
        let id = std::iter::repeat_with(|| fastrand::i64(1..))
            .find(|id| !self.state.leases.contains_key(id))
            .expect("there are more numbers than leases");
        self.state.leases.insert_mut(id, Lease { ttl, keys: rpds::RedBlackTreeSetSync::new_sync() });
        self.batch.granted.push((id, ttl));
        Ok(id)
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.batch.commits.extend(self.state.revoke(lease)?.map(Arc::new));
        self.batch.granted.retain(|(granted, _)| *granted != lease);
        self.batch.ended.push(lease);
        Ok(())
    }

    fn compact(&mut self, rev: Revision, shared: &Shared) -> Result<(), StoreError> {
        if rev > self.state.rev {
            return Err(StoreError::Refused(format!("revision {rev} is not reached yet")));
        }
        let compacted = shared.read(|_, log| log.compacted()).max(self.batch.forget.unwrap_or(0));
        if rev <= compacted {
            return Err(StoreError::Compacted(compacted));
        }
        self.batch.forget = Some(rev);
        Ok(())
    }

    /// Answers once the outcome of the write is known.
    fn answer_later<T: Send + 'static>(&mut self, answer: Answer<T>, result: Result<T, StoreError>) {
        // A closed receiver has stopped waiting; there is nobody to tell.
        self.answers.push(Box::new(move |outcome| _ = answer.send(outcome.and(result))));
    }

    fn answer(self, outcome: Result<(), StoreError>) {
        self.answers.into_iter().for_each(|answer| answer(outcome.clone()));
    }

    fn fail(&mut self, why: &str) {
        let error = StoreError::Unavailable(why.to_owned());
        self.answers.drain(..).for_each(|answer| answer(Err(error.clone())));
    }
}

fn refuse(command: Command, why: &str) {
    let error = StoreError::Unavailable(why.to_owned());
    match command {
        Command::Txn(_, answer) => _ = answer.send(Err(error)),
        Command::Grant(_, answer) => _ = answer.send(Err(error)),
        Command::Revoke(_, answer) | Command::Compact(_, answer) => _ = answer.send(Err(error)),
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.min(Instant::now() + DAY)).await,
        None => std::future::pending().await,
    }
}
