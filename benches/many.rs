//! Many small audiences: 10 000 watchers of 1000 consumers over 1000 providers, of which few are popular.
//!
//! Each consumer depends on five providers, chosen by Zipf's law. Every tenth provider by popularity changes,
//! from the sixth on, all of them equally often at each rate: how long a receipt takes depends on the size of
//! the audience, and is to be compared for the same ones. Changes have random gaps and are one etcd put each.
//! The rate must not change how long a receipt takes. Times are from asking etcd for the change. The floor of
//! each rate is one put after another at that rate, seen by an etcd watch that hands it to NATS, seen by a
//! subscriber: the way of a change without us, to one watcher. Arguments: watchers, consumers (and as many
//! providers), seconds per rate.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use benches::Latencies;
use benches::crowd::{self, Crowd};
use benches::report::Report;
use benches::stage::{self, Provider, Stage};
use benches::stamp::Stamp;
use benches::usage;
use etcd_client::WatchOptions;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use shared::clock::Clock;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

const RATES: [f64; 3] = [10.0, 100.0, 1000.0];
const EACH: usize = 5;
/// Providers more popular than all that change.
const FIRST: usize = 5;
/// One provider in this number changes.
const STEP: usize = 10;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let [watchers, consumers, seconds] = benches::arguments([10_000, 1000, 10])?;
    tokio::runtime::Runtime::new()?.block_on(run(watchers, consumers, seconds))
}

async fn run(watchers: usize, count: usize, seconds: usize) -> Result<()> {
    // The same fleet in each run.
    let mut dice = fastrand::Rng::with_seed(4);
    let interests: Vec<Vec<u32>> = (0..count).map(|_| interest(&mut dice, count)).collect();
    let mut audience = vec![0_u64; count];
    for watcher in 0..watchers {
        interests[watcher % count].iter().for_each(|provider| audience[*provider as usize] += 1);
    }
    let largest = changing(&audience).first().map_or(0, |index| audience[*index]);

    // Pings at their usual interval belong to the load of a gateway.
    let stage = Stage::start("30s").await;
    let mut providers: Vec<Option<Provider>> =
        stage::providers(&stage, count as u32).await.into_iter().map(Some).collect();
    let consumers = stage.consumers(0, count, |number| interests[number].clone()).await;
    let mut crowd = Crowd::start()?;
    let opened = crowd.open(stage.world.gateways[0].api, &consumers, watchers, 0)?;
    eprintln!(
        "{watchers} watchers opened in {opened:.1} s; the most popular provider that changes has {largest}"
    );
    let columns = [
        "events/s",
        "frames/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "ratio of p99",
        "gateway CPU %",
        "control CPU %",
        "etcd CPU %",
        "NATS CPU %",
        "client CPU %",
        "machine CPU %",
    ];
    let report = Report::new("many", &columns);
    let mut floor = None;
    for rate in RATES {
        let half = (seconds as f64 / 2.0).max(1.0);
        let (bare, took) = Box::pin(bare(&stage, rate, half, &mut dice)).await?;
        let changes = bare.len() as f64 / took.as_secs_f64();
        let bare = Latencies::new(bare, took);
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| Some(bare.quantile_ms(share)));
        report.row(
            &format!("bare etcd and NATS, {rate:.0} events/s"),
            &[Some(changes), Some(changes), p50, p99, max],
        );
        let before = used(&stage, &crowd)?;
        let began = Instant::now();
        let (events, expected) =
            change(&stage, &mut providers, &audience, rate, seconds as f64, &mut dice).await?;
        let took = began.elapsed().as_secs_f64();
        let after = used(&stage, &crowd)?;
        let sight = crowd.collect(expected, PATIENCE)?;
        // The ratio is to the lowest rate and not to the bare servers: it shows if the rate changes the time
        // of a receipt.
        let ratio = sight.p99_ms / *floor.get_or_insert(sight.p99_ms);
        let mut figures = vec![
            Some(events as f64 / took),
            Some(expected as f64 / took),
            Some(sight.p50_ms),
            Some(sight.p99_ms),
            Some(sight.max_ms),
            Some(ratio),
        ];
        figures.extend(before.iter().zip(after).map(|(before, after)| Some((after - before) / took * 100.0)));
        report.row(&format!("{watchers} watchers, {rate:.0} events/s"), &figures);
        // Checked after the row is printed, so that a run that lost frames still shows its figures.
        sight.check(expected)?;
    }
    Ok(())
}

/// CPU seconds so far of the gateway, the control plane, etcd, NATS, the load clients (this process is one)
/// and the whole machine.
fn used(stage: &Stage, crowd: &Crowd) -> Result<[f64; 6]> {
    let of = usage::cpu_seconds;
    let world = &stage.world;
    Ok([
        stage.gateway_cpu()?,
        stage.control_plane_cpu()?,
        of(world.etcd.pid())?,
        of(world.nats.pid())?,
        of(crowd.pid())? + of(std::process::id())?,
        usage::machine_seconds()?,
    ])
}

