//! Properties of watches and barriers.

use futures_util::future::join_all;
use shared::model::Revision;
use tokio_util::sync::CancellationToken;

use super::{StoreUnderTest, within};
use crate::store::{KvEvent, Op, StoreError};

fn values(events: &[KvEvent]) -> Vec<String> {
    let mut values = Vec::new();
    for event in events {
        values.push(match event {
            KvEvent::Put(kv) => String::from_utf8_lossy(&kv.value).into_owned(),
            KvEvent::Delete { key, .. } => format!("-{key}"),
        });
    }
    values
}

/// A watch has no gap and no repetition between the replayed and the live events, and no event of other
/// prefixes.
pub async fn a_watch_replays_from_its_revision_then_goes_on_live(subject: StoreUnderTest) {
    subject.put("/t/a", "before").await;
    let from = subject.put("/t/a", "1").await;
    subject.put("/other/a", "other").await;
    let second = subject.put("/t/b", "2").await;
    let mut watch = subject.watch(from).await;
    assert_eq!(values(&watch.until(second).await), ["1", "2"]);
    // Neighbours of the prefix in the order of bytes.
    subject.put("/t", "no").await;
    subject.put("/t0", "no").await;
    let third = subject.put("/t/a", "3").await;
    let events = watch.until(third).await;
    let KvEvent::Put(kv) = &events[0] else { panic!("{events:?}") };
    assert_eq!((events.len(), kv.mod_rev, kv.create_rev, kv.version), (1, third, from.previous(), 3));
}

/// A large revision comes in one item, live and replayed.
pub async fn a_revision_comes_in_one_item(subject: StoreUnderTest) {
    let value = vec![b'x'; 10 * 1024];
    let batch: Vec<_> = (0..100).map(|n| Op::put(format!("/t/{n:03}"), value.clone())).collect();
    let mut live = subject.watch(Revision::new(1)).await;
    let mut last = Revision::ZERO;
    for _ in 0..4 {
        last = subject.txn(batch.clone()).await.revision;
    }
    let mut replayed = subject.watch(1.into()).await;
    for watch in [&mut live, &mut replayed] {
        let mut count = 0;
        while watch.seen < last {
            // `CheckedWatch` checks that no later item continues a revision.
            let events = watch.events().await;
            assert_eq!(events.len() % 100, 0);
            count += events.len();
        }
        assert_eq!(count, 400);
    }
}

/// A delete event carries the revision of the delete, not of the deleted value.
pub async fn a_delete_carries_the_revision_of_the_delete(subject: StoreUnderTest) {
    let from = subject.put("/t/a", "1").await;
    subject.put("/t/b", "2").await;
    let first = subject.txn([Op::Delete("/t/a".into())]).await.revision;
    let second = subject.txn([Op::DeletePrefix("/t/".into())]).await.revision;
    let events = subject.watch(from).await.until(second).await;
    assert_eq!(values(&events), ["1", "2", "-/t/a", "-/t/b"]);
    assert_eq!((events[2].rev(), events[3].rev()), (first, second));
}

/// A watch from a compacted revision begins with the error, which carries the compacted revision.
pub async fn a_compacted_revision_cannot_be_watched(subject: StoreUnderTest) {
    let old = subject.put("/t/a", "1").await;
    subject.put("/t/a", "2").await;
    let now = subject.put("/t/a", "3").await;
    subject.store.compact(now).await.expect("compact");
    match subject.watch(old).await.error().await {
        StoreError::Compacted(rev) => assert_eq!(rev, now),
        other => panic!("{other:?}"),
    }
    let mut watch = subject.watch(now.next()).await;
    let next = subject.put("/t/a", "4").await;
    assert_eq!(values(&watch.until(next).await), ["4"]);
}

