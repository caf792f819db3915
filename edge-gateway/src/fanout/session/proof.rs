//! The acknowledgement of one session: the proof that its client has been given a change.
//!
//! Nothing here runs for a push. Only a question makes a session look at itself, and a session that nobody
//! has asked has no [`Proof`].
//!
//! The proof of a socket is the pong to a numbered ping that was written behind the change: a client reads
//! its socket in order. An earlier pong, or any other frame, may have been on its way already and proves
//! nothing. The proof of a stream is that the connection has taken every chunk up to the change.

use std::collections::VecDeque;

use shared::model::Revision;

use super::{Reading, Session, SessionKey};
use crate::codec::websocket::put_numbered_ping;
use crate::fanout::log::Log;
use crate::fanout::outlet::Outlet;
use crate::fanout::reach::{ReachQuestion, WaitingState};
use crate::push::{Encode as _, Encoding};
use crate::session::Phase;

/// Changes whose proof a session remembers. Without the oldest it is asked for a proof again, if need be.
const REMEMBERED: usize = 16;

/// The acknowledgements of a session, by offsets in the log of its audience.
#[derive(Debug, Default)]
pub(in crate::fanout) struct Proof {
    /// The client has been given everything before this offset.
    acked: Option<u64>,
    /// The acknowledgement that is awaited: the number of a ping or of a chunk, and the offset that it
    /// proves.
    awaited: Option<(u64, u64)>,
    /// The shard pings the client when it may send more pings.
    pub(in crate::fanout) is_queued: bool,
    /// Changes from before the session, by topic and revision, whose state it has been sent.
    told: Vec<(u32, Revision)>,
    /// Changes that it has acknowledged.
    reached: Vec<(u32, Revision)>,
}

/// The place of a change in the log of an audience.
#[derive(Clone, Copy, Debug)]
pub(in crate::fanout) struct Point {
    /// The change lies before this offset.
    pub(in crate::fanout) offset: u64,
    /// The change came before the interest of the group, so its log lacks it.
    pub(in crate::fanout) is_late: bool,
    /// The end of the log when the question came. A state that was read then must not be sent behind anything
    /// later.
    pub(in crate::fanout) end: u64,
}

/// The numbers of pings, and how many a shard may still send in this tick.
#[derive(Debug, Default)]
pub(in crate::fanout) struct Pings {
    pub(in crate::fanout) last: u64,
    pub(in crate::fanout) left: u32,
    pub(in crate::fanout) sent: u64,
    /// The sessions that are pinged when more may be sent, those that have waited longest first. A session
    /// stands here once.
    queue: VecDeque<SessionKey>,
}

impl Pings {
    /// Takes the next session that waits for its ping. `None` when there is none, or none may be sent now.
    pub(in crate::fanout) fn next(&mut self) -> Option<SessionKey> {
        if self.left == 0 { None } else { self.queue.pop_front() }
    }

    /// The number of a ping that is sent now; `None` when no more may be sent in this tick.
    fn take(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        self.sent += 1;
        self.last += 1;
        Some(self.last)
    }
}

