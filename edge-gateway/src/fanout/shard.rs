//! A shard: one thread that owns its sessions and walks them.
//!
//! ```text
//! inbox ──▶ append to the log of each audience ──▶ rounds: each member writes all that is pending, one call
//!                                        (a member that the client blocks goes on in a task of its own)
//! socket readable ──▶ decoder ──▶ machine ──▶ pump          wheel ──▶ machine ──▶ pump
//! ```
//!
//! Between two chunks of a round the inbox is looked at, so that what comes in a burst is written together and
//! no event waits for a whole round. All state is in [`Shard`], borrowed by one task at a time and never across
//! an await; the tasks of the sessions live in the thread's `LocalSet` and end with it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::model::Revision;
use slab::Slab;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::ToShard;
use super::audience::Audience;
use super::connection::{Connection, Key};
use super::stream::Leavers;
use crate::metrics::FanoutMetrics;
use crate::push::Encoding;
use crate::session::{Input, NEVER, Pace};
use crate::timer::{TICK, Tick, Wheel};
use crate::watch::{GroupId, SessionsClosed, Ticket};

mod ending;
#[cfg(feature = "micro")]
pub(crate) mod micro;
mod report;
mod rounds;
mod sessions;

use report::Tally;

/// Members that are served before the inbox is looked at again.
const CHUNK: usize = 128;
/// Messages that are taken before members are served.
const INBOX_CHUNK: usize = 256;
/// What is read at a time, for all sessions together.
const SCRATCH: usize = 16 * 1024;
/// Reads of one session before others get their turn.
const READS: usize = 4;
/// How long the socket of a reserved session may take to come.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the events that wait are counted.
const COUNT_PENDING: Duration = Duration::from_secs(1);
/// How long a drained session that is behind may go on.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How often a drained session that is behind is looked at again.
const DRAIN_RECHECK: Duration = Duration::from_millis(200);

/// What a shard is made of.
pub(super) struct Setup {
    pub(super) pace: Pace,
    pub(super) slow_after: usize,
    pub(super) send_buffer: usize,
    pub(super) metrics: FanoutMetrics,
    pub(super) left: mpsc::Sender<SessionsClosed>,
    pub(super) clock: Clock,
}

/// Why the wheel wakes.
#[derive(Clone, Copy, Debug)]
enum Alarm {
    /// The machine's deadline, if it is still the one that counts.
    Deadline(Key, Tick),
    /// A reserved place whose socket should have come.
    Attach(Ticket),
    /// A session's turn to be drained, which came at this tick first.
    Drain(Key, Tick),
}

struct Shard {
    setup: Setup,
    this: Weak<RefCell<Shard>>,
    connections: Slab<Connection>,
    audiences: Slab<Audience>,
    groups: HashMap<GroupId, [Option<u32>; Encoding::ALL.len()]>,
    tickets: HashMap<Ticket, Key>,
    /// Streams whose clients have gone.
    leavers: Arc<Leavers>,
    /// Audiences that wait for a round, the first perhaps in one.
    rounds: VecDeque<u32>,
    wheel: Wheel<Alarm>,
    began: Instant,
    serial: u32,
    scratch: Box<[u8]>,
    /// Sessions gone that the upstream has not been told of.
    left: HashMap<GroupId, u64>,
    tally: Tally,
    pending_shown: i64,
    count_pending_at: Tick,
    /// When the last session is to be ended.
    draining: Option<Tick>,
}

/// Runs a shard on this thread, to its end.
pub(super) fn run(
    runtime: &Runtime,
    setup: Setup,
    mut inbox: mpsc::Receiver<ToShard>,
    abort: CancellationToken,
) {
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async move {
        let shard = Rc::new_cyclic(|this| RefCell::new(Shard::new(setup, this.clone())));
        // On abort everything is dropped where it stands.
        let _ = abort.run_until_cancelled(serve(&shard, &mut inbox)).await;
    });
}

