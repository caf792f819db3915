//! One watcher's connection as a pure machine: what came in and the time go in; what to write and when to end
//! come out. It knows no socket, no channel, no clock.
//!
//! ```text
//! Open ──close, violation, no service──▶ Closing (last words, then silence until the client ends) ──▶ Over
//!   └──────────client gone, deadline passed, connection broken──────────────────────────────────────▶ Over
//! ```
//!
//! Any frame of the client counts as life. The server pings at its own pace, whether or not the client does:
//! there are clients that give up after a minute without traffic. Of pings that come faster than pongs can
//! be written only the latest is answered.

use std::time::Duration;

use crate::close::Reason;
use crate::timer::{Tick, ticks};
use crate::wire::frame::{Incoming, Violation, put_close, put_ping, put_pong, text_frame};

/// How long sessions live and how often they are asked.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Between two pings of the server; each is up to a tenth earlier, so that they spread.
    pub ping_interval: Duration,
    /// After so long without a frame from the client the connection ends.
    pub read_timeout: Duration,
    /// After so long without a byte taken by the client, while there is something to write, it ends.
    pub write_timeout: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            // Old clients give up after 60 s of silence; this is Service-Center's pace.
            ping_interval: Duration::from_secs(30),
            read_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(5),
        }
    }
}

/// The same in ticks, shared by all sessions of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    ping: Tick,
    read: Tick,
    write: Tick,
}

impl From<&SessionConfig> for Pace {
    fn from(it: &SessionConfig) -> Self {
        Self { ping: ticks(it.ping_interval), read: ticks(it.read_timeout), write: ticks(it.write_timeout) }
    }
}

/// How long a client may take to end its side after the last words.
const LINGER: Duration = Duration::from_secs(2);

/// Later than any session lives: some seven years. A deadline from here on needs no timer.
pub(crate) const NEVER: Tick = Tick::MAX / 2;

/// What happened to a session.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// A frame came.
    Frame(Incoming<'a>),
    /// The client violated the protocol.
    Violation(Violation),
    /// The client's stream ended.
    Ended,
    /// Its deadline is reached, perhaps.
    Timer,
    /// The connection's socket cannot be used any more.
    Broken,
    /// The session must end for a reason of ours.
    End(Reason),
    /// Bytes wait because the client does not take them.
    Blocked,
    /// The client took some of the bytes that wait.
    Progress,
    /// Nothing waits any more.
    Drained,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Events are sent.
    Open,
    /// Only the last words are sent; then the sending side is shut.
    Closing(Reason),
    /// The connection can be dropped.
    Over(Reason),
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    heard: Tick,
    ping_at: Tick,
    /// Since when bytes wait without progress.
    blocked: Option<Tick>,
    /// When a closing session is over, whatever the client does.
    linger: Tick,
    ping_due: bool,
    pong: Option<Box<[u8]>>,
    last_words: Option<Box<[u8]>>,
}

impl Machine {
    /// A session that begins now.
    pub(crate) fn new(now: Tick, pace: &Pace) -> Self {
        Self {
            phase: Phase::Open,
            heard: now,
            ping_at: now + jittered(pace.ping),
            blocked: None,
            linger: 0,
            ping_due: false,
            pong: None,
            last_words: None,
        }
    }

    /// A session whose protocol sees to pings and deadlines of reading itself.
    pub(crate) fn without_pings() -> Self {
        Self {
            phase: Phase::Open,
            heard: NEVER,
            ping_at: NEVER,
            blocked: None,
            linger: 0,
            ping_due: false,
            pong: None,
            last_words: None,
        }
    }

