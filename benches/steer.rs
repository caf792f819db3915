//! The cost of an event for N watchers while operators steer: with overrides in force on the instances that
//! change, and with a drain of the same provider under way beside it.
//!
//! Three providers of the same watchers take turns on one gateway. The first has neither, and its instances
//! report themselves what the overrides of the others add, so that all frames are equally long. The instances of
//! the second and the third have a weight and a property by overrides. In the turns of the third, one of its
//! instances is drained, which a watcher that answers no ping keeps from its end: the gateway counts the
//! acknowledgements of all watchers twice a second.
//!
//! Single events are `PUT`s; a burst is one etcd transaction of 100 changes. The push of the drain's own mark is
//! a change like any other, and is not measured. Each ratio is the median of those of the rounds, to the first
//! provider in the same round. CPU is the process's own. Arguments: the numbers of watchers, else 10000.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::crowd::{self, Crowd, Sight};
use benches::report::Report;
use benches::stage::{self, Provider, Stage};
use harness::Watcher;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

// Fits in one etcd transaction (128 operations by default), so that the changes of a burst arrive together.
const BURST: usize = 100;
/// The providers that take turns, by what is in use.
const CASES: [&str; 3] = ["neither", "overrides", "overrides, a drain"];
const DRAINED: usize = 2;
/// Rounds in which each provider has a turn. A multiple of six, so that each order comes equally often.
const ROUNDS: usize = 18;
/// Nothing that was begun before is under way any more when watchers have been told nothing for this long.
const QUIET: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// The figures of one kind of events in one turn.
struct Turn {
    cpu_per_million: f64,
    /// CPU milliseconds of the control plane for each change.
    plane_ms: f64,
    p50_ms: f64,
    last_ms: f64,
}

/// The turns of one kind of events: for each provider, one a round.
type Turns = [Vec<Turn>; CASES.len()];

/// The figures of one number of watchers.
#[derive(Default)]
struct Played {
    /// Those of single events, and of bursts.
    phases: [Turns; 2],
    /// The gateway's CPU milliseconds per second while nothing changes, for each provider's turns.
    quiet: [Vec<f64>; CASES.len()],
}

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let counts = benches::list_of_arguments(&[10_000])?;
    let columns = [
        "CPU-s per M",
        "ratio of CPU",
        "least",
        "most",
        "plane ms",
        "ratio of plane",
        "p50 ms",
        "ratio of p50",
        "last ms",
        "ratio of last",
    ];
    let report = Report::new("steer", &columns);
    let runtime = tokio::runtime::Runtime::new()?;
    for count in counts {
        let Played { phases: [single, burst], quiet } = runtime.block_on(play(count))?;
        tell(&report, &format!("{count}, single"), &single);
        tell(&report, &format!("{count}, {BURST} at once"), &burst);
        let report = Report::new("steer-quiet", &["CPU ms per s"]);
        for (case, of_turns) in CASES.iter().zip(quiet) {
            report.row(&format!("{case}, {count}, nothing changes"), &[Some(median(of_turns))]);
        }
    }
    Ok(())
}

async fn play(count: usize) -> Result<Played> {
    let stage = Stage::start("1h").await;
    let gateway = stage.world.gateways[0].api;
    let mut etcd = stage::etcd(&stage).await?;
    let mut providers = Vec::new();
    for number in 0..CASES.len() {
        providers.push(stage.provider(u32::try_from(number)?, BURST).await);
    }
    providers[0].report("weight", "50");
    providers[0].report("colour", "red");
    for provider in &providers[1..] {
        steer(&stage, provider).await;
    }
    let consumers = stage.consumers(0, 1, |_| vec![0, 1, 2]).await;
    let mut watcher = stage.world.watch(0, &consumers[0]).await;
    for (provider, case) in providers.iter_mut().zip(CASES) {
        let frame = frame_of(&mut watcher, provider, &stage).await?;
        eprintln!("{case}: frames of {} bytes", frame.len());
    }
    drop(watcher);
    for provider in &mut providers {
        // From here on every instance has a stamp, and the one that will be drained has the last, which the push
        // of its mark repeats.
        provider.burst(&mut etcd, BURST).await?;
    }
    // Without it the drain would be proven, and over, before anything is measured.
    let mut mute = JoinSet::new();
    mute.spawn(listen(TcpStream::connect(gateway).await?, consumers[0].clone()));
    let mut crowd = Crowd::start()?;
    crowd.open(gateway, &consumers, count, 0)?;
    // Fewer changes for larger crowds, so that every size takes about as long.
    let singles = (100_000 / count).clamp(10, 40);
    let bursts = (20_000 / count).clamp(2, 10);
    let Played { mut phases, mut quiet } = Played::default();
    for round in 0..ROUNDS {
        for case in order(round) {
            let provider = &mut providers[case];
            let drain = if case == DRAINED { Some(Drain::begin(gateway, provider).await?) } else { None };
            // A drain that begins again marks again, which watchers are told.
            while crowd.collect(1, QUIET)?.received > 0 {}
            // By now every watcher but one has acknowledged the mark.
            let (cpu, began) = (stage.gateway_cpu()?, Instant::now());
            crowd.collect(1, QUIET)?;
            quiet[case].push((stage.gateway_cpu()? - cpu) * 1e3 / began.elapsed().as_secs_f64());
            for (events, changes) in [(1, singles), (BURST, bursts)] {
                let mut sights = Vec::new();
                let (cpu, plane) = (stage.gateway_cpu()?, stage.control_plane_cpu()?);
                for _ in 0..changes {
                    match events {
                        1 => provider.change(&stage.registry).await,
                        _ => provider.burst(&mut etcd, events).await?,
                    }
                    let sight = crowd.collect((count * events) as u64, PATIENCE)?;
                    sight.check((count * events) as u64)?;
                    sights.push(sight);
                }
                let changes = (changes * events) as f64;
                phases[usize::from(events > 1)][case].push(Turn {
                    cpu_per_million: (stage.gateway_cpu()? - cpu) / (changes * count as f64 / 1e6),
                    plane_ms: (stage.control_plane_cpu()? - plane) * 1e3 / changes,
                    p50_ms: crowd::median(&sights, |sight: &Sight| sight.p50_ms),
                    last_ms: crowd::median(&sights, |sight: &Sight| sight.max_ms),
                });
            }
            if let Some(drain) = drain {
                drain.end()?;
            }
        }
    }
    ensure!(mute.try_join_next().is_none(), "the gateway has ended the watch that answers nothing");
    Ok(Played { phases, quiet })
}

