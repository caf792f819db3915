//! Watchers that do not read: their pushes are merged, then they are closed, and no other watcher waits.

use std::collections::BTreeMap;
use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{FanoutConfig, SessionConfig};
use futures_util::StreamExt as _;
use shared::event::Action::{Create, Delete, Update};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::world::{PATIENCE, World, config, parse};

/// A watcher with a small receive buffer, which blocks the gateway soon.
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
async fn a_slow_watcher_is_merged_and_reaches_the_last_state() {
    let fanout = FanoutConfig { slow_after_bytes: 16 * 1024, ..config().fanout };
    let session = SessionConfig { write_timeout: Duration::from_secs(60), ..SessionConfig::default() };
    let world = World::with(Config { fanout, session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut slow = narrow(&world, "c").await;
    let mut fast = world.watch("c").await;

    let mut sent = vec![
        world.control_plane.change("p", Create, "kept").await,
        world.control_plane.change("p", Create, "gone").await,
    ];
    for _ in 0..15_000 {
        sent.push(world.control_plane.change("p", Update, "kept").await);
    }
    for _ in 0..2000 {
        sent.push(world.control_plane.change("p", Create, "never seen").await);
        sent.push(world.control_plane.change("p", Delete, "never seen").await);
    }
    sent.push(world.control_plane.change("p", Delete, "gone").await);
    sent.push(world.control_plane.change("p", Create, "last").await);
    for event in &sent {
        fast.expect(event).await;
    }
    world.until("muster_edge_events_merged_total", |merged| merged > 500.0).await;

    assert_eq!(world.metric("muster_edge_merging_watchers_total"), 1.0, "the fast watcher is not merged");

    let mut instances = BTreeMap::new();
    let mut received = 0;
    let mut last = 0;
    while !instances.contains_key("last") {
        let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
        let Some(Ok(Message::Text(text))) = message else { panic!("{message:?}") };
        let (action, id, rev) = parse(&text);
        assert!(rev > last, "in order");
        last = rev;
        received += 1;
        match action.as_str() {
            "CREATE" => assert!(instances.insert(id, rev).is_none()),
            "UPDATE" => assert!(instances.insert(id, rev).is_some()),
            _ => assert!(instances.remove(&id).is_some()),
        }
    }
    assert!(received < sent.len(), "merged: {received} of {}", sent.len());
    let kept = sent.iter().rev().find(|event| event.instance.instance_id == "kept").expect("it was sent");
    assert_eq!(instances["kept"], kept.at.rev.get());
    assert_eq!(instances.keys().collect::<Vec<_>>(), ["kept", "last"]);
    // The watcher reads from the log again: the next event arrives at once.
    let next = world.control_plane.change("p", Create, "next").await;
    let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
    let Some(Ok(Message::Text(text))) = message else { panic!("{message:?}") };
    assert_eq!(parse(&text).2, next.at.rev.get());
}

#[tokio::test]
async fn a_watcher_that_reads_a_little_is_never_closed() {
    let fanout = FanoutConfig { slow_after_bytes: 64 * 1024, ..config().fanout };
    let session = SessionConfig { write_timeout: Duration::from_secs(1), ..SessionConfig::default() };
    let world = World::with(Config { fanout, session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut slow = narrow(&world, "c").await;
    let first = world.control_plane.change("p", Create, "1").await;
    let mut heard = 0;
    // Far more events than it takes, for several write deadlines.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < until {
        for _ in 0..100 {
            world.control_plane.change("p", Update, "1").await;
        }
        pace.tick().await;
        for _ in 0..4 {
            let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
            let Some(Ok(Message::Text(text))) = message else { panic!("{message:?} after {heard}") };
            let (_, _, rev) = parse(&text);
            assert!(rev >= first.at.rev.get().max(heard), "in order");
            heard = rev;
        }
        assert_eq!(world.metric("muster_edge_sessions"), 1.0, "still open");
    }
    assert!(world.metric("muster_edge_events_merged_total") > 0.0);
    let last = world.control_plane.change("p", Update, "1").await;
    while heard < last.at.rev.get() {
        let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
        if let Some(Ok(Message::Text(text))) = message {
            heard = parse(&text).2;
        }
    }
}

#[tokio::test]
async fn a_watcher_that_reads_nothing_is_closed_and_delays_nobody() {
    let session = SessionConfig { write_timeout: Duration::from_millis(500), ..SessionConfig::default() };
    let world = World::with(Config { session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let _stuck = narrow(&world, "c").await;
    let mut fast = world.watch("c").await;
    let closed = r#"muster_edge_sessions_closed_total{reason="write_timeout"}"#;
    world.change_reaches(&mut fast, "p", Create, "1").await;
    while world.metric(closed) == 0.0 {
        for _ in 0..200 {
            world.change_reaches(&mut fast, "p", Update, "1").await;
        }
    }
    assert_eq!(world.metric(closed), 1.0);
    world.change_reaches(&mut fast, "p", Delete, "1").await;
}
