//! The end of watches that the gateway itself ends: an error for plain ones, a close frame for those that
//! resume, and not before another gateway is ready to take them.

use std::time::Duration;

use bus::{Bus as _, LocalBus, Message};
use edge_gateway::Config;
use edge_gateway::settings::{FanoutConfig, LimitsConfig, PlainEnd};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::subject;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::world::{PATIENCE, World, config};

const WATCHER: &str = "/v4/default/registry/microservices/c/watcher";

/// Opens a watch and returns the bytes after the handshake's answer, up to the end of the connection.
async fn everything_after_the_upgrade(world: &World, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(world.api).await.expect("connects");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an end");
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an end of the head");
    answer.split_off(head + 4)
}

/// Says on the bus that another gateway is ready, or that it is not.
async fn announce(bus: &LocalBus, ready: bool) {
    let state = pb::GatewayState { id: 1, ready, ..Default::default() };
    let message = Message::new(subject::GATEWAYS, state.encode_to_vec());
    bus.publish(message).await.expect("the local bus is open");
}

#[tokio::test]
async fn a_drain_ends_plain_watches_with_an_error() {
    let world = World::with_consumer("c", &["p"]).await;
    let (end, ()) = tokio::join!(everything_after_the_upgrade(&world, WATCHER), async {
        world.until("muster_edge_sessions", |open| open == 1.0).await;
        world.tasks.drain().cancel();
    });
    assert_eq!(end, b"\x83\x00", "a frame of a kind that does not exist, and then the end");
    assert!(world.tasks.finish(PATIENCE).await, "everything ended by itself");
}

#[tokio::test]
async fn plain_watches_end_with_a_close_frame_if_so_set() {
    let fanout = FanoutConfig { plain_end: PlainEnd::Close, ..config().fanout };
    let world = World::with(Config { fanout, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut watcher = world.watch("c").await;
    world.tasks.drain().cancel();
    let Some(Ok(Frame::Close(Some(close)))) = watcher.next().await else { panic!("a close frame") };
    assert_eq!(close.code, CloseCode::Away);
}

#[tokio::test]
async fn resumable_watches_end_with_a_close_frame() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut watcher = world.watch_path(&format!("{WATCHER}?rev=0")).await;
    world.tasks.drain().cancel();
    let Some(Ok(Frame::Close(Some(close)))) = watcher.next().await else { panic!("a close frame") };
    assert_eq!(close.code, CloseCode::Away);
}

#[tokio::test]
async fn plain_watches_go_on_until_another_gateway_is_ready() {
    let bus = LocalBus::new();
    let config = Config { drain_over: Duration::ZERO, drain_latest: Duration::from_secs(3600), ..config() };
    let world = World::on_bus(config, bus.clone()).await;
    world.control_plane.consumer("c", &["p"]);
    let mut plain = world.watch("c").await;
    let mut resumable = world.watch_path(&format!("{WATCHER}?rev=0")).await;
    announce(&bus, true).await;
    world.until("muster_edge_other_gateways_ready", |ready| ready == 1.0).await;
    announce(&bus, false).await;
    world.until("muster_edge_other_gateways_ready", |ready| ready == 0.0).await;
    world.tasks.drain().cancel();
    assert!(matches!(resumable.next().await, Some(Ok(Frame::Close(_)))), "nothing keeps it here");
    // Served on, although the drain's time is over.
    world.change_reaches(&mut plain, "p", shared::event::Action::Create, "1").await;
    announce(&bus, true).await;
    assert!(matches!(plain.next().await, Some(Err(_))), "an error");
    assert!(world.tasks.finish(PATIENCE).await, "everything ended by itself");
}

#[tokio::test]
async fn watches_whose_turns_are_late_make_no_drain_fail() {
    let world = World::with(Config { drain_over: Duration::from_secs(3600), ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut plain = world.watch("c").await;
    let mut resumable = world.watch_path(&format!("{WATCHER}?rev=0")).await;
    world.tasks.drain().cancel();
    assert!(world.tasks.finish(Duration::from_secs(1)).await, "clients are cut off in time");
    for watcher in [&mut plain, &mut resumable] {
        while let Some(Ok(_)) = watcher.next().await {}
    }
}

#[tokio::test]
async fn a_plain_watch_without_a_place_is_taken_and_ended() {
    let limits = LimitsConfig { node: 1, ..LimitsConfig::default() };
    let world = World::with(Config { limits, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let _held = world.watch("c").await;
    assert_eq!(everything_after_the_upgrade(&world, WATCHER).await, b"\x83\x00");
    assert_eq!(world.metric(r#"muster_edge_watches_turned_away_total{reason="full"}"#), 1.0);
    assert_eq!(world.metric(r#"muster_edge_sessions_refused_total{limit="node"}"#), 1.0);
}
