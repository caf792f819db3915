//! Serves HTTP on a listener, with limits and a drain, and with the header case that old clients need.
//!
//! In: a bound listener and a [`tower::Service`]. Out: answers. HTTP/1.1 and HTTP/2 by prior knowledge share
//! the port. A handler that upgrades a connection takes over its [`Socket`].
//!
//! It promises:
//! - On HTTP/1.1 header names are in title case: old Java clients look up `X-Resource-Revision` in this case.
//! - Every request has an id, its client's or a new one, and every answer carries it in `X-Request-Id`.
//! - No client can hold a connection, or an HTTP/2 stream, for ever. A slow head, a slow body, an idle
//!   connection and an unread answer end after the times in [`ServerLimits`].
//! - A head has one `Host` and whole line ends, or it is refused. The rest of a body that nobody read is read
//!   before the answer leaves, so that the client sees the answer.
//! - Each connection is owned here until it ends or is upgraded. On a drain the listener accepts nothing more
//!   and finishes the requests in progress; on a cut ([`Tasks::cut`]) it drops all connections.
//! - At the level `debug` each connection and each request has a span, with the names that its log
//!   lines need.
//!
//! Apart from the id, requests and answers pass through unread.
//!
//! # The library servers do not keep these promises
//!
//! `axum::serve` drains, but it has no deadline for a head, for an idle connection or for a peer that does
//! not read, and it gives no access to hyper's builder, so header names would be in lower case. The timeout
//! layers of tower-http bound the work of a handler and the pauses within a body. They sit above the
//! connection: they begin when a head is complete, so they see neither a slow head nor an idle connection,
//! and they wait for a body, not for the socket. Hyper's own `header_read_timeout` also runs between two
//! requests, where the idle timeout must count. So this room serves the connections itself, with hyper, and
//! keeps the deadlines in `activity`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{error, warn};

use crate::lifecycle::Tasks;
use crate::tls::ServerTls;
use settings::{Settings, Size};

mod acceptor;
mod activity;
mod answer;
mod body;
mod connection;
mod head;
mod held;
mod lines;
mod metrics;
mod request;
mod socket;
mod sources;
mod stream;
#[cfg(test)]
mod tests;

pub use body::{BodyError, RequestBody, is_late};
pub use held::HeldBytes;
pub use metrics::ServerMetrics;
pub use request::{REQUEST_ID, request_id, with_request_id};
pub use socket::{ConnectionPermit, SendBuffer, Socket, take_socket};
pub use stream::Stream;

use acceptor::Acceptor;
use activity::Activity;
use connection::Connections;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// The time for which a listener that shares its address goes on accepting when the process drains.
const CLOSING: Duration = Duration::from_millis(100);

/// The limits of a listener.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// The name of the listener in logs and metrics.
    pub name: &'static str,
    /// Connections open at once, upgraded ones included. When all are taken, a new client takes the place of
    /// one that has no request, or has not sent the body of its request within a second; while every other connection
    /// has a whole request, clients wait.
    pub connections: usize,
    /// The largest head of a request, in bytes; a larger one is answered with 431. At least 8192.
    pub header_bytes: usize,
    /// The time from the first byte of a request to the end of its head. Also bounds a TLS handshake.
    pub header_timeout: Duration,
    /// The time that a client may take to send the whole body of a request.
    pub body_timeout: Duration,
    /// The time that a connection may be open without a request.
    pub idle_timeout: Duration,
    /// The time that a client may leave an answer unread before its connection is closed, on HTTP/2 its
    /// stream.
    pub write_timeout: Duration,
    /// The bytes that answers hold which wait for their clients, each shared buffer once. Beyond it those that have been on
    /// their way longest are ended: their connections, on HTTP/2 their streams.
    pub answer_bytes: usize,
    /// The pause between the HTTP/2 pings that find dead peers.
    pub http2_ping: Duration,
    /// HTTP/2 streams open at once on a connection.
    pub http2_streams: u32,
    /// Other processes may listen on the same address, and one does when this process drains.
    pub reuse_port: bool,
    /// The listener's TLS. With it clients must speak TLS.
    pub tls: Option<ServerTls>,
    /// Each request is logged.
    pub access_log: bool,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            name: "http",
            connections: 20_000,
            // As in Service-Center's shipped configuration.
            header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(10),
            // As long as a gateway waits for the answer to a request whose body it streams.
            body_timeout: Duration::from_secs(30),
            // As in Service-Center. Clients must drop pooled connections sooner than this, and
            // theirs are set so.
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            // Room for some dumps of a large registry, and a small part of a machine's memory.
            answer_bytes: 256 << 20,
            http2_ping: Duration::from_secs(30),
            http2_streams: 1_000,
            reuse_port: false,
            tls: None,
            access_log: false,
        }
    }
}

