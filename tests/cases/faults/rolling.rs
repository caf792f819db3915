//! Gateways restarted in turn under thousands of watchers that resume: nobody misses anything. How they come
//! back over time is shown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use harness::{World, eventually};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::stage::TURN;

const WATCHERS: usize = 5000;
const CONSUMERS: usize = 50;
const GATEWAYS: usize = 3;
/// Over this time a gateway that drains lets go of its watchers.
const DRAIN: &str = "10s";
/// Connections that are opened at once in the beginning.
const AT_ONCE: usize = 100;

/// State that all watchers update.
#[derive(Default)]
struct Crowd {
    /// When connections were opened again.
    back: Mutex<Vec<Instant>>,
    open: AtomicU64,
    ended: AtomicBool,
}

/// A watcher that resumes: the last number it received, and the revision from which it resumes.
struct Visitor {
    gateways: Vec<SocketAddr>,
    consumer: String,
    number: u64,
    seen: u64,
    since: u64,
    /// The number of the present connection.
    connection: u64,
    /// The connection that began with a state, until the next change.
    state_of: Option<u64>,
}

impl Visitor {
    async fn open(&self) -> Option<WebSocketStream<TcpStream>> {
        let stream = TcpStream::connect(self.gateways[0]).await.ok()?;
        let gateway = self.gateways[0];
        let consumer = &self.consumer;
        let since = self.since;
        let url = format!("ws://{gateway}/v4/default/registry/microservices/{consumer}/watcher?rev={since}");
        // The default buffer of 128 KiB would take more than half a gigabyte for all watchers together.
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
        opened.ok().map(|(socket, _)| socket)
    }

