//! Watches as server-sent events.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{SessionConfig, UpstreamConfig};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shared::event::Action::{Create, Delete, Update};

use crate::world::{PATIENCE, World, config, parse};

/// The stream of one client.
struct Events {
    body: Incoming,
    unread: String,
}

/// One event as the HTML standard reads it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    id: String,
    data: String,
}

async fn get(world: &World, path: &str, last: Option<&str>) -> http::Response<Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let mut request = http::Request::get(format!("http://{}{path}", world.api));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    client.request(request.body(Empty::new()).expect("a request")).await.expect("an answer")
}

impl Events {
    async fn open(world: &World, query: &str, last: Option<&str>) -> Self {
        let answer = get(world, &format!("/v4/default/registry/events{query}"), last).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let mut events = Self { body: answer.into_body(), unread: String::new() };
        let retry = events.block().await.expect("the stream begins with the time to come back");
        assert!(retry.starts_with("retry: "), "{retry}");
        events
    }

    /// The next block of lines; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let block = block.to_owned();
                self.unread = rest.to_owned();
                return Some(block);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
            let data = frame.expect("the connection is open").into_data().expect("data");
            self.unread.push_str(std::str::from_utf8(&data).expect("whole characters"));
        }
    }

    /// The next event; comments are left out.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let mut event = Event::default();
            for line in block.lines() {
                match line.split_once(": ") {
                    Some(("event", name)) => event.name = name.to_owned(),
                    Some(("id", id)) => event.id = id.to_owned(),
                    Some(("data", data)) => event.data = data.to_owned(),
                    _ => assert!(line.starts_with(':'), "{line}"),
                }
            }
            if event != Event::default() {
                return Some(event);
            }
        }
    }

    /// The next event that is not a bookmark.
    async fn change(&mut self) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if !event.is_bookmark() {
                return event;
            }
        }
    }

    /// The first bookmark at this revision or after it.
    async fn bookmark_of(&mut self, rev: u64) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event.is_bookmark() && event.id.parse::<u64>().expect("a revision") >= rev {
                return event;
            }
        }
    }
}

impl Event {
    fn is_bookmark(&self) -> bool {
        self.data.starts_with(r#"{"action":"BOOKMARK""#)
    }
}

/// A gateway that hands on each bookmark at once.
async fn confirming() -> World {
    let upstream = UpstreamConfig { bookmark_interval: Duration::ZERO, ..config().upstream };
    World::with(Config { upstream, ..config() }).await
}

/// Publishes bookmarks again and again: the gateway hands one on only when nothing is missing.
fn confirm(world: &World) -> tokio::task::JoinHandle<()> {
    let publisher = world.control_plane.clone();
    tokio::spawn(async move {
        loop {
            publisher.bookmark().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

#[tokio::test]
async fn a_stream_resumes_after_its_last_event() {
    let world = confirming().await;
    world.control_plane.consumer("c", &["p"]);
    let publishing = confirm(&world);
    let mut first = Events::open(&world, "?consumer=c", None).await;
    let created = world.control_plane.change("p", Create, "i").await;
    let event = first.change().await;
    assert_eq!(parse(&event.data).2, created.at.rev.get());
    assert_eq!(event.name, "", "every reader takes events without a name");
    let bookmark = first.bookmark_of(created.at.rev.get()).await;
    drop(first);
    world.until("muster_edge_sessions", |count| count == 0.0).await;
    let updated = world.control_plane.change("p", Update, "i").await;
    let deleted = world.control_plane.change("p", Delete, "i").await;
    // As a browser does: the same address, and the id of the last event.
    let mut second = Events::open(&world, "?consumer=c&rev=0", Some(&bookmark.id)).await;
    for change in [updated, deleted] {
        let told = parse(&second.change().await.data);
        assert_eq!((told.0.as_str(), told.2), (change.action.as_str(), change.at.rev.get()));
    }
    publishing.abort();
}

#[tokio::test]
async fn a_stream_begins_with_the_state_when_asked_to() {
    let world = confirming().await;
    world.control_plane.change("p", Create, "a").await;
    world.control_plane.consumer("c", &["p"]);
    let mut events = Events::open(&world, "?consumer=c&rev=0", None).await;
    let reset = events.next().await.expect("the stream goes on");
    assert!(reset.data.starts_with(r#"{"action":"RESET""#), "{}", reset.data);
    let publishing = confirm(&world);
    let bookmark = events.next().await.expect("the stream goes on");
    assert_eq!(bookmark.data, format!(r#"{{"action":"BOOKMARK","rev":{}}}"#, bookmark.id));
    publishing.abort();
}

#[tokio::test]
async fn a_quiet_stream_has_signs_of_life() {
    let session = SessionConfig { ping_interval: Duration::from_millis(50), ..SessionConfig::default() };
    let world = World::with(Config { session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut events = Events::open(&world, "?consumer=c", None).await;
    for _ in 0..3 {
        assert_eq!(events.block().await.as_deref(), Some(":"));
    }
}

#[tokio::test]
async fn a_stream_says_why_it_ends() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut drained = Events::open(&world, "?consumer=c", None).await;
    let mut of_nobody = Events::open(&world, "?consumer=nobody", None).await;
    let end = of_nobody.next().await.expect("a last event");
    assert_eq!((&*end.name, &*end.id), ("end", ""));
    assert!(end.data.contains("no_service") && end.data.contains("service does not exist"), "{}", end.data);
    assert_eq!(of_nobody.next().await, None);
    world.tasks.drain().cancel();
    let end = drained.next().await.expect("a last event");
    assert!(end.data.contains("drained"), "{}", end.data);
    assert_eq!(drained.next().await, None);
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_is_refused() {
    let world = World::with_consumer("c", &["p"]).await;
    for (path, last, status) in [
        ("/v4/default/registry/events", None, 400),
        ("/v4/default/registry/events?all&providers=a", None, 400),
        ("/v4/default/registry/events?consumer=c", Some("seven"), 400),
        ("/v4/default/registry/events?consumer=c", Some("-1"), 400),
    ] {
        assert_eq!(get(&world, path, last).await.status(), status, "{path} {last:?}");
    }
    let posted = crate::forwarding::ask(&world, "POST", "/v4/default/registry/events?all", "").await;
    assert_eq!(posted.expect("an answer").0, 405);
    let off = World::with(Config { event_streams: false, ..config() }).await;
    assert_eq!(get(&off, "/v4/default/registry/events?all", None).await.status(), 404);
}
