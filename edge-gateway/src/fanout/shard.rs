//! A shard: one thread that owns its sessions and serves them.
//!
//! ```text
//! inbox ──▶ append to the log of each audience ──▶ rounds: each member writes all that is pending, one call
//!                                        (a member whose client blocks goes on in a task of its own)
//! socket readable ──▶ decoder ──▶ protocol ──▶ pump          wheel ──▶ protocol ──▶ pump
//! ```
//!
//! The inbox is looked at between two chunks of a round, so that the pushes of a burst are written together
//! and no push waits for a whole round. All state is in [`Shard`], borrowed by one task at a time and never
//! across an await. The tasks of the sessions live in the thread's `LocalSet` and end with it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::model::Revision;
use slab::Slab;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::PlainEnd;
use super::ToShard;
use super::audience::Audience;
use super::session::{Session, SessionKey};
use super::stream::GoneClients;
use crate::fleet::Others;
use crate::metrics::FanoutMetrics;
use crate::policy::PolicyHandle;
use crate::session::{Input, NEVER, Pace};
use crate::timer::{TICK, Tick, Wheel};
use crate::watch::{GroupId, SessionsClosed, Ticket};

mod asking;
mod ending;
mod judging;
#[cfg(feature = "micro")]
pub(crate) mod micro;
mod report;
mod rounds;
mod sessions;
#[cfg(test)]
mod tests;

use asking::Asking;
use judging::Review;
use report::Tally;

/// Members that are served before the inbox is looked at again.
const CHUNK: usize = 128;
/// Messages that are taken from the inbox before members are served.
const INBOX_CHUNK: usize = 256;
/// Bytes of the buffer for reading, which all sessions share.
const READ_BUFFER: usize = 16 * 1024;
/// Reads of one session before others get their turn.
const READS_PER_TURN: usize = 4;
/// The time within which the connection of a reserved session must be attached.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause between two counts of the pending pushes.
const COUNT_PENDING: Duration = Duration::from_secs(1);
/// The time that a slow session may go on after its turn to be drained.
const SLOW_DRAIN: Duration = Duration::from_secs(5);
/// The pause between two looks at a slow session whose turn to be drained has come.
const SLOW_DRAIN_RECHECK: Duration = Duration::from_millis(200);

/// The time within which a plain session's turn comes again when no other gateway was ready to take it.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// The surroundings of a shard.
pub(super) struct Setup {
    pub(super) pace: Pace,
    pub(super) slow_after: usize,
    pub(super) send_buffer: usize,
    pub(super) plain_end: PlainEnd,
    /// The gateways that could take the sessions.
    pub(super) others: watch::Receiver<Others>,
    /// Access control.
    pub(super) policy: PolicyHandle,
    pub(super) metrics: FanoutMetrics,
    /// The way of reports of closed sessions to the upstream.
    pub(super) closed: mpsc::Sender<SessionsClosed>,
    pub(super) clock: Clock,
}

/// An entry of the wheel.
#[derive(Clone, Copy, Debug)]
enum Alarm {
    /// The deadline of a session's protocol, unless a later alarm has replaced it.
    Deadline(SessionKey, Tick),
    /// The connection of a reserved session should have been attached.
    Attach(Ticket),
    /// A session's turn to be drained, which came first at this tick.
    Drain(SessionKey, Tick),
    /// A session's right is judged, unless that was set to another tick.
    Judge(SessionKey, Tick),
    /// The turn of a session that ends because of its right, unless that was set to another tick.
    EndInTurn(SessionKey, Tick),
}

/// The times of a drain.
#[derive(Clone, Copy, Debug)]
struct Drain {
    /// The tick until which it ends its sessions.
    until: Tick,
    /// The tick until which plain sessions may go on that no other gateway is ready to take.
    latest: Tick,
}

struct Shard {
    setup: Setup,
    /// The shard itself, for the tasks of its sessions.
    this: Weak<RefCell<Shard>>,
    sessions: Slab<Session>,
    audiences: Slab<Audience>,
    /// The audiences of each group: one for each encoding, and for grants that admit different changes.
    groups: HashMap<GroupId, Vec<u32>>,
    /// Reserved sessions whose connection has not been attached.
    tickets: HashMap<Ticket, SessionKey>,
    /// Streams whose clients have gone.
    gone_clients: Arc<GoneClients>,
    /// Audiences that wait for a round; the first may be in one.
    rounds: VecDeque<u32>,
    wheel: Wheel<Alarm>,
    began: Instant,
    /// The serial number of the last session.
    serial: u32,
    read_buffer: Box<[u8]>,
    /// Closed sessions that have not been reported to the upstream, by group.
    unreported: HashMap<GroupId, u64>,
    tally: Tally,
    /// The number of pending pushes as the metrics show it.
    pending_shown: i64,
    count_pending_at: Tick,
    /// The judging of all sessions that a change of the policy demands.
    review: Review,
    /// The questions of how many sessions have been given a change.
    asking: Asking,
    /// The drain that has begun.
    drain: Option<Drain>,
}

/// Runs a shard on this thread, to its end.
pub(super) fn run(
    runtime: &Runtime,
    setup: Setup,
    mut inbox: mpsc::Receiver<ToShard>,
    cut: CancellationToken,
) {
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async move {
        let shard = Rc::new_cyclic(|this| RefCell::new(Shard::new(setup, this.clone())));
        // On a cut everything is dropped where it stands.
        let _ = cut.run_until_cancelled(serve(&shard, &mut inbox)).await;
    });
}

