//! Instances that registered in the same moment share a lease (`lease.shared`), and live and end one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{LeaseId, RangeRequest, Store};
use futures_util::future::join_all;
use harness::{Client, Plan, World, eventually};
use host::lifecycle::Tasks;
use serde_json::{Value, json};

use crate::reported_beats::Beater;

fn shared(planes: usize) -> Plan {
    World::with()
        .planes(planes)
        .plane_flag("--lease-mode", "reported")
        .plane_flag("--lease-shared", "true")
        .gateway_flag("--edge-beats", "false")
}

fn store_of(world: &World) -> Arc<EtcdStore> {
    let config = EtcdConfig { endpoints: vec![world.etcd.endpoint()], ..EtcdConfig::default() };
    EtcdStore::connect(config, &Tasks::new())
}

/// The instances of a service with their leases, as the store has them.
async fn stored(store: &EtcdStore, service: &str) -> BTreeMap<String, LeaseId> {
    let prefix = format!("/cse-sr/inst/files/default/default/{service}/");
    let reply = store.range(RangeRequest::prefix(&prefix)).await.expect("the store answers");
    let items = reply.items.into_iter();
    items.map(|kv| (kv.key[prefix.len()..].to_owned(), kv.lease.expect("on a lease"))).collect()
}

async fn call(client: &Client, method: &str, path: &str, body: Value) -> u16 {
    client.call(method, path, "", &body).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_share_a_lease_end_one_by_one() {
    let world = shared(1).start().await;
    let client = world.client(0);
    let store = store_of(&world);
    let provider = client.service("order").await;
    let ids: Vec<String> = (0..6).map(|n| format!("i{n}")).collect();
    join_all(ids.iter().map(|id| client.instance_with(&provider, id, 2))).await;
    let lease_keys = RangeRequest::prefix(format!("/cse-sr/inst/leases/default/default/{provider}/"));
    let keys = store.range(lease_keys).await.expect("the store answers").items;
    assert!(keys.is_empty(), "nobody needs a lease key before the first heartbeat: {keys:?}");
    let beaters: Vec<Beater> = ids.iter().map(|id| Beater::of(world.client(0), &provider, id)).collect();
    let leases: BTreeSet<LeaseId> = stored(&store, &provider).await.into_values().collect();
    assert_eq!(leases.len(), 1, "one lease for all: {leases:?}");
    assert!(leases.iter().all(|lease| lease.is_long() && lease.is_shared()));
    let gone = |id: &'static str| {
        let (store, provider) = (&store, &provider);
        eventually(id, move || async move { (!stored(store, provider).await.contains_key(id)).then_some(()) })
    };

    // One is unregistered, one stops while heartbeats are reported.
    beaters[0].pause();
    client.unregister(&provider, "i0").await;
    gone("i0").await;
    beaters[1].pause();
    gone("i1").await;
    // And one while the bus is away and the store is told of each heartbeat.
    world.nats.kill();
    beaters[2].pause();
    gone("i2").await;
    assert_eq!(stored(&store, &provider).await.len(), 3, "the others live on");
    world.nats.restart().await;
    assert_eq!(beaters[3..].iter().map(Beater::lost).sum::<u64>(), 0);

    // A restart of the process keeps them, and a stop is still noticed.
    let [node] = &world.control_planes[..] else { panic!("one control plane") };
    node.process.kill();
    node.process.start();
    node.ready().await;
    beaters[3].pause();
    gone("i3").await;
    assert_eq!(beaters[4..].iter().map(Beater::lost).sum::<u64>(), 0);

    // A service that is deleted takes its own instances along and no others.
    let other = client.service("cart").await;
    client.instance(&other, "a").await;
    let third = client.service("bill").await;
    client.instance(&third, "b").await;
    assert_eq!(stored(&store, &other).await["a"], stored(&store, &third).await["b"], "they share a lease");
    client.call("DELETE", &format!("/microservices/{other}?force=1"), "", &Value::Null).await.ok();
    assert_eq!(stored(&store, &third).await.len(), 1);

    // The lease is lost, as after a restore of the store: the next registration takes another one.
    let lost = stored(&store, &third).await["b"];
    store.revoke(lost).await.expect("revoked");
    client.instance(&third, "b").await;
    assert_ne!(stored(&store, &third).await["b"], lost);
}

/// An operation on an instance, and whether a registry without any sharing would accept it.
#[derive(Clone, Copy, Debug)]
enum Act {
    Register(u32),
    Unregister,
    Status,
    Beat,
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_on_shared_leases_are_those_of_a_plain_model() {
    let world = shared(2).start().await;
    let client = world.client(0);
    let store = store_of(&world);
    let service = client.service("order").await;
    // Heartbeats are not reported, so each is a write beside the others.
    world.nats.kill();
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = BTreeSet::new();
    for round in 0..30 {
        let acts: Vec<(usize, Act)> = (0..24)
            .map(|n| {
                let act = match random.u32(0..10) {
                    0..=3 => Act::Register(random.u32(20..23)),
                    4..=5 => Act::Unregister,
                    6..=7 => Act::Status,
                    _ => Act::Beat,
                };
                (n, act)
            })
            .collect();
        let (client, service) = (&client, &service);
        let answers = join_all(acts.iter().map(|(n, act)| async move {
            let path = format!("/microservices/{service}/instances/i{n}");
            match act {
                Act::Register(interval) => {
                    client.instance_with(service, &format!("i{n}"), *interval).await;
                    200
                }
                Act::Unregister => call(client, "DELETE", &path, Value::Null).await,
                Act::Status => call(client, "PUT", &format!("{path}/status?value=DOWN"), json!({})).await,
                Act::Beat => call(client, "PUT", &format!("{path}/heartbeat"), Value::Null).await,
            }
        }))
        .await;
        for ((n, act), status) in acts.iter().zip(answers) {
            let id = format!("i{n}");
            let expected = match act {
                Act::Register(_) => {
                    model.insert(id);
                    200
                }
                Act::Unregister => {
                    if model.remove(&id) {
                        200
                    } else {
                        400
                    }
                }
                Act::Status | Act::Beat => {
                    if model.contains(&id) {
                        200
                    } else {
                        400
                    }
                }
            };
            assert_eq!(status, expected, "round {round}: {act:?} of i{n}, seed {seed}");
        }
        let present: BTreeSet<String> = stored(&store, service).await.into_keys().collect();
        assert_eq!(present, model, "round {round}, seed {seed}");
        let leases = format!("/cse-sr/inst/leases/default/default/{service}/");
        let keys = store.range(RangeRequest::prefix(&leases)).await.expect("the store answers");
        let keys: BTreeSet<String> =
            keys.items.into_iter().map(|kv| kv.key[leases.len()..].to_owned()).collect();
        let nobodys: Vec<_> = keys.difference(&model).collect();
        assert!(nobodys.is_empty(), "lease keys of {nobodys:?}: round {round}, seed {seed}");
    }
}
