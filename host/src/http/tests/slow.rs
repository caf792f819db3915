//! Clients that are slow in the body of a request, or with an answer on HTTP/2.

use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::*;
use crate::lane::{self, SlowThreads};

/// The window of a stream that a client on HTTP/2 opens.
const WINDOW: u32 = 65_535;

/// Reads a body, and answers 408 when it is late.
fn reading() -> Router {
    let read = async |request: Request| match request.into_body().collect().await {
        Ok(_) => StatusCode::OK,
        Err(error) if is_late(&error) => StatusCode::REQUEST_TIMEOUT,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    Router::new().route("/", post(read))
}

fn http2() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .http2_initial_stream_window_size(WINDOW)
        .build_http()
}

#[tokio::test]
async fn a_body_that_trickles_ends_at_its_deadline() {
    let limits = ServerLimits { body_timeout: Duration::from_millis(200), ..ServerLimits::default() };
    let server = start(reading(), limits).await;
    let stream = server.connect().await;
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").await.expect("writes");
    let trickle = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = trickle => {}
        _ = reader.read_to_end(&mut answer) => {}
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_body_on_http2_has_the_same_deadline() {
    let limits = ServerLimits { body_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let server = start(reading(), limits).await;
    let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let request = http::Request::post(format!("http://{}/", server.address)).body(never).expect("a request");
    assert_eq!(http2().request(request).await.expect("answers").status(), StatusCode::REQUEST_TIMEOUT);
}

/// The memory of an answer, which reports when it is freed.
struct Held(Vec<u8>, UnboundedSender<()>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.1.send(());
    }
}

#[tokio::test]
async fn an_answer_left_unread_on_http2_ends_its_stream_alone() {
    let (freed, mut frees) = unbounded_channel();
    let answer = async move |Path(size): Path<usize>,
                             ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>| {
        let body = Body::from(Bytes::from_owner(Held(vec![b'x'; size], freed)));
        ([("x-peer", peer.to_string())], body)
    };
    let limits = ServerLimits { write_timeout: Duration::from_millis(200), ..ServerLimits::default() };
    let server = start(Router::new().route("/{size}", get(answer)), limits).await;
    let client = http2();
    let ask = async |size: usize| {
        let url = format!("http://{}/{size}", server.address).parse().expect("is a url");
        client.get(url).await.expect("answers")
    };
    let window = WINDOW as usize;
    let mut unread = Vec::new();
    for _ in 0..10 {
        // One byte beyond the window; a little beyond it; far beyond it. In this order, because the memory of the first is
        // freed with its last piece, which may be before its deadline: that of the last tells when all are over.
        for size in [window + 1, window + 1000, 1 << 20] {
            unread.push(ask(size).await);
        }
    }
    for _ in &unread {
        frees.recv().await.expect("the memory of each answer is freed");
    }
    let read = ask(window).await;
    assert_eq!(read.headers()["x-peer"], unread[0].headers()["x-peer"], "the connection lives");
    assert_eq!(read.into_body().collect().await.expect("is read").to_bytes().len(), window);
    for answer in unread {
        answer.into_body().collect().await.expect_err("the stream was reset");
    }
}

/// Answers with so many bytes, which report when they are freed, in a send buffer of the kernel's least size.
fn reporting(freed: UnboundedSender<()>) -> Router {
    let answer = async move |Path(size): Path<usize>| {
        let body = Body::from(Bytes::from_owner(Held(vec![b'x'; size], freed)));
        let mut answer = Response::new(body);
        answer.extensions_mut().insert(SendBuffer(1));
        answer
    };
    Router::new().route("/{size}", get(answer))
}

/// A client that has a small receive buffer and has asked for so many bytes.
async fn asking(server: &Server, size: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(server.address).await.expect("connects");
    stream.write_all(format!("GET /{size} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.expect("writes");
    stream
}

#[tokio::test]
async fn an_answer_on_http1_that_is_read_too_slowly_ends() {
    let (freed, mut frees) = unbounded_channel();
    let limits = ServerLimits { write_timeout: Duration::from_millis(500), ..ServerLimits::default() };
    let server = start(reporting(freed), limits).await;
    let mut stream = asking(&server, 8 << 20).await;
    // The client takes something in each write timeout, so no single write waits for too long.
    let drip = async {
        while stream.read(&mut [0; 2048]).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = drip => {}
        freed = frees.recv() => freed.expect("the memory of the answer is freed"),
    }
    let mut reading = asking(&server, 1 << 20).await;
    reading.read_exact(&mut vec![0; 1 << 20]).await.expect("a client that reads is not ended");
}

#[tokio::test]
async fn answers_that_nobody_reads_end_when_they_hold_too_much_together() {
    let (freed, mut frees) = unbounded_channel();
    let limits = ServerLimits { answer_bytes: 20 << 20, ..ServerLimits::default() };
    let server = start(reporting(freed), limits).await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(asking(&server, 8 << 20).await);
        // Until the answer has begun, so that each is older than the next.
        unread.last().expect("just added").readable().await.expect("the answer begins");
    }
    // Two of eight megabytes have room; the others ended before the write timeout.
    for _ in 0..2 {
        frees.recv().await.expect("the memory of an answer is freed");
    }
    // On HTTP/2 they end in the same way, and only their streams do.
    let client = http2();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let url = format!("http://{}/{}", server.address, 8 << 20).parse().expect("is a url");
        streams.push(client.get(url).await.expect("answers"));
        if streams.len() < 3 {
            frees.recv().await.expect("an answer of HTTP/1 is freed");
        }
    }
    frees.recv().await.expect("the first answer of HTTP/2 is freed");
    let last = streams.pop().expect("three answers");
    assert_eq!(last.into_body().collect().await.expect("is read").to_bytes().len(), 8 << 20);
    streams.remove(0).into_body().collect().await.expect_err("the stream was reset");
}

#[tokio::test]
async fn an_answer_that_is_read_evenly_is_not_idle() {
    let (freed, _frees) = unbounded_channel();
    let limits = ServerLimits {
        idle_timeout: Duration::from_millis(50),
        write_timeout: Duration::from_secs(1),
        connections: 1,
        ..ServerLimits::default()
    };
    let server = start(reporting(freed), limits).await;
    let mut stream = asking(&server, 4 << 20).await;
    stream.readable().await.expect("the answer begins");
    // A new client that would take the place of an idle one.
    let _waiting = server.connect().await;
    let mut read = 0;
    let mut part = vec![0; 64 * 1024];
    while read < 4 << 20 {
        match stream.read(&mut part).await {
            Ok(1..) => {}
            end => panic!("{end:?} after {read} bytes"),
        }
        read += part.len();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Requests for so many bytes each, on a connection of HTTP/2 that opens its windows and never reads.
async fn asking_blindly(server: &Server, size: usize, streams: u32) -> TcpStream {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let path = format!("/{size}");
    // `:method GET` and `:scheme http` of the static table, then `:path` and `:authority` as literals.
    let mut head = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).expect("short")];
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(&[0x01, 1, b'a']);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    bytes.extend(frame(8, 0, 0, &(0x7fff_ffff_u32 - WINDOW).to_be_bytes()));
    for number in 0..streams {
        bytes.extend(frame(1, 5, number * 2 + 1, &head));
    }
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(server.address).await.expect("connects");
    stream.write_all(&bytes).await.expect("writes");
    stream
}

#[tokio::test]
async fn a_peer_that_opens_its_windows_and_reads_nothing_keeps_no_answer() {
    let (freed, mut frees) = unbounded_channel();
    let limits = ServerLimits { answer_bytes: 20 << 20, ..ServerLimits::default() };
    let server = start(reporting(freed), limits).await;
    let _peer = asking_blindly(&server, 8 << 20, 6).await;
    // Two of eight megabytes have room. No timeout is over when the others are freed.
    for _ in 0..4 {
        frees.recv().await.expect("the memory of an answer is freed");
    }
}

#[tokio::test]
async fn answers_whose_bytes_come_from_elsewhere_do_not_count() {
    let kept = Bytes::from(vec![b'x'; 1 << 20]);
    let answer = async move || {
        let mut answer = Response::new(Body::from(kept.clone()));
        answer.extensions_mut().insert(HeldBytes::none());
        answer
    };
    let limits = ServerLimits { answer_bytes: 1, ..ServerLimits::default() };
    let server = start(Router::new().route("/", get(answer)), limits).await;
    let client = http2();
    let url: http::Uri = format!("http://{}/", server.address).parse().expect("is a url");
    let waiting = client.get(url.clone()).await.expect("answers");
    let other = client.get(url).await.expect("answers");
    for answer in [other, waiting] {
        assert_eq!(answer.into_body().collect().await.expect("is read").to_bytes().len(), 1 << 20);
    }
}

#[tokio::test]
async fn a_client_that_does_not_send_its_body_loses_its_place_to_a_new_one() {
    let limits = ServerLimits {
        connections: 1,
        // The answer that would come if the place were kept until then.
        body_timeout: Duration::from_secs(5),
        ..ServerLimits::default()
    };
    let server = start(reading(), limits).await;
    let mut slow = server.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).await.expect("writes");
    slow.readable().await.expect("the server waits for the body");
    let whole = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    let (slow, whole) = tokio::join!(read_to_end(&mut slow), server.exchange(whole));
    assert_eq!(slow, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(whole.starts_with("HTTP/1.1 200 "), "{whole}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_loses_its_place_to_a_new_one() {
    let (freed, _frees) = unbounded_channel();
    let limits =
        ServerLimits { connections: 1, write_timeout: Duration::from_secs(3600), ..ServerLimits::default() };
    let server = start(reading().merge(reporting(freed)), limits).await;
    let whole = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    let unread = asking(&server, 8 << 20).await;
    unread.readable().await.expect("its answer has begun");
    // Without a bound, a failure would be a test that never ends.
    let exchange = async || tokio::time::timeout(Duration::from_secs(60), server.exchange(whole)).await;
    let answer = exchange().await.expect("takes the place of one on HTTP/1");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let client = http2();
    let url: http::Uri = format!("http://{}/{}", server.address, 8 << 20).parse().expect("is a url");
    let _unread = [client.get(url.clone()).await.expect("answers"), client.get(url).await.expect("answers")];
    let answer = exchange().await.expect("takes the place of one on HTTP/2");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_on_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    // Without axum, which leaves the bodies of its routes out by itself, and not those of the layers around them.
    let service = tower::service_fn(async |_: http::Request<RequestBody>| {
        Ok::<_, std::io::Error>(Response::new(Body::from("hello")))
    });
    tokio::spawn(async move { serve(listener, service, ServerLimits::default(), &Tasks::new()).await });
    let url: http::Uri = format!("http://{address}/").parse().expect("is a url");
    for (method, length) in [(http::Method::HEAD, 0), (http::Method::GET, 5)] {
        let request = Request::builder().method(method).uri(&url).body(Body::empty()).expect("is a request");
        let answer = http2().request(request).await.expect("answers");
        assert_eq!(answer.headers()["content-length"], "5");
        assert_eq!(answer.into_body().collect().await.expect("is read").to_bytes().len(), length);
    }
}

#[tokio::test]
async fn an_answer_of_the_slow_lane_has_its_deadline_too() {
    let (freed, mut frees) = unbounded_channel();
    let answer = get(async move || {
        lane::with_current(|lane| lane.choose(true));
        // Work moves where it waits.
        tokio::task::yield_now().await;
        let is_slow = lane::is_slow().to_string();
        ([("x-slow", is_slow)], Body::from(Bytes::from_owner(Held(vec![b'x'; 1 << 20], freed))))
    });
    let slow = SlowThreads::start(10, &tokio::runtime::Handle::current()).expect("threads start");
    let tasks = Tasks::new().with_slow_lane(slow.lane());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    let limits = ServerLimits { write_timeout: Duration::from_millis(200), ..ServerLimits::default() };
    tokio::spawn(async move { serve(listener, Router::new().route("/", answer), limits, &tasks).await });
    let url = format!("http://{address}/").parse().expect("is a url");
    let unread = http2().get(url).await.expect("answers");
    assert_eq!(unread.headers()["x-slow"], "true");
    frees.recv().await.expect("the memory of the answer is freed");
}

#[tokio::test]
async fn an_answer_on_http2_that_pauses_is_not_ended() {
    let slow = get(async || {
        let pieces = futures_util::stream::unfold(0, async |n| {
            tokio::time::sleep(Duration::from_millis(60)).await;
            (n < 5).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"piece")), n + 1))
        });
        Body::from_stream(Box::pin(pieces))
    });
    let limits = ServerLimits { write_timeout: Duration::from_millis(30), ..ServerLimits::default() };
    let server = start(Router::new().route("/", slow), limits).await;
    let url = format!("http://{}/", server.address).parse().expect("is a url");
    let answer = http2().get(url).await.expect("answers");
    assert_eq!(answer.into_body().collect().await.expect("is read").to_bytes().len(), 25);
}

