//! The reports of a shard, once per turn of the wheel: figures for the metrics, closed sessions for the
//! upstream.

use super::{COUNT_PENDING, Shard};
use crate::metrics::Tallied;
use crate::timer::{Tick, ticks};
use crate::watch::SessionsClosed;

/// Counts since the last report. Kept here and not in the instruments, which cost more than a frame does.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) merged: u64,
    pub(super) pings: u64,
    pub(super) pongs: u64,
    pub(super) read_timeouts: u64,
}

impl Shard {
    /// Hands the tally to the metrics, and reports closed sessions to the upstream as far as it takes them
    /// now.
    pub(super) fn report(&mut self, now: Tick) {
        let closed = &self.setup.closed;
        // A report that finds no room stays, and grows, until there is some: a shard never waits for the
        // upstream.
        self.unreported.retain(|group, sessions| {
            closed.try_send(SessionsClosed { group: *group, sessions: *sessions }).is_err()
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
            pings: tally.pings,
            pongs: tally.pongs,
            read_timeouts: tally.read_timeouts,
        });
        self.pending_shown = pending;
    }

    /// The number of pushes that wait for slow sessions.
    fn pending_events(&self) -> i64 {
        let mut pending = 0;
        for (_, audience) in &self.audiences {
            for key in &audience.slow {
                pending += self.sessions[key.index as usize].pending_events(&audience.log);
            }
        }
        pending as i64
    }
}
