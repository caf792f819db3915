//! The life of a connection in a shard: its place, its socket, what it reads, when it writes on.

use std::io::ErrorKind;
use std::rc::Rc;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn_local, yield_now};

use super::{ATTACH_TIMEOUT, Alarm, READS, SCRATCH, Shard};
use crate::close::Reason;
use crate::codec::websocket::Incoming;
use crate::fanout::Attached;
use crate::fanout::audience::Audience;
use crate::fanout::connection::{Connection, Key, Outlet, is_full};
use crate::limits::Permit;
use crate::push::Encoding;
use crate::session::{Input, Phase, Protocol};
use crate::timer::ticks;
use crate::watch::{GroupId, Ticket};

/// What became of a turn to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Everything that was there has been read.
    All,
    /// There may be more, but others wait.
    More,
    /// The reading task is not needed any more.
    Over,
}

impl Shard {
    pub(super) fn reserve(&mut self, ticket: Ticket, group: GroupId, encoding: Encoding, preface: Vec<u8>) {
        let slots = self.groups.entry(group).or_default();
        let audience = *slots[encoding.index()]
            .get_or_insert_with(|| self.audiences.insert(Audience::new(group, encoding)) as u32);
        let it = &mut self.audiences[audience as usize];
        let now = self.wheel.now();
        let machine = match encoding {
            Encoding::Plain | Encoding::Resumable => Protocol::new(now, &self.setup.pace),
            // HTTP/2 pings for itself and notices who is gone.
            Encoding::Historical | Encoding::Grpc => Protocol::without_pings(),
        };
        self.serial = self.serial.wrapping_add(1);
        let connection = Connection::reserved(
            self.serial,
            audience,
            it.members.len() as u32,
            it.log.end(),
            machine,
            preface,
        );
        let key = Key { index: self.connections.insert(connection) as u32, serial: self.serial };
        it.members.push(key);
        it.slow.push(key);
        self.tickets.insert(ticket, key);
        self.wheel.set(now + ticks(ATTACH_TIMEOUT), Alarm::Attach(ticket));
        self.setup.metrics.opened();
    }

    /// Gives up a place, if its socket has not come.
    pub(super) fn release(&mut self, ticket: Ticket) {
        if let Some(key) = self.tickets.remove(&ticket) {
            self.remove(key, Reason::NeverAttached);
        }
    }

    pub(super) fn attach(&mut self, ticket: Ticket, to: Attached, permit: Permit) {
        let Some(key) = self.tickets.remove(&ticket) else { return };
        let send_buffer = self.setup.send_buffer;
        let Some(connection) = self.connections.get_mut(key.index as usize) else { return };
        let (outlet, read) = match to {
            Attached::Socket { socket, tls, read, slot } => {
                connection.permit = Some((Some(slot), permit));
                // What waits in the kernel can neither be merged nor taken back. Refused: it is the kernel's size.
                let _ = SockRef::from(&socket).set_send_buffer_size(send_buffer);
                match TcpStream::from_std(socket) {
                    Ok(socket) => (Outlet::of(socket, tls), read),
                    Err(_) => return self.remove(key, Reason::Broken),
                }
            }
            Attached::Stream(stream) => {
                connection.permit = Some((None, permit));
                stream.tell(&self.leavers, key);
                (Outlet::Stream(Rc::new(stream)), Bytes::new())
            }
        };
        let reader = match &outlet {
            Outlet::Socket(_) | Outlet::Secure(_) => Some(self.read_on(key, outlet.clone())),
            Outlet::Stream(_) => None,
        };
        if let Some(connection) = self.get(key) {
            connection.outlet = Some(outlet);
            connection.reader = reader;
        }
        if let Some(until) = self.draining {
            self.drain_late(key, until);
        }
        self.decode(key, &read);
        self.serve(key);
    }

