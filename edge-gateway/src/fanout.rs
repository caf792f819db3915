//! Fan-out: shards that own the sessions, each on a thread of its own.
//!
//! In: the upstream's [`ToShard`] messages, in its order, and the sockets of watchers. Out: bytes on those
//! sockets, and for the upstream the number of sessions that have closed. A shard never waits for the
//! upstream; the upstream waits for a shard only while its queue is full; neither ever waits for a watcher.

use std::collections::HashMap;
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use host::http::ConnectionPermit;
use host::lifecycle::Tasks;
use rustls::ServerConnection;
use settings::Choice;
use shared::clock::Clock;
use shared::model::Revision;
use tokio::sync::{mpsc, oneshot, watch};

use crate::close::{Farewell, Reason};
use crate::fleet::Others;
use crate::limits::Permit;
use crate::metrics::FanoutMetrics;
use crate::policy::{PolicyHandle, Right};
use crate::push::{Encoding, Push};
use crate::session::{Pace, SessionConfig};
use crate::watch::{GroupId, SessionsClosed, Ticket};

mod audience;
mod log;
pub(crate) mod merge;
mod outlet;
mod preface;
pub(crate) mod reach;
mod rights;
mod secure;
mod session;
pub(crate) mod shard;
pub(crate) mod stream;

pub(crate) use preface::{Opening, PrefaceBytes};
use reach::{ReachAnswer, ReachQuestion};
use stream::Writer;

/// The settings of the fan-out.
#[derive(Clone, Debug)]
pub struct FanoutConfig {
    /// The number of shards; each is a thread and has its share of the sessions.
    pub shards: NonZeroUsize,
    /// Bytes that a watcher may be behind before its pending pushes are merged per instance. For the slowest
    /// watcher of a group the shared log keeps that many, once per shard.
    pub slow_after_bytes: usize,
    /// Bytes that the kernel may hold for a watcher that has a socket of its own. (Linux doubles the figure
    /// for its bookkeeping.) With more, slow readers receive more states that are already outdated; with
    /// less, a burst needs more system calls.
    pub send_buffer_bytes: usize,
    /// The way in which watches without a revision end when the gateway wants their clients elsewhere.
    pub plain_end: PlainEnd,
}

/// The end of a plain watch that the gateway itself ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainEnd {
    /// A frame that breaks the protocol, because some clients watch again only after an error. They try once,
    /// so the watch ends while another gateway is ready to take it.
    #[default]
    Error,
    /// A close frame.
    Close,
}

impl Choice for PlainEnd {
    const ALL: &'static [(&'static str, Self)] = &[("error", Self::Error), ("close", Self::Close)];
}

impl PlainEnd {
    pub(crate) fn farewell(self) -> Farewell {
        match self {
            Self::Error => Farewell::Violation,
            Self::Close => Farewell::Close,
        }
    }
}

impl Default for FanoutConfig {
    fn default() -> Self {
        Self {
            shards: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            // Two thousand events of the usual size: more than a burst, less than a stall.
            slow_after_bytes: 1 << 20,
            // A burst of two hundred events fits at once.
            send_buffer_bytes: 128 * 1024,
            plain_end: PlainEnd::default(),
        }
    }
}

/// Messages that may wait for a shard. A push takes one, however many watchers it has.
const SHARD_QUEUE: usize = 1024;

