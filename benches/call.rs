//! A cheap client: one connection, one request at a time, and answers that are parsed no further than needed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Latencies;

/// A request as it goes over the wire.
pub fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into()
}

/// The same without a body.
pub fn ask(path: &str, headers: &str) -> Vec<u8> {
    request("GET", path, headers, "")
}

/// A cheap client: one connection, one request at a time.
pub struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

/// The answer of a server.
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// The header `X-Resource-Revision`.
    pub revision: Option<String>,
    /// Its body. With `Transfer-Encoding: chunked` it contains the sizes of the chunks.
    pub body: Vec<u8>,
}

impl Client {
    /// Connects to an address.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(server: &str) -> Result<Self> {
        let socket = TcpStream::connect(server).await?;
        // Nagle's algorithm would hold a small request back until the previous answer is acknowledged.
        socket.set_nodelay(true)?;
        Ok(Self { socket, read: Vec::with_capacity(1 << 16) })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// When it is refused, or the connection ends.
    pub async fn call(&mut self, request: &[u8]) -> Result<Answered> {
        self.socket.write_all(request).await?;
        // One request is under way at a time, so the buffer holds nothing of a later answer.
        self.read.clear();
        loop {
            self.more().await?;
            let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.read[..end])?;
            let status: u16 = head.get(9..12).context("a status")?.parse()?;
            let length = header(head, "Content-Length").map(str::parse).transpose()?;
            let is_chunked = header(head, "Transfer-Encoding").is_some_and(|coding| coding == "chunked");
            let revision = header(head, "X-Resource-Revision").map(String::from);
            let start = end + 4;
            let body = match length {
                // It has no body, whatever its headers say (RFC 9110, 15.4.5); waiting for one would never end.
                _ if status == 304 => Vec::new(),
                Some(length) => self.body(start, length).await?,
                None if is_chunked => self.chunks(start).await?,
                None => anyhow::bail!("an answer without a length"),
            };
            // Refusing is cheap. If refusals counted as answers, an overloaded server would look fast.
            anyhow::ensure!(matches!(status, 200 | 304), "refused: {}", String::from_utf8_lossy(&body));
            return Ok(Answered { status, revision, body });
        }
    }

    async fn body(&mut self, start: usize, length: usize) -> Result<Vec<u8>> {
        while self.read.len() < start + length {
            self.more().await?;
        }
        Ok(self.read[start..start + length].to_vec())
    }

    /// Everything up to the last chunk, as it was sent. JSON has no line of its own that looks like that one.
    async fn chunks(&mut self, start: usize) -> Result<Vec<u8>> {
        while !self.read[start..].ends_with(b"\r\n0\r\n\r\n") {
            self.more().await?;
        }
        Ok(self.read[start..].to_vec())
    }

    async fn more(&mut self) -> Result<()> {
        let read = self.socket.read_buf(&mut self.read).await?;
        anyhow::ensure!(read > 0, "the server closed the connection");
        Ok(())
    }
}

/// Sends a request again and again over this number of connections, each one after its answer, for `length`.
///
/// # Errors
/// When a request is refused, or a connection ends.
pub async fn load(server: &str, request: &[u8], connections: usize, length: Duration) -> Result<Latencies> {
    load_each(server, connections, length, |_| request).await
}

/// Sends requests over this number of connections for `length`, each one after the answer of the one before it.
/// `request` makes the request of a number; no number comes twice.
///
/// # Errors
/// When a request is refused, or a connection ends.
pub async fn load_each<R: AsRef<[u8]>>(
    server: &str,
    connections: usize,
    length: Duration,
    request: impl Fn(usize) -> R,
) -> Result<Latencies> {
    let began = Instant::now();
    let request = &request;
    let clients = (0..connections).map(|first| async move {
        let mut client = Client::connect(server).await?;
        let mut took = Vec::new();
        let mut number = first;
        while began.elapsed() < length {
            let request = request(number);
            let sent = Instant::now();
            client.call(request.as_ref()).await?;
            took.push(sent.elapsed());
            number += connections;
        }
        anyhow::Ok(took)
    });
    let took = try_join_all(clients).await?.concat();
    Ok(Latencies::new(took, began.elapsed()))
}

/// The value of a header, however the server writes its name.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value))
}