    /// Has a task read whatever comes.
    fn read_on(&self, key: Key, outlet: Outlet) -> AbortHandle {
        let this = self.this.clone();
        let reader = spawn_local(async move {
            loop {
                let alive = outlet.readable().await;
                let Some(shard) = this.upgrade() else { return };
                let read = shard.borrow_mut().on_readable(key, alive);
                match read {
                    Read::Over => return,
                    Read::All => {}
                    // A client that never stops talking must not keep the others, and the clock, waiting: without
                    // this it is polled again dozens of times before anything else is.
                    Read::More => yield_now().await,
                }
            }
        });
        reader.abort_handle()
    }

    /// Has a task go on writing whenever the client takes more, unless there is one.
    pub(super) fn write_on(&mut self, key: Key) {
        let this = self.this.clone();
        let Some(connection) = self.get(key) else { return };
        let Some(outlet) = connection.outlet.clone() else { return };
        if connection.writer.is_some() {
            return;
        }
        let writer = spawn_local(async move {
            loop {
                let writable = outlet.writable().await;
                let Some(shard) = this.upgrade() else { return };
                if !shard.borrow_mut().on_writable(key, writable) {
                    return;
                }
                // A client that takes everything must not keep the others waiting.
                yield_now().await;
            }
        });
        connection.writer = Some(writer.abort_handle());
    }

    /// False when the writing task is not needed any more.
    pub(super) fn on_writable(&mut self, key: Key, alive: bool) -> bool {
        let (now, pace) = (self.wheel.now(), self.setup.pace);
        let Some(connection) = self.get(key) else { return false };
        if !alive {
            connection.machine.on(Input::Broken, now, &pace);
        }
        if !self.serve(key) {
            return false;
        }
        let Some(connection) = self.get(key) else { return false };
        if connection.is_slow() {
            return true;
        }
        connection.writer = None;
        false
    }

    /// Reads what a turn allows.
    pub(super) fn on_readable(&mut self, key: Key, alive: bool) -> Read {
        let mut outcome = Read::More;
        let (now, pace) = (self.wheel.now(), self.setup.pace);
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..READS {
            let Some(connection) = self.get(key) else { break };
            let Some(outlet) = connection.outlet.clone() else { break };
            match outlet.try_read(&mut scratch) {
                _ if !alive => connection.machine.on(Input::Broken, now, &pace),
                Ok(0) => connection.machine.on(Input::Ended, now, &pace),
                Ok(read) => {
                    self.decode(key, &scratch[..read]);
                    if read == SCRATCH {
                        continue;
                    }
                }
                Err(error) if is_full(&error) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    connection.machine.on(Input::Ended, now, &pace);
                }
                Err(_) => connection.machine.on(Input::Broken, now, &pace),
            }
            outcome = Read::All;
            break;
        }
        self.scratch = scratch;
        let Some(connection) = self.get(key) else { return Read::Over };
        let served = connection.machine.wants_to_write() || connection.machine.phase() != Phase::Open;
        if served && !self.serve(key) { Read::Over } else { outcome }
    }

    pub(super) fn decode(&mut self, key: Key, bytes: &[u8]) {
        let (now, pace) = (self.wheel.now(), self.setup.pace);
        let Some(connection) = self.get(key) else { return };
        if bytes.is_empty() || connection.machine.phase() != Phase::Open {
            return;
        }
        let mut decoder = connection.decoder.take().unwrap_or_default();
        let machine = &mut connection.machine;
        let mut answered = 0;
        let result = decoder.read(bytes, |frame| {
            answered += u64::from(matches!(frame, Incoming::Pong));
            machine.on(Input::Frame(frame), now, &pace);
            machine.phase() == Phase::Open
        });
        match result {
            Err(violation) => {
                machine.on(Input::Violation(violation), now, &pace);
            }
            Ok(()) if decoder.is_idle() => {}
            Ok(()) => connection.decoder = Some(decoder),
        }
        self.tally.answered += answered;
    }
}