    /// Watches until everything is over and the last number has come. The error describes a wrong frame.
    async fn watch(mut self, crowd: Arc<Crowd>, last: Arc<AtomicU64>) -> Result<(), String> {
        let mut first = true;
        loop {
            let Some(mut socket) = self.open().await else {
                // It drains, or is away: the next one.
                self.gateways.rotate_left(1);
                // Without a pause, thousands of refused watchers would take the cores from the gateways.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            crowd.open.fetch_add(1, Ordering::Relaxed);
            self.connection += 1;
            if !std::mem::take(&mut first) {
                crowd.back.lock().push(Instant::now());
            }
            // The end is polled: a watcher that has everything may receive nothing more that could wake it.
            let mut poll = tokio::time::interval(Duration::from_millis(500));
            loop {
                let done = crowd.ended.load(Ordering::Relaxed) && self.number == last.load(Ordering::Relaxed);
                if done {
                    return Ok(());
                }
                let message =
                    tokio::select! { message = socket.next() => message, _ = poll.tick() => continue };
                match message {
                    Some(Ok(Message::Text(text))) => self.hear(&text)?,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
            crowd.open.fetch_sub(1, Ordering::Relaxed);
            self.gateways.rotate_left(1);
        }
    }

    fn hear(&mut self, text: &str) -> Result<(), String> {
        let frame: Value = serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))?;
        let rev = frame["rev"].as_u64().ok_or(format!("no revision: {text}"))?;
        match frame["action"].as_str() {
            Some("BOOKMARK") => self.since = self.since.max(rev),
            Some("RESET") => {
                for instance in frame["instances"].as_array().into_iter().flatten() {
                    self.number = number_of(instance);
                }
                self.seen = self.seen.max(rev);
                self.state_of = Some(self.connection);
            }
            // After a break what came last may come again.
            Some(_) if rev <= self.seen => {}
            Some(_) => {
                let number = number_of(&frame["instance"]);
                // A state may contain a change that is later than its own revision: the beginning of a revision
                // that the gateway does not know to be whole. After a break such a change comes again.
                let is_of_state = self.state_of.is_some_and(|state| state < self.connection);
                if is_of_state && number == self.number {
                    self.seen = rev;
                    return Ok(());
                }
                // The writer counts up by one, so any other number is a loss, a repetition or disorder.
                if number != self.number + 1 {
                    return Err(format!("told {number} after {}", self.number));
                }
                (self.number, self.seen, self.state_of) = (number, rev, None);
            }
            None => return Err(format!("what is this: {text}")),
        }
        self.since = self.since.max(frame["since"].as_u64().unwrap_or(0));
        Ok(())
    }
}

fn number_of(instance: &Value) -> u64 {
    instance["properties"]["tag"].as_str().and_then(|tag| tag.parse().ok()).unwrap_or(0)
}

/// The most that came back in any second.
fn busiest(back: &[Instant]) -> usize {
    let window = Duration::from_secs(1);
    back.iter()
        .map(|from| back.iter().filter(|other| **other >= *from && **other < *from + window).count())
        .max()
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn gateways_restarted_under_five_thousand_watchers_lose_nothing() {
    let _turn = TURN.lock().await;
    let world =
        World::with().planes(2).gateways(GATEWAYS).linked().gateway_flag("--drain-over", DRAIN).start().await;
    let gateways: Vec<SocketAddr> = world.gateways.iter().map(|node| node.api).collect();
    let client = world.client(0);
    let provider = client.service("order").await;
    let mut consumers = Vec::new();
    for number in 0..CONSUMERS {
        let consumer = client.service(&format!("consumer-{number}")).await;
        client.find(&consumer, "order", "").await.ok();
        consumers.push(consumer);
    }
    client.instance_with(&provider, "i", 600).await;
    client.tag(&provider, "i", "1").await;

    let crowd = Arc::new(Crowd::default());
    let last = Arc::new(AtomicU64::new(1));
    let mut visitors = JoinSet::new();
    for number in 0..WATCHERS {
        let mut gateways = gateways.clone();
        gateways.rotate_left(number % GATEWAYS);
        let consumer = consumers[number % CONSUMERS].clone();
        let visitor =
            Visitor { gateways, consumer, number: 0, seen: 0, since: 0, connection: 0, state_of: None };
        visitors.spawn(visitor.watch(crowd.clone(), last.clone()));
        // In batches: thousands of connections at once could overflow the listen backlog of the gateways.
        if number % AT_ONCE == AT_ONCE - 1 {
            let all = (number + 1) as u64;
            eventually("they are granted", || async {
                (crowd.open.load(Ordering::Relaxed) >= all).then_some(())
            })
            .await;
        }
    }

    // One change a second all the while.
    let (writing, of_writer, api) =
        (Arc::new(AtomicBool::new(true)), last.clone(), world.control_planes[0].api);
    let goes_on = writing.clone();
    let id = provider.clone();
    let writer = tokio::spawn(async move {
        let client = harness::Client::new(api);
        while goes_on.load(Ordering::Relaxed) {
            let next = of_writer.load(Ordering::Relaxed) + 1;
            client.tag(&id, "i", &next.to_string()).await;
            of_writer.store(next, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    for node in &world.gateways {
        crowd.back.lock().clear();
        let watchers = node.metric("muster_edge_sessions", "").await as usize;
        let began = Instant::now();
        assert_eq!(node.process.terminate().await, Some(0), "a drain ends well");
        let took = began.elapsed();
        eventually("everybody is back", || async {
            // Equal, not at least: a watcher that was counted twice would hide one that is missing.
            (crowd.open.load(Ordering::Relaxed) == WATCHERS as u64).then_some(())
        })
        .await;
        let back = crowd.back.lock().clone();
        let most = busiest(&back);
        let all = back.len();
        // Shown and not judged: on a busy machine they come back in bunches. A test of the shard judges that
        // a drain is even.
        println!(
            "  drained {watchers} watchers in {took:.1?}: {all} came back, {most} in the busiest second"
        );
        node.process.start();
        // The next gateway drains only when this one serves again, as in a rolling upgrade.
        node.ready().await;
    }
    writing.store(false, Ordering::Relaxed);
    writer.await.expect("writes");
    // Only after the writer has ended: the last number must be final before watchers compare theirs with it.
    crowd.ended.store(true, Ordering::Relaxed);
    let mut wrong = Vec::new();
    let ending = async {
        while let Some(ended) = visitors.join_next().await {
            wrong.extend(ended.expect("no panic").err());
        }
    };
    tokio::time::timeout(harness::deadline(), ending).await.expect("everybody is told the last change");
    let changes = last.load(Ordering::Relaxed);
    println!("gateways restarted in turn: {changes} changes, watchers {WATCHERS}, wrong {}", wrong.len());
    assert!(wrong.is_empty(), "{} of them, such as {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}
