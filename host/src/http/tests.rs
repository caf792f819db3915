//! Tests of a listener over real sockets, from the view of its clients.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{any, get};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;

mod draining;
mod heads;
mod slow;

struct Server {
    address: std::net::SocketAddr,
    tasks: Tasks,
    ended: tokio::task::JoinHandle<()>,
}

async fn start(router: Router, limits: ServerLimits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    let tasks = Tasks::new();
    let serving = tasks.clone();
    let ended = tokio::spawn(async move { serve(listener, router, limits, &serving).await });
    Server { address, tasks, ended }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// Sends `request` on a connection of its own and reads until the server closes.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.expect("writes");
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // Some tests expect the server to reset the connection. The bytes before the reset count.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { ([("x-resource-revision", "7")], "hello") }))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const GET_AND_CLOSE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

struct Limits(ServerLimits);

impl settings::Config for Limits {
    fn read(settings: &mut Settings<'_>) -> Self {
        Self(ServerLimits::read(settings, "http", "Connections open at once."))
    }
}

#[test]
fn the_settings_have_the_same_defaults_as_the_value() {
    let limits: Limits = settings::defaults().expect("no mistakes");
    assert_eq!(format!("{:?}", limits.0), format!("{:?}", ServerLimits::default()));
}

#[tokio::test]
async fn header_names_are_in_title_case() {
    let server = start(hello(), ServerLimits::default()).await;
    let answer = server.exchange(GET_AND_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("X-Resource-Revision: 7\r\n"), "{answer}");
    assert!(answer.contains("Content-Length: 5\r\n"), "{answer}");
}

#[tokio::test]
async fn a_handler_learns_the_address_of_its_client() {
    let router = Router::new().route(
        "/",
        get(|ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>| async move { peer.to_string() }),
    );
    let server = start(router, ServerLimits::default()).await;
    let mut stream = server.connect().await;
    let own = stream.local_addr().expect("has an address").to_string();
    stream.write_all(GET_AND_CLOSE).await.expect("writes");
    assert!(read_to_end(&mut stream).await.ends_with(&own));
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_cut() {
    let limits = ServerLimits { header_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    let server = start(hello(), limits).await;
    assert_eq!(server.exchange(b"GET / HTTP/1.1\r\nhost: a\r\n").await, "");
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_not_sooner() {
    let limits = ServerLimits {
        header_timeout: Duration::from_millis(1),
        idle_timeout: Duration::from_millis(300),
        ..ServerLimits::default()
    };
    let server = start(hello(), limits).await;
    let mut stream = server.connect().await;
    let begun = tokio::time::Instant::now();
    stream.write_all(GET).await.expect("writes");
    assert!(read_to_end(&mut stream).await.ends_with("hello"));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let server = start(hello(), ServerLimits::default()).await;
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-padding: {}\r\n\r\n", "x".repeat(40_000));
    let answer = server.exchange(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(server.exchange(GET_AND_CLOSE).await.ends_with("hello"));
}

/// Adds a route at `/slow` that reports when a request came, and answers when it may.
fn slow(entered: Arc<Notify>, leave: Arc<Notify>) -> Router {
    hello().route(
        "/slow",
        get(async move || {
            entered.notify_one();
            leave.notified().await;
            "finished"
        }),
    )
}

const GET_SLOW: &[u8] = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn clients_beyond_the_limit_wait_while_all_are_busy() {
    let entered = Arc::new(Notify::new());
    let leave = Arc::new(Notify::new());
    let limits = ServerLimits { connections: 1, ..ServerLimits::default() };
    let server = start(slow(entered.clone(), leave.clone()), limits).await;
    let mut first = server.connect().await;
    first.write_all(GET_SLOW).await.expect("writes");
    entered.notified().await;
    let mut second = server.connect().await;
    second.write_all(GET_AND_CLOSE).await.expect("writes");
    leave.notify_one();
    assert!(read_to_end(&mut second).await.ends_with("hello"));
    assert!(read_to_end(&mut first).await.ends_with("finished"), "a request is never given up for another");
}

#[tokio::test]
async fn connections_without_a_request_make_room() {
    let entered = Arc::new(Notify::new());
    let leave = Arc::new(Notify::new());
    let limits = ServerLimits { connections: 8, ..ServerLimits::default() };
    let server = start(slow(entered.clone(), leave.clone()), limits).await;
    let mut busy = server.connect().await;
    busy.write_all(GET_SLOW).await.expect("writes");
    entered.notified().await;
    let mut silent = Vec::new();
    for number in 0..40 {
        let mut stream = server.connect().await;
        if number % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nhost").await.expect("writes");
        }
        silent.push(stream);
    }
    assert!(server.exchange(GET_AND_CLOSE).await.ends_with("hello"));
    leave.notify_one();
    let mut answer = [0; 12];
    busy.read_exact(&mut answer).await.expect("answers");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_client_of_few_connections_keeps_its_own_under_a_flood() {
    let limits = ServerLimits { connections: 8, ..ServerLimits::default() };
    let server = start(hello(), limits).await;
    // Its request comes after the flood, as that of a probe may on a busy machine.
    let mut probe = server.connect().await;
    let mut flood = Vec::new();
    for _ in 0..40 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("binds");
        flood.push(socket.connect(server.address).await.expect("connects"));
        // Until it is accepted: the flood must be there before the request.
        tokio::task::yield_now().await;
    }
    assert_eq!(read_to_end(&mut flood[0]).await, "", "the flood makes room for itself");
    probe.write_all(GET_AND_CLOSE).await.expect("writes");
    assert!(read_to_end(&mut probe).await.ends_with("hello"));
}

#[tokio::test]
async fn clients_that_keep_their_answers_waiting_make_room() {
    let hour = Duration::from_secs(3600);
    let limits = ServerLimits { connections: 4, body_timeout: hour, ..ServerLimits::default() };
    let server = start(hello(), limits).await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n").await.expect("writes");
        stuck.push(stream);
    }
    let answer = tokio::time::timeout(Duration::from_secs(20), server.exchange(GET_AND_CLOSE)).await;
    let answer = answer.expect("long before the bodies are given up");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_drain_finishes_answers_in_progress() {
    let entered = Arc::new(Notify::new());
    let leave = Arc::new(Notify::new());
    let server = start(slow(entered.clone(), leave.clone()), ServerLimits::default()).await;
    let mut busy = server.connect().await;
    busy.write_all(GET_SLOW).await.expect("writes");
    entered.notified().await;
    let mut idle = server.connect().await;

    server.tasks.drain().cancel();
    assert_eq!(read_to_end(&mut idle).await, "", "an idle connection closes at once");
    leave.notify_one();
    assert!(read_to_end(&mut busy).await.ends_with("finished"));
    server.ended.await.expect("ends");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody accepts any more");
}

#[tokio::test]
async fn an_abort_does_not_wait() {
    let entered = Arc::new(Notify::new());
    let inner = entered.clone();
    let stuck = Router::new().route(
        "/",
        get(async move || {
            inner.notify_one();
            std::future::pending::<()>().await;
        }),
    );
    let server = start(stuck, ServerLimits::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(GET).await.expect("writes");
    entered.notified().await;
    server.tasks.drain().cancel();
    server.tasks.abort().cancel();
    server.ended.await.expect("ends");
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let big = Router::new().route("/", get(|| async { vec![b'x'; 32 << 20] }));
    let limits = ServerLimits { write_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let server = start(big, limits).await;
    let mut stream = server.connect().await;
    stream.write_all(GET).await.expect("writes");
    // A drain waits for answers. So the server can end only if it gives up the stalled connection.
    server.tasks.drain().cancel();
    server.ended.await.expect("ends");
    assert!(read_to_end(&mut stream).await.len() < 32 << 20);
}

#[tokio::test]
async fn an_answer_without_an_end_holds_as_many_bytes_in_the_kernel_as_it_says() {
    const READ: usize = 8 << 20;
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    let endless = Router::new().route(
        "/",
        get(move || async move {
            let pieces = futures_util::stream::repeat_with(move || {
                counted.fetch_add(16 * 1024, Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(vec![b'x'; 16 * 1024])
            });
            let mut answer = Response::new(Body::from_stream(pieces));
            answer.extensions_mut().insert(SendBuffer(32 * 1024));
            answer
        }),
    );
    let limits = ServerLimits { write_timeout: Duration::from_millis(500), ..ServerLimits::default() };
    let server = start(endless, limits).await;
    let mut stream = server.connect().await;
    stream.write_all(GET).await.expect("writes");
    // The kernel gives a connection on which much is sent a larger buffer, if nobody has given it one.
    let mut read = vec![0; READ];
    stream.read_exact(&mut read).await.expect("reads");
    // The client reads no more, so the server gives it up. Nothing ends before that.
    server.tasks.drain().cancel();
    server.ended.await.expect("ends");
    let receives = SockRef::from(&stream).recv_buffer_size().expect("Linux tells it");
    let held = made.load(Ordering::Relaxed) - READ;
    assert!(
        held < receives + (1 << 20),
        "{held} bytes beside what the client's own buffer takes ({receives})"
    );
}

#[tokio::test]
async fn an_upgraded_connection_outlives_the_drain() {
    let router = Router::new().route(
        "/",
        any(async move |request: axum::extract::Request| {
            let upgrade = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let (socket, early) = take_socket(upgrade.await.expect("upgrades")).expect("is ours");
                let (mut stream, permit) = socket.into_parts();
                stream.write_all(&early).await.expect("writes");
                let mut byte = [0];
                stream.read_exact(&mut byte).await.expect("reads");
                stream.write_all(&byte).await.expect("writes");
                drop(permit);
            });
            Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "echo")
                .body(Body::empty())
                .expect("is an answer")
        }),
    );
    let server = start(router, ServerLimits::default()).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly")
        .await
        .expect("writes");
    let mut seen = String::new();
    while !seen.ends_with("early") {
        let mut chunk = [0; 256];
        let n = stream.read(&mut chunk).await.expect("reads");
        assert_ne!(n, 0, "closed after {seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    server.tasks.drain().cancel();
    server.ended.await.expect("ends");
    stream.write_all(b"!").await.expect("writes");
    assert_eq!(read_to_end(&mut stream).await, "!");
}

#[tokio::test]
async fn http2_by_prior_knowledge_shares_the_port() {
    let server = start(hello(), ServerLimits::default()).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<Body>();
    let url = format!("http://{}/", server.address).parse().expect("is a url");
    let answer = client.get(url).await.expect("answers");
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    drop((answer, client));
    server.tasks.drain().cancel();
    server.ended.await.expect("ends");
}

#[tokio::test]
async fn connections_are_counted_in_and_out_by_reason() {
    let metrics = crate::telemetry::Metrics::new([]).expect("sets up");
    let counted = ServerMetrics::new(&metrics.meter("http"), "api");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    let tasks = Tasks::new();
    let limits = ServerLimits { header_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    let serving = tasks.clone();
    let ended =
        tokio::spawn(async move { serve_counted(listener, hello(), limits, counted, &serving).await });

    for request in [GET_AND_CLOSE, b"GET / HT"] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request).await.expect("writes");
        read_to_end(&mut stream).await;
    }
    let mut open = TcpStream::connect(address).await.expect("connects");
    open.write_all(GET).await.expect("writes");
    open.read_exact(&mut [0; 12]).await.expect("answers");
    assert!(metrics.render().contains("muster_http_connections{listener=\"api\"} 1\n"));
    tasks.drain().cancel();
    ended.await.expect("ends");

    let text = metrics.render();
    assert!(text.contains("muster_http_connections{listener=\"api\"} 0\n"), "{text}");
    for (reason, count) in [("done", 1), ("header_timeout", 1), ("drained", 1), ("aborted", 0)] {
        let line = format!("closed_total{{listener=\"api\",reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}
