//! A watcher's socket within TLS. Like a plain socket it never waits.
//!
//! In: plain bytes to write. Out: records on the socket. It takes at most one record more than the socket has
//! room for, so that pending pushes stay in the log, where they can be merged. It lives in one thread.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::net::TcpStream;

/// Plain bytes that one record holds.
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
    /// See `Outlet::try_write`.
    ask_kernel: bool,
}

impl io::Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.try_read(into)
    }
}

impl io::Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.ask_kernel { SockRef::from(self.socket).send(bytes) } else { self.socket.try_write(bytes) }
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

    fn wire(&self, ask_kernel: bool) -> Wire<'_> {
        Wire { socket: &self.socket, ask_kernel }
    }

    pub(super) fn try_write(&self, bytes: &[u8], ask_kernel: bool) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        write_records(&mut session, self.wire(ask_kernel))?;
        let taken = session.writer().write(bytes.get(..RECORD).unwrap_or(bytes))?;
        match write_records(&mut session, self.wire(ask_kernel)) {
            // A full socket is no failure: the session has taken the bytes, and `try_flush` writes the rest.
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    pub(super) fn try_flush(&self) -> io::Result<()> {
        write_records(&mut self.session.borrow_mut(), self.wire(false))
    }

    /// Ends the TLS session, then shuts the sending side. To be repeated while it answers `WouldBlock`.
    pub(super) fn try_shut(&self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        session.send_close_notify();
        write_records(&mut session, self.wire(false))?;
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    /// Reads the plain bytes that are there; 0 is the end, even if the peer did not end the TLS session.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        loop {
            match session.reader().read(into) {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            if session.read_tls(&mut self.wire(false))? == 0 {
                return Ok(0);
            }
            session.process_new_packets().map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            // The session may have an answer of its own, such as to a change of keys. If the socket is full
            // now, the answer goes out with the next frame.
            let _ = write_records(&mut session, self.wire(false));
        }
    }

    /// Resolves when there may be bytes to read; false when the socket has failed.
    pub(super) async fn readable(&self) -> bool {
        let waiting =
            self.session.borrow_mut().process_new_packets().map(|state| state.plaintext_bytes_to_read());
        // Bytes that the session has decrypted already do not make the socket readable again.
        match waiting {
            Ok(0) => self.socket.readable().await.is_ok(),
            Ok(_) | Err(_) => true,
        }
    }
}

/// Writes the records that the session has ready.
fn write_records(session: &mut ServerConnection, mut wire: Wire<'_>) -> io::Result<()> {
    while session.wants_write() {
        if session.write_tls(&mut wire)? == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}
