//! A session in its shard: its outlet, its protocol, and its position in the log of its audience.
//!
//! [`Session::pump`] writes all that is pending, in this order: the rest of a frame once begun, frames of the
//! protocol, then pushes, either from the log or merged.

use std::io;

use tokio::task::AbortHandle;
use tracing::Span;

use super::log::Log;
use super::merge::Merged;
use super::outlet::{Outlet, would_block};
use super::preface::{Opening, PrefaceBytes};
use crate::close::Reason;
use crate::codec::websocket::Decoder;
use crate::limits::Permit;
use crate::policy::Right;
use crate::push::{Encode as _, Encoding};
use crate::session::{Input, Pace, Phase, Protocol};
use crate::timer::Tick;
use host::http::ConnectionPermit;
use shared::model::Revision;

mod proof;

pub(super) use proof::{Pings, Point, Proof};

/// Names a session for as long as it lives. A later session at the same index has another serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// Bytes of merged pushes that are prepared at a time.
const MERGED_CHUNK: usize = 64 * 1024;
/// Bytes that one session may write before others get their turn.
const TURN_BYTES: usize = 1 << 20;

/// The source of a session's pushes.
#[derive(Debug)]
pub(super) enum Reading {
    /// Rounds serve the session, from this offset of the log.
    Live(u64),
    /// The session reads the log at its own pace, from this offset.
    Behind(u64),
    /// The session has left the log; its pending pushes are merged per instance. It returns to the log when all are
    /// written and [`Merged::is_settled`].
    Merging(Box<Merged>),
}

/// The result of a session's turn to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Nothing is pending any more.
    Idle,
    /// The client does not take more now.
    Blocked,
    /// The client may take more, but it is the turn of others.
    Yielded,
    /// The session is over.
    Over(Reason),
}

/// The result of one write within a turn.
enum Step {
    Wrote(usize),
    Idle,
    Over(Reason),
}

/// The permits of a session, held for their drop.
#[derive(Debug)]
pub(super) struct Held {
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) slot: Option<ConnectionPermit>,
    pub(super) permit: Permit,
}

/// A session, attached or reserved.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) serial: u32,
    /// The index of its audience in the shard.
    pub(super) audience: u32,
    /// Its own index among the audience's members.
    pub(super) member: u32,
    /// The tick of the alarm that counts; earlier ones are stale.
    pub(super) armed: Tick,
    pub(super) protocol: Protocol,
    pub(super) reading: Reading,
    /// It is merging, its client has taken everything, and only a bookmark is missing before it returns to the log.
    /// Rounds serve it meanwhile.
    pub(super) resting: bool,
    /// Bytes that go out before anything else: the rest of a frame once begun, protocol frames, merged
    /// pushes.
    tail: Vec<u8>,
    /// The rest of what goes out before the first push.
    pub(super) preface: Option<Box<PrefaceBytes>>,
    /// Present only while a frame of the client is incomplete.
    pub(super) decoder: Option<Box<Decoder>>,
    /// `None` until the connection is attached.
    pub(super) outlet: Option<Outlet>,
    pub(super) reader: Option<AbortHandle>,
    pub(super) writer: Option<AbortHandle>,
    pub(super) held: Option<Held>,
    /// The right by which it is open; `None` when its client has shown no token.
    pub(super) right: Option<Box<Right>>,
    /// The tick at which its right is judged next, whether the policy changes or not.
    pub(super) judge_at: Tick,
    /// The earliest tick of the next new token.
    pub(super) renew_from: Tick,
    /// The tick of its turn to end because of its right.
    pub(super) end_at: Tick,
    /// Its client may lack changes up to this revision: it began behind them, without a state.
    pub(super) missed: Revision,
    /// Its acknowledgements; `None` unless somebody has asked for one.
    proof: Option<Box<Proof>>,
    /// The context of its log lines; `None` unless debug lines are wanted, so that it costs nothing.
    pub(super) span: Option<Box<Span>>,
    /// The sending side is shut.
    shut: bool,
    /// The next write asks the kernel itself; see [`Outlet::try_write`].
    ask_kernel: bool,
}

