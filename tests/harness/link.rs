//! A TCP link that can be cut, frozen and slowed, each direction by itself.
//!
//! ```text
//! client ──> link ──ToServer──> server
//! client <──ToClient── link <── server
//! ```
//!
//! A cut link refuses and has no connections. A frozen one is half open: it accepts connections and bytes and
//! passes nothing on until it is mended; nothing is lost then, as with a real network that comes back.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::{eventually, port};

mod sieve;

use sieve::Sieve;

/// Chunks that wait in a direction; when they are more, the sender is no longer read from.
const WAITING: usize = 1024;
const CHUNK: usize = 16 * 1024;
/// The receive buffer towards the server, in bytes. By default it grows to the machine's limit,
/// and nobody knows how much a frozen link swallows before the server notices.
const KEPT: u32 = 256 * 1024;

/// One way through a link, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both.
    Both,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    frozen: bool,
    delay: Duration,
    /// Subjects whose messages are lost, by their beginning; on a link to a bus.
    loses: Option<&'static str>,
}

/// A link to a server. Its connections end when it is dropped.
pub struct Link {
    port: u16,
    server: String,
    to_server: watch::Sender<Fault>,
    to_client: watch::Sender<Fault>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// The server is a nats-server; messages that were lost.
    bus: Option<Arc<AtomicU64>>,
}

impl Link {
    /// Opens a link to `server` (`host:port`).
    pub async fn to(server: impl Into<String>) -> Self {
        Self::opened(server.into(), None).await
    }

    /// Opens a link to a nats-server, which can also lose messages.
    pub async fn to_bus(server: impl Into<String>) -> Self {
        Self::opened(server.into(), Some(Arc::default())).await
    }

    async fn opened(server: String, bus: Option<Arc<AtomicU64>>) -> Self {
        let to_server = watch::channel(Fault::default()).0;
        let to_client = watch::channel(Fault::default()).0;
        let accepting = Mutex::new(None);
        let link = Self { port: port::free(), server, to_server, to_client, accepting, bus };
        link.open().await;
        link
    }

    /// `host:port` of the client's end.
    pub fn endpoint(&self) -> String {
        self.address().to_string()
    }

    /// The address of the client's end.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Ends all connections and refuses new ones. When it returns, that is so.
    pub async fn cut(&self) {
        let accepting = self.accepting.lock().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // Cancelled, as intended.
            _ = accepting.await;
        }
    }

    /// Passes nothing on in a direction until mended.
    pub fn freeze(&self, direction: Direction) {
        self.set(direction, |fault| fault.frozen = true);
    }

    /// Passes everything on later by `delay`.
    pub fn slow(&self, direction: Direction, delay: Duration) {
        self.set(direction, |fault| fault.delay = delay);
    }

    /// Loses the messages to the client whose subject begins so; the connection stays.
    pub fn lose(&self, subject: &'static str) {
        self.set(Direction::ToClient, |fault| fault.loses = Some(subject));
    }

    /// Messages that were lost so far.
    pub fn lost(&self) -> u64 {
        self.bus.as_ref().map_or(0, |lost| lost.load(Ordering::Relaxed))
    }

    /// Whatever was wrong is over.
    pub async fn mend(&self) {
        self.set(Direction::Both, |fault| *fault = Fault::default());
        if self.accepting.lock().is_none() {
            self.open().await;
        }
    }

    fn set(&self, direction: Direction, change: impl Fn(&mut Fault)) {
        if direction != Direction::ToClient {
            self.to_server.send_modify(&change);
        }
        if direction != Direction::ToServer {
            self.to_client.send_modify(&change);
        }
    }

    async fn open(&self) {
        let listener =
            eventually("the link's port is free", || async { TcpListener::bind(self.address()).await.ok() })
                .await;
        let server = self.server.clone();
        let bus = self.bus.clone();
        let to_server = self.to_server.subscribe();
        let to_client = self.to_client.subscribe();
        let accepting = tokio::spawn(async move {
            // Aborted with this task.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((client, _)) = accepted {
                        let sieve = bus.clone().map(Sieve::new);
                        let faults = (to_server.clone(), to_client.clone());
                        connections.spawn(connect(client, server.clone(), faults, sieve));
                    },
                    _ = connections.join_next(), if !connections.is_empty() => {}
                }
            }
        });
        *self.accepting.lock() = Some(accepting);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().take() {
            accepting.abort();
        }
    }
}

