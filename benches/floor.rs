//! The floors of fan-out: the least that it can cost, and its cost when the server is written the usual way.
//!
//! A process of its own like the gateway, so that its CPU time is counted the same way. It answers every
//! upgrade, then writes the bytes of a real frame, with stamps of its own, to all sockets, once per event.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use shared::clock::Clock;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use futures_util::SinkExt as _;

use crate::stamp::{LENGTH, Stamp};

const ROLE: &str = "floor";
/// Events that may wait for a connection of the plain server. One that falls behind further shows as lost
/// frames.
const WAITING: usize = 1024;
/// The buffers of a connection of the plain server. By default the library would take 128 KiB for reading
/// alone.
const BUFFER: usize = 4096;

/// The kind of server that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A loop of one blocking write per delivery: no runtime, no protocol.
    Loop,
    /// tokio-tungstenite with a task and a broadcast receiver per connection, which writes what is pending at
    /// once.
    Tokio,
}

/// Becomes the floor if that is what this process was started for.
///
/// # Errors
/// When a socket breaks.
pub fn become_child_if_asked() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, kind, watchers] = &arguments[..] else { return Ok(false) };
    if role != ROLE {
        return Ok(false);
    }
    let mut commands = std::io::stdin().lock();
    let frame = Frame::new(serde_json::from_str(&line(&mut commands)?)?)?;
    match kind.as_str() {
        "Loop" => serve(watchers.parse()?, frame, commands)?,
        "Tokio" => {
            tokio::runtime::Runtime::new()?.block_on(serve_tokio(watchers.parse()?, frame, commands))?
        }
        other => bail!("no such floor: {other}"),
    }
    Ok(true)
}

/// The process. Ended when dropped.
pub struct Floor {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    /// The address on which it listens.
    pub address: SocketAddr,
}

impl Floor {
    /// Starts a floor that sends `frame`, with new stamps, to this number of watchers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(kind: Kind, watchers: usize, frame: &[u8]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, &format!("{kind:?}"), &watchers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ask = child.stdin.take().context("piped")?;
        let answer = child.stdout.take().context("piped")?;
        let mut answer = BufReader::new(answer);
        writeln!(ask, "{}", serde_json::to_string(frame)?)?;
        let address = line(&mut answer)?.trim().parse()?;
        Ok(Self { child, ask, answer, address })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes this number of events to every socket. The loop replies when the kernel has them all, the plain
    /// server at once.
    ///
    /// # Errors
    /// When it has ended.
    pub fn write(&mut self, events: usize) -> Result<()> {
        writeln!(self.ask, "{events}")?;
        line(&mut self.answer).map(drop)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // An error means that it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn line(from: &mut impl std::io::BufRead) -> Result<String> {
    let mut line = String::new();
    ensure!(from.read_line(&mut line)? > 0, "the floor ended");
    Ok(line)
}

/// A frame whose stamp is written anew for each event.
struct Frame {
    bytes: Vec<u8>,
    place: usize,
    seq: u64,
}

impl Frame {
    fn new(bytes: Vec<u8>) -> Result<Self> {
        let place = Stamp::find(&bytes).context("a stamp")?;
        Ok(Self { bytes, place, seq: 0 })
    }

    fn next(&mut self, at: u64) -> &[u8] {
        self.seq += 1;
        let stamp = Stamp { provider: 0, seq: self.seq, at };
        self.bytes[self.place..self.place + LENGTH].copy_from_slice(stamp.text().as_bytes());
        &self.bytes
    }
}

fn serve(watchers: usize, mut frame: Frame, commands: impl std::io::BufRead) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let mut streams: Vec<TcpStream> = Vec::with_capacity(watchers);
    while streams.len() < watchers {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        shake_hands(&mut stream)?;
        streams.push(stream);
    }
    let clock = Clock::system();
    for command in commands.lines() {
        // A burst's events are all asked for at once, as those of a transaction are.
        let at = clock.micros();
        for _ in 0..command?.parse()? {
            let bytes = frame.next(at);
            for stream in &mut streams {
                // One system call for each delivery, in a burst too. A server that writes several frames in
                // one call can therefore cost less than this floor.
                stream.write_all(bytes)?;
            }
        }
        println!("done");
    }
    Ok(())
}

/// Reads a request of ours, whole, and answers it as the standard says.
fn shake_hands(stream: &mut TcpStream) -> Result<()> {
    let mut head = [0; 1024];
    let mut read = 0;
    while !head[..read].ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut head[read..])?;
        ensure!(count > 0, "a watcher went");
        read += count;
    }
    let head = std::str::from_utf8(&head[..read])?;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).context("a key")?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes())?;
    Ok(())
}

async fn serve_tokio(watchers: usize, mut frame: Frame, commands: impl std::io::BufRead) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (events, _) = broadcast::channel(WAITING);
    let mut connections = JoinSet::new();
    for _ in 0..watchers {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(plain(stream, events.subscribe()));
    }
    let clock = Clock::system();
    // Lines are rare, and nothing else is to be done here.
    for command in commands.lines() {
        let at = clock.micros();
        for _ in 0..command?.parse()? {
            let bytes = frame.next(at);
            // Our frames are longer than 125 bytes and shorter than 64 KiB: their header has four bytes.
            let text = std::str::from_utf8(bytes.get(4..).context("a frame")?)?;
            _ = events.send(Utf8Bytes::from(text));
        }
        println!("done");
    }
    Ok(())
}

/// A connection of the plain server.
async fn plain(stream: tokio::net::TcpStream, mut events: broadcast::Receiver<Utf8Bytes>) -> Result<()> {
    let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    loop {
        match events.recv().await {
            Ok(event) => socket.feed(Message::Text(event)).await?,
            Err(RecvError::Lagged(_)) => bail!("fell behind"),
            Err(RecvError::Closed) => return Ok(()),
        }
        while let Ok(event) = events.try_recv() {
            socket.feed(Message::Text(event)).await?;
        }
        socket.flush().await?;
    }
}
