//! The end of sessions: in a drain, on an order of the upstream, or by themselves.

use std::time::Duration;

use tracing::debug;

use super::{Alarm, Drain, LONGEST_TURN, SLOW_DRAIN, SLOW_DRAIN_RECHECK, Shard};
use crate::close::Reason;
use crate::fanout::PlainEnd;
use crate::fanout::outlet::Outlet;
use crate::fanout::session::SessionKey;
use crate::fleet::Others;
use crate::policy::Right;
use crate::push::Encoding;
use crate::session::Input;
use crate::timer::{Tick, ticks};
use crate::watch::GroupId;

impl Shard {
    /// Gives each session a turn to end, evenly spread over the time: each tick ends its share and not one
    /// more, because the gateways that the clients turn to must accept them no faster than that. The order is
    /// random, so that no consumer loses all its watchers at once.
    pub(super) fn begin_drain(&mut self, over: Duration, latest: Duration) {
        let now = self.wheel.now();
        let over = ticks(over);
        self.drain = Some(Drain { until: now + over, latest: now + ticks(latest).max(over) });
        let mut keys: Vec<SessionKey> = self.keys().collect();
        fastrand::shuffle(&mut keys);
        let count = keys.len() as u64;
        for (turn, key) in keys.into_iter().enumerate() {
            let share = turn as u64 * u64::from(over) / count;
            let at = now + 1 + share as Tick;
            self.wheel.set(at, Alarm::Drain(key, at));
        }
    }

    /// Gives a session that was attached during a drain a turn among those that are left.
    pub(super) fn drain_late_session(&mut self, key: SessionKey, until: Tick) {
        let now = self.wheel.now();
        let at = fastrand::u32(now..=until.max(now));
        self.wheel.set(at, Alarm::Drain(key, at));
    }

    /// Ends a session whose turn in the drain has come; its first turn was at `since`.
    pub(super) fn on_drain_turn(&mut self, key: SessionKey, since: Tick, now: Tick) {
        let pace = self.setup.pace;
        let Some(session) = self.session(key) else { return };
        if session.outlet.is_some() && session.is_slow() && now < since + ticks(SLOW_DRAIN) {
            // Its pending pushes go out first. The time is bounded, because more may arrive as long as it is
            // slow.
            return self.wheel.set(now + ticks(SLOW_DRAIN_RECHECK), Alarm::Drain(key, since));
        }
        let audience = session.audience as usize;
        let is_plain = self.audiences[audience].encoding == Encoding::Plain;
        if let Some(again) = self.drain.filter(|_| is_plain).and_then(|drain| self.turn_later(drain, now)) {
            return self.wheel.set(again, Alarm::Drain(key, since));
        }
        // Borrowed again: the lines above needed the shard.
        let Some(session) = self.session(key) else { return };
        session.protocol.on(Input::End(Reason::Drained), now, &pace);
        if session.outlet.is_none() {
            self.remove_session(key, Reason::Drained);
        } else {
            self.pump(key);
        }
    }

    /// The tick of a plain session's next turn, when its client could watch nowhere if it ended now.
    ///
    /// Turns are spread anew, so that the sessions which have waited do not all reach the gateway that
    /// becomes ready in the same moment.
    fn turn_later(&self, drain: Drain, now: Tick) -> Option<Tick> {
        let waits =
            self.setup.plain_end == PlainEnd::Error && *self.setup.others.borrow() == Others::NotReady;
        if !waits || now >= drain.latest {
            return None;
        }
        let longest = ticks(LONGEST_TURN).min(drain.latest - now);
        Some(now + fastrand::u32(1..=longest.max(1)))
    }

    /// Ends all sessions of a group.
    pub(super) fn end_group(&mut self, group: GroupId, reason: Reason) {
        let Some(audiences) = self.groups.get(&group) else { return };
        // Collected first, because a session that ends is taken out of this list.
        let mut keys = Vec::new();
        for audience in audiences {
            keys.extend_from_slice(&self.audiences[*audience as usize].members);
        }
        self.end_sessions(keys, reason);
    }

    /// Ends the sessions whose clients remember revisions, because these are of another history now.
    pub(super) fn end_resumable_sessions(&mut self) {
        let mut keys = Vec::new();
        for (_, audience) in &self.audiences {
            if audience.encoding.is_resumable() {
                keys.extend_from_slice(&audience.members);
            }
        }
        self.end_sessions(keys, Reason::Restored);
    }

    pub(super) fn end_sessions(&mut self, keys: Vec<SessionKey>, reason: Reason) {
        let now = self.wheel.now();
        let pace = self.setup.pace;
        for key in keys {
            if let Some(session) = self.session(key) {
                session.protocol.on(Input::End(reason), now, &pace);
                self.pump(key);
            }
        }
    }

    /// Removes a session that is over, and everything that belongs to it.
    pub(super) fn remove_session(&mut self, key: SessionKey, reason: Reason) {
        if self.session(key).is_none() {
            return;
        }
        let session = self.sessions.remove(key.index as usize);
        self.note_departure(&session, reason);
        if let Some(span) = &session.span {
            span.in_scope(|| debug!(reason = reason.label(), "the session has closed"));
        }
        // Before the outlet is dropped, which would report the stream as broken.
        if let Some(Outlet::Stream(stream)) = &session.outlet {
            stream.end(reason);
        }
        for task in [&session.reader, &session.writer].into_iter().flatten() {
            task.abort();
        }
        let index = session.audience;
        let audience = &mut self.audiences[index as usize];
        self.tally.failed += session.pending_events(&audience.log) as u64;
        *self.unreported.entry(audience.group).or_default() += 1;
        // The audience fills the gap with its last member, whose session must know its new index.
        let grant = Right::grant_of(session.right.as_deref());
        if let Some(moved) = audience.remove(session.member as usize, key, &grant) {
            self.sessions[moved.index as usize].member = session.member;
        }
        self.trim_or_forget(index);
        self.tally.read_timeouts += u64::from(reason == Reason::ReadTimeout);
        // First its places: a reader of the figures who sees that it is gone may open another one.
        drop(session);
        self.setup.metrics.closed(reason);
    }
}