impl ServerLimits {
    /// Declares the limits as settings `http.*` and takes their values. `name` is the listener's,
    /// `connections` the help text for the limit of connections.
    pub fn read(settings: &mut Settings<'_>, name: &'static str, connections: &'static str) -> Self {
        let default = Self::default();
        Self {
            name,
            connections: settings.within_or(
                "http.connections",
                default.connections,
                "1"..="10000000",
                connections,
            ),
            header_bytes: settings
                .within_or(
                    "http.header-bytes",
                    Size(default.header_bytes),
                    "8KiB"..="1MiB",
                    "Largest head of a request.",
                )
                .0,
            header_timeout: settings.within_or(
                "http.header-timeout",
                default.header_timeout,
                "100ms"..="5m",
                "Time from the first byte of a request to the end of its head.",
            ),
            body_timeout: settings.within_or(
                "http.body-timeout",
                default.body_timeout,
                "100ms"..="1h",
                "Time that a client may take to send the whole body of a request.",
            ),
            idle_timeout: settings.within_or(
                "http.idle-timeout",
                default.idle_timeout,
                "1s"..="1h",
                "Time that a connection may be open without a request.",
            ),
            write_timeout: settings.within_or(
                "http.write-timeout",
                default.write_timeout,
                "100ms"..="10m",
                "Time that a client may leave an answer unread.",
            ),
            answer_bytes: settings
                .within_or(
                    "http.answer-memory",
                    Size(default.answer_bytes),
                    "1MiB"..="1024GiB",
                    "Bytes that answers hold which wait for their clients. Beyond it the oldest are ended.",
                )
                .0,
            http2_ping: settings.within_or(
                "http.http2-ping",
                default.http2_ping,
                "1s"..="1h",
                "Pause between the pings that find dead HTTP/2 peers.",
            ),
            http2_streams: settings.within_or(
                "http.http2-streams",
                default.http2_streams,
                "1"..="1000000",
                "HTTP/2 streams open at once on a connection.",
            ),
            reuse_port: settings.get_or(
                "http.reuse-port",
                default.reuse_port,
                "Share `listen` with the process that replaces this one; a drain then leaves new clients to it at once.",
            ),
            tls: ServerTls::read(settings),
            access_log: false,
        }
    }
}

/// The value of `Retry-After` for a client that may come back soon: one to three seconds, by chance, because
/// clients that were refused together would otherwise come back together.
pub fn retry_soon() -> HeaderValue {
    HeaderValue::from(fastrand::u64(1..=3))
}

/// Opens a listener. With `reuse_port`, other processes may listen on the same address at the same time.
///
/// # Errors
/// When the address cannot be listened on.
pub fn listen(address: SocketAddr, reuse_port: bool) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As `TcpListener::bind` does it: an address whose last connections are still closing can be used at
    // once.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `service` on `listener` until a drain is complete or a cut comes. Returns when no connection is left.
