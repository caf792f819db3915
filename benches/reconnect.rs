//! The time until 10 000 watchers that lost their connections together are back, and the changes that they
//! missed.
//!
//! The gateway opens the watches three times: for clients of the old kind, for clients that can resume, and
//! for the latter again after all their connections were cut, while changes go on. The floor is a bare loop
//! of accept and handshake on one thread. Clients that resume must have every change at the end; changes from
//! shortly before the break may arrive twice. Argument: watchers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::crowd::{self, Crowd};
use benches::floor::{self, Floor, Kind};
use benches::report::Report;
use benches::stage::{Provider, Stage};
use benches::stamp::Stamp;
use benches::usage;
use harness::Client;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// The time between two changes while watchers come back.
const EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);
/// The time in which the gateway finishes the work that the last opening caused.
const SETTLE: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? || floor::become_child_if_asked()? {
        return Ok(());
    }
    let [watchers] = benches::arguments([10_000])?;
    tokio::runtime::Runtime::new()?.block_on(run(watchers))
}

/// The cost of opening all watches.
struct Opened {
    cpu: f64,
    seconds: f64,
}

async fn run(watchers: usize) -> Result<()> {
    let columns = [
        "open s",
        "ratio",
        "CPU s",
        "ratio of CPU",
        "µs each",
        "all told s",
        "changes",
        "told again",
        "lost",
    ];
    let report = Report::new("reconnect", &columns);
    // Measured first and in the same run: figures of different runs do not compare.
    let bare = bare(watchers)?;
    let row = |what: &str, opened: &Opened, rest: [Option<f64>; 4]| {
        let figures = [
            Some(opened.seconds),
            Some(opened.seconds / bare.seconds),
            Some(opened.cpu),
            Some(opened.cpu / bare.cpu),
            Some(opened.cpu / watchers as f64 * 1e6),
        ];
        report.row(&format!("{watchers} watchers, {what}"), &[&figures[..], &rest].concat());
    };
    row("bare accept and handshake", &bare, [None; 4]);

    let stage = Stage::start("30s").await;
    let mut provider = stage.provider(0, 1).await;
    let consumer = stage.consumers(0, 1, |_| vec![0]).await.remove(0);
    let gateway = stage.world.gateways[0].api;
    let mut old = Crowd::start()?;
    let opened = timed(&stage, || old.open(gateway, std::slice::from_ref(&consumer), watchers, 0))?;
    provider.change(&stage.registry).await;
    old.collect(watchers as u64, PATIENCE)?.check(watchers as u64)?;
    row("first time", &opened, [None; 4]);
    // The gateway must have closed the old connections before the next opening is timed, or their end would
    // count as its cost.
    drop(old);
    tokio::time::sleep(SETTLE).await;

    let mut crowd = Crowd::start()?;
    let opened = timed(&stage, || crowd.open_resumable(gateway, std::slice::from_ref(&consumer), watchers))?;
    provider.change(&stage.registry).await;
    crowd.collect(watchers as u64, PATIENCE)?.check(watchers as u64)?;
    row("first time, to resume", &opened, [None; 4]);
    tokio::time::sleep(SETTLE).await;

    let before = provider.changes();
    let stop = Arc::new(AtomicBool::new(false));
    let mut changing = JoinSet::new();
    changing.spawn(change(provider, Client::new(stage.world.control_planes[0].api), stop.clone()));
    let began = Instant::now();
    let opened = timed(&stage, || crowd.reopen())?;
    // Nothing else depends on this flag: the task hands the provider over when it is joined.
    stop.store(true, Ordering::Relaxed);
    let provider = changing.join_next().await.context("one task")??;
    let reached = crowd.reach(provider.number, provider.changes(), PATIENCE)?;
    let steady = began.elapsed().as_secs_f64();
    let sight = crowd.collect(0, PATIENCE)?;
    let rest = [steady, (provider.changes() - before) as f64, sight.again as f64, sight.lost as f64];
    row("all cut, and back", &opened, rest.map(Some));
    ensure!(
        reached == watchers as u64 && sight.lost + sight.repeated + sight.reordered == 0,
        "{reached} of {watchers} are back, {} changes lost, {} repeated, {} reordered",
        sight.lost,
        sight.repeated,
        sight.reordered
    );
    Ok(())
}

/// The gateway's part of an opening.
fn timed(stage: &Stage, open: impl FnOnce() -> Result<f64>) -> Result<Opened> {
    let before = stage.gateway_cpu()?;
    let seconds = open()?;
    Ok(Opened { cpu: stage.gateway_cpu()? - before, seconds })
}

fn bare(watchers: usize) -> Result<Opened> {
    // The floor writes no frame here. It only refuses to start without a stamped one.
    let frame = Stamp { provider: 0, seq: 1, at: 0 }.properties().to_string();
    let floor = Floor::start(Kind::Loop, watchers, frame.as_bytes())?;
    let mut crowd = Crowd::start()?;
    let before = usage::cpu_seconds(floor.pid())?;
    let seconds = crowd.open(floor.address, &["any".to_owned()], watchers, 0)?;
    Ok(Opened { cpu: usage::cpu_seconds(floor.pid())? - before, seconds })
}

/// Changes a provider again and again, until `stop` is set. Returns the provider.
async fn change(mut provider: Provider, registry: Client, stop: Arc<AtomicBool>) -> Provider {
    let mut tick = interval(EVERY);
    // A slow change must not be followed by a burst that makes up for it.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        provider.change(&registry).await;
    }
    provider
}
