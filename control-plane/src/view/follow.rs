//! Keeps the view up to date with the store: list, watch, resume, and list again after compaction.
//!
//! ```text
//! Listing ──ok──▶ Watching(after rev) ──broken──▶ Watching(after the view's revision)
//!    ▲                    │                          │
//!    └────compacted───────┴────another history───────┘
//! ```
//!
//! Two things lead back to a list. One is compaction. The other is a store that was restored from a backup:
//! its state at the view's revision differs from the one that this replica received. A restore breaks every
//! connection, so the history is checked whenever a watch is opened again. The loop waits longer after each
//! failure, and logs each failure once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use shared::backoff::Backoff;
use shared::model::{Incarnation, Revision};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ViewWriter;
use crate::keys::{INCARNATION, ROOT};
use crate::metrics::view::AppliedCounts;
use crate::store::{
    Compare, KeyValue, KvEvent, LeaseId, Op, RangeRequest, Store, StoreError, Txn, WatchItem,
};

mod listing;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Follows the store until `stop` is cancelled. Every failure is retried.
pub async fn follow(store: Arc<dyn Store>, writer: ViewWriter, stop: CancellationToken) {
    let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let page_keys = listing::MOST_KEYS;
    let mut follower = StoreFollower { store, writer, backoff, listed: false, witness: None, page_keys };
    loop {
        // Also while the store cannot be reached: a key that has leaked must stop counting.
        follower.writer.take_keys();
        let outcome = tokio::select! {
            // In this order, so that a stop is seen even while changes keep coming.
            biased;
            () = stop.cancelled() => return,
            outcome = follower.list_and_watch() => outcome,
        };
        let Err(error) = outcome else { continue };
        follower.writer.report(|metrics| metrics.broke());
        // Also after compaction: a store that drops revisions faster than a list is read would be read
        // without a break.
        let wait = follower.backoff.next_wait();
        let wait_ms = wait.as_millis() as u64;
        match error {
            StoreError::Compacted(oldest) => {
                warn!(
                    oldest = oldest.get(),
                    view = follower.writer.revision().get(),
                    wait_ms,
                    "the store has compacted changes that the view has not received; listing again"
                );
                follower.listed = false;
            }
            error => {
                let attempt = follower.backoff.failures();
                warn!(%error, attempt, wait_ms, "the store cannot be followed; trying again");
            }
        }
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
    }
}

struct StoreFollower {
    store: Arc<dyn Store>,
    writer: ViewWriter,
    backoff: Backoff,
    /// False when the view has to be read anew.
    listed: bool,
    witness: Option<HistoryWitness>,
    /// The most keys in a page of a list.
    page_keys: usize,
}

impl StoreFollower {
    /// Lists the store if the view needs it, then watches until the watch breaks. Cancelling it loses
    /// nothing: the view is changed between two waits only.
    async fn list_and_watch(&mut self) -> Result<(), StoreError> {
        if self.listed && !self.is_same_history().await? {
            warn!(view = self.writer.revision().get(), "the store was restored from a backup; listing again");
            // Before the list: the view must never hold the new history under the old number.
            self.begin_incarnation().await?;
            self.listed = false;
        }
        if !self.listed {
            self.list().await?;
        }
        self.watch().await
    }

