//! The cost of an idle watcher: resident bytes of the gateway, and the CPU of its pings.
//!
//! WebSocket watchers of one consumer, and gRPC streams of which many share a connection. Pings go out every
//! second, thirty times as often as usual, so that their cost can be seen. At the end one change is made,
//! which everyone must get. Arguments: the numbers of watchers, else 1000, 10000 and as many as 20 000 files
//! allow.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use benches::crowd::{self, Crowd};
use benches::report::Report;
use benches::stage::{Provider, Stage};

const PATIENCE: Duration = Duration::from_secs(60);
/// For allocations of the opening to be given back.
const SETTLE: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(5);
/// Watches that are open before the others.
const FIRST: usize = 10;
/// Watchers that the usual limit of 20 000 files a process has room for.
const MOST: usize = 18_000;
/// gRPC streams on a connection.
const STREAMS: usize = 500;

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let counts = benches::list_of_arguments(&[1000, 10_000, MOST])?;
    let columns = ["KiB before", "KiB after", "bytes each", "CPU % of pings", "µs a ping", "open/s"];
    let report = Report::new("idle", &columns);
    let runtime = tokio::runtime::Runtime::new()?;
    for count in counts {
        // The row without pings shows how much CPU of the next one is not due to pings.
        runtime.block_on(websocket(&report, count, "1h"))?;
        runtime.block_on(websocket(&report, count, "1s"))?;
        runtime.block_on(grpc(&report, count))?;
    }
    Ok(())
}

/// A gateway with the watchers whose cost is measured, and a few that were there before.
struct Watched {
    stage: Stage,
    provider: Provider,
    consumers: Vec<String>,
    crowd: Crowd,
    first: Crowd,
}

impl Watched {
    async fn start(ping: &str) -> Result<Self> {
        // Each row has a gateway of its own. An allocator that kept the memory of a former crowd would hide
        // the need of the next one.
        let stage = Stage::start(ping).await;
        let provider = stage.provider(0, 1).await;
        let consumers = stage.consumers(0, 1, |_| vec![0]).await;
        Ok(Self { stage, provider, consumers, crowd: Crowd::start()?, first: Crowd::start()? })
    }

    fn gateway(&self) -> SocketAddr {
        self.stage.world.gateways[0].api
    }

    /// Watches for a while, checks that everybody receives a change, and reports one row. `before` are the
    /// resident bytes without the crowd, `seconds` the time that the opening took, `pinged` whether pings
    /// went out meanwhile.
    async fn report(
        mut self,
        report: &Report,
        title: &str,
        count: usize,
        before: f64,
        seconds: f64,
        pinged: bool,
    ) -> Result<()> {
        tokio::time::sleep(SETTLE).await;
        let after = self.stage.gateway_resident()?;
        let cpu = self.stage.gateway_cpu()?;
        tokio::time::sleep(WATCHED).await;
        let cpu = self.stage.gateway_cpu()? - cpu;
        // A watcher that nothing reaches any more would cost little, and must not count as cheap.
        self.provider.change(&self.stage.registry).await;
        self.crowd.collect(count as u64, PATIENCE)?.check(count as u64)?;
        self.first.collect(FIRST as u64, PATIENCE)?.check(FIRST as u64)?;
        let pings = pinged.then_some(cpu / (count as f64 * WATCHED.as_secs_f64()) * 1e6);
        report.row(
            title,
            &[
                Some(before / 1024.0),
                Some(after / 1024.0),
                Some((after - before) / count as f64),
                Some(cpu / WATCHED.as_secs_f64() * 100.0),
                pings,
                Some(count as f64 / seconds),
            ],
        );
        Ok(())
    }
}

async fn websocket(report: &Report, count: usize, ping: &str) -> Result<()> {
    let mut watched = Watched::start(ping).await?;
    // The first watch allocates for all of them; its cost is not the cost of a watch.
    watched.first.open(watched.gateway(), &watched.consumers, FIRST, 0)?;
    let before = watched.stage.gateway_resident()?;
    let seconds = watched.crowd.open(watched.gateway(), &watched.consumers, count, 0)?;
    let title = format!("{count} WebSockets, pings each {ping}");
    watched.report(report, &title, count, before, seconds, ping == "1s").await
}

async fn grpc(report: &Report, count: usize) -> Result<()> {
    let mut watched = Watched::start("1h").await?;
    let gateway = watched.gateway();
    let consumer = watched.consumers[0].clone();
    watched.first.open_grpc(gateway, &consumer, 1, FIRST)?;
    let before = watched.stage.gateway_resident()?;
    let began = Instant::now();
    // Whole connections only, so that the cost of a connection is shared by the same number of streams.
    let count = count.div_ceil(STREAMS) * STREAMS;
    watched.crowd.open_grpc(gateway, &consumer, count / STREAMS, STREAMS)?;
    let seconds = began.elapsed().as_secs_f64();
    let title = format!("{count} gRPC streams, {STREAMS} a connection");
    watched.report(report, &title, count, before, seconds, false).await
}
