//! What a shard tells of itself, once per turn of the wheel.

use super::{COUNT_PENDING, Shard};
use crate::fanout::audience::Audience;
use crate::metrics::Tallied;
use crate::timer::{Tick, ticks};
use crate::watch::SessionsClosed;

/// Counted per turn of the wheel, not per frame.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) merged: u64,
    pub(super) asked: u64,
    pub(super) answered: u64,
    pub(super) given_up: u64,
}

impl Shard {
    /// Counts what was tallied, and tells the upstream who is gone as far as it can take it now.
    pub(super) fn report(&mut self, now: Tick) {
        let sender = &self.setup.left;
        self.left.retain(|group, sessions| {
            sender.try_send(SessionsClosed { group: *group, sessions: *sessions }).is_err()
        });
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
    pub(super) fn pending_events(&self) -> i64 {
        let of = |audience: &Audience| {
            let slow = audience.slow.iter().map(|key| &self.connections[key.index as usize]);
            slow.map(|it| it.pending_events(&audience.log)).sum::<usize>()
        };
        self.audiences.iter().map(|(_, audience)| of(audience)).sum::<usize>() as i64
    }
}
