//! Readers that remember what they were given.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use harness::eventually;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Connections that are opened at once in the beginning.
const AT_ONCE: usize = 100;
/// The pause before a refused connection is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// Every so many watchers is one of the old kind, which cannot resume.
const OLD_IN: usize = 5;
/// The longest pause of a client that polls.
const POLL: Duration = Duration::from_millis(1500);

/// A reader that was not told and counted as one that was.
#[derive(Debug)]
pub(super) struct Fault {
    _reader: String,
    _instance: String,
}

/// A reader's own record.
#[derive(Default)]
struct Record {
    name: String,
    /// The instances that it was told are out of service.
    out: HashSet<String>,
    /// It has a connection, or lost it at this moment.
    lost: Option<Instant>,
    /// It was there at all.
    began: bool,
    /// It does not read until then; `None` in here: until it is woken.
    stalled: Option<Option<Instant>>,
}

struct Reader {
    record: Mutex<Record>,
    /// Told to look at its record again.
    call: Notify,
    /// Told to leave its gateway for the next one.
    leave: Notify,
}

/// Watchers, and clients that poll. All of them end with it.
pub(super) struct Crowd {
    watchers: Vec<Arc<Reader>>,
    pollers: Vec<Arc<Reader>>,
    judged: Mutex<(u64, Vec<Fault>)>,
    _tasks: JoinSet<()>,
}

impl Reader {
    fn new(name: String) -> Arc<Self> {
        let record = Mutex::new(Record { name, ..Record::default() });
        Arc::new(Self { record, call: Notify::new(), leave: Notify::new() })
    }

    /// Waits while it does not read.
    async fn stall(&self) {
        loop {
            let called = self.call.notified();
            let until = match self.record.lock().stalled {
                None => return,
                Some(until) => until,
            };
            match until {
                None => called.await,
                Some(until) => {
                    _ = tokio::time::timeout_at(until, called).await;
                    if Instant::now() >= until {
                        self.record.lock().stalled = None;
                    }
                }
            }
        }
    }

    fn hear(&self, instance: &Value) {
        if instance["status"] == "OUTOFSERVICE"
            && let Some(id) = instance["instanceId"].as_str()
        {
            self.record.lock().out.insert(id.to_owned());
        }
    }

    fn hear_all(&self, value: &Value) {
        for instance in value["instances"].as_array().into_iter().flatten() {
            self.hear(instance);
        }
    }

    fn is_there(&self, there: bool) {
        let mut record = self.record.lock();
        record.began |= there;
        record.lost = (!there).then(Instant::now);
    }
}

impl Crowd {
    /// Watchers at all gateways in equal parts, and clients that poll.
    pub(super) async fn gather(
        gateways: &[SocketAddr],
        consumers: &[String],
        watchers: usize,
        pollers: usize,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let mut crowd = Self {
            watchers: Vec::new(),
            pollers: Vec::new(),
            judged: Mutex::default(),
            _tasks: JoinSet::new(),
        };
        let gateways_of = |number: usize| {
            let mut gateways = gateways.to_vec();
            let by = number % gateways.len();
            gateways.rotate_left(by);
            gateways
        };
        for number in 0..watchers {
            let reader = Reader::new(format!("watcher {number}"));
            let consumer = consumers[number % consumers.len()].clone();
            let resumes = !number.is_multiple_of(OLD_IN);
            tasks.spawn(watch(reader.clone(), gateways_of(number), consumer, resumes));
            crowd.watchers.push(reader);
            // In batches: thousands of connections at once could overflow the backlog of the gateways.
            if (number + 1).is_multiple_of(AT_ONCE) {
                crowd.all_there().await;
            }
        }
        for number in 0..pollers {
            let reader = Reader::new(format!("poller {number}"));
            let consumer = consumers[number % consumers.len()].clone();
            tasks.spawn(poll(reader.clone(), gateways_of(number), consumer));
            crowd.pollers.push(reader);
        }
        crowd.all_there().await;
        crowd._tasks = tasks;
        crowd
    }

    fn readers(&self) -> impl Iterator<Item = &Arc<Reader>> {
        self.watchers.iter().chain(&self.pollers)
    }

    async fn all_there(&self) {
        let is_there = |reader: &Arc<Reader>| {
            let record = reader.record.lock();
            record.began && record.lost.is_none()
        };
        eventually("all readers are there", || async { self.readers().all(is_there).then_some(()) }).await;
    }

    /// Has one in so many watchers stop reading, for at most so long or until it is woken.
    pub(super) fn stall(&self, one_in: usize, longest: Option<Duration>) {
        for _ in 0..self.watchers.len().div_ceil(one_in) {
            let reader = fastrand::choice(&self.watchers).expect("there are watchers");
            let until = longest.map(|longest| Instant::now() + longest.mul_f64(fastrand::f64()));
            reader.record.lock().stalled = Some(until);
            reader.call.notify_waiters();
        }
    }

