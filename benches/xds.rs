//! One change for N streams of xDS, beside the same change for as many WebSockets in the same run; and the
//! bytes of an idle stream.
//!
//! Each kind of client has a system of its own, all of them run at the same time, and single changes go to
//! one after the other: what disturbs the machine disturbs all of them. A stream is one as gRPC opens it,
//! for listener, route, cluster and endpoints of a service, on a connection of its own; its acknowledgements
//! are in its costs. The last rows are changes that concern no client. Argument: the number of clients, else
//! 1000, and of rounds, else 100.

use std::time::Duration;

use anyhow::{Result, ensure};
use benches::crowd::{self, Crowd, Sight};
use benches::report::Report;
use benches::stage::{Provider, Stage};

const PATIENCE: Duration = Duration::from_secs(60);
/// For allocations of the opening to be given back.
const SETTLE: Duration = Duration::from_secs(2);
/// Clients that are there before the others.
const FIRST: usize = 10;
/// Providers whose changes concern nobody.
const OTHER: u32 = 1;

/// Streams on a connection that is shared.
const SHARING: usize = 100;
/// The resources that streams are about.
const NAME: &str = "shop/provider-0:rest";

/// A kind of client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    WebSocket,
    State,
    Delta,
    /// Many streams on a connection, as behind a proxy.
    Shared,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::WebSocket => "WebSockets",
            Self::State => "xDS, state of the world",
            Self::Delta => "xDS, delta",
            Self::Shared => "xDS, 100 a connection",
        }
    }
}

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let [count, rounds] = benches::arguments([1000, 100])?;
    ensure!(count < SHARING || count % SHARING == 0, "{count} is no multiple of {SHARING}");
    tokio::runtime::Runtime::new()?.block_on(run(count, rounds))
}

/// A system with clients of one kind.
struct Side {
    kind: Kind,
    stage: Stage,
    provider: Provider,
    other: Provider,
    crowd: Crowd,
    /// The bytes of an idle client.
    bytes: f64,
    rounds: Vec<Sight>,
    cpu: f64,
    cpu_of_others: f64,
    // Open until the end.
    _first: Crowd,
}

impl Side {
    async fn start(kind: Kind, count: usize) -> Result<Self> {
        let stage = Stage::start("1h").await;
        let provider = stage.provider(0, 1).await;
        let other = stage.provider(OTHER, 1).await;
        let consumers = stage.consumers(0, 1, |_| vec![0]).await;
        let gateway = stage.world.gateways[0].api;
        let open = |crowd: &mut Crowd, count| match kind {
            Kind::WebSocket => crowd.open(gateway, &consumers, count, 0).map(drop),
            Kind::State => crowd.open_xds(gateway, "state", count, 1, NAME),
            Kind::Delta => crowd.open_xds(gateway, "delta", count, 1, NAME),
            Kind::Shared if count < SHARING => crowd.open_xds(gateway, "state", 1, count, NAME),
            Kind::Shared => crowd.open_xds(gateway, "state", count / SHARING, SHARING, NAME),
        };
        // The first clients allocate for all of them.
        let mut first = Crowd::start()?;
        open(&mut first, FIRST)?;
        let before = stage.gateway_resident()?;
        let mut crowd = Crowd::start()?;
        open(&mut crowd, count)?;
        tokio::time::sleep(SETTLE).await;
        let bytes = (stage.gateway_resident()? - before) / count as f64;
        let (rounds, cpu, cpu_of_others) = (Vec::new(), 0.0, 0.0);
        Ok(Self { kind, stage, provider, other, crowd, bytes, rounds, cpu, cpu_of_others, _first: first })
    }

    /// Makes a change, which everybody gets.
    async fn change(&mut self, count: usize) -> Result<Sight> {
        self.provider.change(&self.stage.registry).await;
        let sight = self.crowd.collect(count as u64, PATIENCE)?;
        sight.check(count as u64)?;
        Ok(sight)
    }

    async fn round(&mut self, count: usize) -> Result<()> {
        let before = self.stage.gateway_cpu()?;
        let sight = self.change(count).await?;
        self.cpu += self.stage.gateway_cpu()? - before;
        self.rounds.push(sight);
        Ok(())
    }

    /// Makes changes that nobody is told. A last one that everybody gets shows that they have passed.
    async fn others(&mut self, count: usize, rounds: usize) -> Result<()> {
        let before = self.stage.gateway_cpu()?;
        for _ in 0..rounds {
            self.other.change(&self.stage.registry).await;
        }
        self.change(count).await?;
        self.cpu_of_others = self.stage.gateway_cpu()? - before - self.cpu / self.rounds.len() as f64;
        Ok(())
    }

    fn median(&self, of: impl Fn(&Sight) -> f64) -> f64 {
        crowd::median(&self.rounds, of)
    }
}

async fn run(count: usize, rounds: usize) -> Result<()> {
    let mut sides = Vec::new();
    for kind in [Kind::WebSocket, Kind::State, Kind::Delta, Kind::Shared] {
        sides.push(Side::start(kind, count).await?);
    }
    for side in &mut sides {
        // Warm, and not measured.
        side.change(count).await?;
    }
    for _ in 0..rounds {
        for side in &mut sides {
            side.round(count).await?;
        }
    }
    for side in &mut sides {
        side.others(count, rounds).await?;
    }
    let columns = [
        "bytes each",
        "p50 ms",
        "p99 ms",
        "of p99",
        "CPU ms a change",
        "of CPU",
        "ms, others'",
        "of others'",
    ];
    let report = Report::new("xds", &columns);
    let each = |cpu: f64| cpu / rounds as f64 * 1000.0;
    for side in &sides {
        let floor = sides.first().filter(|_| side.kind != Kind::WebSocket);
        let p99 = side.median(|sight| sight.p99_ms);
        report.row(
            &format!("{count} {}", side.kind.title()),
            &[
                Some(side.bytes),
                Some(side.median(|sight| sight.p50_ms)),
                Some(p99),
                floor.map(|floor| p99 / floor.median(|sight| sight.p99_ms)),
                Some(each(side.cpu)),
                floor.map(|floor| side.cpu / floor.cpu),
                Some(each(side.cpu_of_others)),
                floor.map(|floor| side.cpu_of_others / floor.cpu_of_others),
            ],
        );
    }
    Ok(())
}
