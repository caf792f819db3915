//! The time from a `PUT` to the frame at a watcher, by stage, beside the bare hops that it cannot do without.
//!
//! The floors are an etcd put seen by a watch, and a NATS message of the same size seen by a subscriber; each
//! is measured in turn with the path itself, so that all meet the same disk and the same load. A third, some
//! bytes that one TCP connection carries, stands for the request on its way to the control plane and the
//! frame on its way to the watcher: the path has these two hops as well, and the last row counts them. The
//! stages are taken in a second pass, in which this process watches etcd and NATS too. Argument: rounds, else
//! 300.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::Latencies;
use benches::report::Report;
use benches::stage::{self, Provider, Stage};
use benches::stamp::Stamp;
use etcd_client::WatchOptions;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);
/// Rounds before those that count.
const WARM: usize = 20;
/// Sightings that wait to be read. Each round reads its own before the next begins, so few ever wait.
const WAITING: usize = 64;

/// The receipt of the change with this number.
type Sighting = (u64, Instant);

fn main() -> Result<()> {
    let [rounds] = benches::arguments([300])?;
    let report = Report::new("path", &["p50 ms", "p90 ms", "p99 ms", "max ms", "ratio of p50"]);
    tokio::runtime::Runtime::new()?.block_on(run(&report, rounds))
}

async fn run(report: &Report, rounds: usize) -> Result<()> {
    let stage = Stage::start("1h").await;
    let mut provider = stage.provider(0, 1).await;
    let consumer = stage.consumers(0, 1, |_| vec![0]).await.remove(0);
    let mut watching = JoinSet::new();
    let mut frames = frames(&stage, &consumer, &mut watching).await;
    let mut etcd = stage::etcd(&stage).await?;
    let mut bare_puts = etcd_watch(&stage, "/bare/", &mut watching).await?;
    let nats = async_nats::connect(stage.world.nats.url()).await?;
    let mut bare_hops = subscription(&stage, "bare", &mut watching).await?;

    let (mut socket, mut bare_bytes) = connection(&mut watching).await?;

    let mut puts = vec![];
    let mut hops = vec![];
    let mut carried = vec![];
    let mut path = vec![];
    let mut answers = vec![];
    for round in 0..WARM + rounds {
        let stamp = provider.next_stamp();
        let value = json!({"padding": "x".repeat(300), "properties": stamp.properties()}).to_string();
        let began = Instant::now();
        etcd.put("/bare/key", value.as_str(), None).await?;
        let put = seen(&mut bare_puts, stamp.seq).await? - began;
        let began = Instant::now();
        nats.publish("bare", value.clone().into()).await?;
        let hop = seen(&mut bare_hops, stamp.seq).await? - began;
        let began = Instant::now();
        socket.write_all(value.as_bytes()).await?;
        let bytes = seen(&mut bare_bytes, stamp.seq).await? - began;
        let (began, answered, seq) = change(&stage, &mut provider).await;
        let frame = seen(&mut frames, seq).await? - began;
        // The first rounds fill caches and grow buffers, and may take longer than all later ones.
        if round >= WARM {
            puts.push(put);
            hops.push(hop);
            carried.push(bytes);
            path.push(frame);
            answers.push(answered);
        }
    }
    // Added round by round, because a sum of two medians is not the median of the sums.
    let sum: Vec<Duration> = puts.iter().zip(&hops).map(|(put, hop)| *put + *hop).collect();
    let all: Vec<Duration> = sum.iter().zip(&carried).map(|(sum, bytes)| *sum + 2 * *bytes).collect();
    let floor = tell(report, "bare etcd put to watch", puts, None);
    tell(report, "bare NATS hop", hops, None);
    tell(report, "bare TCP hop", carried, None);
    let sum = tell(report, "etcd and NATS, round by round", sum, None);
    let all = tell(report, "etcd, NATS and twice TCP", all, None);
    tell(report, "PUT to its answer", answers, Some(floor));
    tell(report, "PUT to the frame", path.clone(), Some(sum));
    tell(report, "PUT to the frame, by all four hops", path, Some(all));

    // These observers are added only now: they take part in the load on etcd and NATS, and would slow the
    // path that was measured above.
    let mut committed = etcd_watch(&stage, "/cse-sr/inst/files/", &mut watching).await?;
    let mut published = subscription(&stage, "muster.event.>", &mut watching).await?;
    let mut to_etcd = vec![];
    let mut to_nats = vec![];
    let mut to_frame = vec![];
    for _ in 0..rounds {
        let (began, _, seq) = change(&stage, &mut provider).await;
        let commit = seen(&mut committed, seq).await?;
        let publish = seen(&mut published, seq).await?;
        let frame = seen(&mut frames, seq).await?;
        to_etcd.push(commit - began);
        // Different tasks note the two moments, so the later one can be noted first. It then took no time.
        to_nats.push(publish.saturating_duration_since(commit));
        to_frame.push(frame.saturating_duration_since(publish));
    }
    tell(report, "stage: PUT to etcd's watch", to_etcd, None);
    tell(report, "stage: etcd's watch to NATS' subscriber", to_nats, None);
    tell(report, "stage: NATS' subscriber to the frame", to_frame, None);
    Ok(())
}

