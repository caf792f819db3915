//! Requests that share the questions about one list, and lists that make room for others.

use std::cell::Cell;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use http_body_util::{Empty, Full};
use tokio::time::sleep;

use super::*;

fn key(tenant: &str) -> ListKey {
    ListKey { tenant: Tenant::new(tenant, "p"), gzip: false }
}

fn content(body: &'static str) -> Arc<Content> {
    let tag = answer::tag::of(body.as_bytes());
    Arc::new(Content {
        tag,
        body: Bytes::from_static(body.as_bytes()),
        gzip: false,
        confirmed: Instant::now(),
        is_stale: false,
    })
}

/// A list with a first answer.
async fn list() -> List {
    let list = List::default();
    question(&list).await.answered(content("first"));
    list
}

/// A list that is kept for a tenant with this body.
async fn kept(lists: &Lists, tenant: &str, body: &'static str, now: Instant) -> Arc<List> {
    let list = lists.find(&key(tenant), now);
    question(&list).await.answered(content(body));
    lists.settle(&key(tenant), &list);
    list
}

fn body_of(list: &List) -> Option<Bytes> {
    list.last().map(|content| content.body.clone())
}

async fn question(list: &List) -> Question<'_> {
    match list.turn().await {
        Turn::Ask(question) => question,
        _ => panic!("nobody else asks"),
    }
}

