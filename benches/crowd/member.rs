//! The child: one thread, a task per watcher, one buffer for all of them.
//!
//! In: a command per line. Out: an answer per line. It ends with its standard input.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead as _, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::{WatchRequest, WatchResponse};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::frames;
use super::seen::{Known, Seen};
use crate::stamp::Stamp;

/// Watches that are being opened at once.
const AT_ONCE: usize = 64;
/// What the kernel reads ahead for a watcher that is to be blocked soon; it doubles it.
const NARROW: u32 = 8 * 1024;
/// How long frames that must not come are waited for.
const AFTERWARDS: Duration = Duration::from_millis(20);

struct Crowd {
    seen: Rc<RefCell<Seen>>,
    scratch: Rc<RefCell<Box<[u8]>>>,
    /// Watchers below this number do not read.
    stopped: Rc<Cell<usize>>,
    watchers: JoinSet<()>,
    streams: Vec<Streaming<WatchResponse>>,
    plan: Option<Plan>,
}

/// What was opened, to be opened again.
#[derive(Clone)]
struct Plan {
    to: SocketAddr,
    consumers: Vec<String>,
    count: usize,
    narrow: usize,
}

/// Serves commands until there are no more.
pub(super) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The parent waits for an answer before it asks again, so one place is enough.
    let (asked, mut asking) = mpsc::channel::<String>(1);
    let listening = std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(io::Result::ok) {
            if asked.blocking_send(line).is_err() {
                return;
            }
        }
    });
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let mut crowd = Crowd {
            seen: Rc::new(RefCell::new(Seen::new())),
            scratch: Rc::new(RefCell::new(vec![0; 256 * 1024].into())),
            stopped: Rc::default(),
            watchers: JoinSet::new(),
            streams: Vec::new(),
            plan: None,
        };
        while let Some(command) = asking.recv().await {
            println!("{}", crowd.obey(&command).await?);
        }
        anyhow::Ok(())
    })?;
    drop(listening);
    Ok(())
}

impl Crowd {
    async fn obey(&mut self, command: &str) -> Result<Value> {
        let words: Vec<&str> = command.split(' ').collect();
        match words[..] {
            ["open", to, count, narrow, consumers] => {
                self.plan = Some(Plan {
                    to: to.parse()?,
                    consumers: consumers.split(',').map(str::to_owned).collect(),
                    count: count.parse()?,
                    narrow: narrow.parse()?,
                });
                self.open().await
            }
            ["reopen"] => {
                self.watchers.abort_all();
                while self.watchers.join_next().await.is_some() {}
                self.open().await
            }
            ["grpc", to, connections, each, consumer] => {
                for _ in 0..connections.parse()? {
                    self.grpc(to, each.parse()?, consumer).await?;
                }
                Ok(json!({}))
            }
            ["stop", count] => {
                self.stopped.set(count.parse()?);
                Ok(json!({}))
            }
            ["collect", frames, within] => {
                let (frames, until) =
                    (frames.parse()?, Instant::now() + Duration::from_millis(within.parse()?));
                while self.seen.borrow().received < frames && Instant::now() < until {
                    sleep(Duration::from_millis(1)).await;
                }
                sleep(AFTERWARDS).await;
                Ok(self.seen.borrow_mut().take())
            }
            ["sample"] => Ok(json!({ "frame": self.seen.borrow().sample })),
            _ => bail!("unknown command: {command}"),
        }
    }

    async fn open(&mut self) -> Result<Value> {
        let plan = self.plan.clone().context("a plan")?;
        let began = Instant::now();
        let opening = (0..plan.count).map(|number| {
            let plan = &plan;
            async move {
                let consumer = &plan.consumers[number % plan.consumers.len()];
                let opened = open(plan.to, consumer, number < plan.narrow).await;
                anyhow::Ok((number, opened.with_context(|| format!("watcher {number}"))?))
            }
        });
        let mut opened = stream::iter(opening).buffer_unordered(AT_ONCE);
        while let Some((number, (socket, rest))) = opened.try_next().await? {
            let (seen, scratch, stopped) = (self.seen.clone(), self.scratch.clone(), self.stopped.clone());
            self.watchers.spawn_local(async move {
                // However it ended, the server was not to end it.
                _ = watch(number, socket, rest, &seen, &scratch, &stopped).await;
                seen.borrow_mut().ended += 1;
            });
        }
        Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
    }

    async fn grpc(&mut self, to: &str, each: usize, consumer: &str) -> Result<()> {
        let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
        for _ in 0..each {
            let request = WatchRequest { consumer_id: consumer.to_owned(), ..WatchRequest::default() };
            self.streams.push(WatchClient::new(channel.clone()).watch(request).await?.into_inner());
        }
        Ok(())
    }
}

/// Opens a watch as old clients do; gives what came behind the head, too.
async fn open(to: SocketAddr, consumer: &str, narrow: bool) -> Result<(TcpStream, Vec<u8>)> {
    let socket = TcpSocket::new_v4()?;
    if narrow {
        socket.set_recv_buffer_size(NARROW)?;
    }
    let mut socket = socket.connect(to).await?;
    let request = format!(
        "GET /v4/default/registry/microservices/{consumer}/watcher HTTP/1.1\r\nHost: bench\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut read = Vec::with_capacity(512);
    loop {
        ensure!(socket.read_buf(&mut read).await? > 0, "the server closed the connection");
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]);
        ensure!(head.starts_with("HTTP/1.1 101 "), "refused: {head}");
        return Ok((socket, read.split_off(end + 4)));
    }
}

async fn watch(
    number: usize,
    mut socket: TcpStream,
    mut rest: Vec<u8>,
    seen: &RefCell<Seen>,
    scratch: &RefCell<Box<[u8]>>,
    stopped: &Cell<usize>,
) -> Result<()> {
    let mut known = Known::new();
    loop {
        socket.readable().await?;
        if number < stopped.get() {
            std::future::pending::<()>().await;
        }
        let mut pongs = Vec::new();
        {
            let mut scratch = scratch.borrow_mut();
            let count = match socket.try_read(&mut scratch) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let mut seen = seen.borrow_mut();
            let joined;
            let mut bytes = if rest.is_empty() {
                &scratch[..count]
            } else {
                rest.extend_from_slice(&scratch[..count]);
                joined = std::mem::take(&mut rest);
                &joined[..]
            };
            while let Some((opcode, payload, next)) = frames::cut(bytes) {
                match opcode {
                    frames::TEXT => seen.note(payload, &mut known),
                    frames::PING => pongs.extend(frames::pong(payload)),
                    frames::CLOSE => return Ok(()),
                    _ => {}
                }
                if seen.sample.is_empty() && Stamp::find(payload).is_some() {
                    seen.sample = bytes[..bytes.len() - next.len()].to_vec();
                }
                bytes = next;
            }
            rest = bytes.to_vec();
        }
        if !pongs.is_empty() {
            socket.write_all(&pongs).await?;
        }
    }
}
