//! Many watchers in a process of their own, so that what they cost is not counted as the server's.
//!
//! This file is the parent's side. The child is the same program with a special first argument; it reads
//! commands from its standard input and answers each by a line of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::envoy::DiscoveryResponse;
use serde_json::Value;

mod discovery;
mod frames;
mod member;
mod seen;
mod websocket;

/// The first argument of a child.
const ROLE: &str = "crowd-of-watchers";

/// Becomes the child if this process was started as one. Each bench with a crowd calls it first in `main`.
///
/// # Errors
/// When a command cannot be done.
pub fn become_child_if_asked() -> Result<bool> {
    if std::env::args().nth(1).as_deref() != Some(ROLE) {
        return Ok(false);
    }
    member::run()?;
    Ok(true)
}

/// A child process with its watchers. Ended when dropped.
pub struct Crowd {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

/// The receipts of the watchers since the last question. Times are milliseconds since the change was
/// requested.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Stamped frames.
    pub received: u64,
    /// Changes that a watcher never received although it received a later one.
    pub lost: u64,
    /// Frames received twice in a row.
    pub repeated: u64,
    /// Frames older than one before them.
    pub reordered: u64,
    /// Frames from before a break that came again after it, which is allowed.
    pub again: u64,
    /// Connections that ended, since the watchers were opened.
    pub ended: u64,
    /// Receipt of the first watcher, median over changes.
    pub first_ms: f64,
    /// Receipt of the last watcher, median over changes.
    pub last_ms: f64,
    /// Half of all receipts.
    pub p50_ms: f64,
    /// 99 % of all receipts.
    pub p99_ms: f64,
    /// The latest receipt.
    pub max_ms: f64,
}

/// The first answers of a gateway to a stream of xDS about a service, one of each kind.
///
/// # Errors
/// When the stream is refused.
pub async fn answers_of_xds(to: SocketAddr, name: &str) -> Result<Vec<DiscoveryResponse>> {
    discovery::answers(to, name).await
}

/// The offset of the stamp in endpoints of xDS.
pub fn place_in_endpoints(bytes: &[u8]) -> Option<usize> {
    discovery::place_of(bytes)
}

