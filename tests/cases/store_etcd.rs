//! The contract of all stores on a real etcd.

use std::time::Duration;

use control_plane::store::contract::StoreUnderTest;
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{Op, RangeRequest, Store as _, Txn, WatchItem};
use futures_util::StreamExt as _;
use harness::Etcd;
use host::lifecycle::Tasks;

async fn subject() -> StoreUnderTest {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let store = EtcdStore::connect(config, &Tasks::new());
    StoreUnderTest::new(store, etcd)
}

control_plane::store_contract!(subject());

/// The contract holds whether or not transactions share a commit. This shows that they do.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_one_moment_share_a_commit() {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let store = EtcdStore::connect(config, &Tasks::new());
    let calls = (0..960).map(|n| {
        let size = Op::PutLast { key: "s/size".into(), value: n.to_string().into(), owner: "s".into() };
        store.txn(Txn { then: vec![Op::put(format!("s/{n}"), "x"), size], ..Txn::default() })
    });
    let replies = futures_util::future::join_all(calls).await;
    let revisions: std::collections::BTreeSet<_> =
        replies.into_iter().map(|reply| reply.expect("is written").revision).collect();
    assert!(revisions.len() < 96, "{} revisions", revisions.len());
    assert!(store.group_figures().commits < 96, "{:?}", store.group_figures());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_do_not_cost_the_connection() {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let store = EtcdStore::connect(config, &Tasks::new());
    let mut watch = store.watch("a", 1.into()).await.expect("etcd is there");
    for number in 0..100 {
        let put = Op::Put { key: format!("b{number}"), value: "b".repeat(1000).into(), lease: None };
        store.txn(Txn { then: vec![put], ..Txn::default() }).await.expect("is written");
    }
    // More than the HTTP/2 library forgives over the life of a connection.
    for _ in 0..20 {
        let calls = (0..500).map(|_| store.range(RangeRequest::prefix("a")));
        // Dropped when the requests are on their way and most responses are not.
        let left =
            tokio::time::timeout(Duration::from_millis(20), futures_util::future::join_all(calls)).await;
        drop(left);
    }
    let put = Op::Put { key: "a".into(), value: "1".into(), lease: None };
    store.txn(Txn { then: vec![put], ..Txn::default() }).await.expect("is written");
    loop {
        match watch.next().await {
            Some(Ok(WatchItem::Events(_))) => return,
            Some(Ok(WatchItem::Progress(_))) => {}
            other => panic!("the watch has broken: {other:?}"),
        }
    }
}
