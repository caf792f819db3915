//! The rights of open sessions: judged when the policy has changed, when a token ends, and when a client
//! brings a new one.
//!
//! A change of the policy concerns any session, so all of them are looked at, a share in each tick. A session
//! that has lost its right ends at a random moment soon after, so that clients do not come back all at once.

use std::time::Duration;

use super::{Alarm, Shard};
use crate::close::Reason;
use crate::codec::json::{self, Renewal};
use crate::codec::websocket::text_frame;
use crate::fanout::session::SessionKey;
use crate::policy::Verdict;
use crate::timer::{Tick, ticks};

/// The ticks in which all sessions are looked at: a second.
const REVIEW_TICKS: usize = 10;
/// Sessions that are looked at in a tick, if there are so many.
const REVIEW_CHUNK: usize = 256;
/// The time within which sessions end that have lost their right.
const END_WITHIN: Duration = Duration::from_secs(2);
/// The shortest time between two new tokens of a session. Further ones are passed over: verifying one takes
/// the shard as long as writing to a dozen watchers.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// The progress of looking at all sessions.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// The policy of the last review, or of the present one.
    generation: u64,
    /// The place of the next session. `None` when no review is under way.
    next: Option<usize>,
}

impl Shard {
    /// Looks at a share of the sessions, if the policy has changed. Called once per tick.
    pub(super) fn review_rights(&mut self) {
        let generation = self.setup.policy.generation();
        // A review is not begun again before its end: policies that change often would never let it come
        // there.
        if self.review.next.is_none() && self.review.generation != generation {
            self.review = Review { generation, next: Some(0) };
        }
        let Some(first) = self.review.next else { return };
        // Places are used again, and a session that comes meanwhile is judged when it is attached.
        let all = self.sessions.capacity();
        let end = all.min(first + REVIEW_CHUNK.max(all / REVIEW_TICKS));
        for index in first..end {
            if let Some(session) = self.sessions.get(index) {
                self.judge(SessionKey { index: index as u32, serial: session.serial });
            }
        }
        self.review.next = Some(end).filter(|end| *end < all);
    }

    /// Judges a session that is attached.
    pub(super) fn judge(&mut self, key: SessionKey) {
        match self.verdict(key) {
            None => {}
            Some(Verdict::Stays) => self.arm_judging(key),
            // Tokens end at moments of their own.
            Some(Verdict::Ends(reason @ Reason::TokenExpired)) => self.end_sessions(vec![key], reason),
            Some(Verdict::Ends(_)) => self.end_in_turn(key, END_WITHIN),
            Some(Verdict::EndsInTurn(_)) => self.end_in_turn(key, self.setup.policy.end_over()),
        }
    }

    fn verdict(&mut self, key: SessionKey) -> Option<Verdict> {
        // Not `self.session`: the policy is borrowed beside it.
        let session = self.sessions.get_mut(key.index as usize);
        let session = session.filter(|session| session.serial == key.serial)?;
        let tenant = &session.held.as_ref()?.permit.consumer().tenant;
        Some(self.setup.policy.judge(&mut session.right, tenant))
    }

    /// Sets the alarm at which a session is judged again, unless an earlier one is set.
    fn arm_judging(&mut self, key: SessionKey) {
        let now = self.wheel.now();
        let policy = self.setup.policy.clone();
        let Some(session) = self.session(key) else { return };
        let Some(after) = policy.judge_after(session.right.as_deref()) else { return };
        let at = now + ticks(Duration::from_secs(after));
        if session.judge_at > now && session.judge_at <= at {
            return;
        }
        session.judge_at = at;
        self.wheel.set(at, Alarm::Judge(key, at));
    }

    pub(super) fn on_judge_alarm(&mut self, key: SessionKey, at: Tick) {
        if self.session(key).is_some_and(|session| session.judge_at == at) {
            self.judge(key);
        }
    }

    /// Gives a session a turn to end within this time, unless it has an earlier one.
    fn end_in_turn(&mut self, key: SessionKey, over: Duration) {
        let now = self.wheel.now();
        let at = now + 1 + fastrand::u32(0..ticks(over));
        let Some(session) = self.session(key) else { return };
        if session.end_at > now && session.end_at <= at {
            return;
        }
        session.end_at = at;
        self.wheel.set(at, Alarm::EndInTurn(key, at));
    }

    /// Ends a session whose turn has come, unless its client has a right again.
    pub(super) fn on_end_turn(&mut self, key: SessionKey, at: Tick) {
        if self.session(key).is_none_or(|session| session.end_at != at) {
            return;
        }
        match self.verdict(key) {
            None => {}
            Some(Verdict::Stays) => self.arm_judging(key),
            Some(Verdict::Ends(reason) | Verdict::EndsInTurn(reason)) => {
                self.end_sessions(vec![key], reason);
            }
        }
    }

    /// Takes a new token, if a client's message brings one.
    pub(super) fn renew(&mut self, key: SessionKey, message: &[u8]) {
        let Ok(Renewal { token }) = serde_json::from_slice(message) else { return };
        let now = self.wheel.now();
        let policy = self.setup.policy.clone();
        let Some(session) = self.session(key) else { return };
        if now < session.renew_from {
            return;
        }
        session.renew_from = now + ticks(RENEWAL_PAUSE);
        let result = policy.renew(&mut session.right, &token);
        session.answer(&text_frame(&json::renewed(&result)));
        if result.is_ok() {
            self.judge(key);
        }
        self.pump(key);
    }
}
