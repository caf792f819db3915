//! Accepts connections up to a limit, and makes room for new clients.
//!
//! A client that opens connections and sends nothing must not keep others out, probes least of all. So when
//! every connection is taken, the oldest one without a request is closed in favour of the client that waits, and so is one
//! whose client does not send the body of its request, or does not read its answer. Connections of an address that has more than others have go first:
//! under a flood, a probe's would be the oldest before its request is read.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shared::backoff::Backoff;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::activity::Activity;
use super::metrics::ServerMetrics;
use super::sources::{Counted, Sources};

/// The pause between two looks for a connection that has no request any more.
const LOOK: Duration = Duration::from_millis(100);

/// The time for which the warning about a full listener is not repeated.
const QUIET: Duration = Duration::from_secs(60);

/// Accepts connections while there are permits for them.
pub(super) struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    metrics: ServerMetrics,
    name: &'static str,
    /// All permits were taken when the last one was requested.
    full: bool,
    /// The time of the last warning that all permits are taken. Under a flood that changes with each connection.
    warned: Option<Instant>,
    backoff: Backoff,
    /// The client that waits for a permit.
    next: Option<(TcpStream, SocketAddr)>,
    /// The connections in the order in which they are closed to make room, and some that have ended.
    open: VecDeque<Open>,
    sources: Sources,
    /// The length of `open` at which those that have ended are taken out.
    tidy_at: usize,
}

/// A connection that may be closed to make room.
struct Open {
    task: AbortHandle,
    activity: Arc<Activity>,
    peer: IpAddr,
}

impl Acceptor {
    pub(super) fn new(
        listener: TcpListener,
        limit: usize,
        metrics: ServerMetrics,
        name: &'static str,
    ) -> Self {
        Self {
            listener,
            // `Semaphore::new` panics beyond its maximum.
            permits: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            metrics,
            name,
            full: false,
            warned: None,
            backoff: Backoff::new(Duration::from_millis(10), Duration::from_secs(1)),
            next: None,
            open: VecDeque::new(),
            sources: Sources::default(),
            tidy_at: 64,
        }
    }

    /// The next connection, with its permit. Cancel-safe: an accepted connection is kept until it has a
    /// permit.
    pub(super) async fn next(&mut self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        if self.next.is_none() {
            self.next = Some(self.accept().await);
        }
        let permit = self.permit().await;
        let (stream, peer) = self.next.take().expect("it was set above");
        (stream, peer, permit)
    }

    /// Counts a connection for its source. The task of the connection holds the count.
    pub(super) fn count(&self, peer: SocketAddr) -> Counted {
        self.sources.count(peer.ip())
    }

    /// Notes the task of a connection, which may be closed while its `activity` shows no request.
    pub(super) fn accepted(&mut self, task: AbortHandle, activity: Arc<Activity>, peer: SocketAddr) {
        self.open.push_back(Open { task, activity, peer: peer.ip() });
        if self.open.len() >= self.tidy_at {
            self.open.retain(|open| !open.task.is_finished());
            // Twice as many as there are, so that tidying costs little for each connection.
            self.tidy_at = (self.open.len() * 2).max(64);
        }
    }

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.backoff.reset();
                    return accepted;
                }
                Err(e) if is_about_one_connection(&e) => {
                    debug!(error = %e, "a client disconnected before its connection was accepted")
                }
                Err(e) => {
                    self.metrics.accept_failed();
                    if self.backoff.failures() == 0 {
                        error!(listener = self.name, error = %e, "cannot accept connections; trying again until it works");
                    }
                    // Mostly the process has no file descriptor left. Without a pause this loop would spin.
                    tokio::time::sleep(self.backoff.next_wait()).await;
                }
            }
        }
    }

    async fn permit(&mut self) -> OwnedSemaphorePermit {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            self.full = false;
            return permit;
        }
        if !self.full {
            self.full = true;
            self.metrics.full();
            let now = Instant::now();
            if self.warned.is_none_or(|last| now >= last + QUIET) {
                self.warned = Some(now);
                warn!(
                    listener = self.name,
                    "the limit of connections is reached; those that keep no request going are closed for new clients"
                );
            }
        }
        loop {
            self.make_room();
            // Looked at again and again, because a connection may be without a request only later.
            let permit = tokio::time::timeout(LOOK, self.permits.clone().acquire_owned());
            if let Ok(permit) = permit.await {
                return permit.expect("the semaphore is never closed");
            }
        }
    }

    /// Closes a connection that has no request, or whose client keeps it waiting, if there is one.
    fn make_room(&mut self) {
        // Within each of both kinds of sources, those without a request go before those whose clients keep one waiting.
        for (of_crowded, idle_only) in [(true, true), (true, false), (false, true), (false, false)] {
            if self.close_oldest(of_crowded, idle_only) {
                return;
            }
        }
    }

    /// Closes the oldest such connection, of crowded sources or of all. False if there is none.
    fn close_oldest(&mut self, of_crowded: bool, idle_only: bool) -> bool {
        for _ in 0..self.open.len() {
            let Some(open) = self.open.pop_front() else { return false };
            if open.task.is_finished() {
                continue;
            }
            if (!of_crowded || self.sources.is_crowded(open.peer))
                && open.activity.evict(Instant::now(), idle_only)
            {
                open.task.abort();
                return true;
            }
            // Behind the others: a busy connection would be looked at first each time otherwise.
            self.open.push_back(open);
        }
        false
    }
}

/// True for errors of `accept` that concern one connection and not the process.
fn is_about_one_connection(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
