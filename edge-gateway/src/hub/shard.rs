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

use super::audience::Audience;
use super::connection::{Connection, Key, Outlet, Pumped, Reading};
use super::push::{Encoding, Push};
use super::stream::Leavers;
use super::wheel::{TICK, Tick, Wheel, ticks};
use super::{GroupId, Left, Ticket, ToShard};
use crate::metrics::{HubMetrics, Tallied};
use crate::session::close::Reason;
use crate::session::{Input, NEVER, Pace};

#[cfg(feature = "micro")]
pub(crate) mod micro;
mod sessions;

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
    pub(super) metrics: HubMetrics,
    pub(super) left: mpsc::Sender<Left>,
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

/// Counted per turn of the wheel, not per frame.
#[derive(Debug, Default)]
struct Tally {
    delivered: u64,
    failed: u64,
    merged: u64,
    asked: u64,
    answered: u64,
    given_up: u64,
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

    fn append(&mut self, push: &Arc<Push>, groups: &[GroupId]) {
        let now = self.wheel.now();
        let micros = self.setup.clock.micros();
        self.setup.metrics.queued(push.committed_at, micros);
        for group in groups {
            let Some(slots) = self.groups.get(group) else { continue };
            for index in slots.iter().flatten() {
                let audience = &mut self.audiences[*index as usize];
                if let Some(cause) = push.dispatched() {
                    audience.traced.begin(cause, audience.encoding.label(), micros);
                }
                if audience.append(push) {
                    self.rounds.push_back(*index);
                }
                for key in &audience.slow {
                    let connection = &mut self.connections[key.index as usize];
                    match &mut connection.reading {
                        Reading::Merging(merged) => self.tally.merged += u64::from(merged.add(push)),
                        Reading::Live(cursor) | Reading::Behind(cursor) => {
                            if audience.log.end() - *cursor > self.setup.slow_after as u64 {
                                self.tally.merged += connection.start_merging(&audience.log);
                                self.setup.metrics.began_merging();
                            }
                        }
                    }
                    if connection.outlet.is_some() {
                        connection.machine.on(Input::Blocked, now, &self.setup.pace);
                    }
                }
            }
        }
    }

    /// Serves members of the audiences whose turn it is; true when more of them wait.
    fn walk(&mut self) -> bool {
        let mut budget = CHUNK;
        let mut last = None;
        while budget > 0
            && let Some(&index) = self.rounds.front()
        {
            let audience = &mut self.audiences[index as usize];
            if let Some(&key) = audience.members.get(audience.visited) {
                audience.visited += 1;
                if let Some(push) = audience.log.last() {
                    last = Some((push.committed_at, push.via.received_at));
                }
                if !self.connections[key.index as usize].is_slow() {
                    budget -= 1;
                    let first = audience.visited == 1 && !audience.traced.is_empty();
                    self.serve(key);
                    if first && let Some(audience) = self.audiences.get_mut(index as usize) {
                        audience.traced.first(self.setup.clock.micros());
                    }
                }
                continue;
            }
            self.rounds.pop_front();
            audience.visited = 0;
            audience.queued = std::mem::take(&mut audience.again);
            if audience.queued {
                self.rounds.push_back(index);
            } else {
                if !audience.traced.is_empty() {
                    audience.traced.last(audience.members.len(), self.setup.clock.micros());
                }
                self.tidy(index);
            }
        }
        if let Some((committed_at, received_at)) = last {
            self.setup.metrics.lag(committed_at, received_at, self.setup.clock.micros());
        }
        !self.rounds.is_empty()
    }

    /// Trims the log of an audience that is not in a round, or forgets the audience.
    fn tidy(&mut self, index: u32) {
        let Some(audience) = self.audiences.get_mut(index as usize) else { return };
        if audience.queued {
            return;
        }
        if audience.members.is_empty() {
            let Audience { group, encoding, .. } = self.audiences.remove(index as usize);
            if let Some(slots) = self.groups.get_mut(&group) {
                slots[encoding.index()] = None;
                if slots.iter().all(Option::is_none) {
                    self.groups.remove(&group);
                }
            }
            return;
        }
        let slowest =
            audience.slow.iter().filter_map(|key| match self.connections[key.index as usize].reading {
                Reading::Live(cursor) | Reading::Behind(cursor) => Some(cursor),
                Reading::Merging(_) => None,
            });
        let cursor = slowest.min().unwrap_or(audience.log.end());
        audience.log.trim(cursor, audience.members.len());
    }

    /// Lets a connection write what is pending and draws the conclusions. False when it is gone.
    fn serve(&mut self, key: Key) -> bool {
        let (now, pace) = (self.wheel.now(), self.setup.pace);
        let Some(connection) =
            self.connections.get_mut(key.index as usize).filter(|it| it.serial == key.serial)
        else {
            return false;
        };
        let index = connection.audience;
        let audience = &mut self.audiences[index as usize];
        let pumped = connection.pump(&audience.log, audience.encoding, now, &pace, &mut self.tally.delivered);
        match pumped {
            Pumped::Over(reason) => {
                self.remove(key, reason);
                return false;
            }
            Pumped::Idle if connection.is_slow() => {
                connection.reading = Reading::Live(audience.log.end());
                connection.machine.on(Input::Drained, now, &pace);
                audience.slow.retain(|slow| *slow != key);
                self.tidy(index);
            }
            Pumped::Idle => {}
            Pumped::Blocked | Pumped::Yielded => {
                if let Reading::Live(cursor) = connection.reading {
                    connection.reading = Reading::Behind(cursor);
                    audience.slow.push(key);
                    self.setup.metrics.became_slow();
                    if audience.log.end() - cursor > self.setup.slow_after as u64 {
                        self.tally.merged += connection.start_merging(&audience.log);
                        self.setup.metrics.began_merging();
                    }
                }
                connection.machine.on(Input::Blocked, now, &pace);
                self.write_on(key);
            }
        }
        self.arm(key);
        true
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
        self.tally.asked += u64::from(connection.machine.is_asking());
        self.serve(key);
    }

