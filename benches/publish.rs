//! The cost of an event for the publisher, and the rate that it sustains: with 1, 100 and 1000 consumers that
//! are interested in the provider, and with the same numbers of consumers that watch it.
//!
//! Changes are etcd transactions of 100. A subscriber of this process counts the events that the publisher
//! hands to NATS and checks their order, and every watcher must have the last one. Fewer changes are made
//! when consumers watch, so that the delivery does not take longer. The floor is a client that publishes the
//! same bytes to NATS and does nothing else. Arguments: numbers of consumers, rising. Ten thousand services
//! do not fit: the registry's keyspace, which is Service-Center's, lists a provider's consumers in one value,
//! and etcd takes 1.5 MiB in a request.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::crowd::{self, Crowd};
use benches::report::Report;
use benches::stage::{self, Provider, Stage};
use benches::stamp::Stamp;
use benches::usage;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

const EVENTS: usize = 40_000;
/// As many as the control plane remembers (`registry.history`): later events also pay for the
/// removal of an old one, which would look like the cost of more consumers.
const REMEMBERED: usize = 100_000;
const WARM: usize = 2_000;
/// The most frames that watchers receive in one measurement.
const FRAMES: usize = 10_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let counts = benches::list_of_arguments(&[1, 100, 1000])?;
    tokio::runtime::Runtime::new()?.block_on(run(&counts))
}

async fn run(counts: &[usize]) -> Result<()> {
    let stage = Stage::start("1h").await;
    let mut play = Play {
        provider: stage.provider(0, 100).await,
        etcd: stage::etcd(&stage).await?,
        events: subscribe(&stage, "muster.event.>").await?,
        last: 0,
        sample: Bytes::new(),
        report: Report::new("publish", &["events/s", "CPU µs/event", "ratio of CPU"]),
        stage,
    };
    play.events(REMEMBERED).await?;
    // Needs a sample of an event, which the changes above have provided.
    play.bare().await?;
    let mut registered = Vec::new();
    let mut floor = None;
    for count in counts {
        registered.extend(play.stage.consumers(registered.len(), *count, |_| vec![0]).await);
        play.events(WARM).await?;
        play.measure(&format!("{count} interested consumers"), EVENTS, &mut floor).await?;
    }
    // The rows with watchers have a floor of their own: fewer changes are made here, and the gateway
    // works meanwhile.
    let mut floor = None;
    for count in counts {
        let mut crowd = Crowd::start()?;
        crowd.open(play.stage.world.gateways[0].api, &registered[..*count], *count, 0)?;
        play.events(100).await?;
        crowd.collect((100 * count) as u64, PATIENCE)?.check((100 * count) as u64)?;
        // A hundred are a transaction.
        let events = (FRAMES / count / 100 * 100).min(EVENTS);
        play.measure(&format!("{count} consumers that watch"), events, &mut floor).await?;
        // A watcher that falls behind such a rate receives only the newest changes, but nobody may lack the
        // last one.
        let reached = crowd.reach(0, play.last, PATIENCE)?;
        let sight = crowd.collect(0, PATIENCE)?;
        ensure!(
            reached == *count as u64 && sight.repeated + sight.reordered + sight.ended == 0,
            "{reached} of {count} watchers have the last change, {} repeated, {} reordered, {} ended",
            sight.repeated,
            sight.reordered,
            sight.ended
        );
    }
    Ok(())
}

async fn subscribe(stage: &Stage, subject: &'static str) -> Result<async_nats::Subscriber> {
    let client = async_nats::connect(stage.world.nats.url()).await?;
    let events = client.subscribe(subject).await?;
    client.flush().await?;
    Ok(events)
}

struct Play {
    stage: Stage,
    provider: Provider,
    etcd: etcd_client::Client,
    events: async_nats::Subscriber,
    last: u64,
    sample: Bytes,
    report: Report,
}

impl Play {
    /// Makes changes and sees each of them on the bus, in order.
    async fn events(&mut self, changes: usize) -> Result<()> {
        let events = &mut self.events;
        let last = &mut self.last;
        let sample = &mut self.sample;
        let counting = async {
            for _ in 0..changes {
                let event = timeout(PATIENCE, events.next()).await.context("an event is missing")?;
                let payload = event.context("NATS ended")?.payload;
                let stamp = Stamp::of(&payload).context("a stamp")?;
                ensure!(stamp.seq == *last + 1, "{} came after {last}", stamp.seq);
                (*last, *sample) = (stamp.seq, payload);
            }
            anyhow::Ok(())
        };
        // The subscriber reads while the changes are made. Its buffer would overflow otherwise, and the NATS
        // client drops messages that find it full.
        tokio::try_join!(self.provider.burst(&mut self.etcd, changes), counting)?;
        Ok(())
    }

    async fn measure(&mut self, what: &str, changes: usize, floor: &mut Option<f64>) -> Result<()> {
        let cpu = self.stage.control_plane_cpu()?;
        let began = Instant::now();
        self.events(changes).await?;
        let took = began.elapsed().as_secs_f64();
        let cpu = self.stage.control_plane_cpu()? - cpu;
        let each = cpu / changes as f64 * 1e6;
        let ratio = each / *floor.get_or_insert(each);
        self.report.row(what, &[Some(changes as f64 / took), Some(each), Some(ratio)]);
        Ok(())
    }

    /// The floor: as many messages of the same bytes, from one client to another. Shows the rate and the cost
    /// to send them, which is measured without a receiver in the same process.
    async fn bare(&self) -> Result<()> {
        let client = async_nats::connect(self.stage.world.nats.url()).await?;
        let publish = async |subject: &'static str| {
            for _ in 0..EVENTS {
                client.publish(subject, self.sample.clone()).await?;
            }
            client.flush().await?;
            anyhow::Ok(())
        };
        let cpu = usage::cpu_seconds(std::process::id())?;
        publish("bare.unheard").await?;
        let cpu = usage::cpu_seconds(std::process::id())? - cpu;
        let mut messages = subscribe(&self.stage, "bare.heard").await?;
        let counting = async {
            for _ in 0..EVENTS {
                timeout(PATIENCE, messages.next()).await.context("a message is missing")?;
            }
            anyhow::Ok(())
        };
        let began = Instant::now();
        tokio::try_join!(publish("bare.heard"), counting)?;
        let rate = EVENTS as f64 / began.elapsed().as_secs_f64();
        self.report.row("bare NATS publish", &[Some(rate), Some(cpu / EVENTS as f64 * 1e6), None]);
        Ok(())
    }
}
