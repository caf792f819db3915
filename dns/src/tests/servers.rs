//! Real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::RecordType::A;
use host::lifecycle::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{Board, DnsConfig, Server};

const NAME: &str = "order.shop.muster.";
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    board: Board,
    stop: CancellationToken,
    tasks: Tasks,
}

impl Running {
    fn start(config: &DnsConfig) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let board = Board::default();
        let server = Server::bind(config, listen, 2, &board).expect("binds");
        let running =
            Self { address: server.address(), board, stop: CancellationToken::new(), tasks: Tasks::new() };
        let some = instance("i", &["rest://10.0.0.1:80"], &[]);
        let services = [service(["order", "shop", ""], "1.0.0", &[some])];
        let zone = Zone::new(server.origin().clone(), 1, &services, None);
        running.board.show(State::Known(Arc::new(zone)));
        server.run(&running.tasks, &running.stop);
        running
    }

    async fn udp(&self, message: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(self.address).await.expect("an address");
        socket.send(&message.to_vec().expect("a message")).await.expect("is sent");
        let mut answer = [0; 4096];
        let length = within(socket.recv(&mut answer)).await.expect("an answer");
        Message::from_vec(&answer[..length]).expect("a message")
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn send(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().expect("a message");
    stream.write_u16(bytes.len() as u16).await.expect("is sent");
    stream.write_all(&bytes).await.expect("is sent");
}

async fn receive(stream: &mut TcpStream) -> Message {
    let length = within(stream.read_u16()).await.expect("a length");
    let mut bytes = vec![0; usize::from(length)];
    within(stream.read_exact(&mut bytes)).await.expect("an answer");
    Message::from_vec(&bytes).expect("a message")
}

#[tokio::test]
async fn questions_are_answered_over_udp_and_tcp() {
    let running = Running::start(&DnsConfig::default());
    for _ in 0..10 {
        // Each comes from a port of its own, so both sockets have their part.
        assert_eq!(running.udp(&question(NAME, A)).await.answers.len(), 1);
    }
    let mut stream = running.connect().await;
    // Several at once, as RFC 7766 allows.
    for _ in 0..3 {
        send(&mut stream, &question(NAME, A)).await;
    }
    for _ in 0..3 {
        assert_eq!(receive(&mut stream).await.answers.len(), 1);
    }
    assert_eq!(running.board.answers(Transport::Udp, Code::Ok), 10);
    assert_eq!(running.board.answers(Transport::Tcp, Code::Ok), 3);
}

#[tokio::test]
async fn a_source_beyond_its_rate_is_sent_to_tcp() {
    let running = Running::start(&DnsConfig { rate: 1, ..DnsConfig::default() });
    for _ in 0..2 {
        assert!(!running.udp(&question(NAME, A)).await.metadata.truncation);
    }
    let slowed = running.udp(&question(NAME, A)).await;
    assert!(slowed.metadata.truncation && slowed.answers.is_empty());
    let mut stream = running.connect().await;
    send(&mut stream, &question(NAME, A)).await;
    assert_eq!(receive(&mut stream).await.answers.len(), 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_end_at_once() {
    let running = Running::start(&DnsConfig { connections: 4, ..DnsConfig::default() });
    let mut first = running.connect().await;
    send(&mut first, &question(NAME, A)).await;
    receive(&mut first).await;
    let mut second = running.connect().await;
    assert_eq!(within(second.read_u16()).await.map_err(|error| error.kind()).ok(), None);
    drop(first);
    // The place is free when the server has seen the end.
    loop {
        let mut third = running.connect().await;
        send(&mut third, &question(NAME, A)).await;
        if within(third.read_u16()).await.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn a_connection_with_nonsense_ends() {
    let running = Running::start(&DnsConfig::default());
    for nonsense in [vec![255, 255, 1], vec![0, 0], vec![0, 3, 1, 2, 3]] {
        let mut stream = running.connect().await;
        stream.write_all(&nonsense).await.expect("is sent");
        assert!(within(stream.read_u16()).await.is_err());
    }
    assert_eq!(running.udp(&question(NAME, A)).await.answers.len(), 1, "others are answered");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends() {
    let running = Running::start(&DnsConfig::default());
    let mut stream = running.connect().await;
    assert!(stream.read_u16().await.is_err(), "time passes by itself here");
}

#[tokio::test]
async fn every_task_ends_with_the_server() {
    let running = Running::start(&DnsConfig::default());
    let mut idle = running.connect().await;
    send(&mut idle, &question(NAME, A)).await;
    receive(&mut idle).await;
    running.stop.cancel();
    running.tasks.drain().cancel();
    assert!(within(running.tasks.finish(PATIENCE)).await);
    assert!(within(idle.read_u16()).await.is_err());
    drop(running.board);
}