///
/// The extensions of each request hold the peer's address as [`axum::extract::ConnectInfo`], and if the
/// client has shown a certificate, a [`crate::certificates::PeerCertificate`]. An error of the service closes
/// the connection (on HTTP/2: the stream) without an answer.
///
/// Not cancel-safe: dropping the future drops every connection at once.
pub async fn serve<S>(listener: TcpListener, service: S, limits: ServerLimits, tasks: &Tasks)
where
    S: Service<Request<RequestBody>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    S::Future: Send + 'static,
{
    serve_counted(listener, service, limits, ServerMetrics::none(), tasks).await;
}

/// Like [`serve`], and counts in `metrics`.
pub async fn serve_counted<S>(
    listener: TcpListener,
    service: S,
    limits: ServerLimits,
    metrics: ServerMetrics,
    tasks: &Tasks,
) where
    S: Service<Request<RequestBody>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    S::Future: Send + 'static,
{
    serve_until(tasks.drain().clone(), listener, service, limits, metrics, tasks).await;
}

/// Like [`serve_counted`], but a drain does not close the listener: from then on answers close their
/// connections, and only when `stop` is cancelled nothing more is accepted. If the listener shares its
/// address (`http.reuse-port`), a drain closes it at once and leaves new clients to the other process.
pub async fn serve_until<S>(
    stop: CancellationToken,
    listener: TcpListener,
    service: S,
    limits: ServerLimits,
    metrics: ServerMetrics,
    tasks: &Tasks,
) where
    S: Service<Request<RequestBody>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    S::Future: Send + 'static,
{
    let name = limits.name;
    let has_successor = limits.reuse_port;
    let mut acceptor = Acceptor::new(listener, limits.connections, metrics.clone(), name);
    // For the connections, which may outlive the listener: one that shares its address closes when the drain begins.
    let ending = CancellationToken::new();
    let connections = Connections::new(service, limits, metrics, tasks.clone(), ending.clone());
    let mut open = JoinSet::new();

    loop {
        tokio::select! {
            // Ended connections are collected before new ones are accepted: otherwise a flood of clients
            // could grow the set of finished tasks.
            biased;
            () = stop.cancelled() => break,
            () = tasks.closing().cancelled() => break,
            () = tasks.drain().cancelled(), if has_successor => break,
            Some(ended) = open.join_next() => report_panic(ended, name),
            (stream, peer, permit) = acceptor.next() => {
                let activity = Arc::new(Activity::new(Instant::now()));
                let counted = acceptor.count(peer);
                let running = connections.run(stream, peer, permit, activity.clone());
                let task = open.spawn(async move {
                    let _counted = counted;
                    running.await;
                });
                acceptor.accepted(task, activity, peer);
            }
        }
    }
    // A listener that closes resets the connections in its backlog, so those are taken first. The kernel
    // gives it new ones until then, therefore the time is bounded.
    let last = Instant::now() + CLOSING;
    while Instant::now() < last {
        // Beside a successor for the whole time, because the kernel goes on dividing new clients among both.
        let until = if has_successor { last } else { Instant::now() };
        let Ok((stream, peer, permit)) = timeout_at(until, acceptor.next()).await else { break };
        open.spawn(connections.run(stream, peer, permit, Arc::new(Activity::new(Instant::now()))));
    }
    // Closes the listener, so that clients are refused at once instead of waiting in the backlog.
    drop(acceptor);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !ending.is_cancelled() => ending.cancel(),
            () = tasks.closing().cancelled(), if !ending.is_cancelled() => ending.cancel(),
            () = tasks.cut().cancelled() => {
                if !open.is_empty() {
                    warn!(listener = name, connections = open.len(), "clients that were not done are cut off");
                }
                break;
            }
            ended = open.join_next() => match ended {
                Some(ended) => report_panic(ended, name),
                None => break,
            },
        }
    }
    open.shutdown().await;
}

fn report_panic(ended: Result<(), tokio::task::JoinError>, listener: &'static str) {
    if let Err(e) = ended
        && e.is_panic()
    {
        error!(listener, "the handler of a request panicked; its connection was closed");
    }
}