impl Session {
    /// A reserved session, without a connection yet; `opening` goes out first.
    pub(super) fn reserved(
        serial: u32,
        audience: u32,
        member: u32,
        cursor: u64,
        protocol: Protocol,
        opening: Opening,
    ) -> Self {
        Self {
            serial,
            audience,
            member,
            armed: 0,
            protocol,
            reading: Reading::Behind(cursor),
            resting: false,
            tail: opening.first,
            preface: opening.rest,
            decoder: None,
            outlet: None,
            reader: None,
            writer: None,
            held: None,
            right: None,
            judge_at: 0,
            renew_from: 0,
            end_at: 0,
            missed: Revision::ZERO,
            proof: None,
            span: None,
            shut: false,
            ask_kernel: false,
        }
    }

    /// Has the next write ask the kernel itself if the session is slow. Called before a slow session is
    /// judged: the client may have taken bytes without the runtime having noticed.
    pub(super) fn ask_kernel_if_slow(&mut self) {
        self.ask_kernel = self.is_slow();
    }

    /// True if rounds do not serve the session.
    pub(super) fn is_slow(&self) -> bool {
        !matches!(self.reading, Reading::Live(_)) && !self.resting
    }

    /// True while it is open and its pending pushes are merged.
    pub(super) fn is_merging(&self) -> bool {
        matches!(self.reading, Reading::Merging(_)) && self.protocol.phase() == Phase::Open
    }

    /// The number of pushes that the kernel has not taken yet; nearly, because those in `tail` are left out
    /// and bookmarks are counted.
    pub(super) fn pending_events(&self, log: &Log) -> usize {
        match &self.reading {
            Reading::Live(cursor) | Reading::Behind(cursor) => log.frames_from(*cursor),
            Reading::Merging(merged) => merged.len(),
        }
    }

    /// The bytes that wait beside the log.
    #[cfg(test)]
    pub(super) fn pending_bytes(&self) -> usize {
        self.tail.len()
    }

    /// Puts a whole frame before everything that is pending, except for the rest of a message once begun.
    pub(super) fn answer(&mut self, frame: &[u8]) {
        match &mut self.preface {
            Some(preface) if preface.is_within_message() => preface.follow_with(frame),
            _ => self.tail.extend_from_slice(frame),
        }
    }

    /// Leaves the log and merges what is pending. Returns the number of pushes that were merged into others.
    pub(super) fn start_merging(&mut self, log: &Log) -> u64 {
        let (Reading::Live(cursor) | Reading::Behind(cursor)) = self.reading else { return 0 };
        let mut merged = Box::new(Merged::new(log.bookmarked()));
        let count = log.pushes_from(cursor).filter(|push| merged.add(push)).count();
        self.reading = Reading::Merging(merged);
        count as u64
    }

    /// Writes what is pending, as much as the client takes; adds the pushes that it took to `delivered`.
    pub(super) fn pump(
        &mut self,
        log: &Log,
        encoding: Encoding,
        now: Tick,
        pace: &Pace,
        delivered: &mut u64,
    ) -> Pumped {
        // Taken out and put back, so that the steps below can borrow the rest of the session.
        let Some(outlet) = self.outlet.take() else { return Pumped::Blocked };
        let pumped = self.pump_into(&outlet, log, encoding, now, pace, delivered);
        self.outlet = Some(outlet);
        pumped
    }

    fn pump_into(
        &mut self,
        outlet: &Outlet,
        log: &Log,
        encoding: Encoding,
        now: Tick,
        pace: &Pace,
        delivered: &mut u64,
    ) -> Pumped {
        let ask_kernel = std::mem::take(&mut self.ask_kernel);
        self.resting = false;
        let mut turn = TURN_BYTES;
        loop {
            if let Phase::Over(reason) = self.protocol.phase() {
                return Pumped::Over(reason);
            }
            self.fill_tail(log, encoding, delivered);
            match self.write_once(outlet, log, ask_kernel, delivered) {
                Ok(Step::Wrote(written)) => {
                    if self.is_slow() {
                        self.protocol.on(Input::Progress, now, pace);
                    }
                    turn = turn.saturating_sub(written);
                    if turn == 0 {
                        return Pumped::Yielded;
                    }
                }
                Ok(Step::Idle) => return Pumped::Idle,
                Ok(Step::Over(reason)) => return Pumped::Over(reason),
                Err(error) if would_block(&error) => return Pumped::Blocked,
                // The protocol is over then, and the loop returns its reason.
                Err(_) => self.protocol.on(Input::Broken, now, pace),
            }
        }
    }

