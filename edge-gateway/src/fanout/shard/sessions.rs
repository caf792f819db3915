//! The life of a session in its shard: reserved, attached, reading, and writing on its own when its client is
//! slow.

use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::rc::Rc;

use access::Grant;
use bytes::Bytes;
use shared::model::Revision;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn_local, yield_now};
use tracing::{debug, debug_span};

use super::{ATTACH_TIMEOUT, Alarm, Drain, READ_BUFFER, READS_PER_TURN, Shard};
use crate::close::{Farewell, Reason};
use crate::codec::event_stream;
use crate::codec::websocket::{Decoder, Incoming};
use crate::fanout::audience::Audience;
use crate::fanout::outlet::{Outlet, would_block};
use crate::fanout::session::{Held, Session, SessionKey};
use crate::fanout::{Attached, Opening};
use crate::limits::Permit;
use crate::policy::Right;
use crate::push::Encoding;
use crate::session::{Input, Phase, Protocol};
use crate::timer::ticks;
use crate::watch::{GroupId, Ticket};

/// The shortest and the longest time after which a client of server-sent events opens the stream again, in
/// milliseconds. Each client is told a time in between, so that those of a gateway that ends do not all come
/// at once.
const RETRY_MS: RangeInclusive<u32> = 500..=3000;

/// The result of a session's turn to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// All bytes that were there have been read.
    All,
    /// There may be more, but it is the turn of others.
    More,
    /// The reading task is not needed any more.
    Over,
}

impl Shard {
    pub(super) fn reserve(
        &mut self,
        ticket: Ticket,
        group: GroupId,
        encoding: Encoding,
        mut opening: Opening,
        right: Option<Box<Right>>,
        missed: Revision,
    ) {
        let grant = Right::grant_of(right.as_deref());
        let audiences = self.groups.entry(group).or_default();
        let find = |fits: fn(&Audience, Encoding, &Grant) -> bool| {
            audiences.iter().copied().find(|index| fits(&self.audiences[*index as usize], encoding, &grant))
        };
        // An audience that has the grant already is better than one that may have to be divided.
        let known = find(Audience::has).or_else(|| find(Audience::agrees_with));
        let index = known.unwrap_or_else(|| {
            let index = self.audiences.insert(Audience::new(group, encoding)) as u32;
            audiences.push(index);
            index
        });
        let audience = &mut self.audiences[index as usize];
        let now = self.wheel.now();
        let protocol = match encoding {
            Encoding::Plain => Protocol::new(now, &self.setup.pace, self.setup.plain_end.farewell()),
            Encoding::Resumable => Protocol::new(now, &self.setup.pace, Farewell::Close),
            // HTTP/2 pings by itself and notices clients that have gone.
            Encoding::Historical | Encoding::Grpc => Protocol::without_pings(),
            Encoding::EventStream => Protocol::of_event_stream(now, &self.setup.pace),
        };
        if encoding == Encoding::EventStream {
            opening.first.splice(..0, event_stream::opening(fastrand::u32(RETRY_MS)));
        }
        self.serial = self.serial.wrapping_add(1);
        let mut session = Session::reserved(
            self.serial,
            index,
            audience.members.len() as u32,
            audience.log.end(),
            protocol,
            opening,
        );
        session.right = right;
        session.missed = missed;
        let key = SessionKey { index: self.sessions.insert(session) as u32, serial: self.serial };
        audience.add(key, &grant);
        self.tickets.insert(ticket, key);
        self.wheel.set(now + ticks(ATTACH_TIMEOUT), Alarm::Attach(ticket));
        self.setup.metrics.opened();
    }

    /// Removes a reserved session, unless its connection was attached.
    pub(super) fn release(&mut self, ticket: Ticket) {
        if let Some(key) = self.tickets.remove(&ticket) {
            self.remove_session(key, Reason::NeverAttached);
        }
    }

    pub(super) fn attach(&mut self, ticket: Ticket, to: Attached, permit: Permit) {
        // Released in the meantime: the connection is dropped with the message.
        let Some(key) = self.tickets.remove(&ticket) else { return };
        let Some(session) = self.sessions.get_mut(key.index as usize) else { return };
        let group = self.audiences[session.audience as usize].group;
        let span = debug_span!("session", service.id = %permit.consumer(), group = group.get(), session = ticket.get());
        if !span.is_disabled() {
            span.in_scope(|| debug!("the session is attached"));
            session.span = Some(Box::new(span));
        }
        let (outlet, read) = match to {
            Attached::Socket { socket, tls, read, slot } => {
                session.held = Some(Held { slot: Some(slot), permit });
                // Bytes in the kernel's buffer cannot be merged any more, so the buffer is kept small. If the
                // kernel refuses, its own size stays.
                let _ = SockRef::from(&socket).set_send_buffer_size(self.setup.send_buffer);
                match TcpStream::from_std(socket) {
                    Ok(socket) => (Outlet::of_socket(socket, tls), read),
                    Err(_) => return self.remove_session(key, Reason::Broken),
                }
            }
            Attached::Stream(stream) => {
                session.held = Some(Held { slot: None, permit });
                stream.report_gone_client(&self.gone_clients, key);
                (Outlet::Stream(Rc::new(stream)), Bytes::new())
            }
        };
        let reader = match &outlet {
            Outlet::Socket(_) | Outlet::Secure(_) => Some(self.spawn_reader(key, outlet.clone())),
            Outlet::Stream(_) => None,
        };
        if let Some(session) = self.session(key) {
            session.outlet = Some(outlet);
            session.reader = reader;
        }
        if let Some(Drain { until, .. }) = self.drain {
            self.drain_late_session(key, until);
        }
        // A client may send frames right behind its handshake. These bytes do not make the socket
        // readable again.
        self.decode(key, &read);
        // The policy may have changed since the gate.
        self.judge(key);
        self.pump(key);
    }

