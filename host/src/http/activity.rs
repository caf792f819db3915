//! The phase of a connection and its deadline.
//!
//! ```text
//!   Idle ──first byte──▶ Reading ──head complete──▶ Serving(n) ──last answer ended──▶ Idle
//! ```
//! On HTTP/2 bytes may be frames without a request (pings, settings), so there Idle is followed by Serving.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ServerLimits;

/// The state of one connection, shared by its socket, its requests and its timer.
#[derive(Debug)]
pub(super) struct Activity(Mutex<ActivityState>);

#[derive(Debug)]
struct ActivityState {
    phase: Phase,
    /// The protocol, as the first bytes show it; `None` before them.
    http2: Option<bool>,
    /// The connection was closed to make room for another one.
    evicted: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No request since this time.
    Idle(Instant),
    /// In the head of a request, whose first byte came at this time.
    Reading(Instant),
    /// So many requests are running, each until the end of its answer.
    Serving(usize),
}

/// The deadline that a connection has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The idle timeout.
    Idle,
    /// The timeout of a request's head.
    Head,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(ActivityState { phase: Phase::Idle(now), http2: None, evicted: false }))
    }

    /// Records bytes from the client.
    pub(super) fn received(&self, bytes: &[u8], now: Instant) {
        let mut state = self.0.lock();
        // Of all methods only the preface of HTTP/2 begins with these bytes. A client that sends only a part
        // of it counts as idle.
        let http2 = *state.http2.get_or_insert_with(|| b"PRI".starts_with(&bytes[..bytes.len().min(3)]));
        if let Phase::Idle(_) = state.phase
            && !http2
        {
            // Only the first byte starts the clock; a client cannot extend its time by sending one byte
            // after another.
            state.phase = Phase::Reading(now);
        }
    }

    /// Records the end of a request's head.
    pub(super) fn begin(&self) {
        let mut state = self.0.lock();
        state.phase = match state.phase {
            Phase::Serving(n) => Phase::Serving(n + 1),
            Phase::Idle(_) | Phase::Reading(_) => Phase::Serving(1),
        };
    }

    /// Records the end of an answer.
    pub(super) fn end(&self, now: Instant) {
        let mut state = self.0.lock();
        state.phase = match state.phase {
            Phase::Serving(n) if n > 1 => Phase::Serving(n - 1),
            _ => Phase::Idle(now),
        };
    }

    /// Marks the connection as closed to make room; false while it has a request, which must be answered.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.0.lock();
        state.evicted = !matches!(state.phase, Phase::Serving(_));
        state.evicted
    }

    /// True if the connection was closed to make room.
    pub(super) fn is_evicted(&self) -> bool {
        self.0.lock().evicted
    }

    /// The time at which the connection is overdue if nothing happens before, and the deadline that it then
    /// misses. `None` while requests run.
    pub(super) fn deadline(&self, limits: &ServerLimits) -> Option<(Instant, Overdue)> {
        match self.0.lock().phase {
            Phase::Idle(since) => Some((later(since, limits.idle_timeout), Overdue::Idle)),
            Phase::Reading(since) => Some((later(since, limits.header_timeout), Overdue::Head)),
            Phase::Serving(_) => None,
        }
    }
}

/// A request in progress, from the end of its head to the end of its answer.
#[derive(Debug)]
pub(super) struct Running(Arc<Activity>);

impl Running {
    pub(super) fn begin(activity: Arc<Activity>) -> Self {
        activity.begin();
        Self(activity)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

fn later(since: Instant, wait: Duration) -> Instant {
    // Adding a huge duration to an instant panics. A day is as good as never here.
    since + wait.min(Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_timed_from_its_first_byte() {
        let limits = ServerLimits::default();
        let start = Instant::now();
        let activity = Activity::new(start);
        assert_eq!(activity.deadline(&limits), Some((start + limits.idle_timeout, Overdue::Idle)));
        let first = start + Duration::from_secs(3);
        activity.received(b"G", first);
        activity.received(b"ET /", first + Duration::from_secs(5));
        assert_eq!(activity.deadline(&limits), Some((first + limits.header_timeout, Overdue::Head)));
    }

    #[test]
    fn a_connection_is_idle_when_its_last_answer_has_ended() {
        let limits = ServerLimits::default();
        let start = Instant::now();
        let activity = Activity::new(start);
        activity.begin();
        activity.begin();
        activity.end(start);
        assert_eq!(activity.deadline(&limits), None);
        activity.end(start + Duration::from_secs(9));
        assert_eq!(
            activity.deadline(&limits),
            Some((start + Duration::from_secs(9) + limits.idle_timeout, Overdue::Idle))
        );
    }

    #[test]
    fn http2_frames_without_a_request_leave_the_connection_idle() {
        let limits = ServerLimits::default();
        let start = Instant::now();
        let activity = Activity::new(start);
        activity.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", start);
        activity.received(b"\0\0\x08\x06", start + Duration::from_secs(20));
        assert_eq!(activity.deadline(&limits), Some((start + limits.idle_timeout, Overdue::Idle)));
    }

    #[test]
    fn a_post_is_not_taken_for_http2() {
        let limits = ServerLimits::default();
        let start = Instant::now();
        for method in [&b"POST"[..], b"PUT", b"PATCH", b"PROPFIND"] {
            let activity = Activity::new(start);
            activity.received(method, start);
            assert_eq!(activity.deadline(&limits).map(|(_, overdue)| overdue), Some(Overdue::Head));
        }
    }
}