    /// Puts into the tail, if it is empty, what goes out before the log.
    fn fill_tail(&mut self, log: &Log, encoding: Encoding, delivered: &mut u64) {
        if self.tail.is_empty()
            && let Some(preface) = self.preface.as_mut().filter(|preface| preface.is_within_message())
        {
            // Pings and pongs may stand between the frames of a message, and a long one must not keep them waiting.
            if preface.admits_control()
                && self.protocol.phase() == Phase::Open
                && self.protocol.wants_to_write()
            {
                self.protocol.put(&mut self.tail);
            }
            preface.put(&mut self.tail);
        }
        if self.tail.is_empty() && self.protocol.wants_to_write() {
            self.protocol.put(&mut self.tail);
        }
        // A closing session sends no further pushes.
        if !self.tail.is_empty() || self.protocol.phase() != Phase::Open {
            return;
        }
        if let Some(mut preface) = self.preface.take() {
            preface.put(&mut self.tail);
            self.preface = (!preface.is_over()).then_some(preface);
        }
        if !self.tail.is_empty() {
            return;
        }
        if let Reading::Merging(merged) = &mut self.reading {
            let limit = merged.limit();
            // In chunks: what stays merged can still be replaced by something newer.
            while self.tail.len() < MERGED_CHUNK
                && let Some((push, action, confirmed)) = merged.pop(limit)
            {
                self.tail.extend_from_slice(&push.frame_merged(encoding, action, confirmed));
                *delivered += 1;
            }
            // Clients that remember no revision wait for no bookmark.
            let is_settled = !encoding.is_resumable() || merged.is_settled(log.bookmarked());
            if !self.tail.is_empty() {
                return;
            }
            if is_settled {
                self.reading = Reading::Behind(log.end());
            } else if let Some(rev) = merged.bookmark(log.bookmarked()) {
                self.tail.extend_from_slice(&encoding.bookmark(rev).unwrap_or_default());
            }
        }
    }

    fn write_once(
        &mut self,
        outlet: &Outlet,
        log: &Log,
        ask_kernel: bool,
        delivered: &mut u64,
    ) -> io::Result<Step> {
        if !self.tail.is_empty() {
            let written = outlet.try_write(&self.tail, ask_kernel)?;
            self.tail.drain(..written);
            if self.tail.is_empty() {
                // An idle session keeps no buffer.
                self.tail = Vec::new();
            }
            return Ok(Step::Wrote(written));
        }
        if let Phase::Closing(reason) = self.protocol.phase() {
            return self.shut(outlet, reason);
        }
        let pending = match self.reading {
            Reading::Live(cursor) | Reading::Behind(cursor) => log.pending(cursor),
            Reading::Merging(_) => &[],
        };
        if pending.is_empty() {
            outlet.try_flush()?;
            return Ok(Step::Idle);
        }
        let written = outlet.try_write(pending, ask_kernel)?;
        self.advance(log, written, delivered);
        Ok(Step::Wrote(written))
    }

    /// Moves the cursor past the bytes of the log that were written.
    fn advance(&mut self, log: &Log, written: usize, delivered: &mut u64) {
        let (Reading::Live(cursor) | Reading::Behind(cursor)) = &mut self.reading else { return };
        let before = *cursor;
        let reached = before + written as u64;
        // Whole frames only: the rest of one goes out before anything else, whatever comes between.
        *cursor = log.boundary(reached);
        self.tail.extend_from_slice(&log.pending(reached)[..(*cursor - reached) as usize]);
        *delivered += log.pushes_between(before, *cursor) as u64;
    }

    fn shut(&mut self, outlet: &Outlet, reason: Reason) -> io::Result<Step> {
        if self.shut {
            return Ok(Step::Idle);
        }
        if !outlet.try_shut()? {
            return Ok(Step::Over(reason));
        }
        self.shut = true;
        Ok(Step::Idle)
    }
}
