//! Properties of transactions.

use shared::model::Revision;
use std::sync::Arc;

use super::{StoreUnderTest, put_on, within, writes};
use crate::store::{
    Compare, LeaseId, MAX_TXN_COMPARE_WITH_LONG_THEN, MAX_TXN_THEN, Op, RangeRequest, Store, StoreError, Txn,
};

/// Each write raises the revision. A key carries the revisions of its creation and last write, and its
/// version.
pub async fn a_write_has_a_revision_and_a_version(subject: StoreUnderTest) {
    let first = subject.put("/t/a", "1").await;
    let other = subject.put("/t/b", "x").await;
    let second = subject.put("/t/a", "2").await;
    assert!(first > 1.into() && other == first.next() && second == other.next());
    let read = subject.store.range(RangeRequest::key("/t/a")).await.expect("range");
    assert_eq!(read.revision, second);
    let kv = &read.items[0];
    assert_eq!((kv.create_rev, kv.mod_rev, kv.version, kv.lease), (first, second, 2, None));
    assert_eq!(&kv.value[..], b"2");

    subject.txn([Op::Delete("/t/a".into())]).await;
    let again = subject.put("/t/a", "3").await;
    let read = subject.store.range(RangeRequest::key("/t/a")).await.expect("range");
    assert_eq!((read.items[0].create_rev, read.items[0].version), (again, 1));
}

/// Each kind of condition decides alone, and all of them decide together.
pub async fn the_first_branch_runs_only_when_all_conditions_hold(subject: StoreUnderTest) {
    let rev = subject.put("/t/here", "1").await;
    let here = String::from("/t/here");
    let gone = String::from("/t/gone");
    let unwritten = |prefix: &str, rev| vec![Compare::UnwrittenSince(prefix.to_owned(), rev)];
    let cases = [
        (vec![], true),
        (vec![Compare::Exists(here.clone())], true),
        (vec![Compare::Exists(gone.clone())], false),
        (vec![Compare::Absent(here.clone())], false),
        (vec![Compare::Absent(gone.clone())], true),
        (vec![Compare::ModRev(here.clone(), rev)], true),
        (vec![Compare::ModRev(here.clone(), rev.next())], false),
        (vec![Compare::ModRev(gone.clone(), Revision::ZERO)], true),
        (vec![Compare::ModRev(here.clone(), Revision::ZERO)], false),
        (unwritten("/t/he", rev), true),
        (unwritten("/t/he", rev.previous()), false),
        (unwritten("/t/here/", Revision::ZERO), true),
        (unwritten("/t/gone", Revision::ZERO), true),
        (vec![Compare::Exists(here.clone()), Compare::Absent(gone.clone())], true),
        (vec![Compare::Exists(here), Compare::Exists(gone)], false),
    ];
    for (compare, expected) in cases {
        let txn = Txn {
            compare: compare.clone(),
            then: vec![Op::put("/t/then", "then")],
            otherwise: vec![Op::put("/t/otherwise", "otherwise"), Op::Get("/t/here".into())],
            ..Txn::default()
        };
        let before = subject.store.range(RangeRequest::key("/t/here")).await.expect("range").revision;
        let reply = subject.store.txn(txn).await.expect("txn");
        assert_eq!(reply.succeeded, expected, "{compare:?}");
        assert_eq!(reply.revision, before.next());
        assert_eq!(reply.got.len(), usize::from(!expected));
        let written = if expected { "/t/then" } else { "/t/otherwise" };
        let read = subject.store.range(RangeRequest::key(written)).await.expect("range");
        assert_eq!(read.items[0].mod_rev, reply.revision);
    }
}

