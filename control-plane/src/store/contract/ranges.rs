//! Properties of reads.

use shared::model::Revision;

use super::StoreUnderTest;
use crate::store::{Op, RangeReply, RangeRequest, StoreError};

fn keys(reply: &RangeReply) -> Vec<&str> {
    reply.items.iter().map(|kv| kv.key.as_str()).collect()
}

/// Pages that are read one after another contain every key once.
pub async fn a_limited_range_reports_that_there_is_more(subject: StoreUnderTest) {
    for n in 0..7 {
        subject.put(&format!("/t/{n}"), "x").await;
    }
    let mut request = RangeRequest { limit: 3, ..RangeRequest::prefix("/t/") };
    let mut pages = Vec::new();
    loop {
        let page = subject.store.range(request.clone()).await.expect("range");
        pages.push(page.items.len());
        if !page.more {
            break;
        }
        request.revision.get_or_insert(page.revision);
        request.start = format!("{}\0", page.items.last().expect("a page with more has items").key);
        // All pages are read at one revision, so a key that is written in between must not appear.
        subject.put(&format!("/t/5{}", pages.len()), "later").await;
    }
    assert_eq!(pages, [3, 3, 1]);
    let exact = RangeRequest { limit: 9, ..RangeRequest::prefix("/t/") };
    assert!(!subject.store.range(exact).await.expect("range").more, "a full page is not cut short");
}

/// Reads `/t/` in pages of `limit` keys at `revision`, and calls `between` before each page but the first.
async fn pages(
    subject: &StoreUnderTest,
    limit: usize,
    revision: Revision,
    mut between: impl AsyncFnMut(),
) -> Result<Vec<Vec<String>>, StoreError> {
    let revision = Some(revision);
    let mut request = RangeRequest { limit, revision, ..RangeRequest::prefix("/t/") };
    let mut pages = Vec::new();
    loop {
        let page = subject.store.range(request.clone()).await?;
        pages.push(keys(&page).into_iter().map(str::to_owned).collect());
        if !page.more {
            return Ok(pages);
        }
        request.start = format!("{}\0", page.items.last().expect("a page with more has items").key);
        between().await;
    }
}

/// A range without keys is one empty page, and one with as many keys as a page has no empty page after it.
pub async fn no_page_is_empty_but_that_of_an_empty_range(subject: StoreUnderTest) {
    let rev = subject.put("/elsewhere", "x").await;
    let read = pages(&subject, 2, rev, async || {}).await.expect("pages");
    assert_eq!(read, [[""; 0]]);
    for key in ["/t/a", "/t/b", "/t/c", "/t/d"] {
        subject.put(key, "x").await;
    }
    let rev = subject.put("/t0", "the neighbour").await;
    for (limit, count) in [(1, 4), (2, 2), (3, 2), (4, 1), (5, 1)] {
        let read = pages(&subject, limit, rev, async || {}).await.expect("pages");
        assert_eq!((read.len(), read.concat().len()), (count, 4), "pages of {limit}");
    }
}

/// Pages of one revision show its keys, whatever is written and deleted meanwhile, also where the next page
/// begins.
pub async fn pages_of_a_revision_show_no_later_change(subject: StoreUnderTest) {
    let mut rev = Revision::ZERO;
    let mut expected = Vec::new();
    for n in 0..20 {
        let key = format!("/t/{n:02}");
        rev = subject.put(&key, "old").await;
        expected.push(key);
    }
    let mut turn = 0;
    let read = pages(&subject, 3, rev, async || {
        turn += 3;
        let next = format!("/t/{turn:02}");
        subject.txn([Op::Delete(next.clone()), Op::put(format!("{next}-"), "new")]).await;
        subject.put("/t/19", "changed").await;
    });
    assert_eq!(read.await.expect("pages").concat(), expected);
    let now = subject.put("/elsewhere", "x").await;
    let read = pages(&subject, 3, now, async || {}).await.expect("pages").concat();
    assert_eq!(read.len(), 20);
    assert!(read.contains(&"/t/03-".to_owned()) && !read.contains(&"/t/03".to_owned()));
}