    /// Where it stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes in what happened.
    pub(crate) fn on(&mut self, input: Input<'_>, now: Tick, pace: &Pace) {
        match (self.phase, input) {
            (Phase::Over(_), _) => {}
            (_, Input::Timer) => self.on_timer(now, pace),
            (_, Input::Blocked) => self.blocked = self.blocked.or(Some(now)),
            (_, Input::Progress) => self.blocked = Some(now),
            (_, Input::Drained) => self.blocked = None,
            (_, Input::Broken) => self.phase = Phase::Over(Reason::Broken),
            (Phase::Closing(reason), Input::Ended) => self.phase = Phase::Over(reason),
            (Phase::Closing(_), Input::Frame(_) | Input::Violation(_) | Input::End(_)) => {}
            (Phase::Open, Input::Ended) => self.phase = Phase::Over(Reason::ClientGone),
            (Phase::Open, Input::Frame(frame)) => self.on_frame(frame, now),
            (Phase::Open, Input::Violation(Violation::Protocol(words))) => {
                self.close(Reason::Protocol, words, now)
            }
            (Phase::Open, Input::Violation(Violation::TooBig)) => {
                self.close(Reason::TooBig, Reason::TooBig.words(), now)
            }
            (Phase::Open, Input::Violation(Violation::NotText)) => {
                self.close(Reason::NotText, Reason::NotText.words(), now)
            }
            (Phase::Open, Input::End(reason)) => self.close(reason, reason.words(), now),
        }
    }

    fn on_frame(&mut self, frame: Incoming<'_>, now: Tick) {
        self.heard = now;
        match frame {
            Incoming::Ping(payload) => self.pong = Some(payload.into()),
            Incoming::Pong | Incoming::Data => {}
            Incoming::Close(said) => {
                let mut echo = Vec::new();
                let (code, words) = said.map_or((None, ""), |(code, words)| (Some(code), words));
                put_close(code, words, &mut echo);
                self.begin_closing(Reason::ClientClosed, echo, now);
            }
        }
    }

    fn close(&mut self, reason: Reason, words: &str, now: Tick) {
        let mut last = Vec::new();
        if let Some(text) = reason.text() {
            last.extend_from_slice(&text_frame(text.as_bytes()));
        }
        if let Some(code) = reason.close_code() {
            put_close(Some(code), words, &mut last);
        }
        self.begin_closing(reason, last, now);
    }

    fn begin_closing(&mut self, reason: Reason, last_words: Vec<u8>, now: Tick) {
        self.phase = Phase::Closing(reason);
        self.linger = now + ticks(LINGER);
        self.last_words = Some(last_words.into());
        (self.pong, self.ping_due) = (None, false);
    }

    fn on_timer(&mut self, now: Tick, pace: &Pace) {
        if self.blocked.is_some_and(|since| now >= since + pace.write) {
            self.phase = Phase::Over(Reason::WriteTimeout);
        } else if let Phase::Closing(reason) = self.phase {
            if now >= self.linger {
                self.phase = Phase::Over(reason);
            }
        } else if now >= self.heard + pace.read {
            self.phase = Phase::Over(Reason::ReadTimeout);
        } else if now >= self.ping_at {
            self.ping_due = true;
            self.ping_at = now + jittered(pace.ping);
        }
    }

    /// When [`Input::Timer`] is due next.
    pub(crate) fn deadline(&self, pace: &Pace) -> Tick {
        let next = match self.phase {
            Phase::Open => self.ping_at.min(self.heard + pace.read),
            Phase::Closing(_) | Phase::Over(_) => self.linger,
        };
        self.blocked.map_or(next, |since| next.min(since + pace.write))
    }

    /// A ping is to be written.
    pub(crate) fn is_asking(&self) -> bool {
        self.ping_due
    }

    /// Something of our own is to be written, between two events.
    pub(crate) fn wants_to_write(&self) -> bool {
        self.ping_due || self.pong.is_some() || self.last_words.is_some()
    }

    /// Appends what is to be written.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>) {
        if let Some(payload) = self.pong.take() {
            put_pong(&payload, out);
        }
        if std::mem::take(&mut self.ping_due) {
            put_ping(out);
        }
        if let Some(words) = self.last_words.take() {
            out.extend_from_slice(&words);
        }
    }
}

/// Up to a tenth earlier, so that sessions that began together do not ping together for ever.
fn jittered(interval: Tick) -> Tick {
    (interval - fastrand::u32(0..=interval / 10)).max(1)
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