/// The median of a figure over rounds: a pause of the machine during one of them must not decide. Zero
/// without rounds.
pub fn median(rounds: &[Sight], of: impl Fn(&Sight) -> f64) -> f64 {
    let mut all: Vec<f64> = rounds.iter().map(of).collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

impl Crowd {
    /// Starts a child without watchers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().context("piped")?;
        let answer = child.stdout.take().context("piped")?;
        Ok(Self { child, ask, answer: BufReader::new(answer) })
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens `count` WebSocket watches, over these consumers in turn; the first `narrow` of them with a
    /// receive buffer so small that the kernel does not read for them. Gives the seconds that it took.
    ///
    /// # Errors
    /// When one is refused.
    pub fn open(&mut self, to: SocketAddr, consumers: &[String], count: usize, narrow: usize) -> Result<f64> {
        let ids = consumers.join(",");
        let answer = self.call(&format!("open {to} {count} {narrow} false {ids}"))?;
        answer["seconds"].as_f64().context("seconds")
    }

    /// Opens `count` WebSocket watches of a consumer, with these tokens in turn.
    ///
    /// # Errors
    /// When one is refused.
    pub fn open_with_tokens(
        &mut self,
        to: SocketAddr,
        consumer: &str,
        count: usize,
        tokens: &[String],
    ) -> Result<()> {
        self.call(&format!("open {to} {count} 0 false {consumer} {}", tokens.join(" "))).map(drop)
    }

    /// Opens `count` WebSocket watches, over these consumers in turn, that learn their position, and resume from it
    /// when they are opened again. Gives the seconds that it took.
    ///
    /// # Errors
    /// When one is refused.
    pub fn open_resumable(&mut self, to: SocketAddr, consumers: &[String], count: usize) -> Result<f64> {
        let ids = consumers.join(",");
        let answer = self.call(&format!("open {to} {count} 0 true {ids}"))?;
        answer["seconds"].as_f64().context("seconds")
    }

    /// Opens `each` gRPC watches of a consumer on each of `connections` connections.
    ///
    /// # Errors
    /// When one is refused.
    pub fn open_grpc(
        &mut self,
        to: SocketAddr,
        consumer: &str,
        connections: usize,
        each: usize,
    ) -> Result<()> {
        self.call(&format!("grpc {to} {connections} {each} {consumer}")).map(drop)
    }

    /// Opens `each` streams of xDS about one service on each of `connections` connections, in the variant
    /// `state` or `delta`. Each has everything that there is when this returns.
    ///
    /// # Errors
    /// When one is refused.
    pub fn open_xds(
        &mut self,
        to: SocketAddr,
        variant: &str,
        connections: usize,
        each: usize,
        name: &str,
    ) -> Result<()> {
        self.call(&format!("xds {to} {variant} {connections} {each} {name}")).map(drop)
    }

    /// Ends all WebSocket watches at once.
    ///
    /// # Errors
    /// When the child has ended.
    pub fn close(&mut self) -> Result<()> {
        self.call("close").map(drop)
    }

    /// Ends all WebSocket watches at once, if they are open, and opens them again. Gives the seconds until all are open.
    ///
    /// # Errors
    /// When one is refused.
    pub fn reopen(&mut self) -> Result<f64> {
        self.call("reopen")?["seconds"].as_f64().context("seconds")
    }

    /// The first `count` watchers do not read from now on.
    ///
    /// # Errors
    /// When the child has ended.
    pub fn stop(&mut self, count: usize) -> Result<()> {
        self.call(&format!("stop {count}")).map(drop)
    }

    /// Waits until every WebSocket watcher has this change of this provider, or a later one. Returns the
    /// number of those that have it.
    ///
    /// # Errors
    /// When the child has ended.
    pub fn reach(&mut self, provider: u32, seq: u64, within: Duration) -> Result<u64> {
        let told = self.call(&format!("reach {provider} {seq} {}", within.as_millis()))?;
        told["reached"].as_u64().context("a number")
    }

    /// Waits until all watchers together have received `frames` frames since the last question, and reports
    /// what they saw. Waits a moment longer for frames that must not come.
    ///
    /// # Errors
    /// When the child has ended.
    pub fn collect(&mut self, frames: u64, within: Duration) -> Result<Sight> {
        let told = self.call(&format!("collect {frames} {}", within.as_millis()))?;
        let (number, ms) =
            (|name: &str| told[name].as_u64().unwrap_or(0), |name: &str| told[name].as_f64().unwrap_or(0.0));
        Ok(Sight {
            received: number("received"),
            lost: number("lost"),
            repeated: number("repeated"),
            reordered: number("reordered"),
            again: number("again"),
            ended: number("ended"),
            first_ms: ms("first_ms"),
            last_ms: ms("last_ms"),
            p50_ms: ms("p50_ms"),
            p99_ms: ms("p99_ms"),
            max_ms: ms("max_ms"),
        })
    }

    /// A frame as it came, with its header.
    ///
    /// # Errors
    /// When none has come.
    pub fn sample(&mut self) -> Result<Vec<u8>> {
        let told = self.call("sample")?;
        let frame: Vec<u8> = serde_json::from_value(told["frame"].clone())?;
        ensure!(!frame.is_empty(), "no frame has come");
        Ok(frame)
    }

    fn call(&mut self, command: &str) -> Result<Value> {
        writeln!(self.ask, "{command}")?;
        let mut line = String::new();
        // The end of its output means that the child has failed. Its own error is on standard error.
        ensure!(self.answer.read_line(&mut line)? > 0, "the watchers ended");
        Ok(serde_json::from_str(&line)?)
    }
}

impl Sight {
    /// Checks that every frame came once and in order, and that no connection ended.
    ///
    /// # Errors
    /// All counts, when one of them is wrong.
    pub fn check(&self, expected: u64) -> Result<()> {
        ensure!(
            // `again` may be anything: a client that resumes may receive the last frames before
            // the break twice.
            self.received == expected && self.lost + self.repeated + self.reordered + self.ended == 0,
            "{} of {expected} frames, {} lost, {} repeated, {} reordered, {} connections ended",
            self.received,
            self.lost,
            self.repeated,
            self.reordered,
            self.ended
        );
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // An error means that it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
