//! Peers that mean harm or vanish: a bound or a deadline ends each, and a watcher beside them notices
//! nothing.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{FanoutConfig, SessionConfig};
use host::http::ServerLimits;
use shared::event::Action::{Create, Update};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::world::{PATIENCE, Watcher, World, config};

const PATH: &str = "/v4/default/registry/microservices/c/watcher";

fn upgrade() -> String {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn world(http: ServerLimits, session: SessionConfig) -> World {
    let world = World::with(Config { http, session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    world
}

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.api).await.expect("connects")
}

/// All bytes until the gateway ends the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let reading = async { while let Ok(1..) = stream.read_buf(&mut read).await {} };
    timeout(PATIENCE, reading).await.expect("the gateway ends it");
    read
}

/// Asserts that an event reaches the watcher beside the hostile peers.
async fn assert_served(world: &World, watcher: &mut Watcher) {
    world.change_reaches(watcher, "p", Update, "1").await;
}

async fn good_watcher(world: &World) -> Watcher {
    let mut watcher = world.watch("c").await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
    watcher
}

#[tokio::test]
async fn handshakes_that_never_end_are_cut() {
    let http = ServerLimits {
        header_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_secs(1),
        ..config().http
    };
    let world = world(http, SessionConfig::default()).await;
    let mut watcher = good_watcher(&world).await;
    let head = upgrade();
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut stream = connect(&world).await;
        // From no byte at all to all but the last.
        let said = head.len() * number / 200;
        stream.write_all(&head.as_bytes()[..said]).await.expect("is sent");
        slow.push(stream);
    }
    assert_served(&world, &mut watcher).await;
    // A client that sends byte by byte gains no time by it.
    let mut dripping = connect(&world).await;
    let dripped = async {
        for byte in head.bytes().cycle() {
            if dripping.write_all(&[byte.max(b' ')]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, dripped).await.expect("is ended, whatever it says");
    for stream in &mut slow {
        let answer = rest(stream).await;
        assert!(!answer.starts_with(b"HTTP/1.1 101"), "no upgrade: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(world.metric("muster_edge_sessions"), 1.0);
    assert_served(&world, &mut watcher).await;
}

#[tokio::test]
async fn heads_that_are_too_big_are_refused_in_bounded_memory() {
    let world = world(config().http, SessionConfig::default()).await;
    let mut watcher = good_watcher(&world).await;
    let begin = upgrade().trim_end().to_owned();
    let one = format!("{begin}\r\nX-Bomb: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many: String = (0..5000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let folded = format!("{begin}\r\nX-Bomb: a{}\r\n\r\n", "\r\n b".repeat(20_000));
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "p".repeat(64 * 1024));
    for (name, bomb) in [
        ("one header", one),
        ("many headers", format!("{begin}\r\n{many}\r\n")),
        ("a folded header", folded),
        ("a path", long_path),
    ] {
        let mut stream = connect(&world).await;
        // The gateway may close before everything is sent.
        _ = stream.write_all(bomb.as_bytes()).await;
        let answer = rest(&mut stream).await;
        // If it closes with unread bytes, even its response may be lost.
        let refused = answer.is_empty() || answer.starts_with(b"HTTP/1.1 4");
        assert!(refused, "{name}: {}", String::from_utf8_lossy(&answer));
    }
    // A head without an end: the bytes that are taken are bounded by the kernel's buffers.
    let mut endless = connect(&world).await;
    endless.write_all(format!("{begin}\r\n").as_bytes()).await.expect("is sent");
    let mut taken = 0_usize;
    let line = format!("X-Bomb: {}\r\n", "x".repeat(1000)).repeat(16);
    while taken < 64 << 20
        && timeout(PATIENCE, endless.write_all(line.as_bytes())).await.expect("ends").is_ok()
    {
        taken += line.len();
    }
    assert!(taken < 32 << 20, "{taken} bytes of one head were taken");
    assert_served(&world, &mut watcher).await;
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn a_flood_of_pings_delays_nobody() {
    const PINGS: u32 = 200_000;
    let world = world(config().http, SessionConfig::default()).await;
    let mut watcher = good_watcher(&world).await;
    let mut flood = connect(&world).await;
    flood.write_all(upgrade().as_bytes()).await.expect("is sent");
    let (mut reading, mut writing) = flood.into_split();
    let flooding = tokio::spawn(async move {
        for number in 0..PINGS / 100 {
            let pings: Vec<u8> =
                (0..100).flat_map(|n| frame(0x89, &(number * 100 + n).to_be_bytes())).collect();
            writing.write_all(&pings).await.expect("is taken");
        }
        writing
    });
    let answers = tokio::spawn(async move {
        let (mut read, mut pongs, mut last) = (Vec::new(), 0_u32, None);
        while last != Some(PINGS - 1) {
            assert!(reading.read_buf(&mut read).await.expect("reads") > 0, "it is not ended");
            while let Some(at) = read.windows(2).position(|two| two == [0x8a, 4]) {
                let Some(payload) = read.get(at + 2..at + 6) else { break };
                let number = u32::from_be_bytes(payload.try_into().expect("four"));
                assert!(last < Some(number), "{last:?} before {number}");
                (last, pongs) = (Some(number), pongs + 1);
                read.drain(..at + 6);
            }
        }
        pongs
    });
    while !flooding.is_finished() {
        assert_served(&world, &mut watcher).await;
    }
    let pongs = timeout(PATIENCE, answers).await.expect("in time").expect("no panic");
    assert!(pongs <= PINGS, "{pongs}");
    drop(flooding);
    assert_served(&world, &mut watcher).await;
}

#[tokio::test]
async fn a_flood_with_unread_pongs_ends_at_the_write_deadline() {
    let session = SessionConfig { write_timeout: Duration::from_millis(500), ..SessionConfig::default() };
    let fanout = FanoutConfig { send_buffer_bytes: 4096, ..config().fanout };
    let world = World::with(Config { fanout, session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut watcher = good_watcher(&world).await;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&world.api.into()).expect("connects");
    socket.set_nonblocking(true).expect("does not block");
    let mut flood = TcpStream::from_std(socket.into()).expect("a stream");
    flood.write_all(upgrade().as_bytes()).await.expect("is sent");
    let pings = frame(0x89, &[b'p'; 125]).repeat(100);
    let flooding = tokio::spawn(async move { while flood.write_all(&pings).await.is_ok() {} });
    // Pongs alone do not always block the gateway: a kernel whose receive buffer is full of small segments
    // drops the next ones, and the acknowledgements in them, so the flood may stall before the pongs do.
    // Pushes to the same client fill the rest of the buffers.
    let ended = r#"muster_edge_sessions_closed_total{reason="write_timeout"}"#;
    let pushing = async {
        while world.metric(ended) < 1.0 {
            assert_served(&world, &mut watcher).await;
        }
    };
    timeout(PATIENCE, pushing).await.expect("the client that reads nothing is ended");
    assert_eq!(world.metric("muster_edge_sessions"), 1.0);
    flooding.abort();
    assert_served(&world, &mut watcher).await;
}

#[tokio::test]
async fn a_vanished_peer_is_noticed_at_the_read_deadline() {
    let session = SessionConfig {
        ping_interval: Duration::from_millis(200),
        read_timeout: Duration::from_secs(1),
        ..SessionConfig::default()
    };
    let world = world(config().http, session).await;
    // The peer's kernel acknowledges everything although its program reads nothing: only silence shows it.
    let mut gone = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(&world).await;
        stream.write_all(upgrade().as_bytes()).await.expect("is sent");
        gone.push(stream);
    }
    let ended = r#"muster_edge_sessions_closed_total{reason="read_timeout"}"#;
    world.until(ended, |ended| ended == 50.0).await;
    world.until("muster_edge_sessions", |open| open == 0.0).await;
    // Pings arrived and then the end, without a close frame, after which old clients would stay away.
    let answer = rest(&mut gone[0]).await;
    let frames = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let frames = &answer[frames..];
    assert!(frames.len() >= 4 && frames.chunks(2).all(|ping| ping == [0x89, 0]), "{frames:?}");
}

/// An HTTP/2 frame by hand, because a client library would answer the pings.
fn http2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_grpc_watcher_that_answers_no_ping_is_closed() {
    let http = ServerLimits {
        http2_ping: Duration::from_millis(300),
        write_timeout: Duration::from_millis(500),
        ..config().http
    };
    let world = world(http, SessionConfig::default()).await;
    let mut watcher = good_watcher(&world).await;
    let mut head = vec![0x83, 0x86, 0x04];
    let literal = |head: &mut Vec<u8>, text: &str| {
        head.push(text.len() as u8);
        head.extend_from_slice(text.as_bytes());
    };
    literal(&mut head, "/muster.watch.v1.Watch/Watch");
    for (name, value) in [(":authority", "test"), ("content-type", "application/grpc"), ("te", "trailers")] {
        head.push(0x00);
        literal(&mut head, name);
        literal(&mut head, value);
    }
    // consumer_id = "c", in an uncompressed message.
    let request = [0, 0, 0, 0, 3, 0x1a, 1, b'c'];
    let mut stream = connect(&world).await;
    let said = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        http2(4, 0, 0, &[]),
        http2(1, 4, 1, &head),
        http2(0, 1, 1, &request),
    ];
    stream.write_all(&said.concat()).await.expect("is sent");
    world.until("muster_edge_sessions", |open| open == 2.0).await;
    world.until("muster_edge_sessions", |open| open == 1.0).await;
    _ = rest(&mut stream).await;
    assert_served(&world, &mut watcher).await;
}