async fn serve(shard: &RefCell<Shard>, inbox: &mut mpsc::Receiver<ToShard>) {
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let leavers = shard.borrow().leavers.clone();
    loop {
        let more = {
            let mut shard = shard.borrow_mut();
            for _ in 0..INBOX_CHUNK {
                match inbox.try_recv() {
                    Ok(message) => shard.take(message),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            for key in leavers.take() {
                shard.on_readable(key, true);
            }
            let more = shard.walk();
            shard.turn();
            if shard.draining.is_some() && shard.connections.is_empty() {
                return;
            }
            more
        };
        if more {
            yield_now().await;
            continue;
        }
        tokio::select! {
            biased;
            message = inbox.recv() => match message {
                Some(message) => shard.borrow_mut().take(message),
                None => return,
            },
            () = leavers.wait() => {}
            _ = clock.tick() => {}
        }
    }
}

impl Shard {
    fn new(setup: Setup, this: Weak<RefCell<Self>>) -> Self {
        Self {
            setup,
            this,
            connections: Slab::new(),
            audiences: Slab::new(),
            groups: HashMap::new(),
            tickets: HashMap::new(),
            leavers: Arc::default(),
            rounds: VecDeque::new(),
            wheel: Wheel::new(),
            began: Instant::now(),
            serial: 0,
            scratch: vec![0; SCRATCH].into(),
            left: HashMap::new(),
            tally: Tally::default(),
            pending_shown: 0,
            count_pending_at: 0,
            draining: None,
        }
    }

    fn take(&mut self, message: ToShard) {
        match message {
            ToShard::Reserve { ticket, group, encoding, preface } => {
                self.reserve(ticket, group, encoding, preface);
            }
            ToShard::Attach { ticket, to, permit } => self.attach(ticket, to, permit),
            ToShard::Release { ticket } => self.release(ticket),
            ToShard::Bookmark { rev, everyone } => self.bookmark(rev, everyone),
            ToShard::Append { push, groups } => self.append(&push, &groups),
            ToShard::End { group, reason } => self.end(group, reason),
            ToShard::Restored => self.end_resumable(),
            ToShard::Drain { over } => self.drain(over),
        }
    }

    fn get(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections.get_mut(key.index as usize).filter(|it| it.serial == key.serial)
    }

    fn bookmark(&mut self, rev: Revision, everyone: bool) {
        for (index, audience) in &mut self.audiences {
            if (everyone || audience.unconfirmed) && audience.bookmark(rev) {
                self.rounds.push_back(index as u32);
            }
        }
    }

    /// Sets the wheel for the connection's deadline, if that is earlier than what it is set for.
    fn arm(&mut self, key: Key) {
        let pace = self.setup.pace;
        let now = self.wheel.now();
        let Some(connection) = self.get(key) else { return };
        let at = connection.machine.deadline(&pace).max(now + 1);
        if at >= NEVER || (connection.armed > now && connection.armed <= at) {
            return;
        }
        connection.armed = at;
        self.wheel.set(at, Alarm::Deadline(key, at));
    }

    fn turn(&mut self) {
        let now = (self.began.elapsed().as_millis() / TICK.as_millis()) as Tick;
        if now == self.wheel.now() {
            return;
        }
        let mut fired = Vec::new();
        self.wheel.turn(now, &mut fired);
        for alarm in fired {
            match alarm {
                Alarm::Deadline(key, at) => self.on_deadline(key, at, now),
                Alarm::Attach(ticket) => self.release(ticket),
                Alarm::Drain(key, since) => self.on_drain(key, since, now),
            }
        }
        self.report(now);
    }

    fn on_deadline(&mut self, key: Key, at: Tick, now: Tick) {
        let pace = self.setup.pace;
        let Some(connection) = self.get(key) else { return };
        if connection.armed != at || connection.outlet.is_none() {
            return;
        }
        connection.insist();
        if !self.serve(key) {
            return;
        }
        let Some(connection) = self.get(key) else { return };
        connection.machine.on(Input::Timer, now, &pace);
        self.tally.asked += u64::from(connection.machine.is_ping_due());
        self.serve(key);
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.connections.iter().map(|(index, it)| Key { index: index as u32, serial: it.serial })
    }
}

#[cfg(test)]
mod tests;
