//! Questions of how many sessions have been given a change.
//!
//! In: a question, behind every push that it is about. Out: the number of sessions that have acknowledged the
//! change, and the first that have not. A question walks the sessions of its groups, a few in each turn of
//! the shard, and has those pinged that were written the change. One that comes again looks at those alone
//! that have not acknowledged it yet. It costs nothing while nobody asks, but for a note of each group that a
//! session leaves: a client that leaves before it has acknowledged a change may be on its way to another
//! gateway, where it does not count yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use crate::close::Reason;
use crate::fanout::reach::{ReachAnswer, ReachQuestion, ShardReach, WaitingState, WaitingWatcher};
use crate::fanout::session::{Pings, Point, Session, SessionKey};
use crate::push::Encoding;
use crate::timer::{TICK, Tick, ticks};
use crate::watch::GroupId;

/// Questions that may wait. Further ones are not answered, which proves nothing.
const MOST_QUESTIONS: usize = 16;
/// Sessions that are looked at in one turn of the shard.
const CHUNK: usize = 128;
/// Pings that questions may cause in one tick. Further clients are pinged in the ticks after it.
const PINGS_PER_TICK: u32 = 500;
/// The time that a client may take from one gateway to another. As long as the groups of its consumer stay.
pub(super) const MOVING: Duration = Duration::from_secs(10);

/// A question, and how far the walk has come.
#[derive(Debug)]
struct Walk {
    question: Arc<ReachQuestion>,
    answer: ReachAnswer,
    began: Tick,
    parts: Vec<Part>,
    /// The sessions that remain, each with the index of its part.
    // A copy: the members of an audience change places while the walk is under way.
    remaining: Vec<(u32, SessionKey)>,
    reach: ShardReach,
}

/// One audience that a question concerns.
#[derive(Debug)]
struct Part {
    point: Point,
    /// The tick of the first question about the change.
    since: Tick,
}

/// The questions of a shard.
#[derive(Debug, Default)]
pub(super) struct Asking {
    walks: std::collections::VecDeque<Walk>,
    pings: Pings,
    /// The last tick at which a session left each group without an acknowledgement that was asked for.
    left: HashMap<GroupId, Tick>,
}

impl Shard {
    /// Begins to answer a question.
    pub(super) fn ask(&mut self, question: Arc<ReachQuestion>, answer: ReachAnswer) {
        if self.asking.walks.len() >= MOST_QUESTIONS {
            return;
        }
        let now = self.wheel.now();
        let mut parts = Vec::new();
        let mut remaining = Vec::new();
        let mut reach = ShardReach::default();
        for (group, is_late) in &question.groups {
            let mut next = 0;
            while let Some(index) = self.audience_of(*group, next) {
                next += 1;
                if !self.admits(index, question.topic, &question.key) {
                    continue;
                }
                let audience = &mut self.audiences[index as usize];
                let members = audience.members.len();
                let end = audience.log.end();
                let part = parts.len() as u32;
                let mark = audience.mark(question.topic, question.rev, now);
                let point = Point { offset: mark.offset, is_late: *is_late, end };
                parts.push(Part { point, since: mark.since });
                if question.has_change() {
                    let known = members.saturating_sub(mark.waiting.len()) as u64;
                    reach.watchers += known;
                    reach.reached += known;
                    remaining.extend(mark.waiting.iter().map(|key| (part, *key)));
                } else {
                    // What is proven counts for this question alone.
                    remaining.extend(audience.members.iter().map(|key| (part, *key)));
                }
            }
        }
        self.asking.walks.push_back(Walk { question, answer, began: now, parts, remaining, reach });
    }

    /// Looks at the next sessions of the first question. True when there are more.
    pub(super) fn walk(&mut self) -> bool {
        let Some(mut walk) = self.asking.walks.pop_front() else { return false };
        if walk.answer.is_closed() {
            return !self.asking.walks.is_empty();
        }
        for _ in 0..CHUNK {
            let Some((part, key)) = walk.remaining.pop() else { break };
            self.look_at(&mut walk, part, key);
        }
        if walk.remaining.is_empty() {
            self.finish(walk);
        } else {
            self.asking.walks.push_front(walk);
        }
        !self.asking.walks.is_empty()
    }

