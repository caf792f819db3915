//! The child: one thread, a task per watcher, one buffer for all of them.
//!
//! In: a command per line. Out: an answer per line. It ends with its standard input.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::watch_response::What;
use proto::watch::v1::{WatchRequest, WatchResponse};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::discovery;
use super::seen::{Memory, Seen};
use super::websocket::{self, Shared};
use crate::stamp::Stamp;

/// Watches that are being opened at once.
const AT_ONCE: usize = 64;
/// The time given to surplus frames, which must not come, to show up.
const AFTERWARDS: Duration = Duration::from_millis(20);
/// Between two looks whether everything has come.
const LOOK: Duration = Duration::from_millis(1);

struct Crowd {
    shared: Rc<Shared>,
    watchers: JoinSet<()>,
    /// The memories of the WebSocket watchers, which outlive their connections.
    memories: Vec<Rc<RefCell<Memory>>>,
    plan: Option<Plan>,
}

/// The last opening, to be repeated after a break.
#[derive(Clone)]
struct Plan {
    to: SocketAddr,
    consumers: Vec<String>,
    /// Shown in turn; empty for watchers without tokens.
    tokens: Vec<String>,
    count: usize,
    narrow: usize,
    /// They ask to resume from where they are.
    resumable: bool,
}

/// Serves commands until there are no more.
pub(super) fn run() -> Result<()> {
    // One thread is enough for reading and counting, needs no locks, and leaves the other cores
    // to the servers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The parent waits for an answer before it asks again, so one place is enough.
    let (asked, mut asking) = mpsc::channel::<String>(1);
    // Reading standard input blocks. On the watchers' thread it would stop all of them.
    let listening = std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(io::Result::ok) {
            if asked.blocking_send(line).is_err() {
                return;
            }
        }
    });
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let mut crowd = Crowd {
            shared: Rc::new(Shared {
                seen: RefCell::new(Seen::new()),
                // Room for a burst of hundreds of frames, so that one read nearly always empties a socket.
                scratch: RefCell::new(vec![0; 256 * 1024].into()),
                stopped: Cell::new(0),
            }),
            watchers: JoinSet::new(),
            memories: Vec::new(),
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
            ["open", to, count, narrow, resumable, consumers, ref tokens @ ..] => {
                let count = count.parse()?;
                self.plan = Some(Plan {
                    to: to.parse()?,
                    consumers: consumers.split(',').map(str::to_owned).collect(),
                    tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
                    count,
                    narrow: narrow.parse()?,
                    resumable: resumable.parse()?,
                });
                self.memories.resize_with(count, Rc::default);
                self.open().await
            }
            ["close"] => {
                self.close().await;
                Ok(json!({}))
            }
            ["reopen"] => {
                // All connections must be closed before the first one is opened again: the server is to lose
                // a whole crowd at once.
                self.close().await;
                self.open().await
            }
            ["grpc", to, connections, each, consumer] => {
                for _ in 0..connections.parse()? {
                    self.grpc(to, each.parse()?, consumer).await?;
                }
                Ok(json!({}))
            }
            ["xds", to, variant, connections, each, name] => {
                let delta = variant == "delta";
                for _ in 0..connections.parse()? {
                    self.discover(to, delta, each.parse()?, name).await?;
                }
                Ok(json!({}))
            }
            ["stop", count] => {
                self.shared.stopped.set(count.parse()?);
                Ok(json!({}))
            }
            ["collect", frames, within] => {
                let frames = frames.parse()?;
                let until = deadline(within)?;
                while self.shared.seen.borrow().received < frames && Instant::now() < until {
                    sleep(LOOK).await;
                }
                sleep(AFTERWARDS).await;
                Ok(self.shared.seen.borrow_mut().take())
            }
            ["reach", provider, seq, within] => {
                let provider = provider.parse()?;
                let seq = seq.parse()?;
                let until = deadline(within)?;
                while self.reached(provider, seq) < self.memories.len() && Instant::now() < until {
                    sleep(LOOK).await;
                }
                Ok(json!({ "reached": self.reached(provider, seq) }))
            }
            ["sample"] => Ok(json!({ "frame": self.shared.seen.borrow().sample })),
            _ => bail!("unknown command: {command}"),
        }
    }

    /// The number of WebSocket watchers that have this change or a later one.
    fn reached(&self, provider: u32, seq: u64) -> usize {
        self.memories.iter().filter(|memory| memory.borrow().has(provider, seq)).count()
    }

    async fn close(&mut self) {
        self.watchers.abort_all();
        while self.watchers.join_next().await.is_some() {}
        self.memories.iter().for_each(|memory| memory.borrow_mut().resume());
    }

    async fn open(&mut self) -> Result<Value> {
        let plan = self.plan.clone().context("a plan")?;
        let began = Instant::now();
        let memories = &self.memories;
        let opening = (0..plan.count).map(|number| {
            let plan = &plan;
            async move {
                let consumer = &plan.consumers[number % plan.consumers.len()];
                let mut path = format!("/v4/default/registry/microservices/{consumer}/watcher");
                if plan.resumable {
                    path.push_str(&format!("?rev={}", memories[number].borrow().since));
                }
                let token = plan.tokens.get(number % plan.tokens.len().max(1)).map(String::as_str);
                let opened = websocket::open(number, plan.to, &path, token, number < plan.narrow).await;
                anyhow::Ok((number, opened.with_context(|| format!("watcher {number}"))?))
            }
        });
        // More attempts at once could fill the listener's backlog, and a connection that finds it full waits
        // a second for TCP to try again.
        let mut opened = stream::iter(opening).buffer_unordered(AT_ONCE);
        while let Some((number, (socket, rest))) = opened.try_next().await? {
            let shared = self.shared.clone();
            let memory = memories[number].clone();
            self.watchers.spawn_local(async move {
                // However it ended, the server was not to end it.
                _ = websocket::watch(number, socket, rest, &memory, &shared).await;
                shared.seen.borrow_mut().ended += 1;
            });
        }
        Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
    }

    async fn discover(&mut self, to: &str, delta: bool, each: usize, name: &str) -> Result<()> {
        let channel = discovery::connect(to).await?;
        for _ in 0..each {
            let client = discovery::open(channel.clone(), delta, name).await?;
            self.watchers.spawn_local(client.read(self.shared.clone()));
        }
        Ok(())
    }

    async fn grpc(&mut self, to: &str, each: usize, consumer: &str) -> Result<()> {
        let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
        for _ in 0..each {
            let request = WatchRequest { consumer_id: consumer.to_owned(), ..WatchRequest::default() };
            let stream = WatchClient::new(channel.clone()).watch(request).await?.into_inner();
            let shared = self.shared.clone();
            self.watchers.spawn_local(async move {
                read(stream, &shared).await;
                shared.seen.borrow_mut().ended += 1;
            });
        }
        Ok(())
    }
}

/// Reads a stream to its end.
async fn read(mut stream: Streaming<WatchResponse>, shared: &Shared) {
    let mut memory = Memory::default();
    while let Ok(Some(told)) = stream.message().await {
        let Some(What::Event(event)) = told.what else { continue };
        let text = event.instance.as_ref().and_then(|instance| instance.properties.get("stamp"));
        let stamp = text.and_then(|text| Stamp::read(text.as_bytes(), 0));
        stamp.into_iter().for_each(|stamp| shared.seen.borrow_mut().saw(stamp, &mut memory));
    }
}

fn deadline(milliseconds: &str) -> Result<Instant> {
    Ok(Instant::now() + Duration::from_millis(milliseconds.parse()?))
}
