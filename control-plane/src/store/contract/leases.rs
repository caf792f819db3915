//! Properties of leases. They run in real time: the shortest lease of etcd is about two seconds.

use std::time::Duration;

use tokio::time::Instant;

use super::{StoreUnderTest, put_on, within, writes};
use crate::store::{KvEvent, LeaseId, Op, RangeRequest, StoreError};
use shared::model::Revision;

async fn two_keys_on_a_lease(subject: &StoreUnderTest, ttl: i64) -> (LeaseId, Revision) {
    let lease = subject.store.grant(ttl).await.expect("grant");
    let reply = subject.txn([put_on("/t/inst", "x", lease), put_on("/t/lease", "y", lease)]).await;
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert!(read.items.iter().all(|kv| kv.lease == Some(lease)));
    (lease, reply.revision)
}

fn assert_both_deleted_at_once(events: &[KvEvent], rev: Revision) {
    let mut keys: Vec<_> = events.iter().map(KvEvent::key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["/t/inst", "/t/lease"]);
    assert!(events.iter().all(|event| matches!(event, KvEvent::Delete { rev: at, .. } if *at == rev)));
}

/// A lease ends by itself, and a watch receives the deletes of all its keys.
pub async fn an_expired_lease_deletes_its_keys_at_one_revision(subject: StoreUnderTest) {
    let (lease, rev) = two_keys_on_a_lease(&subject, 1).await;
    let mut watch = subject.watch(rev.next()).await;
    assert_both_deleted_at_once(&watch.events().await, rev.next());
    assert!(matches!(subject.store.keep_alive(lease).await, Err(StoreError::LeaseNotFound)));
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!((read.items.len(), read.revision), (0, rev.next()));
}

/// A lease that is renewed outlives its time, without a new revision, and ends after the last renewal.
pub async fn a_renewed_lease_lives_on(subject: StoreUnderTest) {
    let (lease, rev) = two_keys_on_a_lease(&subject, 2).await;
    let start = Instant::now();
    // More often than necessary: some of the calls are answered without a round trip.
    let mut ticks = tokio::time::interval(Duration::from_millis(300));
    while start.elapsed() < Duration::from_secs(5) {
        ticks.tick().await;
        subject.store.keep_alive(lease).await.expect("renewed in time");
    }
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!((read.items.len(), read.revision), (2, rev), "renewals write nothing");
    let mut watch = subject.watch(rev.next()).await;
    assert_both_deleted_at_once(&watch.events().await, rev.next());
}

/// A revocation ends a lease before its time.
pub async fn a_revoked_lease_deletes_its_keys_at_one_revision(subject: StoreUnderTest) {
    let (lease, rev) = two_keys_on_a_lease(&subject, 600).await;
    let mut watch = subject.watch(rev.next()).await;
    subject.store.revoke(lease).await.expect("revoke");
    assert_both_deleted_at_once(&watch.events().await, rev.next());
    assert!(matches!(subject.store.revoke(lease).await, Err(StoreError::LeaseNotFound)));
    assert!(matches!(subject.store.keep_alive(lease).await, Err(StoreError::LeaseNotFound)));
}

/// Every call with an unknown lease fails, and changes nothing.
pub async fn an_unknown_lease_is_not_found(subject: StoreUnderTest) {
    let unknown = LeaseId::new(4711).expect("not zero");
    let rev = subject.put("/t/a", "1").await;
    assert!(matches!(subject.store.keep_alive(unknown).await, Err(StoreError::LeaseNotFound)));
    assert!(matches!(subject.store.revoke(unknown).await, Err(StoreError::LeaseNotFound)));
    let txn = writes([Op::put("/t/b", "2"), put_on("/t/a", "2", unknown)]);
    assert!(matches!(subject.store.txn(txn).await, Err(StoreError::LeaseNotFound)));
    let endless = subject.store.grant(i64::MAX).await;
    assert!(matches!(endless, Err(StoreError::Refused(_))), "{endless:?}");
    // An unknown lease must not disturb the renewal of a known one.
    let lease = subject.store.grant(60).await.expect("grant");
    let (gone, known) = tokio::join!(subject.store.keep_alive(unknown), subject.store.keep_alive(lease));
    assert!(matches!(gone, Err(StoreError::LeaseNotFound)));
    known.expect("known");
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!((read.items.len(), read.revision), (1, rev));
}

/// A key that is rewritten without a lease, or on another one, survives the end of its first lease.
pub async fn a_key_written_without_its_lease_outlives_it(subject: StoreUnderTest) {
    let (first, _) = two_keys_on_a_lease(&subject, 600).await;
    let second = subject.store.grant(600).await.expect("grant");
    subject.txn([Op::put("/t/inst", "mine"), put_on("/t/lease", "moved", second)]).await;
    subject.store.revoke(first).await.expect("revoke");
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    let found: Vec<_> = read.items.iter().map(|kv| (kv.key.as_str(), kv.lease)).collect();
    assert_eq!(found, [("/t/inst", None), ("/t/lease", Some(second))]);
}

/// A long lease is known by its id, tells its time, and is renewed and ended as any other. A store of one
/// process refuses both calls.
pub async fn a_long_lease_tells_its_time_or_is_refused(subject: StoreUnderTest) {
    let store = &subject.store;
    let ordinary = store.grant(600).await.expect("grant");
    assert!(!ordinary.is_long());
    let lease = match store.grant_long(10).await {
        Err(StoreError::Refused(_)) => {
            let time = store.lease_time(ordinary).await;
            assert!(matches!(time, Err(StoreError::Refused(_))), "{time:?}");
            return;
        }
        granted => granted.expect("grant"),
    };
    assert!(lease.is_long() && !lease.is_shared());
    let common = store.grant_shared(600).await.expect("grant");
    assert!(common.is_long() && common.is_shared());
    assert_eq!(store.lease_time(common).await.expect("its time").granted, Duration::from_secs(600));
    assert_ne!(store.grant_long(600).await.expect("grant"), lease);
    let time = store.lease_time(ordinary).await;
    assert_eq!(time.expect("its time").granted, Duration::from_secs(600));
    let rev = subject.txn([put_on("/t/inst", "x", lease), put_on("/t/lease", "y", lease)]).await.revision;
    let old = within("half of the lease passes", async {
        loop {
            let time = store.lease_time(lease).await.expect("it lives");
            assert_eq!(time.granted, Duration::from_secs(10));
            if time.remaining <= time.granted / 2 {
                return time.remaining;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    store.keep_alive(lease).await.expect("renewed in time");
    let renewed = store.lease_time(lease).await.expect("it lives").remaining;
    assert!(renewed > old, "{old:?} {renewed:?}");
    let mut watch = subject.watch(rev.next()).await;
    store.revoke(lease).await.expect("revoke");
    assert_both_deleted_at_once(&watch.events().await, rev.next());
    assert!(matches!(store.lease_time(lease).await, Err(StoreError::LeaseNotFound)));
    let unknown = LeaseId::new(4711).expect("not zero");
    assert!(matches!(store.lease_time(unknown).await, Err(StoreError::LeaseNotFound)));
}