    fn look_at(&mut self, walk: &mut Walk, part: u32, key: SessionKey) {
        let Some(Part { point, since }) = walk.parts.get(part as usize) else { return };
        // Not `self.session`: the audience and the pings are borrowed beside it.
        let session = self.sessions.get_mut(key.index as usize);
        // One that has left since is among those that move.
        let Some(session) = session.filter(|session| session.serial == key.serial) else { return };
        // Its own, and not the one that was asked: the audience may have been divided since. Offsets are the
        // same in both.
        let Some(audience) = self.audiences.get_mut(session.audience as usize) else { return };
        let encoding = audience.encoding;
        let state =
            session.prove(&walk.question, point, &audience.log, encoding, key, &mut self.asking.pings);
        walk.reach.watchers += 1;
        match state {
            None => {
                walk.reach.reached += 1;
                if walk.question.has_change() {
                    audience.acknowledged(walk.question.topic, walk.question.rev, key);
                }
            }
            Some(state) => {
                let since = TICK * self.wheel.now().saturating_sub(*since);
                if walk.reach.waiting.len() < walk.question.most {
                    walk.reach.waiting.push(describe(session, encoding, state, since));
                }
                // What was put into its tail, and for a stream what may be written by now.
                self.pump(key);
            }
        }
    }

    fn finish(&mut self, walk: Walk) {
        let Walk { question, answer, began, mut reach, .. } = walk;
        let changed = began.saturating_sub(ticks(question.age));
        let moving = ticks(MOVING);
        let has_left = |group: &&(GroupId, bool)| {
            self.asking.left.get(&group.0).is_some_and(|at| *at >= changed && at + moving > began)
        };
        reach.moving = question.groups.iter().filter(has_left).count() as u64;
        // The asking task may have stopped waiting.
        let _ = answer.send(reach);
    }

    /// Notes that a session leaves its group, unless it has acknowledged every change that was asked about
    /// lately.
    pub(super) fn note_departure(&mut self, session: &Session, reason: Reason) {
        // A client that never came is where it was.
        if reason == Reason::NeverAttached {
            return;
        }
        let now = self.wheel.now();
        let Some(audience) = self.audiences.get(session.audience as usize) else { return };
        let mut asked = audience.asked_lately(now).peekable();
        let is_asked = asked.peek().is_some();
        // Before the first question, the change may have been made already.
        if !is_asked || !asked.all(|mark| session.has_reached(mark.topic, mark.rev)) {
            self.asking.left.insert(audience.group, now);
        }
    }

    /// Called once per tick.
    pub(super) fn keep_asking(&mut self, now: Tick) {
        self.asking.pings.left = PINGS_PER_TICK;
        // Not with the next question: many would need as many questions as there are ticks' worth of pings.
        while let Some(key) = self.asking.pings.next() {
            let session = self.sessions.get_mut(key.index as usize);
            if let Some(session) = session.filter(|session| session.serial == key.serial) {
                session.ping_in_turn(&mut self.asking.pings);
                self.pump(key);
            }
        }
        self.tally.pings += std::mem::take(&mut self.asking.pings.sent);
        if !self.asking.left.is_empty() && now.is_multiple_of(ticks(Duration::from_secs(1))) {
            // A question that comes later does not ask about this time any more.
            self.asking.left.retain(|_, at| now < *at + 2 * ticks(MOVING));
        }
    }

    /// The store was restored: its revisions begin anew, and no proof from before counts.
    pub(super) fn forget_proofs(&mut self) {
        self.asking.walks.clear();
        for (_, audience) in &mut self.audiences {
            audience.forget_history();
        }
        for (_, session) in &mut self.sessions {
            session.forget_proofs();
        }
    }
}

fn describe(session: &Session, encoding: Encoding, state: WaitingState, since: Duration) -> WaitingWatcher {
    WaitingWatcher {
        consumer: session.held.as_ref().map(|held| held.permit.consumer().clone()),
        transport: encoding.transport(),
        peer: session.outlet.as_ref().and_then(|outlet| outlet.peer()),
        state,
        since,
    }
}

#[cfg(test)]
mod tests;
