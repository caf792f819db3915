//! Fan-out: shards that own the sessions, each on a thread of its own.
//!
//! In: the upstream's [`ToShard`] messages, in its order, and sockets of watchers. Out: bytes on those sockets,
//! and to the upstream how many sessions of a group are gone. A shard never waits for the upstream and the
//! upstream waits for a shard only when its queue is full; nobody waits for a watcher.

use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use host::http::Slot;
use host::lifecycle::Tasks;
use rustls::ServerConnection;
use shared::clock::Clock;
use shared::model::Revision;
use tokio::sync::{mpsc, oneshot};

use crate::close::Reason;
use crate::limits::Permit;
use crate::metrics::FanoutMetrics;
use crate::push::{Encoding, Push};
use crate::session::{Pace, SessionConfig};
use crate::watch::{GroupId, SessionsClosed, Ticket};

mod audience;
mod connection;
mod log;
pub(crate) mod merge;
mod secure;
pub(crate) mod shard;
pub(crate) mod stream;

use stream::Writer;

/// How watchers are fanned out to.
#[derive(Clone, Debug)]
pub struct FanoutConfig {
    /// Shards, each a thread with its share of the sessions; one per core.
    pub shards: NonZeroUsize,
    /// Bytes that a watcher may be behind before its pending events are merged per instance. The shared log
    /// keeps so much for the slowest, once per consumer and shard.
    pub slow_after_bytes: usize,
    /// Bytes that the kernel may hold for a watcher on a socket of its own (it doubles this, for its own needs).
    /// More is told to who reads slowly although newer is known; less needs more system calls in a burst.
    pub send_buffer_bytes: usize,
}

impl Default for FanoutConfig {
    fn default() -> Self {
        Self {
            shards: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            // Two thousand events of the usual size: more than a burst, less than a stall.
            slow_after_bytes: 1 << 20,
            // A burst of two hundred events, at once.
            send_buffer_bytes: 128 * 1024,
        }
    }
}

/// Messages that may wait for a shard. An event takes one, however many watchers it has.
const SHARD_QUEUE: usize = 1024;

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// A session of the group begins here, in this place of the order; its socket follows. `preface` goes out
    /// before everything else.
    Reserve { ticket: Ticket, group: GroupId, encoding: Encoding, preface: Vec<u8> },
    /// The socket of a reserved session will not come.
    Release { ticket: Ticket },
    /// What a reserved session writes to.
    Attach { ticket: Ticket, to: Attached, permit: Permit },
    /// An event for some groups.
    Append { push: Arc<Push>, groups: Vec<GroupId> },
    /// Everything up to this revision has been appended: to be said to everyone, or to those only who have been
    /// told of events since it was said last.
    Bookmark { rev: Revision, everyone: bool },
    /// All sessions of the group end.
    End { group: GroupId, reason: Reason },
    /// The store was restored from a backup: sessions that resume by revision end, to begin anew.
    Restored,
    /// All sessions end, spread over this time; the shard ends with the last.
    Drain { over: Duration },
}

/// What a session writes to.
#[derive(Debug)]
pub(crate) enum Attached {
    /// An upgraded connection, with what was already read from it.
    Socket { socket: TcpStream, tls: Option<Box<ServerConnection>>, read: Bytes, slot: Slot },
    /// A stream that someone else's connection carries.
    Stream(Writer),
}

/// The way to one shard. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    // Full: who sends waits; the bus's buffer is the reserve.
    queue: mpsc::Sender<ToShard>,
}

impl ShardHandle {
    /// Tells the shard; waits while its queue is full. False when the shard has ended.
    pub(crate) async fn send(&self, message: ToShard) -> bool {
        self.queue.send(message).await.is_ok()
    }

    /// Resolves when the shard has ended.
    pub(crate) async fn ended(&self) {
        self.queue.closed().await;
    }

    /// Messages that wait.
    pub(crate) fn depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

/// Starts a shard for each channel in `left`. Each is vital to the process and ends after its drain.
pub(crate) fn start(
    config: &FanoutConfig,
    session: &SessionConfig,
    metrics: &FanoutMetrics,
    left: Vec<mpsc::Sender<SessionsClosed>>,
    tasks: &Tasks,
) -> std::io::Result<Vec<ShardHandle>> {
    left.into_iter()
        .enumerate()
        .map(|(number, left)| {
            let (queue, inbox) = mpsc::channel(SHARD_QUEUE);
            let (ended, end) = oneshot::channel::<()>();
            let shard = shard::Setup {
                pace: Pace::from(session),
                slow_after: config.slow_after_bytes,
                send_buffer: config.send_buffer_bytes,
                metrics: metrics.clone(),
                left,
                clock: Clock::system(),
            };
            let abort = tasks.abort().clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
                shard::run(&runtime, shard, inbox, abort);
                drop(ended);
            })?;
            tasks.spawn_vital("shard", async move {
                // Resolves when the thread has ended, by return or by panic.
                let _ = end.await;
            });
            Ok(ShardHandle { queue })
        })
        .collect()
}
