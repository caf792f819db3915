//! WebSocket watches byte by byte: handshakes, pings, closes, limits.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{LimitsConfig, SessionConfig};
use futures_util::StreamExt as _;
use shared::event::Action::Create;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::world::{PATIENCE, World, config};

const PATH: &str = "/v4/default/registry/microservices/c/watcher";

async fn world(session: SessionConfig, limits: LimitsConfig) -> World {
    let world = World::with(Config { session, limits, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    world
}

async fn simple() -> World {
    world(SessionConfig::default(), LimitsConfig::default()).await
}

/// Sends a request as it stands and reads the response to its end, or to the end of its head.
async fn ask(world: &World, head: &str) -> String {
    let mut stream = TcpStream::connect(world.api).await.expect("connects");
    let request = format!("{}\r\nHost: test\r\n\r\n", head.trim_end());
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = Vec::new();
    let reading = async {
        while !complete(&answer) {
            if stream.read_buf(&mut answer).await.expect("reads") == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("in time");
    String::from_utf8(answer).expect("text")
}

fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    length.is_none_or(|length| body.len() >= length.parse().expect("a number"))
}

#[tokio::test]
async fn the_upgrade_is_answered_without_any_extension() {
    let world = simple().await;
    let answer = ask(
        &world,
        &format!(
            "GET {PATH} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
             Sec-WebSocket-Protocol: chat\r\nOrigin: http://evil"
        ),
    )
    .await;
    assert!(answer.contains("\r\nX-Request-Id: "), "{answer}");
    let differs = |line: &&str| line.starts_with("Date: ") || line.starts_with("X-Request-Id: ");
    let mut lines: Vec<&str> = answer.trim_end().lines().filter(|line| !differs(line)).collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "HTTP/1.1 101 Switching Protocols",
            "Connection: Upgrade",
            "Sec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "Upgrade: websocket",
        ]
    );
}

#[tokio::test]
async fn wrong_handshakes_are_refused_with_the_old_texts() {
    let world = simple().await;
    let bad = ask(&world, &format!("GET {PATH} HTTP/1.1")).await;
    assert!(bad.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{bad}");
    assert!(bad.contains("\r\nSec-Websocket-Version: 13\r\n"), "{bad}");
    assert!(bad.ends_with("\r\n\r\nBad Request\n"), "{bad}");
    let method = ask(&world, &format!("POST {PATH} HTTP/1.1")).await;
    assert!(method.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{method}");
    assert!(
        method.contains("\r\nAllow: GET\r\n") && method.ends_with("\r\n\r\nMethod Not Allowed\n"),
        "{method}"
    );
}

#[tokio::test]
async fn pings_are_echoed_and_small_messages_ignored() {
    let world = simple().await;
    let mut watcher = world.watch("c").await;
    for message in [Message::text("hello"), Message::binary(vec![1; 100]), Message::Pong("unasked".into())] {
        watcher.send(message).await;
    }
    watcher.send(Message::Ping("payload".into())).await;
    assert_eq!(watcher.next().await.expect("open").expect("good"), Message::Pong("payload".into()));
    world.change_reaches(&mut watcher, "p", Create, "1").await;
}

#[tokio::test]
async fn a_close_is_echoed_with_code_and_reason() {
    let world = simple().await;
    for frame in [Some(CloseFrame { code: CloseCode::Away, reason: "moving".into() }), None] {
        let mut watcher = world.watch("c").await;
        watcher.send(Message::Close(frame.clone())).await;
        assert_eq!(watcher.next().await.expect("open").expect("good"), Message::Close(frame));
        assert!(watcher.next().await.is_none());
    }
    world.until(r#"muster_edge_sessions_closed_total{reason="client_closed"}"#, |count| count == 2.0).await;
}

#[tokio::test]
async fn oversized_messages_and_unmasked_frames_get_a_code() {
    let world = simple().await;
    let mut watcher = world.watch("c").await;
    watcher.send(Message::text("x".repeat(5000))).await;
    let Some(Ok(Message::Close(Some(frame)))) = watcher.next().await else { panic!("a close was expected") };
    assert_eq!(u16::from(frame.code), 1009);

    let mut watcher = world.watch("c").await;
    let tokio_tungstenite::MaybeTlsStream::Plain(raw) = watcher.stream.get_mut() else {
        panic!("no TLS here")
    };
    raw.write_all(b"\x81\x02hi").await.expect("is sent");
    let Some(Ok(Message::Close(Some(frame)))) = watcher.next().await else { panic!("a close was expected") };
    assert_eq!(u16::from(frame.code), 1002);
}

#[tokio::test]
async fn a_silent_client_ends_without_a_close_frame() {
    let session = SessionConfig {
        ping_interval: Duration::from_millis(300),
        read_timeout: Duration::from_millis(1500),
        ..SessionConfig::default()
    };
    let world = world(session, LimitsConfig::default()).await;
    let mut watcher = world.watch("c").await;
    // A client that answers pings stays beyond the read deadline.
    let began = tokio::time::Instant::now();
    let mut pings = 0;
    while began.elapsed() < Duration::from_secs(2) {
        let message = tokio::time::timeout(PATIENCE, watcher.stream.next()).await.expect("in time");
        assert_eq!(message.expect("open").expect("good"), Message::Ping("".into()));
        pings += 1;
    }
    assert!(pings >= 5, "{pings}");
    // A client that does not read does not answer pings either.
    let ended = r#"muster_edge_sessions_closed_total{reason="read_timeout"}"#;
    world.until(ended, |count| count == 1.0).await;
    let mut last = None;
    while let Some(message) = watcher.stream.next().await {
        last = Some(message);
    }
    assert!(!matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
}

#[tokio::test]
async fn limits_refuse_before_the_upgrade() {
    let limits = LimitsConfig { node: 3, domain: 0, consumer: 2, memory: 0, ..LimitsConfig::default() };
    let world = world(SessionConfig::default(), limits).await;
    world.control_plane.consumer("d", &[]);
    let refused = async |consumer: &str| {
        let url = format!("ws://{}/v4/default/registry/microservices/{consumer}/watcher?rev=0", world.api);
        match tokio_tungstenite::connect_async(url).await {
            Err(Error::Http(answer)) => answer,
            other => panic!("a refusal was expected, not {other:?}"),
        }
    };
    let held = [world.watch("c").await, world.watch("c").await];
    let answer = refused("c").await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().contains_key("retry-after"));
    let _third = world.watch("d").await;
    let answer = refused("d").await;
    assert_eq!(answer.status(), 503);
    let body = answer.body().clone().unwrap_or_default();
    assert!(
        body.starts_with(
            br#"{"errorCode":"500011","errorMessage":"Registry service is unavailable","detail":"#
        )
    );
    drop(held);
    world.until(r#"muster_edge_sessions"#, |count| count == 1.0).await;
    let _again = world.watch("c").await;
}

#[tokio::test]
async fn a_full_domain_is_refused_and_another_is_not() {
    let limits = LimitsConfig { node: 0, domain: 2, consumer: 0, memory: 0, ..LimitsConfig::default() };
    let world = world(SessionConfig::default(), limits).await;
    world.control_plane.consumer("d", &[]);
    let open = async |domain: &str, consumer: &str| {
        let url = format!("ws://{}/v4/default/registry/microservices/{consumer}/watcher", world.api);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("X-Domain-Name", domain.parse().expect("a value"));
        tokio_tungstenite::connect_async(request).await.map(|(stream, _)| stream)
    };
    let held = [open("default", "c").await.expect("first"), open("default", "d").await.expect("second")];
    let Err(Error::Http(answer)) = open("default", "d").await else { panic!("a refusal was expected") };
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().contains_key("retry-after"));
    let body = String::from_utf8(answer.body().clone().unwrap_or_default()).expect("text");
    assert!(body.contains("the domain has as many watchers as it may"), "{body}");
    // A watch in another domain may fail for other reasons, but not because of the limit.
    let other = open("other", "c").await;
    assert!(!matches!(&other, Err(Error::Http(answer)) if answer.status() == 429), "{other:?}");
    assert_eq!(world.metric(r#"muster_edge_sessions_refused_total{limit="domain"}"#), 1.0);
    drop(held);
    world.until(r#"muster_edge_sessions"#, |count| count <= 1.0).await;
    let _again = open("default", "c").await.expect("places came back");
}

#[tokio::test]
async fn a_watch_is_refused_while_no_control_plane_answers() {
    let upstream =
        edge_gateway::settings::UpstreamConfig { open_timeout: Duration::from_secs(1), ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    world.control_plane.decline(1_000_000);
    let Err(Error::Http(answer)) =
        tokio_tungstenite::connect_async(format!("ws://{}{PATH}?rev=0", world.api)).await
    else {
        panic!("a refusal was expected")
    };
    assert_eq!(answer.status(), 503);
    world.control_plane.decline(0);
    // Another consumer, because the first one's request is repeated at its own pace.
    world.control_plane.consumer("d", &["p"]);
    let mut watcher = world.watch("d").await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
}
