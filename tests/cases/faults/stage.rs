//! The common stage of the fault cases: a system, its services, watchers and load, and the verdict at the
//! end.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use harness::hostile::{Hostile, Victim};
use harness::load::{Burst, Field, Load, register, seed};
use harness::oracle::{Holes, Oracle, Verdict, WatchPlan, Way};
use harness::readers::{ReadPlan, Readers};
use harness::{Node, Plan, World, eventually};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Providers that the burst writes to, each with a consumer of its own.
const PROVIDERS: usize = 8;
/// Instances of each that only the burst writes.
// 104 instances over all providers fit into one transaction of etcd, so a round is one revision.
const FIXED: usize = 13;
/// Watchers.
const WATCHERS: usize = 200;
/// Random writers, and the longest pause between two writes of one.
const WRITERS: u64 = 8;
const PAUSE: Duration = Duration::from_millis(80);
/// Providers that are deleted and registered again; each is watched beside the provider of the same number.
const VOLATILE: usize = 2;

/// One case at a time: each has the machine to itself, or its times would mean nothing.
pub(super) static TURN: Mutex<()> = Mutex::const_new(());

pub(super) struct Stage {
    pub(super) world: World,
    pub(super) oracle: Oracle,
    pub(super) burst: Burst,
    /// Ids of the providers.
    pub(super) providers: Vec<String>,
    /// Clients of the dialects, of the first provider.
    readers: Readers,
    load: Option<Load>,
    /// Clients that mean harm, beside the honest ones of every case.
    hostile: Option<Hostile>,
    victim: Victim,
    _turn: MutexGuard<'static, ()>,
}

/// The name of a provider.
fn provider(number: usize) -> String {
    format!("provider-{number}")
}

impl Stage {
    pub(super) async fn set() -> Self {
        Self::set_with(World::with(), None).await
    }

    /// Like [`Stage::set`], on a world of this plan. `stalls` is the receive buffer of every tenth watcher,
    /// which a case may stop.
    pub(super) async fn set_with(plan: Plan, stalls: Option<u32>) -> Self {
        let turn = TURN.lock().await;
        let seed = seed();
        let world = plan.planes(2).gateways(2).linked().signed().dns().start().await;
        let mut oracle = Oracle::on(world.etcd.endpoint()).await;
        let gateways: Vec<SocketAddr> = world.gateways.iter().map(|node| node.api).collect();
        let client = world.client(0);
        let mut volatile = Vec::new();
        for number in 0..VOLATILE {
            let name = format!("volatile-{number}");
            volatile.push((client.service(&name).await, name));
        }
        let passing: Vec<String> = volatile.iter().map(|(id, _)| id.clone()).collect();
        let fickle = client.service("fickle").await;
        let mut providers = Vec::new();
        let mut anchored = Vec::new();
        let mut watch_plans = Vec::new();
        for number in 0..PROVIDERS {
            let id = client.service(&provider(number)).await;
            let consumer = client.service(&format!("consumer-{number}")).await;
            let registered = (0..FIXED).map(|n| {
                let client = client.clone();
                let id = id.clone();
                let stamp = oracle.ledger.stamp();
                // Nobody sends heartbeats for the fixed instances, and they must outlive the case.
                async move { register(&client, &id, &format!("fixed-{n:02}"), 600, stamp).await }
            });
            let registered = futures_util::future::join_all(registered).await;
            assert!(registered.iter().all(|status| *status == Some(200)), "{registered:?}");
            let mut names = vec![provider(number)];
            let mut services = vec![id.clone()];
            if let Some((id, name)) = volatile.get(number) {
                names.push(name.clone());
                services.push(id.clone());
            }
            for name in &names {
                // A find records the dependency; without it the provider would not belong to the watchers'
                // interest.
                client.find(&consumer, name, "").await.ok();
            }
            anchored.push((consumer.clone(), provider(number)));
            // Of each new kind one on each gateway, and of the historical kind one.
            let ways =
                [Way::Resumed, Way::Resumed, Way::Grpc, Way::Grpc, Way::Events, Way::Events, Way::OldGrpc];
            for watcher in 0..WATCHERS / PROVIDERS + ways.len() {
                // Half of the watchers begin at each gateway. After a break a watcher moves on to the next
                // one of its list.
                let mut gateways = gateways.clone();
                gateways.rotate_left(watcher % 2);
                let way = ways.get(watcher).copied().unwrap_or(Way::Old);
                let receive_buffer = stalls.filter(|_| way == Way::Old && watcher % 10 < 2 && watcher < 30);
                watch_plans.push(WatchPlan {
                    consumer: consumer.clone(),
                    way,
                    services: services.clone(),
                    names: names.clone(),
                    passing: passing.clone(),
                    gateways,
                    whole: true,
                    receive_buffer,
                });
            }
            providers.push(id);
        }
        // Their interest comes and goes. They must not receive anything untrue, but may miss changes.
        watch_plans.extend((0..4).map(|n| WatchPlan {
            consumer: fickle.clone(),
            way: [Way::Old, Way::OldGrpc][n / 2],
            services: passing.clone(),
            names: volatile.iter().map(|(_, name)| name.clone()).collect(),
            passing: passing.clone(),
            gateways: vec![gateways[n % 2]],
            whole: false,
            receive_buffer: None,
        }));
        oracle.watch(watch_plans).await;
        let mut burst = Burst::over(world.etcd.endpoint(), oracle.ledger.clone(), &providers, "fixed").await;
        assert_eq!(burst.len(), PROVIDERS * FIXED);
        // The oracle starts to count only when every watcher receives changes.
        burst.round().await.expect("etcd is there");
        eventually("every watcher is told of changes", || async {
            oracle.witnesses.iter().filter(|w| w.plan.whole).all(is_fed).then_some(())
        })
        .await;
        oracle.begin().await;
        let readers = Readers::start(ReadPlan {
            service: providers[0].clone(),
            name: provider(0),
            fixed: (0..FIXED).map(|n| format!("fixed-{n:02}")).collect(),
            gateways: world.gateways.iter().filter_map(|node| Some((node.api, node.dns?))).collect(),
        });
        let victim = Victim {
            provider: providers[0].clone(),
            consumer: anchored[0].0.clone(),
            consumer_name: "consumer-0".to_owned(),
        };
        let hostile = Some(Hostile::beside(&world, &victim));
        let field = Field {
            gateways,
            providers: providers.iter().cloned().enumerate().map(|(n, id)| (id, provider(n))).collect(),
            anchored,
            volatile,
            fickle: "fickle".into(),
        };
        let load = Some(Load::start(&field, &oracle.ledger, seed, WRITERS, PAUSE));
        Self { world, oracle, burst, providers, readers, load, hostile, victim, _turn: turn }
    }