#[tokio::test]
async fn a_body_that_comes_slowly_is_read_to_its_end_in_a_drain() {
    let server = start(reading(), ServerLimits::default()).await;
    let mut stream = server.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.readable().await.expect("the server waits for the body");
    server.tasks.drain().cancel();
    for _ in 0..8 {
        // More than a second for all of them.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(b"x").await.expect("writes");
    }
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    server.ended.await.expect("ends");
}

#[tokio::test]
async fn no_client_makes_a_drain_fail() {
    let (freed, _frees) = unbounded_channel();
    let server = start(reading().merge(reporting(freed)), ServerLimits::default()).await;
    let mut half_head = server.connect().await;
    half_head.write_all(b"GET / HTTP/1.1\r\nho").await.expect("writes");
    let mut half_body = server.connect().await;
    half_body.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx").await.expect("writes");
    let _blind = asking_blindly(&server, 8 << 20, 1).await;
    let url = format!("http://{}/{}", server.address, 8 << 20).parse().expect("is a url");
    let client = http2();
    // Answered after the others were accepted. Nothing of it is read beyond its window.
    let unread = client.get(url).await.expect("answers");

    let Server { tasks, ended, .. } = server;
    tasks.spawn(async move { ended.await.expect("ends") });
    tasks.drain().cancel();
    assert!(tasks.finish(Duration::from_millis(500)).await, "its clients are cut off in time");
    drop((half_head, half_body, unread));
}
