//! A watcher's socket within TLS: never waits, like the plain one.
//!
//! In: plain bytes to write. Out: records on the socket. At most one record's worth is taken beyond what the
//! socket takes, so that what is pending stays in the log, where it can be merged. Lives in one thread.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::net::TcpStream;

/// Plain bytes of one record.
const RECORD: usize = 16 * 1024;

/// A socket and its TLS session.
#[derive(Debug)]
pub(super) struct Secure {
    socket: TcpStream,
    session: RefCell<Box<ServerConnection>>,
}

/// The socket as the session sees it.
struct Wire<'a> {
    socket: &'a TcpStream,
    /// Ask the kernel itself; see `Outlet::try_write`.
    insist: bool,
}

impl io::Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.try_read(into)
    }
}

impl io::Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.insist { SockRef::from(self.socket).send(bytes) } else { self.socket.try_write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Secure {
    pub(super) fn new(socket: TcpStream, session: Box<ServerConnection>) -> Self {
        Self { socket, session: RefCell::new(session) }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn wire(&self, insist: bool) -> Wire<'_> {
        Wire { socket: &self.socket, insist }
    }

    pub(super) fn try_write(&self, bytes: &[u8], insist: bool) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        drain(&mut session, self.wire(insist))?;
        let taken = session.writer().write(bytes.get(..RECORD).unwrap_or(bytes))?;
        match drain(&mut session, self.wire(insist)) {
            // It is the session's now; `try_flush` hands on the rest.
            Err(e) if e.kind() != ErrorKind::WouldBlock => Err(e),
            _ => Ok(taken),
        }
    }

    pub(super) fn try_flush(&self) -> io::Result<()> {
        drain(&mut self.session.borrow_mut(), self.wire(false))
    }

    /// Says goodbye in TLS, then to the peer's kernel. To be repeated until it does not block.
    pub(super) fn try_shut(&self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        session.send_close_notify();
        drain(&mut session, self.wire(false))?;
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    /// Reads what is there; 0 is the end, with or without a goodbye.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        loop {
            match session.reader().read(into) {
                Ok(read) => return Ok(read),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(e) => return Err(e),
            }
            if session.read_tls(&mut self.wire(false))? == 0 {
                return Ok(0);
            }
            session.process_new_packets().map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            // An answer of the session itself, such as to a change of keys; what blocks goes out with the next frame.
            let _ = drain(&mut session, self.wire(false));
        }
    }

    /// Resolves when something may be read.
    pub(super) async fn readable(&self) -> bool {
        let waiting = self.session.borrow_mut().process_new_packets().map(|it| it.plaintext_bytes_to_read());
        match waiting {
            Ok(0) => self.socket.readable().await.is_ok(),
            Ok(_) | Err(_) => true,
        }
    }
}

/// Writes what the session has for the wire.
fn drain(session: &mut ServerConnection, mut wire: Wire<'_>) -> io::Result<()> {
    while session.wants_write() {
        if session.write_tls(&mut wire)? == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}
