//! The contract of all stores, written once and run on each implementation.
//!
//! [`crate::store_contract!`] makes one test of each property. Each property has its own [`StoreUnderTest`],
//! a store that no other test uses, because compaction concerns the whole store. Properties use the trait
//! only.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use shared::model::Revision;

use super::{KvEvent, LeaseId, Op, Store, StoreError, Txn, TxnReply, WatchItem, WatchStream};

pub mod crowds;
pub mod history;
pub mod leases;
pub mod ranges;
pub mod txns;
pub mod watches;

/// The time after which an undecided property has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// A store under test, and the resources that it needs.
pub struct StoreUnderTest {
    /// The store.
    pub store: Arc<dyn Store>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl StoreUnderTest {
    /// A store, and a value to keep until the test is over, such as a process or a directory.
    pub fn new(store: Arc<dyn Store>, keep: impl Any + Send + Sync) -> Self {
        Self { store, _keep: Box::new(keep) }
    }

    async fn txn(&self, then: impl Into<Vec<Op>>) -> TxnReply {
        self.store.txn(writes(then)).await.expect("the store takes a plain transaction")
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        self.txn([Op::put(key, value.to_owned())]).await.revision
    }

    async fn watch(&self, from: Revision) -> CheckedWatch {
        CheckedWatch {
            stream: self.store.watch("/t/", from).await.expect("a watch opens"),
            seen: Revision::ZERO,
        }
    }
}

/// A transaction without conditions.
fn writes(then: impl Into<Vec<Op>>) -> Txn {
    Txn { then: then.into(), ..Txn::default() }
}

fn put_on(key: &str, value: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: value.to_owned().into(), lease: Some(lease) }
}

async fn within<T>(expectation: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {expectation}"),
    }
}

/// A watch that checks the order and completeness of its items.
struct CheckedWatch {
    stream: WatchStream,
    seen: Revision,
}

impl CheckedWatch {
    /// The next events. Progress is skipped.
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

    /// All events until the watch has reported `rev`.
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
                assert!(first > self.seen, "revision {first} came after {} had been complete", self.seen);
                assert!(events.is_sorted_by_key(KvEvent::rev), "out of order: {events:?}");
                self.seen = events.last().map_or(Revision::ZERO, KvEvent::rev);
            }
            WatchItem::Progress(rev) => {
                assert!(*rev >= self.seen, "progress {rev} came after {} had been complete", self.seen);
                self.seen = *rev;
            }
        }
        item
    }
}

/// Makes one test of each property. The argument is an expression for a future that makes a
/// [`StoreUnderTest`].
#[macro_export]
macro_rules! store_contract {
    ($subject:expr) => {
        $crate::store_contract! { $subject;
            txns: a_write_has_a_revision_and_a_version;
            txns: the_first_branch_runs_only_when_all_conditions_hold;
            txns: gets_reply_in_order_and_see_the_writes_before_them;
            txns: a_prefix_delete_spares_neighbouring_keys;
            txns: a_transaction_without_a_change_has_no_revision;
            txns: malformed_transactions_are_refused_and_change_nothing;
            txns: a_long_transaction_is_one_revision;
            txns: concurrent_compare_and_swap_loses_nothing;
            txns: one_that_loses_does_not_fail_those_beside_it;
            txns: a_refused_one_spoils_none_beside_it;
            txns: writes_of_one_key_have_a_revision_each;
            txns: a_key_of_many_is_written_while_its_owner_exists;
            ranges: a_limited_range_reports_that_there_is_more;
            ranges: no_page_is_empty_but_that_of_an_empty_range;
            ranges: pages_of_a_revision_show_no_later_change;
            ranges: pages_end_when_their_revision_is_compacted;
            ranges: a_prefix_ends_where_its_last_byte_does;
            ranges: keys_only_leaves_the_values_empty;
            ranges: an_old_revision_is_read_as_it_was;
            ranges: a_compacted_or_future_revision_is_refused;
            leases: an_expired_lease_deletes_its_keys_at_one_revision;
            leases: a_renewed_lease_lives_on;
            leases: a_revoked_lease_deletes_its_keys_at_one_revision;
            leases: an_unknown_lease_is_not_found;
            leases: a_key_written_without_its_lease_outlives_it;
            leases: a_long_lease_tells_its_time_or_is_refused;
            watches: a_watch_replays_from_its_revision_then_goes_on_live;
            watches: a_revision_comes_in_one_item;
            watches: a_delete_carries_the_revision_of_the_delete;
            watches: a_compacted_revision_cannot_be_watched;
            watches: a_watch_opened_during_writes_delivers_all_of_them;
            watches: two_watches_of_a_prefix_deliver_the_same;
            watches: a_watch_reaches_a_barrier_without_other_writes;
            watches: each_concurrent_barrier_covers_the_writes_before_it;
            watches: the_newest_revision_is_read_without_a_write;
            history: random_histories_agree_with_a_plain_model;
            crowds: each_of_a_crowd_is_judged_and_answered_by_itself;
        }
    };
    ($subject:expr; $($room:ident: $property:ident;)*) => {
        $(
            // Two threads, so that properties with concurrent calls really run them in parallel.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                $crate::store::contract::$room::$property($subject.await).await;
            }
        )*
    };
}