async fn connect(
    client: TcpStream,
    server: String,
    (to_server, to_client): (watch::Receiver<Fault>, watch::Receiver<Fault>),
    sieve: Option<Sieve>,
) {
    let Ok(server) = reach(&server).await else { return };
    // Delays are for the test to choose.
    _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    // The end of either direction, after what it carried has arrived, ends the connection.
    tokio::select! {
        _ = pass(client_read, server_write, to_server, None) => {}
        _ = pass(server_read, client_write, to_client, sieve) => {}
    }
}

async fn reach(server: &str) -> io::Result<TcpStream> {
    let address = lookup_host(server).await?.next().ok_or(io::ErrorKind::NotFound)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(KEPT)?;
    socket.connect(address).await
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    mut sieve: Option<Sieve>,
) -> io::Result<()> {
    let (chunks, mut waiting) = mpsc::channel::<(Instant, Bytes)>(WAITING);
    let read = async move {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            if from.read_buf(&mut chunk).await? == 0 {
                // The writer ends the direction once it has written what waits.
                drop(chunks);
                return pending::<io::Result<()>>().await;
            }
            if chunks.send((Instant::now(), chunk.freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((read_at, chunk)) = waiting.recv().await {
            let loses = loop {
                // Read anew after each change, so that a chunk which waits on a frozen link goes out once it
                // is mended.
                let Fault { frozen, delay, loses } = *fault.borrow_and_update();
                tokio::select! {
                    changed = fault.changed() => if changed.is_err() { return Ok(()) },
                    () = tokio::time::sleep_until(read_at + delay), if !frozen => break loses,
                }
            };
            let chunk = match &mut sieve {
                Some(sieve) => sieve.sift(&chunk, loses),
                None => chunk,
            };
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::select! { result = read => result, result = write => result }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut read, mut write) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        address
    }

    async fn say(stream: &mut TcpStream, text: &[u8; 4]) -> io::Result<()> {
        stream.write_all(text).await?;
        hear(stream, text).await
    }

    async fn hear(stream: &mut TcpStream, text: &[u8; 4]) -> io::Result<()> {
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await?;
        assert_eq!(&heard, text);
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_link_refuses_until_it_is_mended() {
        let link = Link::to(echo().await).await;
        let mut stream = TcpStream::connect(link.address()).await.expect("connects");
        say(&mut stream, b"ping").await.expect("an open link passes");
        link.cut().await;
        assert!(say(&mut stream, b"dead").await.is_err());
        assert!(TcpStream::connect(link.address()).await.is_err());
        link.mend().await;
        let mut stream = TcpStream::connect(link.address()).await.expect("connects again");
        say(&mut stream, b"pong").await.expect("a mended link passes");
    }

    #[tokio::test]
    async fn a_frozen_link_holds_back_and_loses_nothing() {
        let link = Link::to(echo().await).await;
        let mut stream = TcpStream::connect(link.address()).await.expect("connects");
        for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
            link.freeze(direction);
            stream.write_all(b"held").await.expect("bytes are accepted");
            let early = tokio::time::timeout(Duration::from_millis(50), hear(&mut stream, b"held")).await;
            assert!(early.is_err(), "{direction:?}");
            link.mend().await;
            hear(&mut stream, b"held").await.expect("it arrives");
        }
    }

    #[tokio::test]
    async fn a_slow_link_delays_each_direction() {
        let link = Link::to(echo().await).await;
        let mut stream = TcpStream::connect(link.address()).await.expect("connects");
        link.slow(Direction::ToServer, Duration::from_millis(30));
        link.slow(Direction::ToClient, Duration::from_millis(40));
        let start = Instant::now();
        say(&mut stream, b"slow").await.expect("it arrives");
        assert!(start.elapsed() >= Duration::from_millis(70));
    }
}
