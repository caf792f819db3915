//! Things that stand where a gateway should: an address that answers nothing, and a server that tells what
//! reaches it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use harness::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::page::{Gateway, Mode, Program, Proxy};

/// An address at which a connection is neither accepted nor refused, as of a machine that is gone.
pub(super) struct Nowhere {
    address: SocketAddr,
    _listener: TcpListener,
    /// They fill the backlog, so that the kernel drops whatever comes.
    _waiting: Vec<TcpStream>,
}

impl Nowhere {
    pub(super) async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("an address");
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            waiting.push(stream.expect("waits in the backlog"));
        }
        Self { address, _listener: listener, _waiting: waiting }
    }

    /// Its clients and its admin port.
    pub(super) fn both(&self) -> Gateway {
        (self.address, self.address)
    }
}

/// The proxy names its client in `X-Forwarded-For`.
pub(super) async fn clients_are_named(program: Program) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (heads, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tell(stream, heads.clone()));
        }
    });
    let proxy = Proxy::start(program, Mode::Http, [(address, address); 2], str::to_owned).await;
    eventually("a request of another address comes through", || async {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0))).ok()?;
        let mut stream = socket.connect(proxy.front).await.ok()?;
        stream.write_all(b"GET /who HTTP/1.1\r\nHost: muster:1\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.contains(" 200 ").then_some(())
    })
    .await;
    drop(proxy);
    let mut seen = None;
    while let Ok(head) = told.try_recv() {
        seen = seen.or(Some(head).filter(|head: &String| head.starts_with("get /who ")));
    }
    let head = seen.expect("the request is told");
    for line in ["x-forwarded-for: 127.0.0.2\r\n", "host: muster:1\r\n"] {
        assert!(head.contains(line), "no `{line}` in {head}");
    }
}

/// Answers requests, which are told in lower case.
async fn tell(mut stream: TcpStream, heads: mpsc::UnboundedSender<String>) -> Option<()> {
    let mut head = String::new();
    loop {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await.ok().filter(|count| *count > 0)?;
        head += &String::from_utf8_lossy(&bytes[..count]).to_lowercase();
        if head.ends_with("\r\n\r\n") {
            heads.send(std::mem::take(&mut head)).ok()?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok()?;
        }
    }
}
