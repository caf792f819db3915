//! Churn of connections and instances for a long time, with the oracle on: does anything grow, is anything
//! lost?
//!
//! Two control planes and two gateways, witnesses of every kind, watchers that come and go, writers at a
//! modest rate, and hostile clients beside all of them. Ends by itself after the minutes it is given; prints
//! what each process holds, and the same as one line of JSON. Fails when a watcher was told something wrong,
//! a request of an honest client failed, or memory or descriptors grow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::hostile::{Hostile, Victim};
use harness::load::{Burst, Field, Load, register, seed};
use harness::oracle::{Holes, Oracle, WatchPlan, Way};
use harness::{Process, Watcher, World};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

mod sample;

use sample::Series;

/// Providers, each with a consumer; instances of each that always are there.
const PROVIDERS: usize = 4;
const FIXED: usize = 5;
/// Watchers that come and go, and for how long one stays at most.
const VISITORS: usize = 20;
const STAYS: Duration = Duration::from_secs(10);
/// Writers, and the longest pause of each.
const WRITERS: u64 = 2;
const PAUSE: Duration = Duration::from_secs(1);
/// Changes that control planes remember for gateways and for people: few, so that both are full by the middle
/// of a short run, and growth after it is a leak. They are many times what comes in the seconds for which a
/// watcher is away.
const HISTORY: u32 = 1000;
const TIMELINE: u32 = 500;
/// The history is full when it lacks less than this: the changes of a revision leave it together.
const OF_REVISION: u32 = 100;
/// The time between two bursts, and between two samples.
const BURST: Duration = Duration::from_secs(3);
const SAMPLE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let minutes = std::env::args().nth(1).context("usage: soak MINUTES")?;
    let minutes: f64 = minutes.parse().context("MINUTES is a number")?;
    let lasts = Duration::try_from_secs_f64(minutes * 60.0).context("MINUTES is a length of time")?;
    let seed = seed();
    let world = World::with()
        .planes(2)
        .gateways(2)
        .linked()
        .signed()
        .plane_flag("--registry-history", &HISTORY.to_string())
        .plane_flag("--registry-timeline", &TIMELINE.to_string())
        .start()
        .await;
    let gateways: Vec<SocketAddr> = world.gateways.iter().map(|node| node.api).collect();
    let mut oracle = Oracle::on(world.etcd.endpoint()).await;
    let (field, mut burst) = people(&world, &mut oracle, &gateways).await?;
    let consumers: Vec<String> = field.anchored.iter().map(|(consumer, _)| consumer.clone()).collect();

    let victim = Victim {
        provider: field.providers[0].0.clone(),
        consumer: consumers[0].clone(),
        consumer_name: "consumer-0".to_owned(),
    };
    let hostile = Hostile::of_steady_size(&world, &victim);
    let load = Load::start(&field, &oracle.ledger, seed, WRITERS, PAUSE);
    let visits = Arc::new(AtomicU64::new(0));
    let mut visitors = JoinSet::new();
    for number in 0..VISITORS {
        let consumer = consumers[number % consumers.len()].clone();
        visitors.spawn(visit(gateways.clone(), consumer, visits.clone()));
    }
    let names = ["control-plane-1", "control-plane-2", "gateway-1", "gateway-2", "nats-server"];
    let nodes = world.control_planes.iter().chain(&world.gateways).map(|node| &node.process);
    let processes: Vec<&Process> = nodes.chain([&*world.nats]).collect();
    let mut series: Vec<Series> = names.into_iter().map(Series::new).collect();
    let began = Instant::now();
    let mut kept_at_middle = None;
    let mut bursts = 0_u64;
    let mut bursting = tokio::time::interval(BURST);
    let mut sampling = tokio::time::interval(SAMPLE);
    while began.elapsed() < lasts {
        tokio::select! {
            _ = bursting.tick() => {
                burst.round().await.context("etcd is there")?;
                bursts += 1;
            }
            _ = sampling.tick() => {
                let at = began.elapsed();
                series.iter_mut().zip(&processes).for_each(|(series, process)| series.take(at, process.pid()));
                if kept_at_middle.is_none() && at >= lasts / 2 {
                    kept_at_middle = Some(kept(&world).await);
                }
            }
        }
    }
    visitors.shutdown().await;
    let counts = load.counts();
    let failed = counts.unknown.load(Ordering::Relaxed) + counts.unavailable.load(Ordering::Relaxed);
    load.stop().await;
    let attempts = hostile.stop().await;
    burst.round().await.context("etcd is there")?;
    let kept_at_middle = kept_at_middle.context("the run is too short to have a middle")?;
    let kept_last = kept(&world).await;
    let verdict = oracle.judge(Holes::Lost, Instant::now()).await;
    println!("{}", Series::HEAD);
    series.iter().for_each(|series| println!("{series}"));
    let figures = json!({
        "minutes": minutes, "events": verdict.events, "watchers": verdict.watchers, "told": verdict.all.delivered,
        "lost": verdict.all.lost, "resumed": verdict.resumed, "visits": visits.load(Ordering::Relaxed),
        "bursts": bursts, "hostile": attempts, "failed": failed,
        "history": { "middle": kept_at_middle, "last": kept_last },
        "processes": series.iter().map(Series::json).collect::<Vec<_>>(),
    });
    println!("{figures}");
    verdict.hold(&format!("soak of {minutes} minutes"));
    ensure!(failed == 0, "{failed} requests of honest clients failed beside the hostile ones");
    let full = f64::from(HISTORY - OF_REVISION);
    ensure!(
        kept_at_middle.iter().all(|changes| *changes >= full),
        "the histories held {kept_at_middle:?} of {HISTORY} changes in the middle and were still filling, so \
         that growth says nothing; a longer run is needed"
    );
    for of_process in &series {
        ensure!(!of_process.grows(), "{} grows: {of_process}", of_process.name());
    }
    Ok(())
}