    fn on_drain(&mut self, key: Key, since: Tick, now: Tick) {
        let pace = self.setup.pace;
        let Some(connection) = self.get(key) else { return };
        if connection.outlet.is_some() && connection.is_slow() && now < since + ticks(DRAIN_PATIENCE) {
            // What is pending goes out first, within reason: more may come as long as it is slow.
            return self.wheel.set(now + ticks(DRAIN_RECHECK), Alarm::Drain(key, since));
        }
        connection.machine.on(Input::End(Reason::Drained), now, &pace);
        if connection.outlet.is_none() {
            self.remove(key, Reason::Drained);
        } else {
            self.serve(key);
        }
    }

    /// Has a session that came too late for its place in the order end before the others have.
    fn drain_late(&mut self, key: Key, until: Tick) {
        let now = self.wheel.now();
        let at = fastrand::u32(now..=until.max(now));
        self.wheel.set(at, Alarm::Drain(key, at));
    }

    /// Ends the sessions evenly over the time, each tick its share and not one more: whom they come to next
    /// must accept no faster than that. Their order is random, so that no consumer loses all of its at once.
    fn drain(&mut self, over: Duration) {
        let (now, over) = (self.wheel.now(), ticks(over));
        self.draining = Some(now + over);
        let mut all: Vec<Key> = self.keys().collect();
        fastrand::shuffle(&mut all);
        let count = all.len() as u64;
        for (place, key) in all.into_iter().enumerate() {
            let share = place as u64 * u64::from(over) / count;
            let at = now + 1 + share as Tick;
            self.wheel.set(at, Alarm::Drain(key, at));
        }
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.connections.iter().map(|(index, it)| Key { index: index as u32, serial: it.serial })
    }

    fn end(&mut self, group: GroupId, reason: Reason) {
        let Some(slots) = self.groups.get(&group) else { return };
        let audiences = slots.iter().flatten();
        let members = audiences.flat_map(|it| self.audiences[*it as usize].members.clone()).collect();
        self.end_all(members, reason);
    }

    fn end_resumable(&mut self) {
        let audiences = self.audiences.iter().filter(|(_, audience)| audience.encoding.is_resumable());
        let members = audiences.flat_map(|(_, audience)| audience.members.clone()).collect();
        self.end_all(members, Reason::Restored);
    }

    fn end_all(&mut self, members: Vec<Key>, reason: Reason) {
        let (now, pace) = (self.wheel.now(), self.setup.pace);
        for key in members {
            if let Some(connection) = self.get(key) {
                connection.machine.on(Input::End(reason), now, &pace);
                self.serve(key);
            }
        }
    }

    fn remove(&mut self, key: Key, reason: Reason) {
        if self.get(key).is_none() {
            return;
        }
        let connection = self.connections.remove(key.index as usize);
        if let Some(Outlet::Stream(stream)) = &connection.outlet {
            stream.end(reason);
        }
        for task in [&connection.reader, &connection.writer].into_iter().flatten() {
            task.abort();
        }
        let index = connection.audience;
        let audience = &mut self.audiences[index as usize];
        self.tally.failed += connection.pending_events(&audience.log) as u64;
        *self.left.entry(audience.group).or_default() += 1;
        if let Some(moved) = audience.remove(connection.place as usize, key) {
            self.connections[moved.index as usize].place = connection.place;
        }
        self.tidy(index);
        self.tally.given_up += u64::from(reason == Reason::ReadTimeout);
        self.setup.metrics.closed(reason);
    }

    /// Counts what was tallied, and tells the upstream who is gone as far as it can take it now.
    fn report(&mut self, now: Tick) {
        let sender = &self.setup.left;
        self.left
            .retain(|group, sessions| sender.try_send(Left { group: *group, sessions: *sessions }).is_err());
        let tally = std::mem::take(&mut self.tally);
        let pending = if now >= self.count_pending_at {
            self.count_pending_at = now + ticks(COUNT_PENDING);
            self.pending_events()
        } else {
            self.pending_shown
        };
        self.setup.metrics.tally(Tallied {
            delivered: tally.delivered,
            failed: tally.failed,
            merged: tally.merged,
            pending: pending - self.pending_shown,
            asked: tally.asked,
            answered: tally.answered,
            given_up: tally.given_up,
        });
        self.pending_shown = pending;
    }

    /// Events that wait for slow watchers.
    fn pending_events(&self) -> i64 {
        let of = |audience: &Audience| {
            let slow = audience.slow.iter().map(|key| &self.connections[key.index as usize]);
            slow.map(|it| it.pending_events(&audience.log)).sum::<usize>()
        };
        self.audiences.iter().map(|(_, audience)| of(audience)).sum::<usize>() as i64
    }
}

#[cfg(test)]
#[path = "shard/drain_tests.rs"]
mod drain_tests;
