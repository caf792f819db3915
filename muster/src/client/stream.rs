//! A TCP connection to a registry, with or without TLS around it.

use std::io;
use std::net::IpAddr;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;

/// A connection to a registry.
pub(crate) type ServerStream = host::http::Stream<TlsStream<TcpStream>>;

/// Connects to the first address of the server that accepts, from `source` if there is one.
///
/// # Errors
/// The error of the last address that was tried.
pub(super) async fn connect_tcp(server: (String, u16), source: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut problem =
        io::Error::other("the server's name has no address that can be reached from the source address");
    for address in lookup_host(server).await? {
        // A socket of one family cannot reach the other.
        if source.is_some_and(|source| source.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            // Port 0: the system chooses one.
            socket.bind((source, 0).into())?;
        }
        match socket.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => problem = e,
        }
    }
    Err(problem)
}
