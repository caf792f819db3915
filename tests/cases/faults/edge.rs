//! Finds and heartbeats that gateways answer by themselves, while what is behind them is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::oracle::Holes;
use harness::{Answer, Client, Direction, Link, Node, Plan, World, eventually};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::stage::{Stage, bus, lasts, long};
use crate::reported_beats::Beater;

/// Half of the seconds for which an instance of these cases lives without a heartbeat.
const INTERVAL: u32 = 2;
/// The time that an SDK waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A world in which gateways answer heartbeats.
fn plan() -> Plan {
    World::with().plane_flag("--lease-mode", "reported")
}

/// Instances that beat, each at both gateways.
struct Living {
    service: String,
    beaters: Vec<(String, Beater)>,
}

impl Living {
    /// Registers `number` instances of the stage's first provider.
    async fn begin(stage: &Stage, prefix: &str, number: usize, interval: u32) -> Self {
        let service = stage.providers[0].clone();
        let mut beaters = Vec::new();
        for instance in 0..number {
            let id = format!("{prefix}-{instance}");
            let client = stage.world.client(instance % 2);
            let stamp = stage.oracle.ledger.stamp();
            let status = harness::load::register(&client, &service, &id, interval, stamp).await;
            assert_eq!(status, Some(200));
            let clients = vec![client, stage.world.client((instance + 1) % 2)];
            let beater = Beater::over(clients, &service, &id);
            beaters.push((id, beater));
        }
        Self { service, beaters }
    }

    /// The first `number` of them send no heartbeat any more. Gives the ids.
    fn silence(&self, number: usize) -> BTreeSet<String> {
        let silent = self.beaters.iter().take(number);
        silent.inspect(|(_, beater)| beater.pause()).map(|(id, _)| id.clone()).collect()
    }

    /// Those of `ids` that a control plane knows.
    async fn known(&self, node: &Node, ids: &BTreeSet<String>) -> Option<usize> {
        let path = format!("/microservices/{}/instances", self.service);
        let answer = Client::new(node.api).try_call("GET", &path, &Value::Null).await?;
        let there = (answer.status == 200).then(|| instances(&answer))?;
        Some(there.intersection(ids).count())
    }

    /// Waits until both control planes know none of these.
    async fn ended(&self, world: &World, ids: &BTreeSet<String>) {
        for node in &world.control_planes {
            eventually("the silent ones have ended", || async {
                (self.known(node, ids).await? == 0).then_some(())
            })
            .await;
        }
    }

    /// Asserts that no heartbeat of these was answered with "does not exist".
    fn all_live(&self, silent: &BTreeSet<String>) {
        for (id, beater) in self.beaters.iter().filter(|(id, _)| !silent.contains(id)) {
            assert_eq!(beater.lost(), 0, "{id} beats and was ended");
        }
    }
}

/// The ids of the instances in an answer.
fn instances(answer: &Answer) -> BTreeSet<String> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let listed = body["instances"].as_array().into_iter().flatten();
    listed.filter_map(|one| Some(one["instanceId"].as_str()?.to_owned())).collect()
}

/// A find at a gateway.
async fn find(gateway: &Node, consumer: &str) -> Option<Answer> {
    timeout(PATIENCE, Client::new(gateway.api).try_find(consumer, "provider-0")).await.ok()?
}

