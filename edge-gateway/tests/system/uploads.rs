//! Faults of clients while their requests are forwarded. None of them may count against a control plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use bytes::Bytes;
use edge_gateway::Config;
use edge_gateway::forward::{Forward as _, ForwardConfig};
use futures_util::stream;
use host::http::ServerLimits;
use host::lifecycle::Tasks;
use host::telemetry::metrics::Metrics;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shared::event::Action::Create;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::forwarding::{ask, echo, replicas_with, served};
use crate::world::{PATIENCE, World, config};

const SERVICES: &str = "/v4/default/registry/microservices";
const BEAT: &str = "/v4/default/registry/microservices/s/instances/i/heartbeat";

/// Two control planes that echo, and no probes after the first: only requests could change their health.
async fn two_planes(tasks: &Tasks) -> ForwardConfig {
    ForwardConfig {
        control_planes: vec![served(echo(), tasks).await, served(echo(), tasks).await],
        probe_interval: Duration::from_secs(3600),
        ..ForwardConfig::default()
    }
}

/// A gateway before control planes whose health the test looks at.
struct Subject {
    world: World,
    reachable: watch::Receiver<bool>,
    metrics: Metrics,
}

impl Subject {
    async fn new(config: Config, forward: ForwardConfig, tasks: &Tasks) -> Self {
        let metrics = Metrics::new([]).expect("sets up");
        let planes = replicas_with(forward, &metrics, tasks);
        let mut reachable = planes.reachable();
        let world = World::with_forward(config, planes).await;
        reachable.mark_unchanged();
        Self { world, reachable, metrics }
    }

    fn assert_all_healthy(&self, planes: usize) {
        assert!(!self.reachable.has_changed().expect("open"), "the gateway was ready all the time");
        let text = self.metrics.render();
        let expected = format!("\nmuster_edge_control_planes_healthy {planes}\n");
        assert!(text.contains(&expected), "{text}");
    }
}

async fn send(world: &World, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(world.api).await.expect("connects");
    stream.write_all(bytes).await.expect("is sent");
    stream
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let reading = async { while let Ok(1..) = stream.read_buf(&mut read).await {} };
    timeout(PATIENCE, reading).await.expect("the gateway ends the connection");
    String::from_utf8_lossy(&read).into_owned()
}