/// A watch that reads everything and answers no ping, until the gateway ends it.
async fn listen(mut stream: TcpStream, consumer: String) -> std::io::Result<()> {
    let path = format!("/v4/default/registry/microservices/{consumer}/watcher");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // What is not read fills the gateway's buffers, and it ends a watch that takes nothing for seconds.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
}

/// The order of turns in a round: each of the six that there are, one after the other.
fn order(round: usize) -> [usize; CASES.len()] {
    let [first, second, third] = std::array::from_fn(|place| (place + round / 2) % CASES.len());
    if round.is_multiple_of(2) { [first, second, third] } else { [first, third, second] }
}

/// Sets overrides of all instances of a provider: one by service, one by version.
async fn steer(stage: &Stage, provider: &Provider) {
    for wish in [json!({"weight": 50}), json!({"version": "1.0.0", "metadata": {"colour": "red"}})] {
        let mut body = json!({"serviceId": provider.id, "reason": "a bench"});
        if let (Value::Object(body), Value::Object(wish)) = (&mut body, wish) {
            body.extend(wish);
        }
        stage.registry.call("PUT", "/overrides", "", &body).await.ok();
    }
}

/// The frame of a change, which must have what the overrides add.
async fn frame_of(watcher: &mut Watcher, provider: &mut Provider, stage: &Stage) -> Result<String> {
    provider.change(&stage.registry).await;
    let frame = watcher.text().await.context("the watch is open")?;
    ensure!(
        frame.contains(r#""colour":"red""#) && frame.contains(r#""weight":"50""#),
        "no override is in force: {frame}"
    );
    Ok(frame)
}

/// A drain under way. Its mark stays when it has ended.
struct Drain {
    /// The lines that it has written: one each time that all watchers have been counted.
    lines: watch::Receiver<usize>,
    reading: JoinSet<()>,
}

impl Drain {
    /// Begins it, and waits until watchers have been counted for the first time.
    async fn begin(gateway: SocketAddr, provider: &Provider) -> Result<Self> {
        let mut stream = BufReader::new(TcpStream::connect(gateway).await?);
        let (service, instance) = (&provider.id, provider.instance(BURST - 1));
        let path = format!("/v4/default/registry/microservices/{service}/instances/{instance}/drain");
        let request =
            format!("POST {path}?deadline=600s HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).await?;
        let (count, mut lines) = watch::channel(0);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            let mut line = String::new();
            // Read at once, so that none waits at the gateway.
            while matches!(stream.read_line(&mut line).await, Ok(1..)) && !line.contains(r#""done":true"#) {
                count.send_modify(|lines| *lines += usize::from(line.starts_with('{')));
                line.clear();
            }
        });
        lines.wait_for(|lines| *lines > 0).await.context("the drain ends before it has begun")?;
        Ok(Self { lines, reading })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it was over before.
    fn end(mut self) -> Result<()> {
        ensure!(
            self.reading.try_join_next().is_none(),
            "the drain has ended while watchers were pushed changes"
        );
        ensure!(*self.lines.borrow() > 1, "watchers were counted only once");
        Ok(())
    }
}

fn tell(report: &Report, what: &str, turns: &Turns) {
    let floor = &turns[0];
    for (case, turns) in CASES.iter().zip(turns) {
        let middle = |of: fn(&Turn) -> f64| median(turns.iter().map(of).collect());
        let ratios = |of: fn(&Turn) -> f64| turns.iter().zip(floor).map(|(a, b)| of(a) / of(b)).collect();
        let ratio = |of: fn(&Turn) -> f64| (case != &CASES[0]).then(|| median(ratios(of)));
        let cpu: Vec<f64> = ratios(|turn| turn.cpu_per_million);
        let bound = |fold: fn(f64, f64) -> f64| {
            (case != &CASES[0]).then(|| cpu.iter().copied().reduce(fold)).flatten()
        };
        report.row(
            &format!("{case}, {what}"),
            &[
                Some(middle(|turn| turn.cpu_per_million)),
                ratio(|turn| turn.cpu_per_million),
                bound(f64::min),
                bound(f64::max),
                Some(middle(|turn| turn.plane_ms)),
                ratio(|turn| turn.plane_ms),
                Some(middle(|turn| turn.p50_ms)),
                ratio(|turn| turn.p50_ms),
                Some(middle(|turn| turn.last_ms)),
                ratio(|turn| turn.last_ms),
            ],
        );
    }
}

/// The median, or the mean of both in the middle.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    let middle = all.len() / 2;
    if all.len().is_multiple_of(2) { f64::midpoint(all[middle - 1], all[middle]) } else { all[middle] }
}