/// A page of a revision that was compacted after the page before it is refused, with the compacted revision.
/// Pages of that revision go on.
pub async fn pages_end_when_their_revision_is_compacted(subject: StoreUnderTest) {
    for n in 0..6 {
        subject.put(&format!("/t/{n}"), "x").await;
    }
    let old = subject.put("/t/5", "y").await;
    let now = subject.put("/t/5", "z").await;
    let compact = async || match subject.store.compact(now).await {
        // The second time it has been done.
        Ok(()) | Err(StoreError::Compacted(_)) => {}
        Err(error) => panic!("{error}"),
    };
    match pages(&subject, 4, old, compact).await {
        Err(StoreError::Compacted(rev)) => assert_eq!(rev, now),
        other => panic!("{other:?}"),
    }
    let read = pages(&subject, 4, now, compact).await.expect("the compacted revision itself is kept");
    assert_eq!(read.concat().len(), 6);
}

/// Neighbouring keys in the order of bytes do not belong to a prefix.
pub async fn a_prefix_ends_where_its_last_byte_does(subject: StoreUnderTest) {
    for key in ["/t", "/t-", "/t/", "/t//x", "/t/a", "/t/~", "/t0", "/t/\u{e9}"] {
        subject.put(key, "x").await;
    }
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!(keys(&read), ["/t/", "/t//x", "/t/a", "/t/~", "/t/\u{e9}"]);
    let read = subject.store.range(RangeRequest::prefix("/t//")).await.expect("range");
    assert_eq!(keys(&read), ["/t//x"]);
    let read = subject.store.range(RangeRequest::prefix("")).await.expect("range");
    assert_eq!(read.items.len(), 8, "every key has the empty prefix");
    let between = RangeRequest { end: Some("/t/a".into()), ..RangeRequest::key("/t/") };
    assert_eq!(keys(&subject.store.range(between).await.expect("range")), ["/t/", "/t//x"]);
    let backwards = RangeRequest { end: Some("/a".into()), ..RangeRequest::key("/t/") };
    assert_eq!(keys(&subject.store.range(backwards).await.expect("range")), [""; 0]);
}

/// A request for keys only leaves the values empty, and nothing else.
pub async fn keys_only_leaves_the_values_empty(subject: StoreUnderTest) {
    let rev = subject.put("/t/a", "value").await;
    let request = RangeRequest { keys_only: true, ..RangeRequest::prefix("/t/") };
    let read = subject.store.range(request).await.expect("range");
    assert_eq!(read.items.len(), 1);
    assert!(read.items[0].value.is_empty());
    assert_eq!((read.items[0].mod_rev, read.items[0].version), (rev, 1));
}

/// A read of an old revision shows no later change, delete or creation. The reply carries the newest
/// revision.
pub async fn an_old_revision_is_read_as_it_was(subject: StoreUnderTest) {
    subject.put("/t/changed", "old").await;
    let then = subject.put("/t/deleted", "old").await;
    subject.put("/t/changed", "new").await;
    subject.txn([Op::DeletePrefix("/t/deleted".into()), Op::put("/t/created", "new")]).await;
    let now = subject.put("/t/changed", "newer").await;
    let request = RangeRequest { revision: Some(then), ..RangeRequest::prefix("/t/") };
    let read = subject.store.range(request).await.expect("range");
    assert_eq!(read.revision, now);
    assert_eq!(keys(&read), ["/t/changed", "/t/deleted"]);
    assert!(read.items.iter().all(|kv| kv.value == "old"));
}

async fn read_at(subject: &StoreUnderTest, revision: Revision) -> Result<RangeReply, StoreError> {
    let request = RangeRequest { revision: Some(revision), ..RangeRequest::prefix("/t/") };
    subject.store.range(request).await
}

/// A read of a compacted or future revision fails, with the compacted revision in the first case.
pub async fn a_compacted_or_future_revision_is_refused(subject: StoreUnderTest) {
    let old = subject.put("/t/a", "1").await;
    subject.put("/t/a", "2").await;
    let now = subject.put("/t/a", "3").await;
    subject.store.compact(now).await.expect("compact");
    match read_at(&subject, old).await {
        Err(StoreError::Compacted(rev)) => assert_eq!(rev, now),
        other => panic!("{other:?}"),
    }
    assert_eq!(read_at(&subject, now).await.expect("the compacted revision itself is kept").items.len(), 1);
    assert!(matches!(read_at(&subject, now.plus(9)).await, Err(StoreError::Refused(_))));
    assert!(matches!(subject.store.compact(old).await, Err(StoreError::Compacted(_))));
}
