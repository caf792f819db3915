//! What a connection is doing, and until when it may.
//!
//! ```text
//!   Idle ──first byte──▶ Reading ──head complete──▶ Serving(n) ──last answer ended──▶ Idle
//! ```
//! HTTP/2 sends frames (pings, settings) without any request, so there it goes from Idle to Serving.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ServerLimits;

/// The state of one connection, shared by its socket, its requests and its timer.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    phase: Phase,
    http2: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle(Instant),
    Reading(Instant),
    Serving(usize),
}

/// Why a connection has stood still for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Without a request.
    Idle,
    /// In the middle of a request's head.
    Head,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State { phase: Phase::Idle(now), http2: None }))
    }

    /// Notes bytes from the client.
    pub(super) fn received(&self, bytes: &[u8], now: Instant) {
        let mut state = self.0.lock();
        // Only the preface of HTTP/2 begins like this; a client that stops within it counts as idle.
        let http2 = *state.http2.get_or_insert_with(|| b"PRI".starts_with(&bytes[..bytes.len().min(3)]));
        if let Phase::Idle(_) = state.phase
            && !http2
        {
            state.phase = Phase::Reading(now);
        }
    }

    /// Notes the end of a request's head.
    pub(super) fn begin(&self) {
        let mut state = self.0.lock();
        state.phase = match state.phase {
            Phase::Serving(n) => Phase::Serving(n + 1),
            Phase::Idle(_) | Phase::Reading(_) => Phase::Serving(1),
        };
    }

    /// Notes the end of an answer.
    pub(super) fn end(&self, now: Instant) {
        let mut state = self.0.lock();
        state.phase = match state.phase {
            Phase::Serving(n) if n > 1 => Phase::Serving(n - 1),
            _ => Phase::Idle(now),
        };
    }

    /// When the connection will be overdue if nothing happens; none while it serves.
    pub(super) fn deadline(&self, limits: &ServerLimits) -> Option<(Instant, Overdue)> {
        match self.0.lock().phase {
            Phase::Idle(since) => Some((later(since, limits.idle_timeout), Overdue::Idle)),
            Phase::Reading(since) => Some((later(since, limits.header_timeout), Overdue::Head)),
            Phase::Serving(_) => None,
        }
    }
}

/// `since` and `wait`, at most a day from now: a configured time must not overflow the clock.
fn later(since: Instant, wait: Duration) -> Instant {
    since + wait.min(Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ServerLimits {
        ServerLimits::default()
    }

    #[test]
    fn the_head_is_timed_from_its_first_byte() {
        let (limits, start) = (limits(), Instant::now());
        let activity = Activity::new(start);
        assert_eq!(activity.deadline(&limits), Some((start + limits.idle_timeout, Overdue::Idle)));
        let first = start + Duration::from_secs(3);
        activity.received(b"G", first);
        activity.received(b"ET /", first + Duration::from_secs(5));
        assert_eq!(activity.deadline(&limits), Some((first + limits.header_timeout, Overdue::Head)));
    }

    #[test]
    fn a_connection_is_idle_only_when_the_last_of_its_answers_ended() {
        let (limits, start) = (limits(), Instant::now());
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
        let (limits, start) = (limits(), Instant::now());
        let activity = Activity::new(start);
        activity.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", start);
        activity.received(b"\0\0\x08\x06", start + Duration::from_secs(20));
        assert_eq!(activity.deadline(&limits), Some((start + limits.idle_timeout, Overdue::Idle)));
    }

    #[test]
    fn a_post_is_not_taken_for_http2() {
        let (limits, start) = (limits(), Instant::now());
        for method in [&b"POST"[..], b"PUT", b"PATCH", b"PROPFIND"] {
            let activity = Activity::new(start);
            activity.received(method, start);
            assert_eq!(activity.deadline(&limits).map(|(_, what)| what), Some(Overdue::Head));
        }
    }
}