/// Serves the inbox, the sessions and the wheel until a drain has ended or nobody can send any more.
async fn serve(shard: &RefCell<Shard>, inbox: &mut mpsc::Receiver<ToShard>) {
    let mut clock = interval(TICK);
    // After a stall one turn of the wheel catches up; ticks in a burst would only repeat it.
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let gone_clients = shard.borrow().gone_clients.clone();
    loop {
        let more = {
            // The borrow ends with this block: the sessions' tasks borrow the shard while `serve` waits
            // below.
            let mut shard = shard.borrow_mut();
            // Bounded, so that a flood of messages does not keep the sessions from being served.
            for _ in 0..INBOX_CHUNK {
                match inbox.try_recv() {
                    Ok(message) => shard.on_message(message),
                    // A closed queue ends the shard below, where `recv` reports it.
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            for key in gone_clients.take() {
                shard.on_readable(key, true);
            }
            let more = shard.run_rounds() | shard.walk();
            shard.turn_wheel();
            if shard.drain.is_some() && shard.sessions.is_empty() {
                return;
            }
            more
        };
        if more {
            // The sessions' own tasks run here: a long round must not keep them waiting.
            yield_now().await;
            continue;
        }
        tokio::select! {
            // A fixed order is cheaper than a random one and starves nobody: the loop above looks at all
            // three.
            biased;
            message = inbox.recv() => match message {
                Some(message) => shard.borrow_mut().on_message(message),
                None => return,
            },
            () = gone_clients.wait() => {}
            _ = clock.tick() => {}
        }
    }
}

impl Shard {
    fn new(setup: Setup, this: Weak<RefCell<Self>>) -> Self {
        Self {
            setup,
            this,
            sessions: Slab::new(),
            audiences: Slab::new(),
            groups: HashMap::new(),
            tickets: HashMap::new(),
            gone_clients: Arc::default(),
            rounds: VecDeque::new(),
            wheel: Wheel::new(),
            began: Instant::now(),
            serial: 0,
            read_buffer: vec![0; READ_BUFFER].into(),
            unreported: HashMap::new(),
            tally: Tally::default(),
            pending_shown: 0,
            count_pending_at: 0,
            review: Review::default(),
            asking: Asking::default(),
            drain: None,
        }
    }

    fn on_message(&mut self, message: ToShard) {
        match message {
            ToShard::Reserve { ticket, group, encoding, opening, right, missed } => {
                self.reserve(ticket, group, encoding, opening, right, missed);
            }
            ToShard::Attach { ticket, to, permit } => self.attach(ticket, to, permit),
            ToShard::Release { ticket } => self.release(ticket),
            ToShard::Bookmark { rev, everyone, behind } => self.bookmark(rev, everyone, &behind),
            ToShard::Append { push, groups } => self.append(&push, &groups),
            ToShard::Ask { question, answer } => self.ask(question, answer),
            ToShard::End { group, reason } => self.end_group(group, reason),
            ToShard::Restored => {
                self.forget_proofs();
                self.end_resumable_sessions();
            }
            ToShard::Drain { over, latest } => self.begin_drain(over, latest),
        }
    }

    fn session(&mut self, key: SessionKey) -> Option<&mut Session> {
        // A key may outlive its session: no alarm is ever cancelled, and the slab uses indices again.
        self.sessions.get_mut(key.index as usize).filter(|session| session.serial == key.serial)
    }

    fn bookmark(&mut self, rev: Revision, everyone: bool, behind: &HashMap<GroupId, Revision>) {
        for (index, audience) in &mut self.audiences {
            let is_due = everyone || audience.unconfirmed;
            let must_queue = match behind.get(&audience.group) {
                _ if !is_due => false,
                None => audience.bookmark(rev),
                Some(own) => audience.bookmark_behind(*own),
            };
            if must_queue {
                self.rounds.push_back(index as u32);
            }
        }
    }

    /// Sets an alarm for the session's deadline, if that is earlier than the alarm that counts.
    fn arm_deadline(&mut self, key: SessionKey) {
        let pace = self.setup.pace;
        let now = self.wheel.now();
        let Some(session) = self.session(key) else { return };
        let at = session.protocol.deadline(&pace).max(now + 1);
        // An alarm that comes too early sets itself again; so most writes touch nothing here.
        if at >= NEVER || (session.armed > now && session.armed <= at) {
            return;
        }
        session.armed = at;
        self.wheel.set(at, Alarm::Deadline(key, at));
    }

    fn turn_wheel(&mut self) {
        let now = (self.began.elapsed().as_millis() / TICK.as_millis()) as Tick;
        // `serve` comes here far more often than a tick passes.
        if now == self.wheel.now() {
            return;
        }
        let mut fired = Vec::new();
        self.wheel.turn(now, &mut fired);
        for alarm in fired {
            match alarm {
                Alarm::Deadline(key, at) => self.on_deadline(key, at, now),
                Alarm::Attach(ticket) => self.release(ticket),
                Alarm::Drain(key, since) => self.on_drain_turn(key, since, now),
                Alarm::Judge(key, at) => self.on_judge_alarm(key, at),
                Alarm::EndInTurn(key, at) => self.on_end_turn(key, at),
            }
        }
        self.keep_asking(now);
        self.review_rights();
        self.report(now);
    }

    fn on_deadline(&mut self, key: SessionKey, at: Tick, now: Tick) {
        let pace = self.setup.pace;
        let Some(session) = self.session(key) else { return };
        if session.armed != at || session.outlet.is_none() {
            return;
        }
        // Progress that the runtime has not reported yet must count before the protocol judges the session.
        session.ask_kernel_if_slow();
        if !self.pump(key) {
            return;
        }
        let Some(session) = self.session(key) else { return };
        session.protocol.on(Input::Timer, now, &pace);
        self.tally.pings += u64::from(session.protocol.is_ping_due());
        self.pump(key);
    }

    fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.sessions
            .iter()
            .map(|(index, session)| SessionKey { index: index as u32, serial: session.serial })
    }
}