/// A message to a shard.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// Begins a session of the group, at this position of the order; its connection follows. `opening` goes
    /// out before everything else. The client's right may leave providers out.
    Reserve {
        ticket: Ticket,
        group: GroupId,
        encoding: Encoding,
        opening: Opening,
        right: Option<Box<Right>>,
        /// The client may lack changes up to this revision; zero if it is sent everything since a state.
        missed: Revision,
    },
    /// Gives up a reserved session: its connection will not come.
    Release { ticket: Ticket },
    /// Brings the connection of a reserved session.
    Attach { ticket: Ticket, to: Attached, permit: Permit },
    /// Appends a push for some groups.
    Append { push: Arc<Push>, groups: Vec<GroupId> },
    /// Everything up to this revision has been appended, and for each group in `behind` up to its own. The bookmark
    /// goes to everyone, or only to sessions that have been sent pushes since their last bookmark.
    Bookmark { rev: Revision, everyone: bool, behind: Arc<HashMap<GroupId, Revision>> },
    /// Counts the sessions that have been given a change.
    Ask { question: Arc<ReachQuestion>, answer: ReachAnswer },
    /// Ends all sessions of the group.
    End { group: GroupId, reason: Reason },
    /// The store was restored from a backup: sessions that resume by revision end, and their clients begin
    /// anew.
    Restored,
    /// Ends all sessions, spread over the time `over`; the shard ends with the last. While only gateways that
    /// are not ready could take them, plain ones go on until the time `latest`.
    Drain { over: Duration, latest: Duration },
}

/// The connection of a session.
#[derive(Debug)]
pub(crate) enum Attached {
    /// An upgraded connection, with the bytes that were already read from it.
    Socket { socket: TcpStream, tls: Option<Box<ServerConnection>>, read: Bytes, slot: ConnectionPermit },
    /// A stream within a connection that the listener keeps.
    Stream(Writer),
}

/// The queue of one shard. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    // When it is full the sender waits, and the bus's buffer is the reserve.
    queue: mpsc::Sender<ToShard>,
}

impl ShardHandle {
    /// Sends a message; waits while the queue is full. False when the shard has ended.
    pub(crate) async fn send(&self, message: ToShard) -> bool {
        self.queue.send(message).await.is_ok()
    }

    /// A handle without a shard, and the messages that are sent to it.
    #[cfg(test)]
    pub(crate) fn without_shard() -> (Self, mpsc::Receiver<ToShard>) {
        Self::with_queue(SHARD_QUEUE)
    }

    /// The same with room for so many messages.
    #[cfg(test)]
    pub(crate) fn with_queue(most: usize) -> (Self, mpsc::Receiver<ToShard>) {
        let (queue, messages) = mpsc::channel(most);
        (Self { queue }, messages)
    }

    /// Resolves when the shard has ended.
    pub(crate) async fn ended(&self) {
        self.queue.closed().await;
    }

    /// The number of messages that wait.
    pub(crate) fn depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

/// Starts a shard for each channel in `closed`, on which it reports its closed sessions. Each shard is vital
/// to the process and ends after its drain. `others` tells of the gateways that could take its sessions.
///
/// # Errors
/// When a thread or its runtime cannot be started.
pub(crate) fn start(
    config: &FanoutConfig,
    session: &SessionConfig,
    metrics: &FanoutMetrics,
    closed: Vec<mpsc::Sender<SessionsClosed>>,
    others: &watch::Receiver<Others>,
    policy: &PolicyHandle,
    tasks: &Tasks,
) -> std::io::Result<Vec<ShardHandle>> {
    let mut shards = Vec::new();
    for (number, closed) in closed.into_iter().enumerate() {
        let (queue, inbox) = mpsc::channel(SHARD_QUEUE);
        let (ended, end) = oneshot::channel::<()>();
        let setup = shard::Setup {
            pace: Pace::from(session),
            slow_after: config.slow_after_bytes,
            send_buffer: config.send_buffer_bytes,
            plain_end: config.plain_end,
            others: others.clone(),
            policy: policy.clone(),
            metrics: metrics.clone(),
            closed,
            clock: Clock::system(),
        };
        // Sessions are connections of clients, too, and end with those of the listener.
        let cut = tasks.cut().clone();
        // A runtime of its own, on one thread: sessions share state without locks.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The name lets an operator's `top -H` show which shard is busy.
        std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            shard::run(&runtime, setup, inbox, cut);
            // The thread owns the sender, so a panic of the shard drops it too.
            drop(ended);
        })?;
        tasks.spawn_vital("shard", async move {
            // Resolves when the thread has ended, by return or by panic.
            let _ = end.await;
        });
        shards.push(ShardHandle { queue });
    }
    Ok(shards)
}