/// When a change was asked for, what its answer took, and its number.
async fn change(stage: &Stage, provider: &mut Provider) -> (Instant, Duration, u64) {
    let began = Instant::now();
    provider.change(&stage.registry).await;
    (began, began.elapsed(), provider.changes())
}

fn tell(report: &Report, what: &str, took: Vec<Duration>, floor: Option<f64>) -> f64 {
    let latencies = Latencies::new(took, Duration::from_secs(1));
    let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|share| latencies.quantile_ms(share));
    report.row(what, &[Some(p50), Some(p90), Some(p99), Some(max), floor.map(|floor| p50 / floor)]);
    p50
}

/// When the change with this number was seen; it must be the next of those with a greater number than before.
async fn seen(from: &mut mpsc::Receiver<Sighting>, wanted: u64) -> Result<Instant> {
    loop {
        let (seq, at) = timeout(PATIENCE, from.recv()).await.context("it does not come")?.context("ended")?;
        ensure!(seq <= wanted, "change {wanted} was passed over: {seq}");
        if seq == wanted {
            return Ok(at);
        }
    }
}

/// A task that notes when it sees which change.
fn note(to: &mpsc::Sender<Sighting>, bytes: &[u8]) {
    let at = Instant::now();
    if let Some(stamp) = Stamp::of(bytes) {
        // Full only when nobody reads any more; what is missing then is an error of the reader.
        _ = to.try_send((stamp.seq, at));
    }
}

async fn frames(stage: &Stage, consumer: &str, tasks: &mut JoinSet<()>) -> mpsc::Receiver<Sighting> {
    let (to, from) = mpsc::channel(WAITING);
    let mut watcher = stage.world.watch(0, consumer).await;
    tasks.spawn(async move {
        // The harness' deadline is for tests, in which silence is a mistake; here it is not reached.
        while let Some(text) = watcher.text().await {
            note(&to, text.as_bytes());
        }
    });
    from
}

/// A connection within this process, and what its other end sees.
async fn connection(tasks: &mut JoinSet<()>) -> Result<(TcpStream, mpsc::Receiver<Sighting>)> {
    let (to, from) = mpsc::channel(WAITING);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let socket = TcpStream::connect(listener.local_addr()?).await?;
    socket.set_nodelay(true)?;
    let (mut other, _) = listener.accept().await?;
    tasks.spawn(async move {
        let mut read = [0; 4096];
        while let Ok(length @ 1..) = other.read(&mut read).await {
            note(&to, &read[..length]);
        }
    });
    Ok((socket, from))
}

async fn etcd_watch(
    stage: &Stage,
    prefix: &str,
    tasks: &mut JoinSet<()>,
) -> Result<mpsc::Receiver<Sighting>> {
    let (to, from) = mpsc::channel(WAITING);
    let mut client = stage::etcd(stage).await?;
    let mut stream = client.watch(prefix, Some(WatchOptions::new().with_prefix())).await?;
    tasks.spawn(async move {
        while let Some(Ok(answer)) = stream.next().await {
            for event in answer.events() {
                event.kv().into_iter().for_each(|kv| note(&to, kv.value()));
            }
        }
    });
    Ok(from)
}

async fn subscription(
    stage: &Stage,
    subject: &'static str,
    tasks: &mut JoinSet<()>,
) -> Result<mpsc::Receiver<Sighting>> {
    let (to, from) = mpsc::channel(WAITING);
    // A connection of its own: a hop is from one client to another.
    let client = Arc::new(async_nats::connect(stage.world.nats.url()).await?);
    let mut messages = client.subscribe(subject).await?;
    client.flush().await?;
    tasks.spawn(async move {
        while let Some(message) = messages.next().await {
            note(&to, &message.payload);
        }
        drop(client);
    });
    Ok(from)
}
