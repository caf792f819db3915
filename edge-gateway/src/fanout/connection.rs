//! One watcher's connection in a shard: its socket, its machine, and where in the log it stands.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::rc::Rc;

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::log::Log;
use super::merge::Merged;
use super::secure::Secure;
use super::stream::Writer;
use crate::close::Reason;
use crate::codec::websocket::Decoder;
use crate::limits::Permit;
use crate::push::Encoding;
use crate::session::{Input, Pace, Phase, Protocol};
use crate::timer::Tick;
use host::http::Slot;

/// Names a connection for as long as it lives; a later one in the same place has another serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// Bytes of merged events that are prepared at a time.
const MERGED_CHUNK: usize = 64 * 1024;
/// Bytes that one connection may write before others get their turn.
const TURN_BYTES: usize = 1 << 20;

/// Where a connection's bytes go.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    /// A socket of its own.
    Socket(Rc<TcpStream>),
    /// The same, within TLS.
    Secure(Rc<Secure>),
    /// A stream whose connection is someone else's. Full counts as a socket that takes nothing.
    Stream(Rc<Writer>),
}

impl Outlet {
    /// That of a socket, within TLS if there is a session of it.
    pub(super) fn of(socket: TcpStream, tls: Option<Box<ServerConnection>>) -> Self {
        match tls {
            None => Self::Socket(Rc::new(socket)),
            Some(tls) => Self::Secure(Rc::new(Secure::new(socket, tls))),
        }
    }

    /// Writes what there is room for. `insist` asks the kernel itself: it tells of room only when a third of
    /// its buffer is free, but takes bytes as soon as the client has taken any.
    fn try_write(&self, bytes: &[u8], insist: bool) -> io::Result<usize> {
        match self {
            Self::Socket(socket) if insist => SockRef::from(&**socket).send(bytes),
            Self::Socket(socket) => socket.try_write(bytes),
            Self::Secure(secure) => secure.try_write(bytes, insist),
            Self::Stream(stream) => stream.try_write(bytes),
        }
    }

    /// Hands on what was taken and not yet written.
    fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Secure(secure) => secure.try_flush(),
            Self::Socket(_) | Self::Stream(_) => Ok(()),
        }
    }

    /// Says that nothing more will be written; false when there is nobody to say it to.
    fn try_shut(&self) -> io::Result<bool> {
        match self {
            Self::Socket(socket) => SockRef::from(&**socket).shutdown(Shutdown::Write).map(|()| true),
            Self::Secure(secure) => secure.try_shut().map(|()| true),
            Self::Stream(_) => Ok(false),
        }
    }

    /// Resolves when something may be written; false when nothing ever will be.
    pub(super) async fn writable(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.writable().await.is_ok(),
            Self::Secure(secure) => secure.socket().writable().await.is_ok(),
            Self::Stream(stream) => stream.writable().await,
        }
    }

    /// Resolves when something may be read: frames, or the end. Never for a stream, whose leaving its reader tells.
    pub(super) async fn readable(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.readable().await.is_ok(),
            Self::Secure(secure) => secure.readable().await,
            Self::Stream(_) => std::future::pending().await,
        }
    }

    /// Reads what is there; 0 is the end.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_read(into),
            Self::Secure(secure) => secure.try_read(into),
            Self::Stream(stream) if stream.is_gone() => Ok(0),
            Self::Stream(_) => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

/// What is pending, apart from `tail`.
#[derive(Debug)]
pub(super) enum Reading {
    /// Served by the round, from this place of the log.
    Live(u64),
    /// Reads the log at its own pace, from here.
    Behind(u64),
    /// Has left the log.
    Merging(Box<Merged>),
}

/// What a connection did when it was its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Nothing is pending any more.
    Idle,
    /// The client does not take more now.
    Blocked,
    /// It may write more, but others wait.
    Yielded,
    /// It is over.
    Over(Reason),
}

/// A connection, or the place of one that is being upgraded.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) serial: u32,
    pub(super) audience: u32,
    /// Its place among the audience's members.
    pub(super) place: u32,
    /// The tick of the alarm that counts; others are stale.
    pub(super) armed: Tick,
    pub(super) machine: Protocol,
    pub(super) reading: Reading,
    /// What must go out before anything else: the rest of a frame once begun, control frames, merged events.
    tail: Vec<u8>,
    /// Only while a frame is incomplete.
    pub(super) decoder: Option<Box<Decoder>>,
    pub(super) outlet: Option<Outlet>,
    pub(super) reader: Option<AbortHandle>,
    pub(super) writer: Option<AbortHandle>,
    /// Held for their drop.
    pub(super) permit: Option<(Option<Slot>, Permit)>,
    shut: bool,
    /// The next write asks the kernel itself whether there is room.
    insist: bool,
}