/// The head of an upload, and the beginning of a body that is `length` bytes long.
fn beginning(length: usize) -> String {
    format!("POST {SERVICES} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(500))
}

#[tokio::test]
async fn broken_uploads_do_not_count_against_control_planes() {
    let tasks = Tasks::new();
    let subject = Subject::new(config(), two_planes(&tasks).await, &tasks).await;
    let world = &subject.world;
    for number in 0..40 {
        // Small bodies are collected before they are forwarded; large ones are streamed.
        let length = if number % 2 == 0 { 1000 } else { 200_000 };
        let stream = send(world, beginning(length).as_bytes()).await;
        // The gateway must have begun to forward, or there is nothing to break.
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(stream);
    }
    // The client stays and sends a chunk that is none: the fault is its own, and it is told so.
    for target in
        [format!("POST {SERVICES}"), format!("PUT {BEAT}"), "PUT /v4/default/registry/heartbeats".to_owned()]
    {
        let chunked =
            format!("{target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n");
        let answer = rest(&mut send(world, chunked.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"400001\""), "{target}: {answer}");
    }
    // On HTTP/2 the stream is reset and the connection lives.
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for _ in 0..10 {
        let frames = [Ok(Frame::data(Bytes::from_static(b"x"))), Err(std::io::Error::other("gives up"))];
        let request = http::Request::post(format!("http://{}{SERVICES}", world.api));
        let request = request.body(StreamBody::new(stream::iter(frames))).expect("a request");
        client.request(request).await.expect_err("the body fails");
    }
    assert_eq!(ask(world, "GET", SERVICES, "").await.expect("answered").0, 200);
    subject.assert_all_healthy(2);
    tasks.drain().cancel();
}

#[tokio::test]
async fn an_upload_that_stalls_is_the_fault_of_its_client() {
    let tasks = Tasks::new();
    let answer_timeout = Duration::from_millis(300);
    let subject =
        Subject::new(config(), ForwardConfig { answer_timeout, ..two_planes(&tasks).await }, &tasks).await;
    let world = &subject.world;
    for _ in 0..4 {
        let answer = rest(&mut send(world, beginning(200_000).as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    subject.assert_all_healthy(2);
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_body_has_a_deadline_held_or_streamed_rest_or_grpc() {
    let tasks = Tasks::new();
    let http = ServerLimits { body_timeout: Duration::from_millis(300), ..config().http };
    let subject = Subject::new(Config { http, ..config() }, two_planes(&tasks).await, &tasks).await;
    let world = &subject.world;
    for length in [1000, 200_000] {
        let answer = rest(&mut send(world, beginning(length).as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"400001\""), "{answer}");
        let beat = beginning(length).replacen(&format!("POST {SERVICES}"), &format!("PUT {BEAT}"), 1);
        let answer = rest(&mut send(world, beat.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "no heartbeat is lost by it: {answer}");
    }
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for path in ["/muster.watch.v1.Watch/Watch", "/proto.ServiceInstanceCtrl/watch"] {
        let never = StreamBody::new(stream::pending::<std::io::Result<Frame<Bytes>>>());
        let request = http::Request::post(format!("http://{}{path}", world.api)).body(never);
        let answer = client.request(request.expect("a request")).await.expect("answers");
        assert_eq!(answer.headers()["grpc-status"], "4", "the deadline is exceeded");
    }
    subject.assert_all_healthy(2);
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_by_the_gateway() {
    let tasks = Tasks::new();
    let forward = ForwardConfig { largest_body: 100_000, ..two_planes(&tasks).await };
    let subject = Subject::new(config(), forward, &tasks).await;
    let body = "x".repeat(200_000);
    let head = format!("POST {SERVICES} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for request in [
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        // Too much to be read and dropped, so nothing of it is waited for.
        format!("{head}Content-Length: 1000000000\r\n\r\n{body}"),
    ] {
        let answer = rest(&mut send(&subject.world, request.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("too large"), "{answer}");
    }
    subject.assert_all_healthy(2);
    tasks.drain().cancel();
}

#[tokio::test]
async fn clients_that_leave_an_answer_unread_do_not_count() {
    let tasks = Tasks::new();
    let endless = any(async || {
        let chunks = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1000])), ()))
        });
        Body::from_stream(Box::pin(chunks))
    });
    let control_planes = vec![served(Router::new().fallback_service(endless), &tasks).await];
    let subject =
        Subject::new(config(), ForwardConfig { control_planes, ..ForwardConfig::default() }, &tasks).await;
    let world = &subject.world;
    for _ in 0..20 {
        let request = format!("GET {SERVICES} HTTP/1.1\r\nHost: test\r\n\r\n");
        let mut stream = send(world, request.as_bytes()).await;
        stream.read_exact(&mut [0; 2000]).await.expect("the answer streams");
    }
    subject.assert_all_healthy(1);
    tasks.drain().cancel();
}

/// A control plane that answers probes while it lives, and closes every other connection.
async fn broken_plane(lives: Arc<AtomicBool>, tasks: &Tasks) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read_buf(&mut head).await, Ok(1..)) {}
            // Told apart by the path, because probes and requests share the connections of one client.
            let is_probe = head.windows(16).any(|window| window == b"health/readiness");
            if is_probe && lives.load(Ordering::Acquire) {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.expect("is sent");
            }
        }
    });
    address
}

#[tokio::test]
async fn a_broken_exchange_is_judged_by_a_probe_at_once() {
    let tasks = Tasks::new();
    let lives = Arc::new(AtomicBool::new(true));
    let control_planes = vec![broken_plane(lives.clone(), &tasks).await];
    let probe_interval = Duration::from_secs(3600);
    let mut subject = Subject::new(
        config(),
        ForwardConfig { control_planes, probe_interval, ..ForwardConfig::default() },
        &tasks,
    )
    .await;
    for _ in 0..5 {
        assert_eq!(ask(&subject.world, "GET", SERVICES, "").await.expect("answered").0, 503);
    }
    subject.assert_all_healthy(1);
    lives.store(false, Ordering::Release);
    assert_eq!(ask(&subject.world, "GET", SERVICES, "").await.expect("answered").0, 503);
    timeout(PATIENCE, subject.reachable.wait_for(|reachable| !reachable))
        .await
        .expect("at once")
        .expect("open");
    tasks.abort().cancel();
}

#[tokio::test]
async fn a_length_that_the_question_has_no_body_for_is_left_out() {
    let tasks = Tasks::new();
    let answer_timeout = Duration::from_secs(2);
    let forward = ForwardConfig { answer_timeout, ..two_planes(&tasks).await };
    let subject = Subject::new(Config { authorize: true, ..config() }, forward, &tasks).await;
    let world = &subject.world;
    world.control_plane.consumer("c", &["p"]);
    let upgrade = "Host: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nhello";
    let mut watchers = Vec::new();
    for _ in 0..4 {
        let request = format!("GET {SERVICES}/c/watcher HTTP/1.1\r\n{upgrade}");
        let mut stream = send(world, request.as_bytes()).await;
        let mut status = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.expect("in time").expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 101");
        watchers.push(stream);
    }
    world.control_plane.change("p", Create, "1").await;
    subject.assert_all_healthy(2);
    tasks.drain().cancel();
}
