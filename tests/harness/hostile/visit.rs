//! One turn of one hostile client: its connections, its requests, what it notes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::site::{Site, TENANT, Tally};

/// The address that all of them share. It is another one than that of the honest clients.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The longest time that one attempt lasts.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);
/// The time for which an attempt holds on to what it has got.
pub(super) const HOLD: Duration = Duration::from_millis(500);
/// The bytes of an answer that are looked at.
const LOOKED_AT: usize = 64 << 10;

/// The target of a client, and where it notes what it did.
pub(super) struct Visit {
    /// The number of its trick.
    pub(super) trick: usize,
    pub(super) target: SocketAddr,
    pub(super) site: Arc<Site>,
    pub(super) tally: Arc<Tally>,
}

impl Visit {
    /// Opens a connection to the target, which counts as an attempt.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((ADDRESS, 0)))?;
        let stream = socket.connect(self.target).await?;
        self.tally.attempts[self.trick].fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    /// True if the target is a gateway.
    pub(super) fn is_at_gateway(&self) -> bool {
        self.site.gateways.contains(&self.target)
    }

    /// Notes an answer that a hostile client must not have.
    pub(super) fn note_had(&self, what: &str) {
        println!("  a hostile client had at {}: {what}", self.target);
        self.tally.had.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads whatever comes, for a while, and gives the beginning of it.
pub(super) async fn hold(stream: &mut TcpStream) -> String {
    hold_for(stream, HOLD).await
}

/// Like [`hold`], for as long as this.
pub(super) async fn hold_for(stream: &mut TcpStream, time: Duration) -> String {
    let mut looked_at = Vec::new();
    let reading = async {
        let mut answer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut answer).await {
            let room = LOOKED_AT.saturating_sub(looked_at.len());
            looked_at.extend_from_slice(&answer[..read.min(room)]);
        }
    };
    _ = timeout(time, reading).await;
    String::from_utf8_lossy(&looked_at).into_owned()
}

pub(super) fn post(path: &str, length: usize, body: &str) -> Vec<u8> {
    request("POST", path, "", length, body)
}

/// A request of the hostile tenant with these further lines in its head, each with its end.
pub(super) fn request(method: &str, path: &str, more: &str, length: usize, body: &str) -> Vec<u8> {
    request_in(TENANT, method, path, more, length, body)
}

/// The same in this domain.
pub(super) fn request_in(
    domain: &str,
    method: &str,
    path: &str,
    more: &str,
    length: usize,
    body: &str,
) -> Vec<u8> {
    format!(
        "{method} /v4/default/registry{path} HTTP/1.1\r\nHost: test\r\nX-Domain-Name: {domain}\r\n{more}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The handshake of a watch. `named` follows `Upgrade` in the header `Connection`.
pub(super) fn upgrade(path: &str, named: &str) -> Vec<u8> {
    format!(
        "GET /v4/default/registry{path} HTTP/1.1\r\nHost: test\r\nX-Domain-Name: hostile\r\n\
         Connection: Upgrade{named}\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}
