//! The cost of one event for N watchers of one consumer, alone and in a burst, and the time until they have
//! it.
//!
//! The gateway, fed by a real control plane, beside a bare loop that writes the same bytes to as many
//! sockets, and beside a plain server of tokio-tungstenite. Single events are `PUT`s; a burst is one etcd
//! transaction of 100 changes. CPU is the server process's own. Ratios are to the bare loop. Arguments: the
//! numbers of watchers, else 100, 1000 and 10000.

use std::time::Duration;

use anyhow::Result;
use benches::crowd::{self, Crowd, Sight};
use benches::floor::{self, Floor, Kind};
use benches::report::Report;
use benches::stage::{self, Stage};
use benches::usage;

// Fits in one etcd transaction (128 operations by default), so that the changes of a burst arrive together.
const BURST: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

/// Figures of a phase on one server.
#[derive(Default)]
struct Phase {
    cpu: f64,
    rounds: Vec<Sight>,
    deliveries: u64,
}

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? || floor::become_child_if_asked()? {
        return Ok(());
    }
    let counts = benches::list_of_arguments(&[100, 1000, 10_000])?;
    let columns = ["CPU-s per M", "ratio", "first ms", "p50 ms", "p99 ms", "last ms", "ratio of last", "k/s"];
    let report = Report::new("fanout", &columns);
    let runtime = tokio::runtime::Runtime::new()?;
    for count in counts {
        // Fewer rounds for larger crowds, so that every size takes about as long.
        let singles = (200_000 / count).clamp(20, 400);
        let bursts = (20_000 / count).clamp(3, 50);
        let (single, burst, frame) = runtime.block_on(gateway(count, singles, bursts))?;
        // The floors run second because they write a frame that the gateway has produced. In this way all
        // three servers write the same bytes.
        let (bare_single, bare_burst) = bare(Kind::Loop, count, singles, bursts, &frame)?;
        let (plain_single, plain_burst) = bare(Kind::Tokio, count, singles, bursts, &frame)?;
        eprintln!("{count} watchers, frames of {} bytes", frame.len());
        bare_single.tell(&report, &format!("bare loop, {count}, single"), None);
        plain_single.tell(&report, &format!("plain tokio, {count}, single"), Some(&bare_single));
        single.tell(&report, &format!("gateway, {count}, single"), Some(&bare_single));
        bare_burst.tell(&report, &format!("bare loop, {count}, 100 at once"), None);
        plain_burst.tell(&report, &format!("plain tokio, {count}, 100 at once"), Some(&bare_burst));
        burst.tell(&report, &format!("gateway, {count}, 100 at once"), Some(&bare_burst));
    }
    Ok(())
}

async fn gateway(count: usize, singles: usize, bursts: usize) -> Result<(Phase, Phase, Vec<u8>)> {
    let stage = Stage::start("1h").await;
    let mut etcd = stage::etcd(&stage).await?;
    let mut provider = stage.provider(0, BURST).await;
    let consumers = stage.consumers(0, 1, |_| vec![0]).await;
    let mut crowd = Crowd::start()?;
    crowd.open(stage.world.gateways[0].api, &consumers, count, 0)?;
    // Warm, and not measured.
    provider.change(&stage.registry).await;
    crowd.collect(count as u64, PATIENCE)?.check(count as u64)?;

    let mut single = Phase::default();
    let mut burst = Phase::default();
    let before = stage.gateway_cpu()?;
    for _ in 0..singles {
        provider.change(&stage.registry).await;
        // Every watcher has the change before the next one is made, so no write carries two of them.
        single.round(crowd.collect(count as u64, PATIENCE)?, count as u64)?;
    }
    single.cpu = stage.gateway_cpu()? - before;
    // Bursts are measured apart: one write then carries many frames, which makes each of them cheaper.
    let before = stage.gateway_cpu()?;
    for _ in 0..bursts {
        provider.burst(&mut etcd, BURST).await?;
        burst.round(crowd.collect((count * BURST) as u64, PATIENCE)?, (count * BURST) as u64)?;
    }
    burst.cpu = stage.gateway_cpu()? - before;
    Ok((single, burst, crowd.sample()?))
}

fn bare(kind: Kind, count: usize, singles: usize, bursts: usize, frame: &[u8]) -> Result<(Phase, Phase)> {
    let mut floor = Floor::start(kind, count, frame)?;
    let mut crowd = Crowd::start()?;
    crowd.open(floor.address, &["any".to_owned()], count, 0)?;
    // The same warm-up as the gateway's: one event that is not measured.
    floor.write(1)?;
    crowd.collect(count as u64, PATIENCE)?.check(count as u64)?;
    let mut phases = Vec::new();
    for (rounds, events) in [(singles, 1), (bursts, BURST)] {
        let mut phase = Phase::default();
        let before = usage::cpu_seconds(floor.pid())?;
        for _ in 0..rounds {
            floor.write(events)?;
            phase.round(crowd.collect((count * events) as u64, PATIENCE)?, (count * events) as u64)?;
        }
        phase.cpu = usage::cpu_seconds(floor.pid())? - before;
        phases.push(phase);
    }
    let burst = phases.pop().unwrap_or_default();
    let single = phases.pop().unwrap_or_default();
    Ok((single, burst))
}

impl Phase {
    fn round(&mut self, sight: Sight, expected: u64) -> Result<()> {
        sight.check(expected)?;
        self.deliveries += sight.received;
        self.rounds.push(sight);
        Ok(())
    }

    fn cpu_per_million(&self) -> f64 {
        self.cpu / (self.deliveries as f64 / 1e6)
    }

    fn median(&self, of: impl Fn(&Sight) -> f64) -> f64 {
        crowd::median(&self.rounds, of)
    }

    fn tell(&self, report: &Report, what: &str, floor: Option<&Self>) {
        // Receipts count from the request of the round. The last event of a burst is requested at nearly the
        // same time.
        let wall: f64 = self.rounds.iter().map(|round| round.max_ms / 1000.0).sum();
        report.row(
            what,
            &[
                Some(self.cpu_per_million()),
                // The floor had the same kernel, cores and load, so this ratio says more than the
                // CPU time itself.
                floor.map(|floor| self.cpu_per_million() / floor.cpu_per_million()),
                Some(self.median(|round| round.first_ms)),
                Some(self.median(|round| round.p50_ms)),
                Some(self.median(|round| round.p99_ms)),
                Some(self.median(|round| round.max_ms)),
                floor.map(|floor| self.median(|round| round.max_ms) / floor.median(|round| round.max_ms)),
                Some(self.deliveries as f64 / wall / 1000.0),
            ],
        );
    }
}
