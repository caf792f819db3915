//! What a watcher costs that nothing happens to: resident bytes of the gateway, and the CPU of its pings.
//!
//! WebSocket watchers of one consumer, and gRPC streams of which many share a connection. Pings go out every second,
//! thirty times as often as usual, so that their cost can be seen. At the end one change is made, which everyone must
//! get. Arguments: the numbers of watchers, else 1000, 10000 and as many as 20 000 files allow.

use std::time::Duration;

use anyhow::Result;
use benches::crowd::{self, Crowd};
use benches::report::Report;
use benches::stage::Stage;

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
    let mut counts = std::env::args().skip(1).map(|it| it.parse()).collect::<Result<Vec<usize>, _>>()?;
    if counts.is_empty() {
        counts = vec![1000, 10_000, MOST];
    }
    let columns = ["KiB before", "KiB after", "bytes each", "CPU % of pings", "µs a ping", "open/s"];
    let report = Report::new("idle", &columns);
    let runtime = tokio::runtime::Runtime::new()?;
    for count in counts {
        runtime.block_on(websocket(&report, count, "1h"))?;
        runtime.block_on(websocket(&report, count, "1s"))?;
        runtime.block_on(grpc(&report, count))?;
    }
    Ok(())
}

async fn websocket(report: &Report, count: usize, ping: &str) -> Result<()> {
    let stage = Stage::start(ping).await;
    let mut provider = stage.provider(0, 1).await;
    let consumers = stage.consumers(0, 1, |_| vec![0]).await;
    let (mut crowd, mut first) = (Crowd::start()?, Crowd::start()?);
    // What the first watch of all costs is not the cost of a watch.
    first.open(stage.world.gateways[0].api, &consumers, FIRST, 0)?;
    let before = stage.gateway_resident()?;
    let seconds = crowd.open(stage.world.gateways[0].api, &consumers, count, 0)?;
    tokio::time::sleep(SETTLE).await;
    let after = stage.gateway_resident()?;
    let cpu = stage.gateway_cpu()?;
    tokio::time::sleep(WATCHED).await;
    let cpu = stage.gateway_cpu()? - cpu;
    provider.change(&stage.registry).await;
    crowd.collect(count as u64, PATIENCE)?.check(count as u64)?;
    first.collect(FIRST as u64, PATIENCE)?.check(FIRST as u64)?;
    let pings = (ping == "1s").then_some(cpu / (count as f64 * WATCHED.as_secs_f64()) * 1e6);
    report.row(
        &format!("{count} WebSockets, pings each {ping}"),
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

async fn grpc(report: &Report, count: usize) -> Result<()> {
    let stage = Stage::start("1h").await;
    let mut provider = stage.provider(0, 1).await;
    let consumers = stage.consumers(0, 1, |_| vec![0]).await;
    let (mut crowd, mut first) = (Crowd::start()?, Crowd::start()?);
    let gateway = stage.world.gateways[0].api;
    first.open_grpc(gateway, &consumers[0], 1, FIRST)?;
    let before = stage.gateway_resident()?;
    let began = std::time::Instant::now();
    let count = count.div_ceil(STREAMS) * STREAMS;
    crowd.open_grpc(gateway, &consumers[0], count / STREAMS, STREAMS)?;
    let seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let after = stage.gateway_resident()?;
    let cpu = stage.gateway_cpu()?;
    tokio::time::sleep(WATCHED).await;
    let cpu = stage.gateway_cpu()? - cpu;
    provider.change(&stage.registry).await;
    crowd.collect(count as u64, PATIENCE)?.check(count as u64)?;
    first.collect(FIRST as u64, PATIENCE)?.check(FIRST as u64)?;
    report.row(
        &format!("{count} gRPC streams, {STREAMS} a connection"),
        &[
            Some(before / 1024.0),
            Some(after / 1024.0),
            Some((after - before) / count as f64),
            Some(cpu / WATCHED.as_secs_f64() * 100.0),
            None,
            Some(count as f64 / seconds),
        ],
    );
    Ok(())
}
