//! The protocol of one session as a pure machine: what happened and the time go in; what to write, and when
//! to end, come out. It knows no socket, no channel and no clock.
//!
//! ```text
//! Open ──close, violation, no service──▶ Closing (last frames, then silence until the client ends) ──▶ Over
//!   └──────────client gone, deadline passed, connection broken──────────────────────────────────────▶ Over
//! ```
//!
//! Every frame of the client shows that it lives. The server pings at its own pace even if the client pings
//! too, because some clients give up after a minute in which they receive nothing. If pings arrive faster
//! than pongs can be written, only the latest is answered.

use std::time::Duration;

use crate::close::{Farewell, Reason};
use crate::codec::event_stream::{self, COMMENT};
use crate::codec::websocket::{Incoming, Violation, put_close, put_ping, put_pong, text_frame};
use crate::timer::{Tick, ticks};

/// The pings and deadlines of sessions.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The pause between two pings of the server. Each is up to a tenth earlier, so that sessions spread.
    pub ping_interval: Duration,
    /// The time without a frame from the client after which the session ends.
    pub read_timeout: Duration,
    /// The time after which a session ends that has bytes to write, of which the client takes none.
    pub write_timeout: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            // Service-Center's interval; old clients give up after 60 s of silence.
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
    fn from(config: &SessionConfig) -> Self {
        Self {
            ping: ticks(config.ping_interval),
            read: ticks(config.read_timeout),
            write: ticks(config.write_timeout),
        }
    }
}

/// The time that a client may take to end its side after the close frame.
const LINGER: Duration = Duration::from_secs(2);

/// A tick that no session reaches, some seven years after the start. A deadline from here on needs no timer.
pub(crate) const NEVER: Tick = Tick::MAX / 2;

/// An event in the life of a session.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// The client sent a frame.
    Frame(Incoming<'a>),
    /// The client violated the protocol.
    Violation(Violation),
    /// The client ended its side of the connection.
    Ended,
    /// A timer fired that was set for the deadline; the deadline may have moved since.
    Timer,
    /// The connection failed.
    Broken,
    /// The gateway ends the session.
    End(Reason),
    /// Bytes are pending because the client does not take them.
    Blocked,
    /// The client took some of the pending bytes.
    Progress,
    /// No bytes are pending any more.
    Drained,
}

/// The phase of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Pushes are sent.
    Open,
    /// Only the last frames are sent, and then the sending side is shut.
    Closing(Reason),
    /// The connection can be dropped.
    Over(Reason),
}

/// The protocol of one session.
#[derive(Debug)]
pub(crate) struct Protocol {
    phase: Phase,
    /// The tick of the client's last frame.
    last_frame: Tick,
    ping_at: Tick,
    /// The tick since which bytes are pending without progress.
    blocked: Option<Tick>,
    /// The tick at which a closing session is over, whatever the client does.
    linger: Tick,
    ping_due: bool,
    /// The payload of the pong that is due.
    pong: Option<Box<[u8]>>,
    last_frames: Option<Box<[u8]>>,
    framing: Framing,
}

/// The form of the protocol's own frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Frames of a WebSocket, and the last one for a client that is wanted elsewhere.
    WebSocket(Farewell),
    /// Comments, and an event at the end.
    EventStream,
    /// None: the transport has pings and a status of its own.
    None,
}

impl Protocol {
    /// The protocol of a session that begins now.
    pub(crate) fn new(now: Tick, pace: &Pace, farewell: Farewell) -> Self {
        let framing = Framing::WebSocket(farewell);
        Self { last_frame: now, ping_at: now + jittered(pace.ping), framing, ..Self::without_pings() }
    }

    /// The protocol of a stream of server-sent events, which begins now. Its client sends nothing, so only
    /// writing can show that it has gone.
    pub(crate) fn of_event_stream(now: Tick, pace: &Pace) -> Self {
        Self { ping_at: now + jittered(pace.ping), framing: Framing::EventStream, ..Self::without_pings() }
    }

    /// The protocol of a stream whose transport pings and notices silence itself, as HTTP/2 does.
    pub(crate) fn without_pings() -> Self {
        Self {
            phase: Phase::Open,
            last_frame: NEVER,
            ping_at: NEVER,
            blocked: None,
            linger: 0,
            ping_due: false,
            pong: None,
            last_frames: None,
            framing: Framing::None,
        }
    }

