//! The outlet of a session: a socket, a socket within TLS, or a stream within a connection of the listener.
//!
//! All three behave alike: writing and reading never wait, and a full outlet answers `WouldBlock`.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::secure::Secure;
use super::stream::Writer;

/// The way of a session's bytes. Cheap to clone: the tasks that wait for it share it with the session.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    /// A socket of the session's own.
    Socket(Rc<TcpStream>),
    /// The same, within TLS.
    Secure(Rc<Secure>),
    /// A stream within a connection of the listener.
    Stream(Rc<Writer>),
}

impl Outlet {
    /// The outlet of a socket, within TLS if there is a TLS session.
    pub(super) fn of_socket(socket: TcpStream, tls: Option<Box<ServerConnection>>) -> Self {
        match tls {
            None => Self::Socket(Rc::new(socket)),
            Some(tls) => Self::Secure(Rc::new(Secure::new(socket, tls))),
        }
    }

    /// Writes as many bytes as there is room for.
    ///
    /// `ask_kernel` bypasses the runtime's knowledge of room: Linux reports a socket as writable only when a
    /// third of its buffer is free, but takes bytes as soon as the client has taken any.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; any other error means that the connection has failed.
    pub(super) fn try_write(&self, bytes: &[u8], ask_kernel: bool) -> io::Result<usize> {
        match self {
            Self::Socket(socket) if ask_kernel => SockRef::from(&**socket).send(bytes),
            Self::Socket(socket) => socket.try_write(bytes),
            Self::Secure(secure) => secure.try_write(bytes, ask_kernel),
            Self::Stream(stream) => stream.try_write(bytes),
        }
    }

    /// The address of the client, if the outlet is a socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(socket) => socket.peer_addr().ok(),
            Self::Secure(secure) => secure.socket().peer_addr().ok(),
            Self::Stream(_) => None,
        }
    }

    /// Hands on the bytes that were taken and not yet written.
    pub(super) fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Secure(secure) => secure.try_flush(),
            Self::Socket(_) | Self::Stream(_) => Ok(()),
        }
    }

    /// Shuts the sending side. False for a stream, whose end its writer reports.
    pub(super) fn try_shut(&self) -> io::Result<bool> {
        match self {
            // tokio's shutdown needs exclusive access and an await; the plain call never blocks.
            Self::Socket(socket) => SockRef::from(&**socket).shutdown(Shutdown::Write).map(|()| true),
            Self::Secure(secure) => secure.try_shut().map(|()| true),
            Self::Stream(_) => Ok(false),
        }
    }

    /// Resolves when there is room; false when there never will be.
    pub(super) async fn writable(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.writable().await.is_ok(),
            Self::Secure(secure) => secure.socket().writable().await.is_ok(),
            Self::Stream(stream) => stream.writable().await,
        }
    }

    /// Resolves when there are bytes to read, or the end; false when the socket has failed. Pending for ever
    /// for a stream: its reader reports when the client has gone.
    pub(super) async fn readable(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.readable().await.is_ok(),
            Self::Secure(secure) => secure.readable().await,
            Self::Stream(_) => std::future::pending().await,
        }
    }

    /// Reads the bytes that are there; 0 is the end.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_read(into),
            Self::Secure(secure) => secure.try_read(into),
            // A client that has gone looks like a socket at its end, so that sessions need no third case.
            Self::Stream(stream) if stream.is_client_gone() => Ok(0),
            Self::Stream(_) => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

/// True if an outlet has no room, or nothing to read, now but may have later.
pub(super) fn would_block(error: &io::Error) -> bool {
    // A call that a signal interrupted has failed no more than one without room: the next turn repeats it.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