    /// Changes each fixed instance `rounds` times.
    pub(super) async fn rounds(&mut self, rounds: usize) {
        self.burst.rounds(rounds).await.expect("etcd is there");
    }

    /// From now on the burst writes to the first provider only.
    pub(super) async fn write_to_one(&mut self) {
        let etcd = self.world.etcd.endpoint();
        let ledger = self.oracle.ledger.clone();
        self.burst = Burst::over(etcd, ledger, &self.providers[..1], "fixed").await;
    }

    /// A figure summed over the gateways that run.
    pub(super) async fn of_gateways(&self, name: &str, labels: &str) -> f64 {
        let mut sum = 0.0;
        for node in &self.world.gateways {
            sum += node.try_metric(name, labels).await.unwrap_or(0.0);
        }
        sum
    }

    /// Ends the hostile clients.
    pub(super) async fn stop_hostile(&mut self) {
        if let Some(hostile) = self.hostile.take() {
            hostile.stop().await;
        }
    }

    /// Starts the hostile clients again.
    pub(super) fn start_hostile(&mut self) {
        self.hostile = Some(Hostile::beside(&self.world, &self.victim));
    }

    /// The requests of honest clients that have failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.load.as_ref().map_or(0, |load| {
            let counts = load.counts();
            counts.unknown.load(Ordering::Relaxed) + counts.unavailable.load(Ordering::Relaxed)
        })
    }

    /// Ends writers and readers, and asserts that no reply was untrue.
    pub(super) async fn stop_load(&mut self) {
        if let Some(load) = self.load.take() {
            load.stop().await;
        }
    }

    /// Ends the load, changes everything once more, and lets the oracle judge.
    pub(super) async fn end(mut self, fault: &str, over: Instant, holes: Holes) -> (Verdict, Self) {
        self.stop_load().await;
        // After the load, so that every request of an honest client had them beside it.
        self.stop_hostile().await;
        // A last change of everything, so that a gap which the fault left has a later event behind it.
        self.rounds(1).await;
        let verdict = self.oracle.judge(holes, over).await;
        verdict.hold(fault);
        self.readers.judge(&self.oracle, fault).await;
        let lies = self.oracle.lies();
        assert!(lies.is_empty(), "{fault}: {lies:?}");
        let (differences, merged) = (
            self.of_gateways("muster_edge_differences_total", "").await,
            self.of_gateways("muster_edge_events_merged_total", "").await,
        );
        println!(
            "  gateways: resyncs {}, gaps {}, duplicates dropped {}, differences {differences}, merged {merged}",
            self.of_gateways("muster_edge_resyncs_total", "").await,
            self.of_gateways("muster_edge_events_total", r#"fate="gap""#).await,
            self.of_gateways("muster_edge_events_total", r#"fate="duplicate""#).await,
        );
        if holes == Holes::Lost {
            // Only slow readers are merged. In a case that allows no hole, merging would hide a loss.
            assert_eq!(merged, 0.0, "{fault}: nobody was slow");
        }
        (verdict, self)
    }
}

/// Waits for a time that belongs to the fault, such as an outage; nothing is decided by it.
pub(super) async fn lasts(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// True when the long variants are wanted.
pub(super) fn long() -> bool {
    std::env::var_os("MUSTER_TEST_LONG").is_some()
}

/// The node's link to the bus.
pub(super) fn bus(node: &Node) -> &harness::Link {
    node.bus.as_ref().expect("a world of links")
}

/// The node's link to the store.
pub(super) fn store(node: &Node) -> &harness::Link {
    node.store.as_ref().expect("a world of links")
}

/// True when the witness has received as many changes as the burst writes to one provider.
fn is_fed(witness: &harness::oracle::Witness) -> bool {
    witness.look(|record| record.segments.iter().map(|segment| segment.sights.len()).sum::<usize>() >= FIXED)
}
