//! The least that fan-out can cost: a loop of one blocking write per delivery, no runtime, no protocol.
//!
//! A process of its own like the gateway, so that its CPU time is counted the same way. It answers every upgrade,
//! then writes the bytes of a real frame, with stamps of its own, to all sockets, once per event.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use shared::clock::Clock;

use crate::stamp::{LENGTH, Stamp};

const ROLE: &str = "floor";
/// The head that an upgrade is answered with.
const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Becomes the floor if that is what this process was started for.
///
/// # Errors
/// When a socket breaks.
pub fn become_child_if_asked() -> Result<bool> {
    if std::env::args().nth(1).as_deref() != Some(ROLE) {
        return Ok(false);
    }
    serve()?;
    Ok(true)
}

/// The process. Ended when dropped.
pub struct Floor {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Floor {
    /// Starts one for so many watchers, which are told `frame`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(watchers: usize, frame: &[u8]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, &watchers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (mut ask, answer) = (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
        let mut answer = BufReader::new(answer);
        writeln!(ask, "{}", serde_json::to_string(frame)?)?;
        let address = line(&mut answer)?.trim().parse()?;
        Ok(Self { child, ask, answer, address })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes so many events to every socket and waits until the kernel has them.
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

fn serve() -> Result<()> {
    let watchers: usize = std::env::args().nth(2).context("watchers")?.parse()?;
    let mut commands = std::io::stdin().lock();
    let mut frame: Vec<u8> = serde_json::from_str(&line(&mut commands)?)?;
    let place = Stamp::find(&frame).context("a stamp")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let mut streams: Vec<TcpStream> = Vec::with_capacity(watchers);
    let mut head = [0; 1024];
    while streams.len() < watchers {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        ensure!(stream.read(&mut head)? > 0, "a watcher went");
        stream.write_all(HEAD)?;
        streams.push(stream);
    }
    let clock = Clock::system();
    let mut seq = 0;
    for command in commands.lines() {
        // A burst's events are all asked for at once, as those of a transaction are.
        let at = clock.micros();
        for _ in 0..command?.parse()? {
            seq += 1;
            let stamp = Stamp { provider: 0, seq, at };
            frame[place..place + LENGTH].copy_from_slice(stamp.text().as_bytes());
            for stream in &mut streams {
                stream.write_all(&frame)?;
            }
        }
        println!("done");
    }
    Ok(())
}
