//! One change for N streams of xDS, beside the same change for as many WebSockets in the same run; and the
//! bytes of an idle stream.
//!
//! Each kind of client has a system of its own, all of them run at the same time, and single changes go to
//! one after the other: what disturbs the machine disturbs all of them. A stream is one as gRPC opens it,
//! for listener, route, cluster and endpoints of a service, on a connection of its own; its acknowledgements
//! are in its costs. Changes that concern no client have columns of their own.
//!
//! The last row is the floor of a stream with a connection of its own: a server of gRPC written the usual
//! way, to which ordinary streams of the same client are opened and which sends them the same bytes. What a
//! stream costs there, HTTP/2 and its library cost; the share is that of the gateway's cost which the floor
//! has too. Its times begin in the server and not at the registry, so only the time from the first receipt
//! to the last of a hundred compares. Argument: the number of clients, else 1000, and of rounds, else 100.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use benches::crowd::{self, Crowd, Sight};
use benches::plain::{self, Plain};
use benches::report::Report;
use benches::stage::{Provider, Stage};
use benches::usage;

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
    if crowd::become_child_if_asked()? || plain::become_child_if_asked()? {
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

/// The floor with its clients.
struct Floor {
    server: Plain,
    crowd: Crowd,
    bytes: f64,
    rounds: Vec<Sight>,
    cpu: f64,
    _first: Crowd,
}

impl Floor {
    /// Starts a server that sends what the gateway of `side` does.
    async fn start(side: &Side, count: usize) -> Result<Self> {
        let answers = crowd::answers_of_xds(side.stage.world.gateways[0].api, NAME).await?;
        let server = Plain::start(&answers)?;
        let mut first = Crowd::start()?;
        first.open_xds(server.address, "state", FIRST, 1, NAME)?;
        let before = usage::resident(server.pid())?;
        let mut crowd = Crowd::start()?;
        crowd.open_xds(server.address, "state", count, 1, NAME)?;
        tokio::time::sleep(SETTLE).await;
        let bytes = (usage::resident(server.pid())? - before) / count as f64;
        Ok(Self { server, crowd, bytes, rounds: Vec::new(), cpu: 0.0, _first: first })
    }

    fn change(&mut self, count: usize) -> Result<Sight> {
        self.server.write()?;
        let sight = self.crowd.collect(count as u64, PATIENCE)?;
        sight.check(count as u64)?;
        Ok(sight)
    }

    fn round(&mut self, count: usize) -> Result<()> {
        let before = usage::cpu_seconds(self.server.pid())?;
        let sight = self.change(count)?;
        self.cpu += usage::cpu_seconds(self.server.pid())? - before;
        self.rounds.push(sight);
        Ok(())
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
    let state = sides.iter().find(|side| side.kind == Kind::State).context("it is among them")?;
    let mut floor = Floor::start(state, count).await?;
    floor.change(count)?;
    for _ in 0..rounds {
        for side in &mut sides {
            side.round(count).await?;
        }
        floor.round(count)?;
    }
    for side in &mut sides {
        side.others(count, rounds).await?;
    }
    let columns = [
        "bytes each",
        "floor of it",
        "p50 ms",
        "p99 ms",
        "of p99",
        "p99 - first ms",
        "floor of that",
        "CPU ms a change",
        "of CPU",
        "floor of CPU",
        "ms, others'",
    ];
    let report = Report::new("xds", &columns);
    let each = |cpu: f64| cpu / rounds as f64 * 1000.0;
    let spread = |sight: &Sight| sight.p99_ms - sight.first_ms;
    let floor_spread = crowd::median(&floor.rounds, spread);
    for side in &sides {
        let sockets = sides.first().filter(|_| side.kind != Kind::WebSocket);
        // Streams that share a connection share its cost.
        let bare = Some(&floor).filter(|_| matches!(side.kind, Kind::State | Kind::Delta));
        let p99 = side.median(|sight| sight.p99_ms);
        report.row(
            &format!("{count} {}", side.kind.title()),
            &[
                Some(side.bytes),
                bare.map(|floor| floor.bytes / side.bytes),
                Some(side.median(|sight| sight.p50_ms)),
                Some(p99),
                sockets.map(|sockets| p99 / sockets.median(|sight| sight.p99_ms)),
                Some(side.median(spread)),
                bare.map(|_| floor_spread / side.median(spread)),
                Some(each(side.cpu)),
                sockets.map(|sockets| side.cpu / sockets.cpu),
                bare.map(|floor| floor.cpu / side.cpu),
                Some(each(side.cpu_of_others)),
            ],
        );
    }
    let sockets = sides.first().context("WebSockets")?;
    report.row(
        &format!("{count} of a plain server"),
        &[
            Some(floor.bytes),
            None,
            Some(crowd::median(&floor.rounds, |sight| sight.p50_ms)),
            Some(crowd::median(&floor.rounds, |sight| sight.p99_ms)),
            None,
            Some(floor_spread),
            None,
            Some(each(floor.cpu)),
            Some(floor.cpu / sockets.cpu),
            None,
            None,
        ],
    );
    Ok(())
}
