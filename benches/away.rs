//! The time until watchers have everything that changed while all of them were away.
//!
//! After an outage clients resume at once, each from its own position, and a gateway remembers only the latest changes
//! of a service. Measured twice: all watchers are of one consumer, so that one request to the control plane serves all of
//! them whatever the gateway does; and each is of a consumer of its own, as in a fleet. The ratio says what the second
//! case costs more. Arguments: watchers, changes of each provider.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use benches::crowd::{self, Crowd};
use benches::report::Report;
use benches::stage::{self, Provider, Stage};

const PROVIDERS: u32 = 10;
/// The providers that a consumer uses.
const USED: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(120);
/// The time in which the gateway finishes the work that the last opening caused.
const SETTLE: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let [watchers, changes] = benches::arguments([1_000, 400])?;
    tokio::runtime::Runtime::new()?.block_on(run(watchers, changes))
}

/// The providers of a consumer.
fn used_by(consumer: usize) -> Vec<u32> {
    let first = consumer as u32 % PROVIDERS;
    vec![first, (first + 3) % PROVIDERS]
}

async fn run(watchers: usize, changes: usize) -> Result<()> {
    let columns =
        ["told s", "ratio", "gateway CPU s", "ratio", "control plane CPU s", "ratio", "again", "lost"];
    let report = Report::new("away", &columns);
    let stage = Stage::start("30s").await;
    let mut providers = stage::providers(&stage, PROVIDERS).await;
    let consumers = stage.consumers(0, watchers, used_by).await;
    let one = away(&stage, &mut providers, &consumers[..1], watchers, changes).await?;
    report.row(&format!("{watchers} watchers of one consumer"), &one.figures(&one).map(Some));
    let each = away(&stage, &mut providers, &consumers, watchers, changes).await?;
    report.row(&format!("{watchers} watchers, each of its own consumer"), &each.figures(&one).map(Some));
    Ok(())
}

/// The cost of the return of all watchers.
struct Returned {
    seconds: f64,
    gateway: f64,
    control_plane: f64,
    again: u64,
    lost: u64,
}

impl Returned {
    fn figures(&self, floor: &Self) -> [f64; 8] {
        [
            self.seconds,
            self.seconds / floor.seconds,
            self.gateway,
            self.gateway / floor.gateway,
            self.control_plane,
            self.control_plane / floor.control_plane,
            self.again as f64,
            self.lost as f64,
        ]
    }
}

async fn away(
    stage: &Stage,
    providers: &mut [Provider],
    consumers: &[String],
    watchers: usize,
    changes: usize,
) -> Result<Returned> {
    let mut etcd = stage::etcd(stage).await?;
    let mut crowd = Crowd::start()?;
    crowd.open_resumable(stage.world.gateways[0].api, consumers, watchers)?;
    // Each watcher learns a position from which it resumes.
    for provider in &mut *providers {
        provider.change(&stage.registry).await;
    }
    crowd.collect(watchers as u64 * USED, PATIENCE)?.check(watchers as u64 * USED)?;
    tokio::time::sleep(SETTLE).await;
    crowd.close()?;
    for provider in &mut *providers {
        provider.burst(&mut etcd, changes).await?;
    }
    tokio::time::sleep(SETTLE).await;

    let gateway = stage.gateway_cpu()?;
    let control_plane = stage.control_plane_cpu()?;
    let began = Instant::now();
    crowd.reopen()?;
    let missed = watchers as u64 * USED * changes as u64;
    let sight = crowd.collect(missed, PATIENCE)?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(
        sight.received == missed && sight.lost + sight.repeated + sight.reordered == 0,
        "{} of {missed} changes came, {} lost, {} repeated, {} reordered",
        sight.received,
        sight.lost,
        sight.repeated,
        sight.reordered
    );
    Ok(Returned {
        seconds,
        gateway: stage.gateway_cpu()? - gateway,
        control_plane: stage.control_plane_cpu()? - control_plane,
        again: sight.again,
        lost: sight.lost,
    })
}
