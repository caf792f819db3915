//! Do watchers that stop reading delay the others?
//!
//! 40 changes a second in groups of ten; first everyone reads, then one in a hundred stops, with a receive
//! buffer so small that it blocks the gateway soon. A burst fills what the kernel holds for them, so that all
//! of them are blocked while the others are measured, and a write deadline longer than that keeps them: the
//! worst case. The others must not notice. Arguments: watchers, seconds of each phase.

use std::time::Duration;

use anyhow::Result;
use benches::crowd::{self, Crowd, Sight};
use benches::report::Report;
use benches::stage::{self, Provider, Stage};
use tokio::time::{MissedTickBehavior, interval};

const GROUP: usize = 10;
const EVERY: Duration = Duration::from_millis(250);
/// Changes that are more than the kernel takes for a watcher that does not read.
const FILL: usize = 600;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let [watchers, seconds] = benches::arguments([10_000, 20])?;
    tokio::runtime::Runtime::new()?.block_on(run(watchers, seconds))
}

async fn run(watchers: usize, seconds: usize) -> Result<()> {
    let stage = Stage::tuned("30s", &[("--watch-write-timeout", "5m")]).await;
    let mut provider = stage.provider(0, GROUP).await;
    let consumers = stage.consumers(0, 1, |_| vec![0]).await;
    let stopping = watchers.div_ceil(100);
    let mut crowd = Crowd::start()?;
    crowd.open(stage.world.gateways[0].api, &consumers, watchers, stopping)?;
    let columns = ["readers", "p50 ms", "p99 ms", "max ms", "ratio of p99", "blocked", "merged"];
    let report = Report::new("slow", &columns);
    // The first round warms up; readers that stopped come last, because they don't go on.
    phase(&stage, &mut provider, &mut crowd, 1, watchers).await?;
    let mut floor = None;
    for (what, readers) in [("all read", watchers), ("1 % do not read", watchers - stopping)] {
        crowd.stop(watchers - readers)?;
        Box::pin(fill(&stage, &mut provider, &mut crowd, readers)).await?;
        let sight = phase(&stage, &mut provider, &mut crowd, seconds, readers).await?;
        let ratio = sight.p99_ms / *floor.get_or_insert(sight.p99_ms);
        let gateway = &stage.world.gateways[0];
        let blocked = gateway.metric("muster_edge_slow_watchers_total", "").await;
        let merging = gateway.metric("muster_edge_merging_watchers_total", "").await;
        report.row(
            &format!("{watchers} watchers, {what}"),
            &[
                Some(readers as f64),
                Some(sight.p50_ms),
                Some(sight.p99_ms),
                Some(sight.max_ms),
                Some(ratio),
                Some(blocked),
                Some(merging),
            ],
        );
    }
    Ok(())
}

/// A burst that everyone who reads must get, too.
async fn fill(stage: &Stage, provider: &mut Provider, crowd: &mut Crowd, readers: usize) -> Result<()> {
    provider.burst(&mut stage::etcd(stage).await?, FILL).await?;
    crowd.collect((FILL * readers) as u64, PATIENCE)?.check((FILL * readers) as u64)
}

async fn phase(
    stage: &Stage,
    provider: &mut Provider,
    crowd: &mut Crowd,
    seconds: usize,
    readers: usize,
) -> Result<Sight> {
    let mut etcd = stage::etcd(stage).await?;
    let groups = seconds * 1000 / EVERY.as_millis() as usize;
    let mut tick = interval(EVERY);
    // A late group must not be followed by a burst that makes up for it: a burst delays the readers, too.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..groups {
        tick.tick().await;
        provider.burst(&mut etcd, GROUP).await?;
    }
    let expected = (groups * GROUP * readers) as u64;
    let sight = crowd.collect(expected, PATIENCE)?;
    sight.check(expected)?;
    Ok(sight)
}
