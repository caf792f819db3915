//! What every store must do, written once and run on each implementation.
//!
//! [`crate::store_contract!`] makes one test of each property. A property gets a [`Subject`] of its own: a
//! store that nobody else uses, because compaction concerns all of it. Properties talk to the trait only.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use shared::model::Revision;

use super::{KvEvent, Op, Store, StoreError, Txn, TxnReply, WatchItem, WatchStream};

pub mod history;
pub mod leases;
pub mod ranges;
pub mod txns;
pub mod watches;

/// A property that has not been decided by then has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// A store under test and what keeps it alive.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl Subject {
    /// A store, and whatever must not be dropped before the test is over (a process, a directory).
    pub fn new(store: Arc<dyn Store>, keep: impl Any + Send + Sync) -> Self {
        Self { store, _keep: Box::new(keep) }
    }

    async fn txn(&self, then: impl Into<Vec<Op>>) -> TxnReply {
        self.store.txn(writes(then)).await.expect("the store takes a plain transaction")
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        self.txn([Op::put(key, value.to_owned())]).await.revision
    }

    async fn watch(&self, from: Revision) -> Watched {
        Watched { stream: self.store.watch("/t/", from).await.expect("a watch opens"), seen: 0 }
    }
}

/// A transaction without conditions.
fn writes(then: impl Into<Vec<Op>>) -> Txn {
    Txn { then: then.into(), ..Txn::default() }
}

fn put_on(key: &str, value: &str, lease: i64) -> Op {
    Op::Put { key: key.into(), value: value.to_owned().into(), lease: Some(lease) }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// A watch that checks order and atomicity of everything it passes on.
struct Watched {
    stream: WatchStream,
    seen: Revision,
}

impl Watched {
    /// The next events, with progress left out.
    async fn events(&mut self) -> Vec<KvEvent> {
        within("the watch has events", async {
            loop {
                if let WatchItem::Events(events) = self.item().await {
                    return events;
                }
            }
        })
        .await
    }

    /// Events until everything up to `rev` was delivered.
    async fn until(&mut self, rev: Revision) -> Vec<KvEvent> {
        let mut all = Vec::new();
        within("the watch reaches the revision", async {
            while self.seen < rev {
                if let WatchItem::Events(events) = self.item().await {
                    all.extend(events);
                }
            }
        })
        .await;
        all
    }

    async fn error(&mut self) -> StoreError {
        within("the watch fails", async {
            loop {
                match self.stream.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error,
                    None => panic!("the watch ended without an error"),
                }
            }
        })
        .await
    }

    async fn item(&mut self) -> WatchItem {
        let item = self.stream.next().await.expect("the watch goes on").expect("the watch is sound");
        match &item {
            WatchItem::Events(events) => {
                let first = events.first().expect("an item has events").rev();
                assert!(first > self.seen, "revision {first} after {} was complete", self.seen);
                assert!(events.is_sorted_by_key(KvEvent::rev), "out of order: {events:?}");
                self.seen = events.last().map_or(0, KvEvent::rev);
            }
            WatchItem::Progress(rev) => {
                assert!(*rev >= self.seen, "progress {rev} after {} was complete", self.seen);
                self.seen = *rev;
            }
        }
        item
    }
}

/// One test for each property. The argument is a future that makes a [`Subject`].
#[macro_export]
macro_rules! store_contract {
    ($subject:expr) => {
        $crate::store_contract! { $subject;
            txns: a_write_has_a_revision_and_a_version;
            txns: the_first_branch_runs_only_when_all_conditions_hold;
            txns: gets_answer_in_order_and_see_the_writes_before_them;
            txns: a_prefix_delete_spares_the_neighbours;
            txns: a_transaction_that_changes_nothing_has_no_revision_of_its_own;
            txns: malformed_transactions_are_refused_and_change_nothing;
            txns: a_long_transaction_is_one_revision;
            txns: concurrent_compare_and_swap_loses_nothing;
            ranges: a_limited_range_says_that_there_is_more;
            ranges: a_prefix_ends_where_its_last_byte_does;
            ranges: keys_only_leaves_the_values_out;
            ranges: an_old_revision_is_read_as_it_was;
            ranges: a_compacted_or_future_revision_is_not_answered;
            leases: an_expired_lease_deletes_its_keys_at_one_revision;
            leases: a_renewed_lease_lives_on;
            leases: a_revoked_lease_deletes_its_keys_at_one_revision;
            leases: an_unknown_lease_is_not_found;
            leases: a_key_written_without_its_lease_outlives_it;
            watches: a_watch_replays_from_its_revision_then_goes_on_live;
            watches: a_revision_comes_in_one_item;
            watches: a_delete_carries_the_revision_of_the_delete;
            watches: a_compacted_revision_cannot_be_watched;
            watches: a_watch_opened_amid_writes_sees_every_one;
            watches: watchers_agree;
            watches: a_barrier_is_reached_without_other_writes;
            watches: concurrent_barriers_cover_what_was_written_before_each;
            history: random_histories_agree_with_a_plain_model;
        }
    };
    ($subject:expr; $($room:ident: $property:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                $crate::store::contract::$room::$property($subject.await).await;
            }
        )*
    };
}
