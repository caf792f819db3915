//! The store on an etcd of three members, of which one after another dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{Op, RangeRequest, Store, StoreError, Txn, WatchItem};
use futures_util::StreamExt;
use harness::{Etcd, eventually};
use host::lifecycle::Tasks;
use shared::model::Revision;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Watches, and watches again from where the last watch ended, until `until` names the last revision.
async fn follow(
    store: Arc<EtcdStore>,
    from: Revision,
    mut until: watch::Receiver<Option<Revision>>,
) -> Vec<(Revision, String)> {
    let mut seen = Vec::new();
    let mut next = from;
    loop {
        let opened = || async { store.watch("/t/", next).await.ok() };
        let mut watch = eventually("a watch opens", opened).await;
        loop {
            if until.borrow_and_update().is_some_and(|last| next > last) {
                return seen;
            }
            let item = tokio::select! {
                item = watch.next() => item,
                Ok(()) = until.changed() => continue,
            };
            match item.expect("a watch ends with an error") {
                Ok(WatchItem::Events(events)) => {
                    seen.extend(events.iter().map(|event| (event.rev(), event.key().to_owned())));
                    next = events.last().map_or(next, |event| event.rev().next());
                }
                Ok(WatchItem::Progress(rev)) => next = next.max(rev.next()),
                Err(StoreError::Unavailable(_)) => break,
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// Writes again and again; some of the writes meet a dying member.
async fn write(store: Arc<EtcdStore>, writer: usize, stop: CancellationToken) -> Vec<Revision> {
    let mut answered = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !stop.is_cancelled() {
        pace.tick().await;
        let then = vec![Op::put(format!("/t/{writer}"), answered.len().to_string())];
        match store.txn(Txn { then, ..Txn::default() }).await {
            Ok(reply) => answered.push(reply.revision),
            // Busy: it waited behind writes that the dying member never answers.
            Err(StoreError::Unavailable(_) | StoreError::Busy) => {}
            Err(other) => panic!("{other}"),
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_loses_and_repeats_nothing_while_each_member_dies() {
    let members = Etcd::start_cluster(3).await;
    let config = EtcdConfig {
        endpoints: members.iter().map(Etcd::endpoint).collect(),
        request_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(500),
        watch_probe: Duration::from_millis(200),
        watch_idle_timeout: Duration::from_secs(1),
        ..EtcdConfig::default()
    };
    let store = EtcdStore::connect(config.clone(), &Tasks::new());
    let from = store.range(RangeRequest::key("/t/")).await.expect("range").revision.next();
    let stop = CancellationToken::new();
    let writers: Vec<_> =
        (0..3).map(|writer| tokio::spawn(write(store.clone(), writer, stop.clone()))).collect();
    let (until, told) = watch::channel(None);
    let follower = tokio::spawn(follow(store.clone(), from, told));

    let moved_on = async |rounds: &str| {
        let read = async || store.range(RangeRequest::key("/t/")).await.map(|reply| reply.revision).ok();
        let before = eventually("the cluster answers", &read).await;
        // The three writers have three writes in flight at most. Twenty more revisions were begun after the
        // fault.
        let more = || async { read().await.filter(|now| *now > before.plus(20)) };
        eventually(&format!("writes go on {rounds}"), more).await;
    };
    moved_on("at first").await;
    for (n, member) in members.iter().enumerate() {
        member.kill();
        moved_on(&format!("without member {n}")).await;
        // The next member dies only after this one is back: without two of three, etcd has no quorum.
        member.restart().await;
        moved_on(&format!("with member {n}")).await;
    }

    // Writers end before the last revision is taken, so that nothing answered comes after it.
    stop.cancel();
    let mut answered = Vec::new();
    for writer in writers {
        answered.extend(writer.await.expect("a writer ends"));
    }
    // Writes with an unknown outcome may still arrive; a fresh store reads the whole truth up to here.
    let last = answered.iter().copied().max().expect("some writes were answered");
    until.send_replace(Some(last));
    let seen = follower.await.expect("the follower ends");
    let truth = {
        let fresh = EtcdStore::connect(config, &Tasks::new());
        follow(fresh, from, watch::channel(Some(last)).1).await
    };
    let up_to_last = |events: Vec<(Revision, String)>| -> Vec<(Revision, String)> {
        events.into_iter().filter(|(rev, _)| *rev <= last).collect()
    };
    let [seen, truth] = [seen, truth].map(up_to_last);
    // Writers that come at the same moment share a revision, each with a key of its own.
    assert!(truth.is_sorted_by_key(|(rev, _)| *rev), "in the order of revisions");
    assert_eq!(truth.iter().collect::<BTreeSet<_>>().len(), truth.len(), "each key once in a revision");
    assert_eq!(seen, truth);
    let written: BTreeSet<Revision> = truth.iter().map(|(rev, _)| *rev).collect();
    let missing: Vec<_> = answered.iter().filter(|rev| !written.contains(rev)).collect();
    assert!(missing.is_empty(), "answered, but not there: {missing:?}");
}