/// A watch that is opened while others write delivers every write once.
pub async fn a_watch_opened_during_writes_delivers_all_of_them(subject: StoreUnderTest) {
    const WRITERS: usize = 4;
    const EACH: usize = 60;
    let from = subject.put("/t/start", "x").await;
    let subject = &subject;
    let written = CancellationToken::new();
    let writers = (0..WRITERS).map(|writer| async move {
        let mut last = from;
        for n in 0..EACH {
            last = subject.put(&format!("/t/{writer}"), &n.to_string()).await;
        }
        last
    });
    let watching = async {
        let mut watches = Vec::new();
        for _ in 0..5 {
            watches.push(subject.watch(from).await);
            // A delivered event proves that the writers are at work. Once they have ended there may be none
            // left.
            written.run_until_cancelled(watches[0].events()).await;
        }
        watches
    };
    let writing = async {
        let ends = join_all(writers).await;
        written.cancel();
        ends
    };
    let (ends, watches) = tokio::join!(writing, watching);
    let last = ends.into_iter().max().unwrap_or(from);
    for mut watch in watches.into_iter().skip(1) {
        let seen = watch.until(last).await;
        assert_eq!(seen.len(), WRITERS * EACH + 1, "each write is told once");
        for writer in 0..WRITERS {
            let of_it = seen.iter().filter(|event| event.key() == format!("/t/{writer}"));
            let versions = of_it.map(|event| match event {
                KvEvent::Put(kv) => kv.version,
                KvEvent::Delete { .. } => 0,
            });
            assert!(versions.eq(1..=EACH as u64), "in order");
        }
    }
}

/// Two watches of one prefix deliver the same events.
pub async fn two_watches_of_a_prefix_deliver_the_same(subject: StoreUnderTest) {
    let mut one = subject.watch(Revision::new(1)).await;
    let mut two = subject.watch(Revision::new(1)).await;
    let mut last = Revision::ZERO;
    for n in 0..50 {
        subject.put(&format!("/t/{}", n % 7), &n.to_string()).await;
        last = subject.txn([Op::Delete(format!("/t/{}", n % 3))]).await.revision;
    }
    let seen = one.until(last).await;
    assert!(seen.len() >= 50);
    assert_eq!(seen, two.until(last).await);
}

/// An open watch reaches a barrier after a write with its prefix, and after a write without it.
pub async fn a_watch_reaches_a_barrier_without_other_writes(subject: StoreUnderTest) {
    let mut watch = subject.watch(Revision::new(1)).await;
    for key in ["/t/a", "/elsewhere", "/t/b", "/elsewhere"] {
        let written = subject.put(key, "x").await;
        let barrier = subject.store.barrier("/t/").await.expect("barrier");
        assert!(barrier >= written);
        watch.until(barrier).await;
    }
    let mut late = subject.watch(1.into()).await;
    let barrier = subject.store.barrier("/t/").await.expect("barrier");
    late.until(barrier).await;
}

/// A barrier covers the writes before it, even if it is bundled with others.
pub async fn each_concurrent_barrier_covers_the_writes_before_it(subject: StoreUnderTest) {
    let mut watch = subject.watch(Revision::new(1)).await;
    let subject = &subject;
    let calls = (0..50).map(|n| async move {
        let written = subject.put(&format!("/t/{n}"), "x").await;
        let barrier = subject.store.barrier("/t/").await.expect("barrier");
        assert!(barrier >= written, "{barrier} does not cover {written}");
        barrier
    });
    let barriers = within("all barriers", join_all(calls)).await;
    watch.until(barriers.into_iter().max().unwrap_or(Revision::ZERO)).await;
}

/// The newest revision covers every write before the question, and asking writes nothing.
pub async fn the_newest_revision_is_read_without_a_write(subject: StoreUnderTest) {
    for key in ["/t/a", "/elsewhere", "/t/b"] {
        let written = subject.put(key, "x").await;
        for _ in 0..3 {
            assert_eq!(subject.store.newest("/t/").await.expect("an answer"), written);
        }
    }
}