/// Sends changes through etcd and NATS alone. Returns the time of each, and of all together.
async fn bare(
    stage: &Stage,
    rate: f64,
    seconds: f64,
    dice: &mut fastrand::Rng,
) -> Result<(Vec<Duration>, Duration)> {
    let mut watching = stage::etcd(stage).await?;
    let etcd = stage::etcd(stage).await?;
    let mut watch = watching.watch("/bare/", Some(WatchOptions::new().with_prefix())).await?;
    let nats = async_nats::connect(stage.world.nats.url()).await?;
    let receiver = async_nats::connect(stage.world.nats.url()).await?;
    let mut messages = receiver.subscribe("bare.many").await?;
    receiver.flush().await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(Ok(answer)) = watch.next().await {
            for kv in answer.events().iter().filter_map(|event| event.kv()) {
                // A message that cannot be sent shows as missing at the other end.
                _ = nats.publish("bare.many", kv.value().to_vec().into()).await;
            }
        }
    });
    let began = Instant::now();
    let clock = Clock::system();
    let mut at = began;
    let mut running = FuturesUnordered::new();
    let mut took = vec![];
    let mut asked = 0;
    let over = began + Duration::from_secs_f64(seconds);
    loop {
        if at <= over {
            // The same random gaps as in `change`, so that changes of the floor crowd together just as often.
            at += Duration::from_secs_f64(-dice.f64().max(1e-9).ln() / rate);
        }
        loop {
            tokio::select! {
                () = sleep_until(at), if at <= over => break,
                Some(done) = running.next() => {
                    let _: etcd_client::PutResponse = done?;
                }
                message = timeout(PATIENCE, messages.next()), if took.len() < asked => {
                    let message = message.context("a change is missing")?.context("NATS ended")?;
                    let stamp = Stamp::of(&message.payload).context("a stamp")?;
                    took.push(Duration::from_micros(clock.micros().saturating_sub(stamp.at)));
                }
                else => return Ok((took, began.elapsed())),
            }
        }
        asked += 1;
        let stamp = Stamp { provider: 0, seq: asked as u64, at: clock.micros() };
        let value = json!({"padding": "x".repeat(300), "properties": stamp.properties()}).to_string();
        let mut etcd = etcd.clone();
        running.push(async move { etcd.put(format!("/bare/{}", asked % 1000), value, None).await });
    }
}

/// Makes changes at the rate. Returns the number of changes, and of the frames that they cause.
async fn change(
    stage: &Stage,
    providers: &mut [Option<Provider>],
    audience: &[u64],
    rate: f64,
    seconds: f64,
    dice: &mut fastrand::Rng,
) -> Result<(u64, u64)> {
    let etcd = stage::etcd(stage).await?;
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut at = Instant::now();
    let mut running = FuturesUnordered::new();
    let changing = changing(audience);
    let mut events = 0;
    let mut expected = 0;
    let mut turn = Vec::new();
    loop {
        // The gaps of changes that know nothing of each other.
        at += Duration::from_secs_f64(-dice.f64().max(1e-9).ln() / rate);
        if at > until {
            break;
        }
        loop {
            tokio::select! {
                // A change that is due goes first. Collecting finished ones first would lower the
                // rate under load.
                biased;
                () = sleep_until(at) => break,
                Some(done) = running.next() => put_back(providers, done)?,
            }
        }
        if turn.is_empty() {
            // A shuffled turn instead of free draws: every provider then changes equally often even
            // in a short run.
            turn = changing.to_vec();
            dice.shuffle(&mut turn);
        }
        let index = turn.pop().context("some provider changes")?;
        // The changes of a provider are to have an order.
        while providers[index].is_none()
            && let Some(done) = running.next().await
        {
            put_back(providers, done)?;
        }
        let Some(mut provider) = providers[index].take() else { continue };
        (events, expected) = (events + 1, expected + audience[index]);
        let mut etcd = etcd.clone();
        running.push(async move {
            provider.burst(&mut etcd, 1).await?;
            anyhow::Ok((index, provider))
        });
    }
    while let Some(done) = running.next().await {
        put_back(providers, done)?;
    }
    Ok((events, expected))
}

/// The providers that change.
fn changing(audience: &[u64]) -> Vec<usize> {
    let mut all: Vec<usize> = (0..audience.len()).collect();
    all.sort_by_key(|index| std::cmp::Reverse(audience[*index]));
    all.into_iter().skip(FIRST).step_by(STEP).collect()
}

fn put_back(providers: &mut [Option<Provider>], done: Result<(usize, Provider)>) -> Result<()> {
    let (index, provider) = done?;
    providers[index] = Some(provider);
    Ok(())
}

/// Some providers, the lower the number the likelier.
fn interest(dice: &mut fastrand::Rng, count: usize) -> Vec<u32> {
    let mut chosen = BTreeSet::new();
    while chosen.len() < EACH.min(count) {
        // The inverse of Zipf's distribution with exponent 1, near enough.
        let place = (count as f64).powf(dice.f64()) as usize - 1;
        chosen.insert(place.min(count - 1) as u32);
    }
    chosen.into_iter().collect()
}