impl Connection {
    /// A place in the order, without a socket yet; `preface` goes out first.
    pub(super) fn reserved(
        serial: u32,
        audience: u32,
        place: u32,
        cursor: u64,
        machine: Protocol,
        preface: Vec<u8>,
    ) -> Self {
        Self {
            serial,
            audience,
            place,
            armed: 0,
            machine,
            reading: Reading::Behind(cursor),
            tail: preface,
            decoder: None,
            outlet: None,
            reader: None,
            writer: None,
            permit: None,
            shut: false,
            insist: false,
        }
    }

    /// Before a judgement about who does not read: has the client taken anything that nobody told us of?
    pub(super) fn insist(&mut self) {
        self.insist = self.is_slow();
    }

    /// Not served by the round.
    pub(super) fn is_slow(&self) -> bool {
        !matches!(self.reading, Reading::Live(_))
    }

    /// Events that have not been handed to the kernel, nearly: those in `tail` are not counted, bookmarks are.
    pub(super) fn pending_events(&self, log: &Log) -> usize {
        match &self.reading {
            Reading::Live(cursor) | Reading::Behind(cursor) => log.frames_from(*cursor),
            Reading::Merging(merged) => merged.len(),
        }
    }

    /// Leaves the log and merges what is pending; the number of events that were merged into others.
    pub(super) fn start_merging(&mut self, log: &Log) -> u64 {
        let (Reading::Live(cursor) | Reading::Behind(cursor)) = self.reading else { return 0 };
        let mut merged = Box::<Merged>::default();
        let count = log.events_from(cursor).filter(|push| merged.add(push)).count();
        self.reading = Reading::Merging(merged);
        count as u64
    }

    /// Writes what is pending, as much as the client takes; adds the events it took to `delivered`.
    pub(super) fn pump(
        &mut self,
        log: &Log,
        encoding: Encoding,
        now: Tick,
        pace: &Pace,
        delivered: &mut u64,
    ) -> Pumped {
        let Some(outlet) = &self.outlet else { return Pumped::Blocked };
        let mut turn = TURN_BYTES;
        let insist = std::mem::take(&mut self.insist);
        loop {
            if let Phase::Over(reason) = self.machine.phase() {
                return Pumped::Over(reason);
            }
            if self.tail.is_empty() && self.machine.wants_to_write() {
                self.machine.put(&mut self.tail);
                if let Outlet::Stream(_) = outlet {
                    // Its protocol has pings and last words of its own.
                    self.tail = Vec::new();
                }
            }
            if self.tail.is_empty() {
                if let Phase::Closing(reason) = self.machine.phase() {
                    if self.shut {
                        return Pumped::Idle;
                    }
                    match outlet.try_shut() {
                        Ok(true) => self.shut = true,
                        Ok(false) => return Pumped::Over(reason),
                        Err(error) if is_full(&error) => return Pumped::Blocked,
                        Err(_) => {
                            self.shut = true;
                            self.machine.on(Input::Broken, now, pace);
                            continue;
                        }
                    }
                    return Pumped::Idle;
                }
                if let Reading::Merging(merged) = &mut self.reading {
                    while self.tail.len() < MERGED_CHUNK
                        && let Some((push, action)) = merged.pop()
                    {
                        self.tail.extend_from_slice(&push.frame_as(encoding, action));
                        *delivered += 1;
                    }
                    if self.tail.is_empty() {
                        self.reading = Reading::Behind(log.end());
                    }
                }
            }
            let from_tail = !self.tail.is_empty();
            let pending = match &self.reading {
                _ if from_tail => &self.tail[..],
                Reading::Live(cursor) | Reading::Behind(cursor) => log.pending(*cursor),
                Reading::Merging(_) => &[],
            };
            if pending.is_empty() {
                match outlet.try_flush() {
                    Ok(()) => return Pumped::Idle,
                    Err(error) if is_full(&error) => return Pumped::Blocked,
                    Err(_) => {
                        self.machine.on(Input::Broken, now, pace);
                        continue;
                    }
                }
            }
            let written = match outlet.try_write(pending, insist) {
                Ok(written) => written,
                Err(error) if is_full(&error) => return Pumped::Blocked,
                Err(_) => {
                    self.machine.on(Input::Broken, now, pace);
                    continue;
                }
            };
            if from_tail {
                self.tail.drain(..written);
                if self.tail.is_empty() {
                    self.tail = Vec::new();
                }
            } else if let Reading::Live(cursor) | Reading::Behind(cursor) = &mut self.reading {
                let before = *cursor;
                let reached = *cursor + written as u64;
                // Whole frames only: the rest of one goes out before anything else, whatever comes between.
                *cursor = log.boundary(reached);
                self.tail.extend_from_slice(&log.pending(reached)[..(*cursor - reached) as usize]);
                *delivered += log.events_between(before, *cursor) as u64;
            }
            if self.is_slow() {
                self.machine.on(Input::Progress, now, pace);
            }
            turn = turn.saturating_sub(written);
            if turn == 0 {
                return Pumped::Yielded;
            }
        }
    }
}

/// The kernel takes nothing now, but may later.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
