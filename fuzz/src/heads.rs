//! Bytes on a connection of a listener: heads and bodies of HTTP/1, frames of HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::body::Body;
use host::http::{RequestBody, ServerLimits, serve};
use host::lifecycle::Tasks;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Request, Response, Version};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

struct Server {
    runtime: Runtime,
    address: SocketAddr,
}

/// The first rule that a request broke behind the listener, if one did.
static BROKEN: Mutex<Option<&'static str>> = Mutex::new(None);

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port of this machine");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let service = tower::service_fn(answer);
    let serving = tasks.clone();
    // The server lives as long as the process.
    let entered = runtime.enter();
    tasks.spawn_named("listener", async move {
        serve(listener, service, ServerLimits::default(), &serving).await
    });
    drop(entered);
    Server { runtime, address }
});

async fn answer(request: Request<RequestBody>) -> Result<Response<Body>, Infallible> {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        BROKEN.lock().get_or_insert("a request without exactly one host came through");
    }
    if headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING) {
        BROKEN.lock().get_or_insert("a request with two lengths came through");
    }
    // A body may break off at any point.
    let body = request.into_body().collect().await;
    Ok(Response::new(Body::from(if body.is_ok() { "whole" } else { "broken off" })))
}

/// Whatever a client sends, the listener closes the connection after it, and no request breaks the rules.
pub(crate) fn heads(input: &[u8]) {
    let Server { runtime, address } = &*SERVER;
    let answer = runtime.block_on(async {
        let mut stream = TcpStream::connect(address).await.expect("the listener accepts");
        // The server may refuse and close before it has read everything.
        _ = stream.write_all(input).await;
        _ = stream.shutdown().await;
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer).await;
        answer
    });
    let text = String::from_utf8_lossy(input);
    assert_eq!(*BROKEN.lock(), None, "{text}");
    assert!(!answer.starts_with(b"HTTP/1.1 5"), "{text}\n{}", String::from_utf8_lossy(&answer));
}