    /// Raises the store's incarnation, so that gateways learn of the restore, unless another replica has done
    /// so.
    async fn begin_incarnation(&self) -> Result<(), StoreError> {
        let known = self.writer.incarnation();
        let found = self.store.range(RangeRequest::key(INCARNATION)).await?;
        let found = found.items.first();
        // The backup was taken under `known` or before it. A later one was written after the restore.
        let stored = found.and_then(|kv| Incarnation::parse(&kv.value)).unwrap_or_default();
        if stored > known {
            return Ok(());
        }
        let next = known.after(fastrand::u32(..));
        let unchanged = Compare::ModRev(INCARNATION.into(), found.map_or(Revision::ZERO, |kv| kv.mod_rev));
        let then = vec![Op::put(INCARNATION, next.to_string())];
        match self.store.txn(Txn { compare: vec![unchanged], then, ..Txn::default() }).await {
            // If the comparison failed, another replica has just raised it.
            Ok(_) => Ok(()),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Busy)) => Err(error),
            // A full store can still be read, and gateways find out by other means, only later.
            Err(error) => {
                warn!(%error, "the store takes no new incarnation; gateways may notice the restore up to 30 s late");
                Ok(())
            }
        }
    }

    /// Reads the store into a view of its own, which replaces the present one as soon as it is whole.
    async fn list(&mut self) -> Result<(), StoreError> {
        let at = listing::newest_revision(&*self.store).await?;
        let listed = listing::read(&*self.store, &self.writer, at, self.page_keys).await;
        self.page_keys = match listed {
            // Perhaps a page was too large for the deadline, or for a message.
            Err(StoreError::Unavailable(_) | StoreError::Refused(_)) => self.page_keys / 2,
            // The store was not asked.
            Err(StoreError::Busy) => self.page_keys,
            Ok(_) | Err(_) => listing::MOST_KEYS,
        };
        self.page_keys = self.page_keys.max(listing::FIRST_KEYS);
        let listed = listed?;
        let again = self.writer.revision() != Revision::ZERO;
        self.witness = listed.newest.map(|(key, writing)| HistoryWitness::Written(key, writing));
        self.writer.replace(listed.view);
        info!(keys = listed.keys, revision = self.writer.revision().get(), again, "the registry was listed");
        self.writer.report(|metrics| metrics.listed(again));
        self.listed = true;
        Ok(())
    }

    async fn watch(&mut self) -> Result<(), StoreError> {
        let mut stream = self.store.watch(ROOT, self.writer.revision().next()).await?;
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                () = self.writer.keys_changed() => {
                    self.writer.take_keys();
                    continue;
                }
            };
            let Some(item) = item else { break };
            match item? {
                WatchItem::Events(events) => {
                    if let Some(witness) = HistoryWitness::of_last(&events) {
                        self.witness = Some(witness);
                    }
                    let counts = AppliedCounts::of(events.iter().map(KvEvent::key));
                    let begun = Instant::now();
                    self.writer.apply(events);
                    self.writer.report(|metrics| metrics.applied(counts, begun.elapsed()));
                }
                WatchItem::Progress(rev) => self.writer.progress(rev),
            }
            // Only now: a watch that opens and breaks at once must not reset the wait.
            self.backoff.reset();
        }
        Err(StoreError::Unavailable("the watch ended".into()))
    }

    /// True when the store continues the history up to the view's revision.
    ///
    /// A lower revision of the store proves that it does not: reads are linearizable, and revisions only
    /// grow. When the restored store has passed the view's revision since, the witness decides. Once the
    /// witness has been compacted, nothing speaks against the history, and it counts as the same.
    async fn is_same_history(&self) -> Result<bool, StoreError> {
        if listing::newest_revision(&*self.store).await? < self.writer.revision() {
            return Ok(false);
        }
        match &self.witness {
            None => Ok(true),
            Some(HistoryWitness::Written(key, writing)) => {
                Ok(match writing_at(&*self.store, key, writing.mod_rev).await? {
                    Past::Compacted => true,
                    Past::Kept(found) => found.as_ref() == Some(writing),
                })
            }
            Some(HistoryWitness::Deleted(key, rev)) => {
                if let Past::Kept(Some(_)) = writing_at(&*self.store, key, *rev).await? {
                    return Ok(false);
                }
                // At least 1, because revision 0 would mean the newest one.
                let before = writing_at(&*self.store, key, rev.previous().max(Revision::new(1))).await?;
                Ok(!matches!(before, Past::Kept(None)))
            }
        }
    }
}

/// The last change that the view received. A store without this change has another history.
enum HistoryWitness {
    /// A written key.
    Written(String, Writing),
    /// A key that this revision deleted.
    Deleted(String, Revision),
}

/// The circumstances in which a key was written. Leases are random, so that two histories do not agree on
/// these by chance if there is one.
#[derive(PartialEq, Eq)]
struct Writing {
    create_rev: Revision,
    mod_rev: Revision,
    version: u64,
    lease: Option<LeaseId>,
}

impl Writing {
    fn of(kv: &KeyValue) -> Self {
        Self { create_rev: kv.create_rev, mod_rev: kv.mod_rev, version: kv.version, lease: kv.lease }
    }

    /// How well it tells histories apart. The size of a service has no lease, and as many registrations after
    /// the same backup write it alike. A shared lease may be older than the backup.
    fn weight(&self) -> u8 {
        match self.lease {
            None => 0,
            Some(lease) if lease.is_shared() => 1,
            Some(_) => 2,
        }
    }
}

impl HistoryWitness {
    /// The best witness among the changes of the last revision.
    fn of_last(events: &[KvEvent]) -> Option<Self> {
        let last = events.last()?.rev();
        let of_last = events.iter().rev().take_while(|event| event.rev() == last);
        let witnesses = of_last.map(|event| match event {
            KvEvent::Put(kv) => (Writing::of(kv).weight(), event),
            KvEvent::Delete { .. } => (0, event),
        });
        let (_, best) = witnesses.max_by_key(|(weight, _)| *weight)?;
        Some(match best {
            KvEvent::Put(kv) => Self::Written(kv.key.clone(), Writing::of(kv)),
            KvEvent::Delete { key, rev } => Self::Deleted(key.clone(), *rev),
        })
    }
}

/// A key at an earlier revision.
enum Past {
    /// The store does not keep that revision any more.
    Compacted,
    /// The writing of the key then, or `None` when the key did not exist.
    Kept(Option<Writing>),
}

async fn writing_at(store: &dyn Store, key: &str, revision: Revision) -> Result<Past, StoreError> {
    let request = RangeRequest { revision: Some(revision), ..RangeRequest::key(key) };
    match store.range(request).await {
        Ok(reply) => Ok(Past::Kept(reply.items.first().map(Writing::of))),
        Err(StoreError::Compacted(_)) => Ok(Past::Compacted),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
