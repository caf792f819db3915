//! A crowd that registers at once while etcd is killed: each client is answered by itself, and what was
//! acknowledged is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{LeaseId, RangeRequest, Store as _};
use futures_util::future::join_all;
use harness::{Client, Plan, World, eventually};
use host::lifecycle::Tasks;
use serde_json::{Value, json};

const CLIENTS: usize = 64;
/// The registrations of each client.
const EACH: usize = 10;
/// Ids for which clients of both control planes contend.
const CONTESTED: usize = 12;
/// The registrations that are acknowledged before etcd is killed.
const BEFORE: usize = 150;

/// One registration, with an endpoint that no other one has.
struct Attempt {
    id: String,
    endpoint: String,
    /// No registry accepts it.
    is_faulty: bool,
    /// The status of the answer; `None` when no answer came.
    status: Option<u16>,
    /// An answer 503 says when to come back.
    has_retry: bool,
}

/// The registrations of one client, one after the other.
fn attempts_of(client: usize, random: &mut fastrand::Rng) -> Vec<Attempt> {
    (0..EACH)
        .map(|n| {
            let is_contested = random.u8(..5) == 0;
            let id = match is_contested {
                true => format!("contested-{}", random.usize(..CONTESTED)),
                false => format!("own-{client}-{n}"),
            };
            let is_faulty = !is_contested && random.u8(..10) == 0;
            Attempt {
                id,
                endpoint: format!("rest://10.0.0.1:80/{client}/{n}"),
                is_faulty,
                status: None,
                has_retry: false,
            }
        })
        .collect()
}

async fn register(client: &Client, service: &str, attempt: &mut Attempt) {
    let mut instance = json!({"instanceId": attempt.id, "hostName": "node", "endpoints": [attempt.endpoint],
        "healthCheck": {"mode": "push", "interval": 100, "times": 3}});
    if attempt.is_faulty {
        // More than the body of a registration may have.
        instance["properties"] = json!({"large": "x".repeat(64 << 10)});
    }
    let path = format!("/microservices/{service}/instances");
    let answer = client.try_call("POST", &path, &json!({ "instance": instance })).await;
    attempt.status = answer.as_ref().map(|answer| answer.status);
    attempt.has_retry = answer.is_some_and(|answer| answer.headers.contains_key("retry-after"));
}

/// The endpoint and the lease of each instance that is stored.
async fn stored(store: &EtcdStore, service: &str) -> BTreeMap<String, (String, Option<LeaseId>)> {
    let prefix = format!("/cse-sr/inst/files/default/default/{service}/");
    let read = || async { store.range(RangeRequest::prefix(&prefix)).await.ok() };
    let reply = eventually("the store answers", read).await;
    let of = |value: &[u8]| {
        let record: Value = serde_json::from_slice(value).expect("a record");
        record["endpoints"][0].as_str().expect("an endpoint").to_owned()
    };
    let items = reply.items.into_iter();
    items.map(|kv| (kv.key[prefix.len()..].to_owned(), (of(&kv.value), kv.lease))).collect()
}

async fn a_crowd_registers(plan: Plan) -> BTreeMap<String, (String, Option<LeaseId>)> {
    let world = plan.planes(2).start().await;
    let config = EtcdConfig { endpoints: vec![world.etcd.endpoint()], ..EtcdConfig::default() };
    let store = EtcdStore::connect(config, &Tasks::new());
    let service = world.client(0).service("crowd").await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let acknowledged = AtomicUsize::new(0);
    let clients = (0..CLIENTS).map(|number| {
        let mut attempts = attempts_of(number, &mut random);
        let client = Client::new(world.control_planes[number % 2].api);
        let (service, acknowledged) = (&service, &acknowledged);
        async move {
            for attempt in &mut attempts {
                register(&client, service, attempt).await;
                if attempt.status == Some(200) {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
            attempts
        }
    });
    let clients = join_all(clients.collect::<Vec<_>>());
    let killing = async {
        eventually("enough are registered", || async {
            (acknowledged.load(Ordering::Relaxed) >= BEFORE).then_some(())
        })
        .await;
        world.etcd.kill();
        world.etcd.restart().await;
    };
    let (attempts, ()) = tokio::join!(clients, killing);
    let attempts: Vec<Attempt> = attempts.into_iter().flatten().collect();

    let found = stored(&store, &service).await;
    // A registrant with an error takes back what it may have written, and nobody knows what it has taken.
    let is_known = |status: Option<u16>| matches!(status, Some(200 | 400));
    let unknown: BTreeSet<&str> =
        attempts.iter().filter(|attempt| !is_known(attempt.status)).map(|attempt| &*attempt.id).collect();
    let mut possible: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for attempt in &attempts {
        let Attempt { id, endpoint, is_faulty, status, has_retry } = attempt;
        match status {
            Some(400) => assert!(is_faulty, "{id} was refused"),
            Some(200) => {
                assert!(!is_faulty, "{id} was taken");
                let is_stored = found.contains_key(id) || unknown.contains(&**id);
                assert!(is_stored, "{id} was acknowledged and is not stored");
                _ = possible.entry(id).or_default().insert(endpoint);
            }
            // Not known: the answer of the store was lost.
            Some(500 | 503) | None => {
                assert!(*status != Some(503) || *has_retry, "{id} is not told when to come back");
                if !is_faulty {
                    possible.entry(id).or_default().insert(endpoint);
                }
            }
            Some(other) => panic!("{id}: {other}"),
        }
    }
    for (id, (endpoint, lease)) in &found {
        let of = possible.get(id.as_str()).unwrap_or_else(|| panic!("nobody has registered {id}"));
        assert!(of.contains(endpoint.as_str()), "{id} has {endpoint}, of {of:?}");
        assert!(lease.is_some(), "{id} has no lease");
    }
    // Each is whole: no lease key without its instance, and no instance without one unless it shares its lease.
    let leases = format!("/cse-sr/inst/leases/default/default/{service}/");
    let keys = store.range(RangeRequest::prefix(&leases)).await.expect("the store answers");
    let keys: BTreeSet<&str> = keys.items.iter().map(|kv| &kv.key[leases.len()..]).collect();
    let needs_one = |lease: &Option<LeaseId>| lease.is_some_and(|lease| !lease.is_shared());
    for (id, (_, lease)) in &found {
        assert!(keys.contains(&**id) || !needs_one(lease), "{id} has no lease key");
    }
    let nobodys: Vec<_> = keys.iter().filter(|id| !found.contains_key(**id)).collect();
    assert!(nobodys.is_empty(), "lease keys of nobody: {nobodys:?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_crowd_is_answered_by_itself_while_etcd_is_killed() {
    let found = a_crowd_registers(World::with()).await;
    let leases: BTreeSet<_> = found.values().map(|(_, lease)| lease).collect();
    assert_eq!(leases.len(), found.len(), "each has a lease of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_crowd_with_shared_leases_is_answered_by_itself_while_etcd_is_killed() {
    let plan = World::with().plane_flag("--lease-mode", "reported").plane_flag("--lease-shared", "true");
    let found = a_crowd_registers(plan).await;
    let leases: BTreeSet<_> = found.values().map(|(_, lease)| lease).collect();
    assert!(leases.len() * 8 < found.len(), "{} leases for {} instances", leases.len(), found.len());
}
