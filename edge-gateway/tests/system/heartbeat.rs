//! Heartbeats over a WebSocket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::put;
use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use edge_gateway::settings::{HeartbeatConfig, SessionConfig};
use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::world::{World, config};

const PATH: &str = "/v4/default/registry/microservices/s/instances";

async fn world(router: Router) -> World {
    let session = SessionConfig { ping_interval: Duration::from_millis(200), ..SessionConfig::default() };
    let heartbeat = HeartbeatConfig { session, drain_over: Duration::from_millis(10) };
    let config = Config { heartbeat, ..config() };
    World::with_forward(config, Arc::new(InProcess::new(router))).await
}

#[tokio::test]
async fn every_pong_is_a_heartbeat_in_the_clients_name() {
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = beats.clone();
    let router = Router::new().route(
        "/v4/default/registry/microservices/s/instances/i/heartbeat",
        put(async move |headers: HeaderMap| {
            assert!(headers.contains_key("host") && !headers.contains_key("upgrade"));
            assert!(!headers.contains_key("sec-websocket-key"));
            counted.fetch_add(1, Ordering::SeqCst);
        }),
    );
    let world = world(router).await;
    let mut client = world.watch_path(&format!("{PATH}/i/heartbeat")).await;
    for _ in 0..4 {
        let message = client.stream.next().await.expect("open").expect("good");
        assert_eq!(message, Message::Ping("".into()));
    }
    // The client library has sent three pongs before the fourth ping arrives.
    world.until(r#"muster_edge_heartbeats_total{outcome="ok"}"#, |count| count >= 3.0).await;
    assert!(beats.load(Ordering::SeqCst) >= 3);
    drop(client);
    world.until("muster_edge_heartbeat_sessions", |count| count == 0.0).await;
}

#[tokio::test]
async fn heartbeats_travel_together_and_failures_stay_alone() {
    const CONNECTIONS: usize = 40;
    let living = async |body: String| {
        body.replace(r#""instanceId":"gone""#, r#""instanceId":"gone","errMessage":"no""#)
    };
    let router = Router::new().route("/v4/default/registry/heartbeats", put(living)).route(
        &format!("{PATH}/{{id}}/heartbeat"),
        put(async |Path(id): Path<String>| match id.as_str() {
            "gone" => (StatusCode::BAD_REQUEST, r#"{"errorCode":"400017"}"#),
            _ => (StatusCode::OK, ""),
        }),
    );
    let world = world(router).await;
    let mut clients = Vec::new();
    for n in 0..CONNECTIONS {
        clients.push(world.watch_path(&format!("{PATH}/i{n}/heartbeat")).await);
    }
    let mut gone = world.watch_path(&format!("{PATH}/gone/heartbeat")).await;
    // Reading answers pings, and would end early if a connection were closed.
    let beating = async {
        futures_util::future::join_all(clients.iter_mut().map(|client| client.next())).await;
        panic!("a connection ended");
    };
    let watching = async {
        let Some(Ok(Message::Close(Some(frame)))) = gone.next().await else { panic!("a close was expected") };
        assert_eq!(u16::from(frame.code), 4001);
        let many = (10 * CONNECTIONS) as f64;
        world.until(r#"muster_edge_heartbeats_total{outcome="ok"}"#, |count| count >= many).await;
    };
    tokio::select! { () = beating => {} () = watching => {} }
    let beats = world.metric(r#"muster_edge_heartbeats_total{outcome="ok"}"#);
    let requests = world.metric("muster_edge_heartbeat_requests_total");
    assert!(requests < beats / 2.0, "{requests} requests for {beats} heartbeats");
    assert_eq!(world.metric(r#"muster_edge_heartbeats_total{outcome="failed"}"#), 0.0);
    assert_eq!(world.metric(r#"muster_edge_heartbeats_total{outcome="no_instance"}"#), 1.0);
}

#[tokio::test]
async fn only_a_missing_instance_closes_with_code_4001() {
    let router = Router::new()
        .route(
            &format!("{PATH}/gone/heartbeat"),
            put(async || (StatusCode::BAD_REQUEST, r#"{"errorCode":"400017"}"#)),
        )
        .route(
            &format!("{PATH}/refused/heartbeat"),
            put(async || (StatusCode::BAD_REQUEST, r#"{"errorCode":"400001"}"#)),
        )
        .route(&format!("{PATH}/broken/heartbeat"), put(async || StatusCode::SERVICE_UNAVAILABLE));
    let world = world(router).await;
    let mut gone = world.watch_path(&format!("{PATH}/gone/heartbeat")).await;
    let Some(Ok(Message::Close(Some(frame)))) = gone.next().await else { panic!("a close was expected") };
    assert_eq!(u16::from(frame.code), 4001);
    assert_eq!(frame.reason, "heartbeat reporting failed because the instance does not exist");

    for other in ["refused", "broken"] {
        let mut other = world.watch_path(&format!("{PATH}/{other}/heartbeat")).await;
        other.expect_end().await;
    }
}

#[tokio::test]
async fn a_drain_ends_heartbeat_connections_too() {
    let world = world(Router::new()).await;
    let mut client = world.watch_path(&format!("{PATH}/i/heartbeat")).await;
    world.tasks.drain().cancel();
    client.expect_end().await;
    assert!(world.tasks.finish(crate::world::PATIENCE).await);
}
