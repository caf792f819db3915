//! The phase of a connection and its deadline.
//!
//! ```text
//!   Idle ──first byte──▶ Reading ──head complete──▶ Serving(n) ──last answer ended──▶ Idle
//! ```
//! On HTTP/2 bytes may be frames without a request (pings, settings), so there Idle is followed by Serving.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ServerLimits;
use super::lines::{BodyLength, Lines};

/// The time for which a client may keep its connection waiting, with the body of a request or by not reading an answer,
/// before the connection may be closed to make room for others. Bodies that come with their heads, or right after, never
/// take as long, nor do answers to clients that read.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state of one connection, shared by its socket, its requests and its timer.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<ActivityState>,
    given_up: Notify,
    /// Told when the first byte has come.
    first_byte: Notify,
}

#[derive(Debug)]
struct ActivityState {
    phase: Phase,
    /// The protocol, as the first bytes show it; `None` before them.
    http2: Option<bool>,
    /// The connection was closed to make room for another one.
    evicted: bool,
    /// The running requests that go on as soon as their client has sent more of its body, or taken more of its answer on
    /// HTTP/2.
    waits: Vec<Wait>,
    /// The time since which the socket takes nothing; `None` while it does.
    stalled: Option<Instant>,
    /// The answer that is being written. Only HTTP/1 writes one after another.
    answer: Answer,
    /// The connection must end, to make room for the answers of others.
    is_given_up: bool,
    lines: Lines,
}

/// A wait for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    /// The time of the first wait for this thing. A client that sends a byte now and then is waited for since then.
    first: Instant,
    /// The time since which the client has done nothing.
    since: Instant,
    thing: Awaited,
}

/// The thing that a client keeps waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The body of its request.
    Body,
    /// An answer with an end.
    Answer,
    /// An answer without an end, such as a watch.
    Watch,
}

fn is_late(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= PATIENCE
}

/// An answer on HTTP/1, as far as its pace is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The number of the answer on its connection.
    pub(super) number: u64,
    /// Its length is not known, as that of a watch, or the connection speaks HTTP/2, whose streams have a pace of their
    /// own.
    pub(super) is_endless: bool,
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

impl ActivityState {
    /// Begins a request, or a further part of one.
    fn add(&mut self) {
        self.phase = match self.phase {
            Phase::Serving(n) => Phase::Serving(n + 1),
            Phase::Idle(_) | Phase::Reading(_) => Phase::Serving(1),
        };
    }

