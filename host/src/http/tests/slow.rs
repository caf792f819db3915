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
        // Far beyond the window; a little beyond it; one byte beyond it.
        for size in [1 << 20, window + 1000, window + 1] {
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