    /// Starts the task that reads from a session's socket.
    fn spawn_reader(&self, key: SessionKey, outlet: Outlet) -> AbortHandle {
        let this = self.this.clone();
        let reader = spawn_local(async move {
            loop {
                let alive = outlet.readable().await;
                let Some(shard) = this.upgrade() else { return };
                let read = shard.borrow_mut().on_readable(key, alive);
                match read {
                    Read::Over => return,
                    Read::All => {}
                    // A client that never stops sending must not keep the others, and the clock, waiting.
                    // Without the yield its task is polled dozens of times before any other.
                    Read::More => yield_now().await,
                }
            }
        });
        reader.abort_handle()
    }

    /// Starts the task that goes on writing whenever the client takes more, unless it runs already.
    pub(super) fn spawn_writer(&mut self, key: SessionKey) {
        let this = self.this.clone();
        let Some(session) = self.session(key) else { return };
        let Some(outlet) = session.outlet.clone() else { return };
        if session.writer.is_some() {
            return;
        }
        let writer = spawn_local(async move {
            loop {
                let alive = outlet.writable().await;
                let Some(shard) = this.upgrade() else { return };
                if !shard.borrow_mut().on_writable(key, alive) {
                    return;
                }
                // A client that takes everything at once must not keep the others waiting.
                yield_now().await;
            }
        });
        session.writer = Some(writer.abort_handle());
    }

    /// Writes on. False when the writing task is not needed any more.
    pub(super) fn on_writable(&mut self, key: SessionKey, alive: bool) -> bool {
        let now = self.wheel.now();
        let pace = self.setup.pace;
        let Some(session) = self.session(key) else { return false };
        if !alive {
            session.protocol.on(Input::Broken, now, &pace);
        }
        if !self.pump(key) {
            return false;
        }
        let Some(session) = self.session(key) else { return false };
        if session.is_slow() {
            return true;
        }
        session.writer = None;
        false
    }

    /// Reads as much as a turn allows.
    pub(super) fn on_readable(&mut self, key: SessionKey, alive: bool) -> Read {
        let mut outcome = Read::More;
        let now = self.wheel.now();
        let pace = self.setup.pace;
        // Taken out while decoding borrows the whole shard.
        let mut buffer = std::mem::take(&mut self.read_buffer);
        for _ in 0..READS_PER_TURN {
            let Some(session) = self.session(key) else { break };
            let Some(outlet) = session.outlet.clone() else { break };
            match outlet.try_read(&mut buffer) {
                _ if !alive => session.protocol.on(Input::Broken, now, &pace),
                Ok(0) => session.protocol.on(Input::Ended, now, &pace),
                Ok(read) => {
                    self.decode(key, &buffer[..read]);
                    if read == READ_BUFFER {
                        continue;
                    }
                }
                Err(error) if would_block(&error) => {}
                // A client that resets the connection has gone like one that closes it.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    session.protocol.on(Input::Ended, now, &pace);
                }
                Err(_) => session.protocol.on(Input::Broken, now, &pace),
            }
            outcome = Read::All;
            break;
        }
        self.read_buffer = buffer;
        let Some(session) = self.session(key) else { return Read::Over };
        let must_pump = session.protocol.wants_to_write() || session.protocol.phase() != Phase::Open;
        if must_pump && !self.pump(key) { Read::Over } else { outcome }
    }

    pub(super) fn decode(&mut self, key: SessionKey, bytes: &[u8]) {
        let now = self.wheel.now();
        let pace = self.setup.pace;
        let Some(session) = self.sessions.get_mut(key.index as usize) else { return };
        if session.serial != key.serial || bytes.is_empty() || session.protocol.phase() != Phase::Open {
            return;
        }
        // Only clients that know of tokens renew them; the texts of all others have no meaning.
        let renews = self.audiences[session.audience as usize].encoding == Encoding::Resumable;
        let mut renewal: Option<Vec<u8>> = None;
        let mut decoder = session
            .decoder
            .take()
            .unwrap_or_else(|| Box::new(if renews { Decoder::keeping() } else { Decoder::default() }));
        let protocol = &mut session.protocol;
        let mut pongs = 0;
        let mut numbered = None;
        let result = decoder.read(bytes, |frame| {
            if let Incoming::Pong(number) = frame {
                pongs += 1;
                numbered = number.or(numbered);
            }
            if let Incoming::Text(text) = frame {
                renewal = Some(text.to_vec());
            }
            protocol.on(Input::Frame(frame), now, &pace);
            protocol.phase() == Phase::Open
        });
        match result {
            Err(violation) => protocol.on(Input::Violation(violation), now, &pace),
            // Dropped: an idle session pays for no decoder.
            Ok(()) if decoder.is_idle() => {}
            Ok(()) => session.decoder = Some(decoder),
        }
        if let Some(number) = numbered {
            session.on_numbered_pong(number);
        }
        self.tally.pongs += pongs;
        if let Some(message) = renewal {
            self.renew(key, &message);
        }
    }
}
