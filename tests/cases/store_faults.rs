//! The store on etcd while etcd or the way to it fails.
//!
//! A user relies on this: a call is answered, or says within its deadline that it cannot be; a watch that
//! ends can be opened again where it ended, and then nothing is missing and nothing comes twice.

use std::sync::Arc;
use std::time::Duration;

use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{
    KvEvent, LeaseId, Op, RangeRequest, Store, StoreError, Txn, TxnReply, WatchItem, WatchStream,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use harness::{Direction, Etcd, Link, eventually};
use host::lifecycle::Tasks;
use shared::model::Revision;
use tokio::time::Instant;

/// Deadline of a call in these tests.
const TIMEOUT: Duration = Duration::from_secs(1);

struct Rig {
    etcd: Etcd,
    link: Link,
    store: Arc<EtcdStore>,
}

impl Rig {
    async fn new() -> Self {
        Self::on(Etcd::start().await).await
    }

    async fn on(etcd: Etcd) -> Self {
        let link = Link::to(etcd.endpoint()).await;
        let config = EtcdConfig {
            endpoints: vec![link.endpoint()],
            request_timeout: TIMEOUT,
            connect_timeout: TIMEOUT / 2,
            // Seven probes fit into the idle timeout, so one late reply on a busy machine does not end a
            // watch.
            watch_probe: Duration::from_millis(100),
            watch_idle_timeout: Duration::from_millis(700),
            ..EtcdConfig::default()
        };
        let store = EtcdStore::connect(config, &Tasks::new());
        Self { etcd, link, store }
    }

    async fn try_put(&self, key: &str, value: &str) -> Result<TxnReply, StoreError> {
        self.store.txn(Txn { then: vec![Op::put(key, value.to_owned())], ..Txn::default() }).await
    }

    async fn put(&self, value: &str) -> Revision {
        self.try_put("/t/a", value).await.expect("a healthy store takes a put").revision
    }

    async fn put_when_back(&self, value: &str) -> Revision {
        eventually("the store works again", || async { self.try_put("/t/a", value).await.ok() })
            .await
            .revision
    }

    async fn watch(&self, from: Revision) -> WatchStream {
        self.store.watch("/t/", from).await.expect("a watch opens")
    }

    /// A call does not hang, and says why.
    async fn assert_unavailable(&self) {
        let start = Instant::now();
        let result = self.store.range(RangeRequest::key("/t/a")).await;
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        // The call may use its whole deadline; the rest allows for a busy machine.
        assert!(start.elapsed() < 2 * TIMEOUT, "{:?}", start.elapsed());
    }

    /// After the connection was given up, a call does not even wait for its deadline.
    async fn assert_fails_fast(&self) {
        // Only the calls in flight at the time of the fault may wait. If later ones waited as well, callers
        // would pile up behind a store that is away.
        eventually("the store knows that etcd is away", || async {
            let start = Instant::now();
            let result = self.store.range(RangeRequest::key("/t/a")).await;
            assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
            (start.elapsed() < TIMEOUT / 10).then_some(())
        })
        .await;
    }
}

/// The revisions of all events until the watch breaks.
async fn until_broken(watch: &mut WatchStream) -> Vec<Revision> {
    let mut seen = Vec::new();
    let drained = async {
        while let Some(item) = watch.next().await {
            match item {
                Ok(WatchItem::Events(events)) => seen.extend(events.iter().map(KvEvent::rev)),
                Ok(WatchItem::Progress(_)) => {}
                Err(StoreError::Unavailable(_)) => return,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("the watch ended without an error");
    };
    tokio::time::timeout(harness::deadline(), drained).await.expect("a dead watch is found out");
    seen
}

/// The revisions of all events up to `last`.
async fn until(watch: &mut WatchStream, last: Revision) -> Vec<Revision> {
    let mut seen = Vec::new();
    let drained = async {
        while seen.last() != Some(&last) {
            if let WatchItem::Events(events) = watch.next().await.expect("goes on").expect("sound") {
                seen.extend(events.iter().map(KvEvent::rev));
            }
        }
    };
    tokio::time::timeout(harness::deadline(), drained).await.expect("the watch delivers");
    seen
}

#[tokio::test]
async fn kill_9_of_etcd_ends_watches_which_resume_without_a_gap() {
    let rig = Rig::new().await;
    let first = rig.put("1").await;
    let mut watch = rig.watch(first).await;
    assert_eq!(until(&mut watch, first).await, [first]);

    rig.etcd.kill();
    rig.assert_unavailable().await;
    assert_eq!(until_broken(&mut watch).await, [Revision::ZERO; 0]);
    rig.assert_fails_fast().await;

    rig.etcd.restart().await;
    let last = rig.put_when_back("2").await;
    let mut watch = rig.watch(first.next()).await;
    // Only the last revision is compared: attempts that failed for the caller may have been committed, too.
    assert_eq!(until(&mut watch, last).await.last(), Some(&last));
    assert!(rig.store.barrier("/t/").await.expect("barrier") >= last);
}

#[tokio::test]
async fn a_cut_link_is_noticed_at_once_and_used_again_when_mended() {
    let rig = Rig::new().await;
    let first = rig.put("1").await;
    let mut watch = rig.watch(first).await;
    rig.link.cut().await;
    let start = Instant::now();
    // The event of the first put may or may not have arrived before the cut.
    assert!(until_broken(&mut watch).await.len() <= 1);
    assert!(start.elapsed() < TIMEOUT, "a reset is no silence to wait out");
    rig.assert_fails_fast().await;
    rig.link.mend().await;
    rig.put_when_back("2").await;
}

#[tokio::test]
async fn a_half_open_link_is_found_out_by_silence() {
    // No socket fails on a frozen link. The lack of replies is all that shows, in each direction alone as
    // well.
    for direction in [Direction::Both, Direction::ToServer, Direction::ToClient] {
        let rig = Rig::new().await;
        let first = rig.put("1").await;
        let mut watch = rig.watch(first).await;
        assert_eq!(until(&mut watch, first).await, [first]);
        rig.link.freeze(direction);
        assert_eq!(until_broken(&mut watch).await, [Revision::ZERO; 0], "{direction:?}");
        rig.assert_unavailable().await;
        rig.assert_fails_fast().await;
        rig.link.mend().await;
        let last = rig.put_when_back("2").await;
        let mut watch = rig.watch(first.next()).await;
        assert_eq!(until(&mut watch, last).await.last(), Some(&last), "{direction:?}");
    }
}

#[tokio::test]
async fn a_stopped_etcd_is_found_out_and_used_again() {
    let rig = Rig::new().await;
    let first = rig.put("1").await;
    let mut watch = rig.watch(first).await;
    assert_eq!(until(&mut watch, first).await, [first]);
    // A stopped process keeps its connections, and its kernel goes on to acknowledge what is sent.
    rig.etcd.freeze();
    rig.assert_unavailable().await;
    assert_eq!(until_broken(&mut watch).await, [Revision::ZERO; 0]);
    rig.assert_fails_fast().await;
    rig.etcd.thaw();
    rig.put_when_back("2").await;
}

#[tokio::test]
async fn a_watch_on_a_quiet_prefix_is_not_taken_for_dead() {
    let rig = Rig::new().await;
    let first = rig.put("1").await;
    let mut watch = rig.watch(first.next()).await;
    // Several times the idle timeout. Newer versions of etcd tell that nothing happened.
    let quiet = async {
        while let Some(item) = watch.next().await {
            assert!(matches!(item, Ok(WatchItem::Progress(rev)) if rev <= first), "{item:?}");
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3), quiet).await.is_err(), "the watch goes on");
    let second = rig.put("2").await;
    assert_eq!(until(&mut watch, second).await, [second]);
}

#[tokio::test]
async fn a_store_can_be_made_while_etcd_is_away() {
    let etcd = Etcd::start().await;
    etcd.kill();
    let rig = Rig::on(etcd).await;
    rig.assert_unavailable().await;
    rig.assert_fails_fast().await;
    assert!(matches!(
        rig.store.keep_alive(LeaseId::new(1).expect("not zero")).await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(matches!(rig.store.watch("/t/", 1.into()).await.err(), Some(StoreError::Unavailable(_))));
    rig.etcd.restart().await;
    rig.put_when_back("1").await;
}

#[tokio::test]
async fn a_watch_that_resumes_learns_of_a_compaction_in_an_outage() {
    let rig = Rig::new().await;
    let first = rig.put("1").await;
    let mut watch = rig.watch(first).await;
    assert_eq!(until(&mut watch, first).await, [first]);
    rig.link.cut().await;
    until_broken(&mut watch).await;

    // A second store reaches etcd around the link that is cut.
    let config = EtcdConfig { endpoints: vec![rig.etcd.endpoint()], ..EtcdConfig::default() };
    let other = EtcdStore::connect(config, &Tasks::new());
    let mut last = Revision::ZERO;
    for n in 0..5 {
        let txn = Txn { then: vec![Op::put("/t/a", n.to_string())], ..Txn::default() };
        last = other.txn(txn).await.expect("the other way is open").revision;
    }
    other.compact(last).await.expect("compact");

    rig.link.mend().await;
    let mut watch =
        eventually("a watch opens", || async { rig.store.watch("/t/", first.next()).await.ok() }).await;
    match watch.next().await {
        Some(Err(StoreError::Compacted(rev))) => assert_eq!(rev, last),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lease_is_kept_alive_across_a_reconnect() {
    let rig = Rig::new().await;
    // Thirty seconds outlive the outage, so an error that says that the lease has ended would be wrong.
    let lease = rig.store.grant(30).await.expect("grant");
    rig.store.keep_alive(lease).await.expect("renewed");
    rig.link.cut().await;
    eventually("a renewal is no longer answered from memory", || async {
        match rig.store.keep_alive(lease).await {
            Ok(()) => None,
            Err(StoreError::Unavailable(_)) => Some(()),
            Err(other) => panic!("an outage is not the end of a lease: {other}"),
        }
    })
    .await;
    rig.link.mend().await;
    eventually("renewals work again", || async { rig.store.keep_alive(lease).await.ok() }).await;
}

#[tokio::test]
async fn a_renewal_on_a_frozen_link_ends_within_its_deadline() {
    let rig = Rig::new().await;
    let leases: Vec<_> =
        stream::iter(0..20).map(|_| rig.store.grant(60)).buffered(20).try_collect().await.expect("grants");
    rig.store.keep_alive(leases[0]).await.expect("the stream is open");
    // Requests still reach etcd and the leases are in fact renewed. Without a reply the store cannot
    // know that, so it must report an error.
    rig.link.freeze(Direction::ToClient);
    let start = Instant::now();
    let renewals = leases[1..].iter().map(|lease| rig.store.keep_alive(*lease));
    for result in futures_util::future::join_all(renewals).await {
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
    assert!(start.elapsed() < 2 * TIMEOUT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lease_renewed_a_moment_ago_is_renewed_without_etcd() {
    let rig = Rig::new().await;
    let lease = rig.store.grant(60).await.expect("grant");
    // The first one opens the stream and does not learn how long the lease lives.
    rig.store.keep_alive(lease).await.expect("renewed");
    let start = Instant::now();
    rig.store.keep_alive(lease).await.expect("renewed");
    rig.link.freeze(Direction::Both);
    let again = rig.store.keep_alive(lease).await;
    // A machine that stalls may have let the moment pass before this call; only then may it fail.
    assert!(again.is_ok() || start.elapsed() > TIMEOUT / 2, "renewed a moment ago: {again:?}");
    eventually("the moment passes", || async { rig.store.keep_alive(lease).await.err() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_leases_beat_in_one_burst() {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let store = EtcdStore::connect(config, &Tasks::new());
    let leases: Vec<_> = stream::iter(0..10_000)
        .map(|_| store.grant(600))
        .buffer_unordered(500)
        .try_collect()
        .await
        .expect("grants");
    for round in ["from etcd", "from memory"] {
        let start = Instant::now();
        let renewals = leases.iter().map(|lease| store.keep_alive(*lease));
        for result in futures_util::future::join_all(renewals).await {
            result.expect("renewed");
        }
        // Shown and not judged: times depend on the machine. The test is that no renewal fails.
        eprintln!("10 000 renewals {round}: {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_nobody_reads_delays_nobody_and_misses_nothing() {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let store = EtcdStore::connect(config, &Tasks::new());
    let put = Txn { then: vec![Op::put("/t/a", "x")], ..Txn::default() };
    let first = store.txn(put.clone()).await.expect("put").revision;
    let mut watch = store.watch("/t/", first).await.expect("opens");
    let replies: Vec<TxnReply> = stream::iter(0..10_000)
        .map(|_| store.txn(put.clone()))
        .buffer_unordered(100)
        .try_collect()
        .await
        .expect("writes go on while a watch is not read");
    let last = replies.iter().map(|reply| reply.revision).max().expect("there are some");
    let written: Vec<_> = (first.get()..=last.get()).map(Revision::new).collect();
    assert_eq!(until(&mut watch, last).await, written);
}

#[tokio::test]
async fn progress_without_matching_events_is_told_by_any_version() {
    // etcd reports progress every ten minutes by default, which no test can wait for.
    let etcd = Etcd::start_with(&[harness::etcd::progress_interval_flag(), "300ms"]).await;
    let rig = Rig::on(etcd).await;
    let mut watch = rig.watch(1.into()).await;
    let elsewhere = rig.try_put("/elsewhere", "x").await.expect("put").revision;
    let reached = async {
        loop {
            match watch.next().await.expect("goes on").expect("sound") {
                WatchItem::Progress(rev) if rev >= elsewhere => return,
                WatchItem::Progress(_) => {}
                WatchItem::Events(events) => panic!("{events:?}"),
            }
        }
    };
    tokio::time::timeout(harness::deadline(), reached).await.expect("etcd notifies of progress");
}