/// Waits until the gateway has told the consumer by itself that its last find holds. The load finds as well, but no other
/// client here sends the revision that it has.
async fn follows(gateway: &Node, consumer: &str) {
    let client = Client::new(gateway.api);
    let unchanged = || gateway.metric("muster_edge_finds_total", r#"answered="unchanged""#);
    eventually("the gateway answers by itself", || async {
        let answer = find(gateway, consumer).await?;
        let rev = answer.headers.get("x-resource-revision")?.to_str().ok()?;
        let before = unchanged().await;
        let again = client.find(consumer, "provider-0", rev).await;
        (again.status == 304 && unchanged().await > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn gateways_answer_while_everything_behind_them_is_lost() {
    let mut stage = Stage::set_with(plan(), None).await;
    let consumer = stage.world.client(0).service("reader").await;
    // They outlive the outage by their leases, as everything does that nobody can have ended.
    let living = Living::begin(&stage, "beats", 8, INTERVAL).await;
    let own: BTreeSet<String> = living.beaters.iter().map(|(id, _)| id.clone()).collect();
    for gateway in &stage.world.gateways {
        follows(gateway, &consumer).await;
    }
    stage.rounds(2).await;

    for node in &stage.world.control_planes {
        node.process.kill();
    }
    stage.world.etcd.kill();
    let outage = if long() { 600 } else { 10 };
    let until = Instant::now() + Duration::from_secs(outage);
    let mut marked = 0;
    while Instant::now() < until {
        for gateway in &stage.world.gateways {
            let answer = find(gateway, &consumer).await.expect("a gateway lives");
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = instances(&answer);
            assert!(told.is_superset(&own), "{own:?} beat, and {told:?} are told");
            assert!(told.contains("fixed-00"), "{told:?}");
            marked += usize::from(answer.headers.contains_key("warning"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(marked > 0, "no answer was marked as stale");

    stage.world.etcd.restart().await;
    for node in &stage.world.control_planes {
        node.process.start();
    }
    let over = Instant::now();
    for node in &stage.world.control_planes {
        node.ready().await;
    }
    for gateway in &stage.world.gateways {
        eventually("answers are fresh again", || async {
            let answer = find(gateway, &consumer).await?;
            (answer.status == 200 && !answer.headers.contains_key("warning")).then_some(())
        })
        .await;
    }
    stage.rounds(2).await;
    living.all_live(&BTreeSet::new());
    for node in &stage.world.control_planes {
        assert_eq!(living.known(node, &own).await, Some(own.len()), "somebody who beats was ended");
    }
    let silent = living.silence(4);
    living.ended(&stage.world, &silent).await;
    living.all_live(&silent);
    // Control planes that start list the store, so changes of the last moment may arrive as one.
    let fault = format!("both control planes and etcd killed for {outage} s, finds and heartbeats answered");
    stage.end(&fault, over, Holes::Merged).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn instances_that_die_while_a_way_of_the_bus_is_cut_end_once() {
    let mut stage = Stage::set_with(plan(), None).await;
    let publisher = stage.world.publisher().await.api;
    let mut over = Instant::now();
    let links: [fn(&World, usize) -> &Link; 2] =
        [|world, holder| bus(&world.control_planes[holder]), |world, _| bus(&world.gateways[0])];
    let mut nodes = stage.world.control_planes.iter();
    let holder = nodes.position(|node| node.api == publisher).expect("one of the control planes");
    for (number, link) in links.iter().enumerate() {
        for (way, direction) in [("in", Direction::ToClient), ("out", Direction::ToServer)] {
            let living = Living::begin(&stage, &format!("{way}-{number}"), 6, INTERVAL).await;
            stage.rounds(1).await;
            link(&stage.world, holder).freeze(direction);
            let silent = living.silence(3);
            stage.burst.rounds(3).await.expect("etcd is there");
            living.ended(&stage.world, &silent).await;
            // Bytes on their way are lost, as when the network gives up.
            link(&stage.world, holder).cut().await;
            link(&stage.world, holder).mend().await;
            over = Instant::now();
            stage.rounds(2).await;
            living.all_live(&silent);
            let rest = living.silence(6);
            living.ended(&stage.world, &rest).await;
        }
    }
    lasts(1.0).await;
    stage
        .end(
            "ways between bus and publisher, and bus and gateway, cut while instances die",
            over,
            Holes::Lost,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn ends_at_which_the_publisher_is_killed_are_told_once() {
    let mut stage = Stage::set_with(plan(), None).await;
    let mut over = Instant::now();
    for round in 0..4 {
        let living = Living::begin(&stage, &format!("round-{round}"), 12, 1).await;
        stage.rounds(1).await;
        let publisher = stage.world.publisher().await;
        let silent = living.silence(10);
        // It has ended the first of them, and is at the others.
        eventually("the first one has ended", || async {
            (living.known(publisher, &silent).await? < silent.len()).then_some(())
        })
        .await;
        publisher.process.kill();
        over = Instant::now();
        let other = stage.world.control_planes.iter().find(|node| node.api != publisher.api);
        let other = other.expect("there are two");
        eventually("the others end", || async { (living.known(other, &silent).await? == 0).then_some(()) })
            .await;
        publisher.process.start();
        publisher.ready().await;
        living.all_live(&silent);
    }
    lasts(1.0).await;
    stage.end("publisher killed at the end of ten instances, four times", over, Holes::Lost).await;
}
