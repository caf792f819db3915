//! Watchers that do not read: merged, then let go, and never anyone else's trouble.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::LocalBus;
use edge_gateway::Config;
use edge_gateway::settings::{FanoutConfig, SessionConfig};
use futures_util::StreamExt as _;
use shared::event::Action::{Create, Delete, Update};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::world::{PATIENCE, World, config, parse};

/// A watcher whose kernel takes little: it blocks the gateway soon.
async fn narrow(world: &World, consumer: &str) -> WebSocketStream<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&world.api.into()).expect("connects");
    socket.set_nonblocking(true).expect("does not block");
    let stream = TcpStream::from_std(socket.into()).expect("a stream");
    let url = format!("ws://{}/v4/default/registry/microservices/{consumer}/watcher", world.api);
    tokio_tungstenite::client_async(url, stream).await.expect("upgrades").0
}

#[tokio::test]
async fn a_slow_watcher_is_merged_and_ends_up_with_the_truth_while_others_see_everything() {
    let fanout = FanoutConfig { slow_after_bytes: 16 * 1024, ..config().fanout };
    let session = SessionConfig { write_timeout: Duration::from_secs(60), ..SessionConfig::default() };
    let world = World::with(Config { fanout, session, ..config() }, LocalBus::new()).await;
    world.control_plane.consumer("c", &["p"]);
    let mut slow = narrow(&world, "c").await;
    let mut fast = world.watch("c").await;

    let mut told = vec![
        world.control_plane.tell("p", Create, "kept").await,
        world.control_plane.tell("p", Create, "gone").await,
    ];
    for _ in 0..15_000 {
        told.push(world.control_plane.tell("p", Update, "kept").await);
    }
    for _ in 0..2000 {
        told.push(world.control_plane.tell("p", Create, "never seen").await);
        told.push(world.control_plane.tell("p", Delete, "never seen").await);
    }
    told.push(world.control_plane.tell("p", Delete, "gone").await);
    told.push(world.control_plane.tell("p", Create, "last").await);
    for event in &told {
        fast.expect(event).await;
    }
    world.until("muster_edge_events_merged_total", |merged| merged > 500.0).await;

    assert_eq!(world.metric("muster_edge_merging_watchers_total"), 1.0, "the other one is not merged");

    let (mut known, mut heard, mut last) = (BTreeMap::new(), 0, 0);
    while !known.contains_key("last") {
        let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
        let Some(Ok(Message::Text(text))) = message else { panic!("{message:?}") };
        let (action, id, rev) = parse(&text);
        assert!(rev > last, "in order");
        last = rev;
        heard += 1;
        match action.as_str() {
            "CREATE" => assert!(known.insert(id, rev).is_none()),
            "UPDATE" => assert!(known.insert(id, rev).is_some()),
            _ => assert!(known.remove(&id).is_some()),
        }
    }
    assert!(heard < told.len(), "merged: {heard} of {}", told.len());
    let kept = told.iter().rev().find(|event| event.instance.instance_id == "kept").expect("told");
    assert_eq!(known["kept"], kept.at.rev);
    assert_eq!(known.keys().collect::<Vec<_>>(), ["kept", "last"]);
    // Back in the log: the next one comes at once.
    let next = world.control_plane.tell("p", Create, "next").await;
    let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
    let Some(Ok(Message::Text(text))) = message else { panic!("{message:?}") };
    assert_eq!(parse(&text).2, next.at.rev);
}

#[tokio::test]
async fn a_watcher_that_reads_a_little_all_the_time_is_merged_and_never_let_go() {
    let fanout = FanoutConfig { slow_after_bytes: 64 * 1024, ..config().fanout };
    let session = SessionConfig { write_timeout: Duration::from_secs(1), ..SessionConfig::default() };
    let world = World::with(Config { fanout, session, ..config() }, LocalBus::new()).await;
    world.control_plane.consumer("c", &["p"]);
    let mut slow = narrow(&world, "c").await;
    let first = world.control_plane.tell("p", Create, "1").await;
    let mut heard = 0;
    // Far more than it takes, for several write deadlines.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < until {
        for _ in 0..100 {
            world.control_plane.tell("p", Update, "1").await;
        }
        pace.tick().await;
        for _ in 0..4 {
            let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
            let Some(Ok(Message::Text(text))) = message else { panic!("{message:?} after {heard}") };
            let (_, _, rev) = parse(&text);
            assert!(rev >= first.at.rev.max(heard), "in order");
            heard = rev;
        }
        assert_eq!(world.metric("muster_edge_sessions"), 1.0, "still open");
    }
    assert!(world.metric("muster_edge_events_merged_total") > 0.0);
    let last = world.control_plane.tell("p", Update, "1").await;
    while heard < last.at.rev {
        let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
        if let Some(Ok(Message::Text(text))) = message {
            heard = parse(&text).2;
        }
    }
}

#[tokio::test]
async fn a_watcher_that_reads_nothing_is_let_go_and_nobody_else_waits() {
    let session = SessionConfig { write_timeout: Duration::from_millis(500), ..SessionConfig::default() };
    let world = World::with(Config { session, ..config() }, LocalBus::new()).await;
    world.control_plane.consumer("c", &["p"]);
    let _stuck = narrow(&world, "c").await;
    let mut fast = world.watch("c").await;
    let closed = r#"muster_edge_sessions_closed_total{reason="write_timeout"}"#;
    let first = world.control_plane.tell("p", Create, "1").await;
    fast.expect(&first).await;
    while world.metric(closed) == 0.0 {
        for _ in 0..200 {
            let event = world.control_plane.tell("p", Update, "1").await;
            fast.expect(&event).await;
        }
    }
    assert_eq!(world.metric(closed), 1.0);
    let event = world.control_plane.tell("p", Delete, "1").await;
    fast.expect(&event).await;
}
