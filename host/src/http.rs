//! Serves HTTP on a listener: bounded, drained, and with the header case that old clients look for.
//!
//! In: a bound listener and a [`tower::Service`]. Out: answers. HTTP/1.1 and HTTP/2 by prior knowledge share
//! the port; upgrades leave with their [`Socket`].
//!
//! It promises:
//! - header names in title case on HTTP/1.1: old Java clients look up `X-Resource-Revision` in this case;
//! - every request has an id, its own or a new one, and every answer names it in `X-Request-Id`;
//! - nothing a client does or leaves undone holds a connection for ever: a slow head, an idle connection and
//!   an answer that nobody reads end after the times in [`ServerLimits`];
//! - each connection is owned here until it ends or is upgraded. Drain: accept nothing, finish what runs.
//!   Abort: drop all.
//!
//! It never looks into a request or its answer, that id apart. Who upgrades a connection owns the upgraded socket.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::Service;
use tracing::{debug, error, warn};

use crate::lifecycle::Tasks;
use crate::tls::ServerTls;
use settings::{Settings, Size};
use shared::backoff::Backoff;

mod activity;
mod connection;
mod metrics;
mod request;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

pub use metrics::ServerMetrics;
pub use request::{REQUEST_ID, request_id, with_request_id};
pub use socket::{Slot, Socket, take_socket};
pub use stream::Stream;

use connection::Connections;

/// What one listener grants its clients.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Names the listener in logs and metrics.
    pub name: &'static str,
    /// Connections open at once, upgraded ones included. When full, clients wait in the kernel's backlog.
    pub connections: usize,
    /// Bytes that the head of a request may have; more is answered with 431. At least 8192.
    pub header_bytes: usize,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// How long a connection may be open without a request.
    pub idle_timeout: Duration,
    /// How long a client may leave an answer unread before its connection is cut.
    pub write_timeout: Duration,
    /// Pause between HTTP/2 pings that find dead peers.
    pub http2_ping: Duration,
    /// HTTP/2 streams open at once on a connection.
    pub http2_streams: u32,
    /// With it clients speak TLS, and nothing else.
    pub tls: Option<ServerTls>,
    /// Each request is a line in the log.
    pub access_log: bool,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            name: "http",
            connections: 20_000,
            // What Service-Center's shipped configuration allows.
            header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(10),
            // Service-Center's; clients keep their pools' connections accordingly.
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            http2_ping: Duration::from_secs(30),
            http2_streams: 1_000,
            tls: None,
            access_log: false,
        }
    }
}

impl ServerLimits {
    /// Declares the limits in the section `http` and takes their values; `name` names the listener,
    /// `connections` says what that limit means there.
    pub fn read(settings: &mut Settings<'_>, name: &'static str, connections: &'static str) -> Self {
        Self {
            name,
            connections: settings.within("http.connections", "20000", "1"..="10000000", connections),
            header_bytes: settings
                .within::<Size>("http.header-bytes", "32KiB", "8KiB"..="1MiB", "Largest head of a request.")
                .0,
            header_timeout: settings.within(
                "http.header-timeout",
                "10s",
                "100ms"..="5m",
                "Time from the first byte of a request to the end of its head.",
            ),
            idle_timeout: settings.within(
                "http.idle-timeout",
                "60s",
                "1s"..="1h",
                "Time that a connection may be open without a request.",
            ),
            write_timeout: settings.within(
                "http.write-timeout",
                "30s",
                "100ms"..="10m",
                "Time that a client may leave an answer unread.",
            ),
            http2_ping: settings.within(
                "http.http2-ping",
                "30s",
                "1s"..="1h",
                "Pause between the pings that find dead HTTP/2 peers.",
            ),
            http2_streams: settings.within(
                "http.http2-streams",
                "1000",
                "1"..="1000000",
                "HTTP/2 streams open at once on a connection.",
            ),
            tls: ServerTls::read(settings),
            access_log: false,
        }
    }
}

/// Serves `service` on `listener` until the drain has ended or the abort came. Returns when no connection is left.
///
/// The peer's address is in each request's extensions as [`axum::extract::ConnectInfo`]. An error of the
/// service closes the connection (a stream, on HTTP/2) without an answer.
/// Not meant to be cancelled: dropping the future drops every connection at once.
pub async fn serve<S>(listener: TcpListener, service: S, limits: ServerLimits, tasks: &Tasks)
where
    S: Service<Request<Incoming>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    serve_counted(listener, service, limits, ServerMetrics::none(), tasks).await;
}

/// Like [`serve`], and reports to `metrics`.
pub async fn serve_counted<S>(
    listener: TcpListener,
    service: S,
    limits: ServerLimits,
    metrics: ServerMetrics,
    tasks: &Tasks,
) where
    S: Service<Request<Incoming>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let name = limits.name;
    let connections = Connections::new(service, limits, metrics.clone(), tasks.clone());
    let mut open = JoinSet::new();
    let mut acceptor = Acceptor { listener, slots, metrics, name, full: false, backoff: accept_backoff() };

    loop {
        tokio::select! {
            biased;
            () = tasks.drain().cancelled() => break,
            Some(ended) = open.join_next() => report(ended, name),
            (stream, peer, slot) = acceptor.next() => {
                open.spawn(connections.run(stream, peer, slot));
            }
        }
    }
    drop(acceptor);
    loop {
        tokio::select! {
            biased;
            () = tasks.abort().cancelled() => break,
            ended = open.join_next() => match ended {
                Some(ended) => report(ended, name),
                None => break,
            },
        }
    }
    open.shutdown().await;
}

fn report(ended: Result<(), tokio::task::JoinError>, listener: &'static str) {
    if let Err(e) = ended
        && e.is_panic()
    {
        error!(listener, "a request's handler panicked; its connection is closed");
    }
}

fn accept_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(10), Duration::from_secs(1))
}

/// Takes connections while there are slots for them.
struct Acceptor {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    metrics: ServerMetrics,
    name: &'static str,
    full: bool,
    backoff: Backoff,
}

impl Acceptor {
    /// The next connection with its slot. Cancel-safe: nothing is accepted before there is a slot for it.
    async fn next(&mut self) -> (TcpStream, std::net::SocketAddr, OwnedSemaphorePermit) {
        loop {
            let slot = self.slot().await;
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.backoff.reset();
                    return (stream, peer, slot);
                }
                Err(e) if is_about_one_connection(&e) => {
                    debug!(error = %e, "a client left before it was accepted")
                }
                Err(e) => {
                    self.metrics.accept_failed();
                    if self.backoff.failures() == 0 {
                        error!(listener = self.name, error = %e, "cannot accept connections; trying again");
                    }
                    let wait = self.backoff.next_wait();
                    drop(slot);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn slot(&mut self) -> OwnedSemaphorePermit {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            self.full = false;
            return slot;
        }
        if !self.full {
            self.full = true;
            self.metrics.full();
            warn!(listener = self.name, "all connections are taken; not accepting until one ends");
        }
        self.slots.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

/// Errors of `accept` that concern the connection and not the process.
fn is_about_one_connection(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