/// The changes in the history of each control plane.
async fn kept(world: &World) -> Vec<f64> {
    let mut kept = Vec::new();
    for plane in &world.control_planes {
        kept.push(plane.metric("muster_view_history_changes", "").await);
    }
    kept
}

/// Registers everybody, opens all witnesses, and waits until they are told of changes.
async fn people(world: &World, oracle: &mut Oracle, gateways: &[SocketAddr]) -> Result<(Field, Burst)> {
    let client = world.client(0);
    let volatile = client.service("volatile").await;
    client.service("fickle").await;
    let mut providers = Vec::new();
    let mut anchored = Vec::new();
    let mut watch_plans = Vec::new();
    for number in 0..PROVIDERS {
        let name = format!("provider-{number}");
        let id = client.service(&format!("provider-{number}")).await;
        let consumer = client.service(&format!("consumer-{number}")).await;
        for instance in 0..FIXED {
            let stamp = oracle.ledger.stamp();
            let status = register(&client, &id, &format!("fixed-{instance}"), 86_400, stamp).await;
            ensure!(status == Some(200), "registered: {status:?}");
        }
        client.find(&consumer, &name, "").await.ok();
        let mut services = vec![id.clone()];
        let mut names = vec![name.clone()];
        if number == 0 {
            client.find(&consumer, "volatile", "").await.ok();
            services.push(volatile.clone());
            names.push("volatile".to_owned());
        }
        let ways = [Way::Old, Way::Resumed, Way::OldGrpc, Way::Grpc, Way::Old];
        for (turn, way) in ways.into_iter().enumerate() {
            let mut gateways = gateways.to_vec();
            gateways.rotate_left(turn % 2);
            watch_plans.push(WatchPlan {
                consumer: consumer.clone(),
                way,
                services: services.clone(),
                names: names.clone(),
                passing: vec![volatile.clone()],
                gateways,
                whole: true,
                receive_buffer: None,
            });
        }
        anchored.push((consumer, name.clone()));
        providers.push((id, name));
    }
    oracle.watch(watch_plans).await;
    let ids: Vec<String> = providers.iter().map(|(id, _)| id.clone()).collect();
    let mut burst = Burst::over(world.etcd.endpoint(), oracle.ledger.clone(), &ids, "fixed").await;
    burst.round().await?;
    harness::eventually("every witness is told of changes", || async {
        oracle.witnesses.iter().all(is_fed).then_some(())
    })
    .await;
    oracle.begin().await;
    let volatile = vec![(volatile, "volatile".to_owned())];
    let field =
        Field { gateways: gateways.to_vec(), providers, anchored, volatile, fickle: "fickle".to_owned() };
    Ok((field, burst))
}

/// Opens a watch, reads for a while, leaves; again and again.
async fn visit(gateways: Vec<SocketAddr>, consumer: String, visits: Arc<AtomicU64>) {
    loop {
        let mut watcher = Watcher::connect(gateways[fastrand::usize(..gateways.len())], &consumer).await;
        visits.fetch_add(1, Ordering::Relaxed);
        let reads = async { while watcher.text().await.is_some() {} };
        // Passed: it leaves without a word.
        _ = tokio::time::timeout(STAYS.mul_f64(fastrand::f64()), reads).await;
    }
}

/// True when the witness has received as many changes as the burst writes to one provider.
fn is_fed(witness: &harness::oracle::Witness) -> bool {
    witness.look(|record| record.segments.iter().map(|segment| segment.sights.len()).sum::<usize>() >= FIXED)
}