impl Session {
    /// True when the client is known to have been given the change.
    pub(in crate::fanout) fn has_reached(&self, topic: u32, rev: Revision) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.reached.contains(&(topic, rev)))
    }

    /// The client has answered a numbered ping.
    pub(in crate::fanout) fn on_numbered_pong(&mut self, number: u64) {
        if let Some(proof) = &mut self.proof
            && let Some((_, offset)) = proof.awaited.take_if(|(awaited, _)| *awaited == number)
        {
            proof.acked = proof.acked.max(Some(offset));
        }
    }

    /// Forgets every proof: revisions mean something else after a restore.
    pub(in crate::fanout) fn forget_proofs(&mut self) {
        self.proof = None;
    }

    /// The state of the session with regard to a change; `None` when its client has acknowledged it. May
    /// leave something to be written.
    pub(in crate::fanout) fn prove(
        &mut self,
        question: &ReachQuestion,
        point: &Point,
        log: &Log,
        encoding: Encoding,
        key: SessionKey,
        pings: &mut Pings,
    ) -> Option<WaitingState> {
        let change = (question.topic, question.rev);
        if question.has_change() && self.has_reached(question.topic, question.rev) {
            return None;
        }
        if self.protocol.phase() != Phase::Open {
            return Some(WaitingState::Closing);
        }
        if self.outlet.is_none() {
            return Some(WaitingState::Connecting);
        }
        let must_tell = question.has_change()
            && (point.is_late || self.missed > question.after)
            && !self.proof.as_ref().is_some_and(|proof| proof.told.contains(&change));
        if must_tell && !self.tell(question, point, log, encoding) {
            return Some(WaitingState::Untold);
        }
        // The change may be in the part of its preface that has not been written.
        if self.preface.is_some() {
            return Some(WaitingState::Unwritten);
        }
        let cursor = match self.reading {
            Reading::Live(cursor) | Reading::Behind(cursor) if cursor >= point.offset => cursor,
            Reading::Live(_) | Reading::Behind(_) | Reading::Merging(_) => {
                return Some(WaitingState::Unwritten);
            }
        };
        self.acknowledged(point, cursor, key, pings).map_or_else(Some, |()| {
            // Without a change nobody was told one, and a question about one of the same revision may follow.
            if question.has_change() {
                let proof = self.proof.get_or_insert_default();
                remember(&mut proof.reached, change);
            }
            None
        })
    }

    /// Sends the present state of what was changed. False when that must wait.
    fn tell(&mut self, question: &ReachQuestion, point: &Point, log: &Log, encoding: Encoding) -> bool {
        let is_at_rest = matches!(self.reading, Reading::Live(cursor) if cursor == log.end());
        // Behind something later, the state would be one from before it.
        if question.incomplete || !is_at_rest || log.end() != point.end || !self.tail.is_empty() {
            return false;
        }
        for push in &question.state {
            // It confirms nothing: other changes may be missing.
            self.tail.extend_from_slice(&push.frame_after(encoding, Revision::ZERO));
        }
        let proof = self.proof.get_or_insert_default();
        remember(&mut proof.told, (question.topic, question.rev));
        // An acknowledgement from before says nothing about these bytes.
        proof.acked = None;
        proof.awaited = None;
        true
    }

    /// `Ok` when the client has acknowledged everything before the point. Everything before `cursor` is
    /// written, or will be before anything that is put into the tail now.
    fn acknowledged(
        &mut self,
        point: &Point,
        cursor: u64,
        key: SessionKey,
        pings: &mut Pings,
    ) -> Result<(), WaitingState> {
        let proof = self.proof.get_or_insert_default();
        if proof.acked.is_some_and(|acked| acked >= point.offset) {
            return Ok(());
        }
        let is_awaited = proof.awaited.is_some_and(|(_, offset)| offset >= point.offset);
        match &self.outlet {
            Some(Outlet::Stream(stream)) => {
                let (put, taken) = stream.progress();
                if !is_awaited {
                    if !self.tail.is_empty() {
                        return Err(WaitingState::Unwritten);
                    }
                    proof.awaited = Some((put, cursor));
                }
                match proof.awaited.take_if(|(chunk, _)| taken >= *chunk) {
                    Some((_, offset)) => {
                        proof.acked = Some(offset);
                        Ok(())
                    }
                    None => Err(WaitingState::Unanswered),
                }
            }
            Some(Outlet::Socket(_) | Outlet::Secure(_)) => {
                if !is_awaited && !self.ping(cursor, pings) {
                    let proof = self.proof.get_or_insert_default();
                    if !std::mem::replace(&mut proof.is_queued, true) {
                        pings.queue.push_back(key);
                    }
                }
                Err(if self.is_slow() { WaitingState::Unwritten } else { WaitingState::Unanswered })
            }
            None => Err(WaitingState::Connecting),
        }
    }

    /// Pings the client of a session that has waited for its turn. The pong will prove what is written by now.
    pub(in crate::fanout) fn ping_in_turn(&mut self, pings: &mut Pings) {
        let Some(proof) = &mut self.proof else { return };
        // It may have been pinged since, with a question.
        let is_due = std::mem::take(&mut proof.is_queued);
        let is_socket = matches!(self.outlet, Some(Outlet::Socket(_) | Outlet::Secure(_)));
        if let Reading::Live(cursor) | Reading::Behind(cursor) = self.reading
            && is_due
            && is_socket
            && self.protocol.phase() == Phase::Open
        {
            self.ping(cursor, pings);
        }
    }

    /// Puts a numbered ping behind everything before `cursor`. False when no more may be sent in this tick.
    fn ping(&mut self, cursor: u64, pings: &mut Pings) -> bool {
        let Some(number) = pings.take() else { return false };
        let proof = self.proof.get_or_insert_default();
        proof.awaited = Some((number, cursor));
        proof.is_queued = false;
        put_numbered_ping(number, &mut self.tail);
        true
    }
}

fn remember(changes: &mut Vec<(u32, Revision)>, change: (u32, Revision)) {
    if changes.len() >= REMEMBERED {
        changes.remove(0);
    }
    changes.push(change);
}

#[cfg(test)]
mod tests;
