//! What does an event cost the publisher, and how many a second does it sustain, with 1, 100 and 10 000 consumers that
//! are interested in the provider?
//!
//! Changes are etcd transactions of 100; a subscriber of this process counts what the publisher hands to NATS, in
//! order. No watches are open: what a gateway does with an event is measured elsewhere and would take the
//! publisher's cores. Arguments: numbers of consumers, rising.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::report::Report;
use benches::stage::{self, Stage};
use benches::stamp::Stamp;
use futures_util::StreamExt as _;
use tokio::time::timeout;

const EVENTS: usize = 20_000;
const WARM: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let mut counts = std::env::args().skip(1).map(|it| it.parse()).collect::<Result<Vec<usize>, _>>()?;
    if counts.is_empty() {
        counts = vec![1, 100, 10_000];
    }
    let report = Report::new("publish", &["events/s", "CPU µs/event", "ratio of CPU"]);
    tokio::runtime::Runtime::new()?.block_on(run(&report, &counts))
}

async fn run(report: &Report, counts: &[usize]) -> Result<()> {
    let stage = Stage::start("1h").await;
    let mut provider = stage.provider(0, 100).await;
    let mut etcd = stage::etcd(&stage).await?;
    let nats = async_nats::connect(stage.world.nats.url()).await?;
    let mut events = nats.subscribe("muster.event.>").await?;
    nats.flush().await?;
    let (mut registered, mut floor, mut last) = (0, None, 0);
    for count in counts {
        stage.consumers(registered, *count, |_| vec![0]).await;
        registered = registered.max(*count);
        for (changes, measured) in [(WARM, false), (EVENTS, true)] {
            let (cpu, began) = (stage.control_plane_cpu()?, Instant::now());
            let counting = async {
                for _ in 0..changes {
                    let event = timeout(PATIENCE, events.next()).await.context("an event is missing")?;
                    let stamp = event.and_then(|event| Stamp::of(&event.payload)).context("a stamp")?;
                    ensure!(stamp.seq == last + 1, "{} came after {last}", stamp.seq);
                    last = stamp.seq;
                }
                anyhow::Ok(())
            };
            tokio::try_join!(provider.burst(&mut etcd, changes), counting)?;
            if !measured {
                continue;
            }
            let (took, cpu) = (began.elapsed().as_secs_f64(), stage.control_plane_cpu()? - cpu);
            let each = cpu / changes as f64 * 1e6;
            let ratio = each / *floor.get_or_insert(each);
            report.row(
                &format!("{count} interested consumers"),
                &[Some(changes as f64 / took), Some(each), Some(ratio)],
            );
        }
    }
    Ok(())
}