    /// The watchers that do not read.
    pub(super) fn stalled(&self) -> usize {
        self.watchers.iter().filter(|reader| reader.record.lock().stalled.is_some()).count()
    }

    /// Has everybody read again.
    pub(super) fn wake(&self) {
        for reader in &self.watchers {
            reader.record.lock().stalled = None;
            reader.call.notify_waiters();
        }
    }

    /// Sends one in so many readers to the next gateway.
    pub(super) fn move_some(&self, one_in: usize) {
        for readers in [&self.watchers, &self.pollers] {
            for _ in 0..readers.len().div_ceil(one_in) {
                fastrand::choice(readers).expect("there are readers").leave.notify_waiters();
            }
        }
    }

    /// A drain of the instance says that everybody knows. Whoever is there, or has left only within this time,
    /// has to have been told.
    pub(super) fn judge(&self, instance: &str, moving: Duration) {
        let mut judged = self.judged.lock();
        for reader in self.readers() {
            let record = reader.record.lock();
            let has_gone = record.lost.is_some_and(|lost| lost.elapsed() >= moving);
            if has_gone || !record.began {
                continue;
            }
            judged.0 += 1;
            if !record.out.contains(instance) {
                judged.1.push(Fault { _reader: record.name.clone(), _instance: instance.to_owned() });
            }
        }
    }

    /// The records that were looked at, and the false proofs.
    pub(super) fn verdict(self) -> (u64, Vec<Fault>) {
        self.judged.into_inner()
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn open(gateway: SocketAddr, consumer: &str, since: Option<u64>) -> Option<Socket> {
    let stream = TcpStream::connect(gateway).await.ok()?;
    let rev = since.map(|since| format!("?rev={since}")).unwrap_or_default();
    let url = format!("ws://{gateway}/v4/default/registry/microservices/{consumer}/watcher{rev}");
    // The default buffer of 128 KiB would take more than half a gigabyte for all watchers together.
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
    opened.ok().map(|(socket, _)| socket)
}

/// Watches for ever, at one gateway after the other.
async fn watch(reader: Arc<Reader>, mut gateways: Vec<SocketAddr>, consumer: String, resumes: bool) {
    let mut since = 0;
    loop {
        let Some(mut socket) = open(gateways[0], &consumer, resumes.then_some(since)).await else {
            gateways.rotate_left(1);
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        reader.is_there(true);
        loop {
            reader.stall().await;
            let message = tokio::select! {
                message = socket.next() => message,
                () = reader.call.notified() => continue,
                () = reader.leave.notified() => None,
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                    // Before the next message is read, which may be the ping behind it.
                    reader.hear(&frame["instance"]);
                    reader.hear_all(&frame);
                    if frame["action"] == "BOOKMARK" {
                        since = since.max(frame["rev"].as_u64().unwrap_or(0));
                    }
                    since = since.max(frame["since"].as_u64().unwrap_or(0));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            }
        }
        reader.is_there(false);
        gateways.rotate_left(1);
    }
}

/// Polls for ever, at one gateway after the other.
async fn poll(reader: Arc<Reader>, mut gateways: Vec<SocketAddr>, consumer: String) {
    loop {
        if let Ok(stream) = TcpStream::connect(gateways[0]).await {
            let mut stream = BufReader::new(stream);
            while let Some(found) = find(&mut stream, &consumer).await {
                reader.hear_all(&found);
                reader.is_there(true);
                let pause = tokio::time::sleep(POLL.mul_f64(fastrand::f64()));
                tokio::select! {
                    () = pause => {}
                    () = reader.leave.notified() => break,
                }
            }
        }
        // It goes by what it has found last, wherever it asks next.
        gateways.rotate_left(1);
        tokio::time::sleep(AGAIN).await;
    }
}

/// One find over a connection that is kept. `None` when there is no answer.
async fn find(stream: &mut BufReader<TcpStream>, consumer: &str) -> Option<Value> {
    let request = format!(
        "GET /v4/default/registry/instances?appId=shop&serviceName=order&version=0%2B HTTP/1.1\r\nHost: x\r\n\
         X-ConsumerId: {consumer}\r\n\r\n"
    );
    stream.get_mut().write_all(request.as_bytes()).await.ok()?;
    let mut length = 0;
    let mut status = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        status.get_or_insert_with(|| line.clone());
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    status.filter(|status| status.contains(" 200 "))?;
    serde_json::from_slice(&body).ok()
}
