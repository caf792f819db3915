//! A connection to a registry, with TLS around it or not, and how one is opened.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;

/// A connection to a registry.
pub(crate) type Wire = host::http::Stream<TlsStream<TcpStream>>;

/// A TCP connection to the first address of the server that answers.
pub(super) async fn reach(server: (String, u16), source: Option<IpAddr>) -> io::Result<TcpStream> {
    let fits = |address: &SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    let mut problem = io::Error::other("its name has no address that can be reached from there");
    for address in lookup_host(server).await?.filter(fits) {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
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
