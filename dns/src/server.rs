//! The server: sockets, and a bound for everything that strangers can send.
//!
//! In: an address and the [`Board`]. Out: answers. Over UDP each core has a socket of its own, between which
//! the kernel divides the clients, and answers a packet before it takes the next one: packets wait in the
//! kernel, which drops what is too much. Connections are limited in all and for each source, and end when
//! they are silent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use host::lifecycle::Tasks;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::DnsConfig;
use crate::origin::Origin;
use crate::rate::Rate;

mod tcp;
mod udp;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 256;
/// The bytes of packets that wait for one socket.
const WAITING: usize = 1 << 20;
/// The attempts to find a port that is free over UDP and TCP, when any port will do.
const ATTEMPTS: usize = 16;

/// A server whose sockets are bound. It answers nothing before [`Server::run`].
pub struct Server {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
    address: SocketAddr,
    connections: usize,
    answering: Answering,
}

/// Everything that an answer needs.
#[derive(Clone)]
struct Answering {
    origin: Arc<Origin>,
    board: Board,
    rate: Arc<Rate>,
}

impl Server {
    /// Binds the sockets: so many over UDP, and one over TCP.
    ///
    /// # Errors
    /// When an address cannot be used.
    pub fn bind(config: &DnsConfig, listen: SocketAddr, sockets: usize, board: &Board) -> io::Result<Self> {
        let (tcp, udp) = Self::both(listen, sockets.max(1))?;
        let address = tcp.local_addr()?;
        let origin = config.origin(address).ok_or(io::ErrorKind::InvalidInput)?;
        let answering = Answering { origin, board: board.clone(), rate: Arc::new(Rate::new(config.rate)) };
        Ok(Self { udp, tcp, address, connections: config.connections.max(1), answering })
    }

    fn both(listen: SocketAddr, sockets: usize) -> io::Result<(TcpListener, Vec<UdpSocket>)> {
        let mut attempts = 1..=if listen.port() == 0 { ATTEMPTS } else { 1 };
        loop {
            attempts.next();
            // TCP first: it is not shared, so a second process on the same address fails here.
            let tcp = tcp_socket(listen)?;
            let address = tcp.local_addr()?;
            let udp = (0..sockets).map(|_| udp_socket(address, sockets > 1)).collect::<io::Result<Vec<_>>>();
            match udp {
                Ok(udp) => return Ok((tcp, udp)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !attempts.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The address, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The zone.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.answering.origin
    }

    /// Answers until `stop`, in tasks of the process.
    pub fn run(self, tasks: &Tasks, stop: &CancellationToken) {
        for socket in self.udp {
            let serving = udp::serve(socket, self.answering.clone(), stop.clone());
            let abort = tasks.abort().clone();
            tasks.spawn_named("dns over UDP", async move {
                _ = abort.run_until_cancelled(serving).await;
            });
        }
        let serving = tcp::serve(self.tcp, self.connections, self.answering, stop.clone(), tasks.clone());
        let abort = tasks.abort().clone();
        tasks.spawn_named("dns over TCP", async move {
            _ = abort.run_until_cancelled(serving).await;
        });
    }
}

fn udp_socket(address: SocketAddr, is_shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(is_shared)?;
    // The kernel gives what it may; less is no reason not to start.
    _ = socket.set_recv_buffer_size(WAITING);
    _ = socket.set_send_buffer_size(WAITING);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn tcp_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process before this one may linger on the address.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The pause after an error of a socket that may come back at once.
const PAUSE: Duration = Duration::from_millis(20);