/// The turn of a request that has arrived already.
async fn turn(arrived: impl Future<Output = Turn<'_>>) -> &'static str {
    match arrived.await {
        Turn::Answered(_) => "answered",
        Turn::Ask(_) => "asks",
        Turn::Alone => "alone",
    }
}

/// Requests that arrive one after the other and wait; whoever has the turn asks for a millisecond. Gives the
/// number of questions.
async fn questions_of(list: &List, requests: usize, is_answered: impl Fn(usize) -> bool) -> usize {
    let asked = Cell::new(0);
    let each = (0..requests).map(|_| async {
        if let Turn::Ask(question) = list.turn().await {
            asked.set(asked.get() + 1);
            let number = asked.get();
            sleep(Duration::from_millis(1)).await;
            if is_answered(number) { question.answered(content("next")) } else { question.failed() }
        }
    });
    join_all(each).await;
    asked.get()
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_the_question_that_began_after_them() {
    let list = list().await;
    assert_eq!(questions_of(&list, 100, |_| true).await, 2, "the first had begun before the others came");
    assert_eq!(body_of(&list).expect("an answer"), "next");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_answered_by_a_question_that_had_begun_before_it() {
    let list = list().await;
    let first = question(&list).await;
    let second = list.turn();
    tokio::pin!(second);
    assert!((&mut second).now_or_never().is_none(), "it waits");
    first.answered(content("old"));
    assert_eq!(turn(second).await, "asks");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_question_that_fails_ask_for_themselves() {
    let list = list().await;
    assert_eq!(questions_of(&list, 100, |_| false).await, 1);
    assert_eq!(body_of(&list).expect("an answer"), "first");
    assert_eq!(turn(list.turn()).await, "asks", "the failure was before it");
}

#[tokio::test(start_paused = true)]
async fn a_question_whose_client_leaves_goes_to_the_next() {
    let list = list().await;
    let left = question(&list).await;
    let next = list.turn();
    tokio::pin!(next);
    assert!((&mut next).now_or_never().is_none());
    drop(left);
    assert_eq!(turn(next).await, "asks");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_behind_a_question_without_an_answer() {
    let list = list().await;
    let hangs = question(&list).await;
    assert_eq!(turn(list.turn()).await, "alone");
    hangs.answered(content("late"));
    assert_eq!(turn(list.turn()).await, "asks");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_nobody_has_asked_for_is_asked_for_once() {
    let list = List::default();
    assert_eq!(questions_of(&list, 100, |_| true).await, 2);
}

#[tokio::test]
async fn lists_take_no_more_bytes_than_they_may() {
    let room = 2 * (OVERHEAD + 5);
    let lists = Lists::new(room, Duration::from_secs(60));
    let now = Instant::now();
    let a = kept(&lists, "a", "first", now).await;
    kept(&lists, "b", "first", now).await;
    assert_eq!(lists.bytes(), room);
    question(&a).await.answered(content("other"));
    lists.settle(&key("a"), &a);
    assert_eq!(lists.bytes(), room);
    assert!(Arc::ptr_eq(&a, &lists.find(&key("a"), now)));
    kept(&lists, "c", "first", now).await;
    assert_eq!(lists.bytes(), room);
    assert!(Arc::ptr_eq(&a, &lists.find(&key("a"), now)));
    assert_eq!(body_of(&lists.find(&key("b"), now)), None, "nobody has asked for it for the longest time");
    // A question about a list that has made room in the meantime changes nothing.
    let late = kept(&lists, "a", "first", now).await;
    kept(&lists, "b", "a list that is longer than all others", now).await;
    lists.settle(&key("a"), &late);
    assert!(lists.bytes() <= room);
}

#[tokio::test]
async fn lists_without_content_are_not_kept() {
    let lists = Lists::new(0, Duration::from_secs(60));
    let now = Instant::now();
    let list = lists.find(&key("a"), now);
    assert_eq!(lists.bytes(), OVERHEAD);
    question(&list).await.failed();
    lists.settle(&key("a"), &list);
    assert_eq!(lists.bytes(), 0);
    lists.settle(&key("a"), &list);
    assert_eq!(lists.bytes(), 0);
}

#[test]
fn as_many_bytes_are_read_as_may_be_kept() {
    let lists = Lists::new(8 << KIB, Duration::from_secs(60));
    assert!(lists.room_for(8 << KIB).is_none());
    let five = lists.room_for((5 << KIB) - 1).expect("there is room");
    assert!(lists.room_for(4 << KIB).is_none());
    let three = lists.room_for(2 << KIB).expect("there is room");
    assert!(lists.room_for(0).is_none());
    drop((five, three));
    assert!(lists.room_for(4 << KIB).is_some());
    assert!(lists.room_for(u64::MAX).is_none());
    assert!(Lists::new(0, Duration::from_secs(60)).room_for(1 << 40).is_some());
}

#[tokio::test]
async fn a_list_that_nobody_asks_for_is_not_kept() {
    let lists = Lists::new(0, Duration::from_secs(60));
    let began = Instant::now();
    let a = kept(&lists, "a", "first", began).await;
    kept(&lists, "b", "first", began).await;
    assert!(Arc::ptr_eq(&a, &lists.find(&key("a"), began + Duration::from_secs(60))));
    assert!(Arc::ptr_eq(&a, &lists.find(&key("a"), began + Duration::from_secs(61))));
    assert_eq!(lists.bytes(), OVERHEAD + 5, "the other one has gone");
}

#[test]
fn only_whole_lists_are_kept() {
    let tenant = Tenant::new("default", "p");
    let read = |method: Method, uri: &str| {
        let request = Request::builder().method(method).uri(uri).header("accept-encoding", "gzip");
        ListKey::read(&request.body(Empty::<Bytes>::new()).expect("a request"), &tenant)
    };
    let key = ListKey { tenant: tenant.clone(), gzip: true };
    assert_eq!(read(Method::GET, "/v4/p/registry/microservices"), Some(key.clone()));
    assert_eq!(read(Method::GET, "/registry/v3/microservices"), Some(key));
    for other in
        ["/v4/p/registry/microservices?a=b", "/v4/p/registry/microservices/s", "/v4/p/govern/microservices"]
    {
        assert_eq!(read(Method::GET, other), None, "{other}");
    }
    assert_eq!(read(Method::POST, "/v4/p/registry/microservices"), None);
    let with_body = Request::get("/registry/v3/microservices").body(Full::new(Bytes::from_static(b"x")));
    assert_eq!(ListKey::read(&with_body.expect("a request"), &tenant), None, "it may never arrive");
    let consumer = Request::get("/registry/v3/microservices").header(CONSUMER, "c".repeat(65));
    let consumer = consumer.body(Empty::<Bytes>::new()).expect("a request");
    assert_eq!(ListKey::read(&consumer, &tenant), None, "a control plane refuses it");
}