/// The reply has one entry for each `Get`, and a `Get` sees the writes before it.
pub async fn gets_reply_in_order_and_see_the_writes_before_them(subject: StoreUnderTest) {
    subject.put("/t/a", "old").await;
    let reply = subject
        .txn([
            Op::Get("/t/a".into()),
            Op::put("/t/a", "new"),
            Op::Get("/t/a".into()),
            Op::Get("/t/none".into()),
            Op::Delete("/t/none".into()),
            Op::Get("/t/a".into()),
        ])
        .await;
    let got: Vec<_> = reply.got.iter().map(|kv| kv.as_ref().map(|kv| &kv.value[..])).collect();
    assert_eq!(got, [Some(&b"old"[..]), Some(b"new"), None, Some(b"new")]);
    assert_eq!(reply.got[1].as_ref().map(|kv| kv.mod_rev), Some(reply.revision));
}

/// A delete by prefix deletes only keys with the prefix.
pub async fn a_prefix_delete_spares_neighbouring_keys(subject: StoreUnderTest) {
    for key in ["/t/a", "/t/a/", "/t/a/1", "/t/a/1/x", "/t/a0", "/t/b"] {
        subject.put(key, "x").await;
    }
    let reply = subject.txn([Op::DeletePrefix("/t/a/".into())]).await;
    let left = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!(left.revision, reply.revision);
    let left: Vec<_> = left.items.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(left, ["/t/a", "/t/a0", "/t/b"]);
}

/// Deletes of absent keys, reads and comparisons do not raise the revision.
pub async fn a_transaction_without_a_change_has_no_revision(subject: StoreUnderTest) {
    let rev = subject.put("/t/a", "1").await;
    let ops = [Op::Delete("/t/x".into()), Op::DeletePrefix("/t/x/".into()), Op::Get("/t/a".into())];
    assert_eq!(subject.txn(ops).await.revision, rev);
    assert_eq!(subject.txn([]).await.revision, rev);
    assert_eq!(subject.put("/t/a", "1").await, rev.next(), "the same value is a write all the same");
}