    /// The current phase.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes in an event.
    pub(crate) fn on(&mut self, input: Input<'_>, now: Tick, pace: &Pace) {
        match (self.phase, input) {
            (Phase::Over(_), _) => {}
            (_, Input::Timer) => self.on_timer(now, pace),
            // The first block counts: further pushes to a client that takes nothing must not extend its time.
            (_, Input::Blocked) => self.blocked = self.blocked.or(Some(now)),
            (_, Input::Progress) => self.blocked = Some(now),
            (_, Input::Drained) => self.blocked = None,
            (_, Input::Broken) => self.phase = Phase::Over(Reason::Broken),
            (Phase::Closing(reason), Input::Ended) => self.phase = Phase::Over(reason),
            // The first reason stands, and a closing session does not answer any more.
            (Phase::Closing(_), Input::Frame(_) | Input::Violation(_) | Input::End(_)) => {}
            (Phase::Open, Input::Ended) => self.phase = Phase::Over(Reason::ClientGone),
            (Phase::Open, Input::Frame(frame)) => self.on_frame(frame, now),
            (Phase::Open, Input::Violation(Violation::Protocol(problem))) => {
                self.close(Reason::Protocol, problem, now)
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
        self.last_frame = now;
        match frame {
            // RFC 6455 §5.5.3 lets the latest ping stand for all, so a flood of them costs one payload.
            Incoming::Ping(payload) => self.pong = Some(payload.into()),
            Incoming::Pong(_) | Incoming::Data | Incoming::Text(_) => {}
            Incoming::Close(close) => {
                let mut echo = Vec::new();
                match close {
                    Some((code, reason)) => put_close(Some(code), reason, &mut echo),
                    None => put_close(None, "", &mut echo),
                }
                self.begin_closing(Reason::ClientClosed, echo, now);
            }
        }
    }

    fn close(&mut self, reason: Reason, words: &str, now: Tick) {
        let farewell = match self.framing {
            Framing::WebSocket(farewell) => farewell,
            Framing::EventStream => {
                let detail = reason.text().unwrap_or(reason.words());
                // The services that a new right shows have no events that a client could be sent later.
                let begins_anew = reason == Reason::RightChanged;
                let last = event_stream::end(reason.label(), detail, begins_anew);
                return self.begin_closing(reason, last, now);
            }
            Framing::None => return self.begin_closing(reason, Vec::new(), now),
        };
        let mut last_frames = Vec::new();
        if let Some(text) = reason.text() {
            last_frames.extend_from_slice(&text_frame(text.as_bytes()));
        }
        if let Some(code) = reason.close_code() {
            put_close(Some(code), words, &mut last_frames);
        }
        if reason.sends_elsewhere() {
            farewell.put(reason, &mut last_frames);
        }
        self.begin_closing(reason, last_frames, now);
    }

    fn begin_closing(&mut self, reason: Reason, last_frames: Vec<u8>, now: Tick) {
        self.phase = Phase::Closing(reason);
        self.linger = now + ticks(LINGER);
        self.last_frames = Some(last_frames.into());
        // Nothing may follow a close frame, not even an answer to an earlier ping.
        self.pong = None;
        self.ping_due = false;
    }

    fn on_timer(&mut self, now: Tick, pace: &Pace) {
        // A client that takes nothing comes first: a closing session must not wait for it either.
        if self.blocked.is_some_and(|since| now >= since + pace.write) {
            self.phase = Phase::Over(Reason::WriteTimeout);
        } else if let Phase::Closing(reason) = self.phase {
            if now >= self.linger {
                self.phase = Phase::Over(reason);
            }
        } else if now >= self.last_frame + pace.read {
            self.phase = Phase::Over(Reason::ReadTimeout);
        } else if now >= self.ping_at {
            self.ping_due = true;
            self.ping_at = now + jittered(pace.ping);
        }
    }

    /// The tick at which [`Input::Timer`] is due next.
    pub(crate) fn deadline(&self, pace: &Pace) -> Tick {
        let next = match self.phase {
            Phase::Open => self.ping_at.min(self.last_frame + pace.read),
            Phase::Closing(_) | Phase::Over(_) => self.linger,
        };
        self.blocked.map_or(next, |since| next.min(since + pace.write))
    }

    /// True if a ping is to be written.
    pub(crate) fn is_ping_due(&self) -> bool {
        self.ping_due
    }

    /// True if a frame of the protocol is to be written, between two pushes.
    pub(crate) fn wants_to_write(&self) -> bool {
        self.ping_due || self.pong.is_some() || self.last_frames.is_some()
    }

    /// Appends the frames that are to be written.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>) {
        if let Some(payload) = self.pong.take() {
            put_pong(&payload, out);
        }
        if std::mem::take(&mut self.ping_due) {
            match self.framing {
                Framing::WebSocket(_) => put_ping(out),
                Framing::EventStream => out.extend_from_slice(COMMENT),
                Framing::None => {}
            }
        }
        if let Some(frames) = self.last_frames.take() {
            out.extend_from_slice(&frames);
        }
    }
}

/// The interval, up to a tenth shorter, so that sessions that began together do not ping together for ever.
fn jittered(interval: Tick) -> Tick {
    // In whole ticks, unlike `shared::backoff::jitter`: a shard does this for each ping of each session.
    (interval - fastrand::u32(0..=interval / 10)).max(1)
}

#[cfg(test)]
mod tests;