    /// True if the socket has taken nothing for a while.
    fn is_stalled(&self, now: Instant) -> bool {
        self.stalled.is_some_and(|since| is_late(since, now))
    }
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        let state = ActivityState {
            phase: Phase::Idle(now),
            http2: None,
            evicted: false,
            waits: Vec::new(),
            stalled: None,
            answer: Answer { number: 0, is_endless: true },
            is_given_up: false,
            lines: Lines::default(),
        };
        Self { state: Mutex::new(state), given_up: Notify::new(), first_byte: Notify::new() }
    }

    /// Records that an answer of HTTP/1 is about to be written.
    pub(super) fn answer_begins(&self, is_endless: bool) {
        let answer = &mut self.state.lock().answer;
        *answer = Answer { number: answer.number + 1, is_endless };
    }

    /// The answer that is being written.
    pub(super) fn answer(&self) -> Answer {
        self.state.lock().answer
    }

    /// Asks the connection to end, because its answer holds memory that others need.
    pub(super) fn give_up(&self) {
        self.state.lock().is_given_up = true;
        self.given_up.notify_one();
    }

    /// True if the connection was asked to end.
    #[cfg(test)]
    pub(super) fn is_given_up(&self) -> bool {
        self.state.lock().is_given_up
    }

    /// Resolves when the connection was asked to end. One waits at a time.
    pub(super) async fn given_up(&self) {
        // The permit of `Notify` stays until somebody waits.
        self.given_up.notified().await;
    }

    /// Records bytes from the client.
    pub(super) fn received(&self, bytes: &[u8], now: Instant) {
        let mut state = self.state.lock();
        if state.http2.is_none() {
            self.first_byte.notify_one();
        }
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
        if !http2 {
            state.lines.read(bytes);
        }
    }

    /// Resolves when the first byte has come from the client. One waits at a time.
    pub(super) async fn first_byte(&self) {
        self.first_byte.notified().await;
    }

    /// Records the end of a request's head. False if a line of it ended without a carriage return, on HTTP/1.
    pub(super) fn begin(&self, body: BodyLength) -> bool {
        let mut state = self.state.lock();
        state.add();
        state.http2 == Some(true) || state.lines.begin(body)
    }

    /// Records the end of an answer.
    pub(super) fn end(&self, now: Instant) {
        let mut state = self.state.lock();
        state.phase = match state.phase {
            Phase::Serving(n) if n > 1 => Phase::Serving(n - 1),
            _ => Phase::Idle(now),
        };
    }

    /// Marks the connection as closed to make room; false while it has a request that must be answered. A client that
    /// keeps its requests waiting for longer than [`PATIENCE`], because it does not send the body that it has announced or
    /// does not read, loses its place. Answers without an end, such as watches, are not a reason: they may be quiet for days.
    pub(super) fn evict(&self, now: Instant, idle_only: bool) -> bool {
        let mut state = self.state.lock();
        state.evicted = match state.phase {
            Phase::Idle(_) | Phase::Reading(_) => true,
            // The oldest wait counts, because a client on HTTP/2 may begin a new one at any time.
            Phase::Serving(running) => {
                let mut waits = state.waits.iter().filter(|wait| wait.thing != Awaited::Watch);
                let all_wait = waits.clone().count() >= running && waits.any(|wait| is_late(wait.first, now));
                // On HTTP/1 nothing goes on behind an answer that is not read.
                let is_unread = state.http2 == Some(false) && !state.answer.is_endless;
                !idle_only && (all_wait || (is_unread && state.is_stalled(now)))
            }
        };
        state.evicted
    }

    /// Resolves when the client has done nothing for [`PATIENCE`] on a connection that is to end and waits for it. Answers
    /// with an end do not count, because a slow network looks like a client that does not read.
    pub(super) async fn kept_waiting(&self) {
        loop {
            tokio::time::sleep(PATIENCE).await;
            if self.is_kept_waiting(Instant::now()) {
                return;
            }
        }
    }

    fn is_kept_waiting(&self, now: Instant) -> bool {
        let state = self.state.lock();
        match state.phase {
            Phase::Idle(since) | Phase::Reading(since) => is_late(since, now),
            Phase::Serving(running) => {
                let late = state
                    .waits
                    .iter()
                    .filter(|wait| wait.thing != Awaited::Answer && is_late(wait.since, now));
                // A watch on HTTP/1. Its client can resume it elsewhere.
                let is_unread = state.http2 == Some(false) && state.answer.is_endless;
                late.count() >= running || (is_unread && state.is_stalled(now))
            }
        }
    }

    /// Notes since when the socket takes nothing; `None` while it takes bytes.
    pub(super) fn note_stall(&self, since: Option<Instant>) {
        self.state.lock().stalled = since;
    }

    /// True if the socket has taken nothing for a while.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.state.lock().is_stalled(now)
    }

    /// Counts a request as waiting for its client from now on, until the guard is dropped. `first` is the time of the first
    /// wait for the same thing.
    pub(super) fn wait(self: &Arc<Self>, first: Instant, thing: Awaited) -> Waiting {
        let wait = Wait { first, since: Instant::now(), thing };
        self.state.lock().waits.push(wait);
        Waiting { activity: self.clone(), wait }
    }

    /// True if the connection has shown that it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.state.lock().http2 == Some(true)
    }

    /// True if the connection was closed to make room.
    pub(super) fn is_evicted(&self) -> bool {
        self.state.lock().evicted
    }

    /// The time at which the connection is overdue if nothing happens before, and the deadline that it then
    /// misses. `None` while requests run.
    pub(super) fn deadline(&self, limits: &ServerLimits) -> Option<(Instant, Overdue)> {
        match self.state.lock().phase {
            Phase::Idle(since) => Some((later(since, limits.idle_timeout), Overdue::Idle)),
            Phase::Reading(since) => Some((later(since, limits.header_timeout), Overdue::Head)),
            Phase::Serving(_) => None,
        }
    }
}

/// A request that waits for its client.
#[derive(Debug)]
pub(super) struct Waiting {
    activity: Arc<Activity>,
    wait: Wait,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.activity.state.lock();
        if let Some(place) = state.waits.iter().position(|wait| *wait == self.wait) {
            state.waits.swap_remove(place);
        }
    }
}

/// A request in progress, from the end of its head to the end of its answer.
#[derive(Debug)]
pub(super) struct Running(Arc<Activity>);

impl Running {
    /// Begins a request; the flag is that of [`Activity::begin`].
    pub(super) fn begin(activity: Arc<Activity>, body: BodyLength) -> (Self, bool) {
        let is_strict = activity.begin(body);
        (Self(activity), is_strict)
    }

    /// A second part of the same request, which runs until both are dropped.
    pub(super) fn again(&self) -> Self {
        self.0.state.lock().add();
        Self(self.0.clone())
    }

    /// The connection of the request.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.0
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
    fn the_oldest_wait_for_a_body_counts() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start));
        activity.begin(BodyLength::Known(0));
        let _first = activity.wait(start, Awaited::Body);
        assert!(!activity.evict(start + PATIENCE / 2, false));
        activity.begin(BodyLength::Known(0));
        let later = start + PATIENCE;
        assert!(!activity.evict(later, false), "one of them is worked on");
        let second = activity.wait(later, Awaited::Answer);
        assert!(!activity.evict(later, true), "there may be others without a request");
        assert!(activity.evict(later, false));
        drop(second);
        assert!(!activity.evict(later, false));
    }

    #[test]
    fn a_connection_is_idle_when_its_last_answer_has_ended() {
        let limits = ServerLimits::default();
        let start = Instant::now();
        let activity = Activity::new(start);
        activity.begin(BodyLength::Known(0));
        activity.begin(BodyLength::Known(0));
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