/// A malformed transaction fails as a whole, with a reason that names the mistake.
pub async fn malformed_transactions_are_refused_and_change_nothing(subject: StoreUnderTest) {
    let rev = subject.put("/t/a", "1").await;
    let put = Op::put("/t/b", "1");
    let many = (0..=MAX_TXN_THEN).map(|n| Op::put(format!("/t/{n}"), "x")).collect::<Vec<_>>();
    // Beyond the limits of both stores.
    let large = vec![b'x'; 4 * 1024 * 1024];
    let cases = [
        ("duplicate", vec![put.clone(), put.clone()]),
        ("duplicate", vec![put.clone(), Op::Delete("/t/b".into())]),
        ("duplicate", vec![Op::DeletePrefix("/t/".into()), put.clone()]),
        ("too many", many),
        ("", vec![put, Op::put("", "x")]),
        ("large", vec![Op::put("/t/large", large)]),
    ];
    for (reason, ops) in cases {
        match subject.store.txn(writes(ops)).await {
            Err(StoreError::TooLarge(_)) => assert_eq!(reason, "large"),
            Err(StoreError::Refused(text)) => assert!(text.contains(reason), "{text:?} names {reason:?}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!((read.revision, read.items.len()), (rev, 1));
}

fn long_key(n: usize) -> String {
    format!("/t/{n:04}")
}

/// The longest transaction, with the most conditions beside it, is one revision.
pub async fn a_long_transaction_is_one_revision(subject: StoreUnderTest) {
    let mut watch = subject.watch(Revision::new(1)).await;
    for conditions in [0, 1, MAX_TXN_COMPARE_WITH_LONG_THEN] {
        let mut then: Vec<Op> =
            (0..MAX_TXN_THEN - 1).map(|n| Op::put(long_key(n), conditions.to_string())).collect();
        then.push(Op::Get(long_key(MAX_TXN_THEN - 2)));
        let compare = (0..conditions).map(|n| Compare::Absent(format!("/t/absent/{n}"))).collect();
        let reply = subject.store.txn(Txn { compare, then, ..Txn::default() }).await.expect("a long one");
        assert!(reply.succeeded);
        let got: Vec<_> = reply.got.iter().flatten().map(|kv| kv.value.to_vec()).collect();
        assert_eq!(got, [conditions.to_string().into_bytes()], "a read sees the writes before it");
        let seen = watch.events().await;
        assert_eq!(seen.len(), MAX_TXN_THEN - 1);
        assert!(seen.iter().all(|event| event.rev() == reply.revision));
    }
    let lost = Txn {
        compare: vec![Compare::Exists("/t/none".into())],
        then: (0..MAX_TXN_THEN).map(|n| Op::Delete(long_key(n))).collect(),
        ..Txn::default()
    };
    assert!(!subject.store.txn(lost).await.expect("an answer").succeeded);
    let left = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!(left.items.len(), MAX_TXN_THEN - 1);
}

/// Many writers raise one counter by compare-and-swap, and every increment counts.
pub async fn concurrent_compare_and_swap_loses_nothing(subject: StoreUnderTest) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    async fn add_one(store: &Arc<dyn Store>) {
        loop {
            let read = store.range(RangeRequest::key("/t/n")).await.expect("range");
            let (rev, n) = read.items.first().map_or((Revision::ZERO, 0), |kv| {
                (kv.mod_rev, String::from_utf8_lossy(&kv.value).parse::<usize>().expect("a number"))
            });
            let txn = Txn {
                compare: vec![Compare::ModRev("/t/n".into(), rev)],
                then: vec![Op::put("/t/n", (n + 1).to_string())],
                ..Txn::default()
            };
            if store.txn(txn).await.expect("txn").succeeded {
                return;
            }
        }
    }
    let writers = (0..WRITERS).map(|_| async {
        for _ in 0..EACH {
            add_one(&subject.store).await;
        }
    });
    within("all writers are done", futures_util::future::join_all(writers)).await;
    let read = subject.store.range(RangeRequest::key("/t/n")).await.expect("range");
    assert_eq!(read.items[0].value, (WRITERS * EACH).to_string());
    assert_eq!(read.items[0].version, (WRITERS * EACH) as u64);
}

fn guarded_put(key: String, guard: Compare) -> Txn {
    let put = Op::put(key.clone(), key.clone());
    Txn { compare: vec![guard], then: vec![put], otherwise: vec![Op::Get(key)], ..Txn::default() }
}

/// Transactions of one moment may share a revision. Each is judged by its own conditions and answered by
/// itself.
pub async fn one_that_loses_does_not_fail_those_beside_it(subject: StoreUnderTest) {
    const MANY: usize = 400;
    let rev = subject.txn([Op::put("/t/here", "1")]).await.revision;
    let taken: Vec<_> = (0..MANY).step_by(7).map(|n| Op::put(long_key(n), "before")).collect();
    subject.txn(taken).await;
    let mut watch = subject.watch(rev.next().next()).await;
    let calls = (0..MANY).map(|n| {
        let guard = match n % 3 {
            0 => Compare::Absent(long_key(n)),
            1 => Compare::Exists("/t/here".into()),
            _ => Compare::ModRev("/t/here".into(), rev),
        };
        subject.store.txn(guarded_put(long_key(n), guard))
    });
    let replies = within("all are answered", futures_util::future::join_all(calls)).await;
    let mut last = Revision::ZERO;
    let mut winners = 0;
    for (n, reply) in replies.into_iter().enumerate() {
        let reply = reply.expect("an answer");
        let wins = n % 3 != 0 || n % 7 != 0;
        assert_eq!((reply.succeeded, reply.got.len()), (wins, usize::from(!wins)), "{n}");
        let read = subject.store.range(RangeRequest::key(long_key(n))).await.expect("range");
        let kv = &read.items[0];
        if wins {
            winners += 1;
            assert_eq!((&kv.value[..], kv.mod_rev), (long_key(n).as_bytes(), reply.revision));
        } else {
            assert_eq!(reply.got[0].as_ref(), Some(kv), "the reply has its own reads");
            assert_eq!(&kv.value[..], b"before");
        }
        last = last.max(reply.revision);
    }
    let seen = watch.until(last).await;
    let mut keys: Vec<_> = seen.iter().map(|event| event.key().to_owned()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((seen.len(), keys.len()), (winners, winners), "each write is told once");
}

/// A transaction that the store refuses spoils none of those that come with it.
pub async fn a_refused_one_spoils_none_beside_it(subject: StoreUnderTest) {
    let unknown = LeaseId::new(4711).expect("not zero");
    let twice = Op::put("/t/twice", "x");
    let large = Op::put("/t/large", vec![b'x'; 4 * 1024 * 1024]);
    for spoiler in [
        vec![put_on("/t/gone", "x", unknown)],
        vec![twice.clone(), twice],
        vec![large],
        vec![Op::put("", "x")],
    ] {
        let rest = |from: usize| (from..from + 60).map(|n| writes([Op::put(long_key(n), "x")]));
        let txns = rest(0).chain([writes(spoiler)]).chain(rest(60));
        let replies = futures_util::future::join_all(txns.map(|txn| subject.store.txn(txn)));
        let replies = within("all are answered", replies).await;
        let failed: Vec<_> = (0..replies.len()).filter(|n| replies[*n].is_err()).collect();
        assert_eq!(failed, [60], "{:?}", replies[60]);
    }
}

/// Two writes of one key never share a revision, however close they come.
pub async fn writes_of_one_key_have_a_revision_each(subject: StoreUnderTest) {
    let calls = (0..100).map(|n| {
        let own = Op::put(long_key(n), "x");
        subject.store.txn(writes([Op::put("/t/same", n.to_string()), own]))
    });
    let replies = within("all are answered", futures_util::future::join_all(calls)).await;
    let revisions: std::collections::BTreeSet<_> =
        replies.iter().map(|reply| reply.as_ref().expect("is written").revision).collect();
    assert_eq!(revisions.len(), 100);
    let read = subject.store.range(RangeRequest::key("/t/same")).await.expect("range");
    assert_eq!(read.items[0].version, 100);
}

/// A key that many write may be written by one for all, and never while its owner is gone.
pub async fn a_key_of_many_is_written_while_its_owner_exists(subject: StoreUnderTest) {
    let txn = |n: usize, own: &str, shared: &str| Txn {
        compare: vec![Compare::Exists("/t/owner".into()), Compare::Absent(own.to_owned())],
        then: vec![
            Op::put(own.to_owned(), "x"),
            Op::PutLast { key: shared.to_owned(), value: n.to_string().into(), owner: "/t/owner".into() },
        ],
        ..Txn::default()
    };
    subject.txn([Op::put("/t/owner", "x"), Op::put(long_key(99), "taken")]).await;
    let keys: Vec<_> = (0..100).map(long_key).collect();
    let calls = keys.iter().enumerate().map(|(n, key)| subject.store.txn(txn(n, key, "/t/size")));
    let replies = within("all are answered", futures_util::future::join_all(calls)).await;
    let won = replies.into_iter().filter(|reply| reply.as_ref().expect("an answer").succeeded).count();
    assert_eq!(won, 99, "the last one has lost");
    let read = subject.store.range(RangeRequest::key("/t/size")).await.expect("range");
    let last = read.items.first().and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse::<usize>().ok());
    // Nothing orders callers that wait at the same time, so the value is that of any of them.
    assert!(last.is_some_and(|number| number < 100), "{last:?}: one of them wrote");
    subject.txn([Op::Delete("/t/owner".into()), Op::Delete("/t/size".into())]).await;
    let keys: Vec<_> = (100..200).map(long_key).collect();
    let calls = keys.iter().enumerate().map(|(n, key)| subject.store.txn(txn(n, key, "/t/size")));
    for reply in within("all are answered", futures_util::future::join_all(calls)).await {
        assert!(!reply.expect("an answer").succeeded);
    }
    let read = subject.store.range(RangeRequest::key("/t/size")).await.expect("range");
    assert!(read.items.is_empty(), "nothing outlives its owner");
}
