//! Rations of tenants, by the clock of the test.

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::*;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::{Compare, bytes_written};
use host::lifecycle::Tasks;
use shared::model::ServiceRef;

const MIB: u64 = 1 << 20;

fn ration(used: u64) -> Ration {
    let ration = Ration::new(&SdkMeterProvider::default().meter("test"));
    fill(&ration, used, &["loud", "quiet", "other"]);
    ration
}

/// So many bytes of 100 MiB are in use, and the registry has these tenants.
fn fill(ration: &Ration, used: u64, tenants: &[&str]) {
    ration.set_space(Some(StoreSpace { used, quota: 100 * MIB, full: false }), || Some(users(tenants, 2)));
}

fn users(domains: &[&str], writers: u64) -> Users {
    let tenants = domains.iter().map(|domain| Tenant::new(*domain, "default")).collect();
    Users { tenants, writers }
}

fn write(domain: &str, bytes: usize) -> Txn {
    let key = format!("/cse-sr/inst/files/{domain}/default/service/instance");
    Txn { then: vec![Op::put(key, vec![0; bytes])], ..Txn::default() }
}

/// As over etcd, where all bytes that are written count.
fn admit(ration: &Ration, txn: &Txn, now: Instant) -> Result<(), StoreError> {
    ration.admit(txn, bytes_written(txn), now).map(drop)
}

/// Writes 1 MiB at a time, and returns how many were admitted.
fn flood(ration: &Ration, domain: &str, now: Instant) -> usize {
    (0..200).take_while(|_| admit(ration, &write(domain, MIB as usize), now).is_ok()).count()
}

#[test]
fn a_tenant_that_fills_the_store_is_slowed_before_others() {
    let now = Instant::now();
    let ration = ration(50 * MIB);
    assert_eq!(flood(&ration, "loud", now), 30, "nobody is slowed while there is room");
    fill(&ration, 80 * MIB, &["loud", "quiet", "other"]);
    assert!(matches!(admit(&ration, &write("loud", 10), now), Err(StoreError::Rationed)));
    assert!(admit(&ration, &write("quiet", 10), now).is_ok());
    assert_eq!(flood(&ration, "other", now), 1, "an eighth of the room that is left");
    let delete = Txn { then: vec![Op::Delete("/cse-sr/inst/files/loud/d/s/i".into())], ..Txn::default() };
    assert!(admit(&ration, &delete, now).is_ok(), "deletes make room");
    let size = Key::Size(ServiceRef::new(Tenant::new("loud", "default"), "s")).render().expect("a key");
    let beside = |bytes| Txn {
        then: [vec![Op::put(size.clone(), vec![0; bytes])], delete.then.clone()].concat(),
        ..Txn::default()
    };
    assert!(
        admit(&ration, &beside(200), now).is_ok(),
        "an instance that is unregistered leaves a small record"
    );
    assert!(admit(&ration, &beside(2_000), now).is_err(), "a delete is no way around the ration");
    assert!(
        admit(&ration, &Txn { then: vec![Op::put("/muster/publisher", "x")], ..Txn::default() }, now).is_ok()
    );
}

#[test]
fn a_delete_of_no_record_is_no_way_around_the_ration() {
    let now = Instant::now();
    let ration = ration(85 * MIB);
    flood(&ration, "loud", now);
    let service = ServiceRef::new(Tenant::new("loud", "default"), "s");
    let of = |write: Key, delete: Key| {
        let [write, delete] = [write, delete].map(|key| key.render().expect("a key"));
        Txn { then: vec![Op::put(write, vec![0; 200]), Op::Delete(delete)], ..Txn::default() }
    };
    let id = || "i".to_owned();
    // A registration, a schema, and a rule that takes the place of a note.
    for txn in [
        of(Key::Instance(service.clone(), id()), Key::Held(service.clone(), id())),
        of(Key::Schema(service.clone(), id()), Key::SchemaRef(service.clone(), id())),
        of(Key::Rule(service.clone(), id()), Key::Rule(service.clone(), "j".to_owned())),
    ] {
        while admit(&ration, &txn, now).is_ok() {
            assert!(ration.state.lock().since < 20 * MIB, "such writes are never refused");
        }
    }
    // A schema that takes the place of another one makes no room either.
    let swap = of(Key::Schema(service.clone(), "new".to_owned()), Key::Schema(service.clone(), id()));
    assert!(admit(&ration, &swap, now).is_err());
    assert!(admit(&ration, &of(Key::Size(service.clone()), Key::Instance(service, id())), now).is_ok());
}

#[test]
fn a_write_counts_for_the_tenant_on_whose_behalf_it_is_made() {
    let now = Instant::now();
    let ration = ration(85 * MIB);
    // The consumers of a service that all tenants share stand in a key of its own tenant.
    let shared = |bytes| Txn { by: Some(Tenant::new("loud", "default")), ..write("quiet", bytes) };
    while admit(&ration, &shared(MIB as usize / 4), now).is_ok() {}
    assert!(admit(&ration, &write("loud", MIB as usize / 4), now).is_err());
    assert!(admit(&ration, &write("quiet", MIB as usize / 4), now).is_ok());
}

#[test]
fn tenants_that_are_made_up_share_one_ration() {
    let now = Instant::now();
    let ration = ration(80 * MIB);
    let admitted = (0..1000).filter(|n| admit(&ration, &write(&format!("new-{n}"), 400_000), now).is_ok());
    assert_eq!(admitted.count(), 3, "an eighth of the room that is left, and of what the writes leave of it");
    let small = (0..100_000).filter(|n| admit(&ration, &write(&format!("small-{n}"), 100), now).is_ok());
    assert!(small.count() < 10_000, "small writes are no way around it");
    assert_eq!(flood(&ration, "quiet", now), 1, "a tenant that was there has a ration of its own");
}

/// Tenants that came in time, as many as somebody could make up before, and all that they are allowed to write.
fn fill_with_prepared(ration: &[Ration], used: u64, now: Instant) -> u64 {
    let prepared: Vec<String> = (0..300).map(|n| format!("prepared-{n}")).collect();
    let tenants: Vec<&str> = prepared.iter().map(String::as_str).chain(["quiet"]).collect();
    let mut all = 0;
    for ration in ration {
        fill(ration, used, &tenants);
    }
    for size in [100_000, 100] {
        for (tenant, ration) in prepared.iter().flat_map(|tenant| ration.iter().map(move |at| (tenant, at))) {
            let txn = write(tenant, size);
            while admit(ration, &txn, now).is_ok() {
                all += bytes_written(&txn);
            }
        }
    }
    all
}

#[test]
fn the_reserve_is_for_tenants_that_were_there() {
    let now = Instant::now();
    let ration = [Ration::new(&SdkMeterProvider::default().meter("test"))];
    fill_with_prepared(&ration, 80 * MIB, now);
    assert!(admit(&ration[0], &write("new", 100), now).is_err());
    let registrations = (0..100).take_while(|_| admit(&ration[0], &write("quiet", 500), now).is_ok());
    assert!(registrations.count() > 4, "its part of the reserve");
}

#[test]
fn prepared_tenants_do_not_fill_the_store_however_long_they_try() {
    let meter = SdkMeterProvider::default().meter("test");
    let ration = [Ration::new(&meter), Ration::new(&meter)];
    let mut now = Instant::now();
    let mut used = 80 * MIB;
    // An hour of two control planes. The store tells its room after each flood, and what was written counts less and less.
    for _ in 0..60 {
        used += fill_with_prepared(&ration, used, now) * GROWTH;
        assert!(used < 100 * MIB, "{used} bytes");
        now += Duration::from_secs(60);
    }
    assert!(
        admit(&ration[0], &write("quiet", 500), now).is_ok(),
        "{used} bytes, and its part is not touched"
    );
}

#[test]
fn the_reserve_is_shared_among_as_many_control_planes_as_there_are() {
    let now = Instant::now();
    let meter = SdkMeterProvider::default().meter("test");
    let admitted = |writers| {
        let ration = Ration::new(&meter);
        let space = StoreSpace { used: 96 * MIB, quota: 100 * MIB, full: false };
        ration.set_space(Some(space), || Some(users(&["quiet"], writers)));
        (0..4 * MIB / 1024).take_while(|_| admit(&ration, &write("quiet", 1024), now).is_ok()).count()
    };
    let of_two = admitted(2);
    assert!(of_two > 50, "{of_two}");
    assert_eq!(admitted(1), of_two, "a second one may come at any time");
    assert!((of_two / 2 - 1..=of_two / 2).contains(&admitted(4)), "{} of {of_two}", admitted(4));
}

#[test]
fn many_tenants_write_their_parts_of_the_reserve_once() {
    let now = Instant::now();
    let ration = Ration::new(&SdkMeterProvider::default().meter("test"));
    let names: Vec<String> = (0..2 * MANY_TENANTS).map(|n| format!("t{n}")).collect();
    fill(&ration, 96 * MIB, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let admitted = || names.iter().filter(|name| admit(&ration, &write(name, 50), now).is_ok()).count();
    assert_eq!([admitted(), admitted()], [names.len(), 0]);
}

#[test]
fn a_registry_that_is_not_read_yet_has_no_newcomers() {
    let now = Instant::now();
    let ration = Ration::new(&SdkMeterProvider::default().meter("test"));
    let space = Some(StoreSpace { used: 97 * MIB, quota: 100 * MIB, full: false });
    ration.set_space(space, || None);
    assert!(admit(&ration, &write("first", 10), now).is_ok());
    ration.set_space(space, || Some(users(&["first"], 2)));
    assert!(admit(&ration, &write("first", 10), now).is_ok());
    assert!(admit(&ration, &write("second", 10), now).is_err());
    // There is room again.
    fill(&ration, 50 * MIB, &[]);
    assert!(admit(&ration, &write("second", 10), now).is_ok());
}

#[test]
fn writes_since_the_last_look_count() {
    let now = Instant::now();
    let ration = ration(70 * MIB);
    let admitted = flood(&ration, "loud", now);
    assert_eq!(admitted, 10, "the writes fill the store themselves until it is nearly full");
    assert!(
        admit(&ration, &write("quiet", 10), now).is_ok(),
        "out of the reserve, until the store tells its room"
    );
}

#[test]
fn writes_are_admitted_again_after_a_while() {
    let now = Instant::now();
    let ration = ration(85 * MIB);
    assert_eq!(flood(&ration, "loud", now), 1);
    fill(&ration, 86 * MIB, &[]);
    assert!(admit(&ration, &write("loud", MIB as usize), now + HALF_LIFE / 2).is_err());
    assert!(admit(&ration, &write("loud", MIB as usize / 2), now + HALF_LIFE * 2).is_ok());
}

#[test]
fn a_store_that_does_not_tell_its_room_slows_nobody() {
    let ration = ration(0);
    ration.set_space(None, || None);
    assert_eq!(flood(&ration, "loud", Instant::now()), 200);
}

#[test]
fn many_tenants_do_not_fill_the_memory() {
    let now = Instant::now();
    let ration = ration(0);
    for n in 0..3 * MANY_TENANTS {
        admit(&ration, &write(&format!("t{n}"), 10), now).expect("admitted");
    }
    assert!(ration.state.lock().recent.len() <= MANY_TENANTS);
}

#[tokio::test]
async fn a_write_that_is_not_made_does_not_count() {
    let directory = tempfile::tempdir().expect("a directory");
    let tasks = Tasks::new();
    let path = directory.path().join("muster.redb");
    let embedded: Arc<dyn Store> =
        EmbeddedStore::open(path, EmbeddedConfig::default(), &tasks).expect("opens");
    let ration = Arc::new(ration(85 * MIB));
    let store = Rationed::new(embedded, ration.clone());
    // Somebody else has been faster, each time.
    let lost = Txn { compare: vec![Compare::Exists("/nothing".into())], ..write("quiet", 100_000) };
    for _ in 0..200 {
        assert!(!store.txn(lost.clone()).await.expect("is answered").succeeded);
    }
    assert_eq!(ration.state.lock().since, 0);
    store.txn(write("quiet", 100_000)).await.expect("there is room");
    assert!(ration.state.lock().since > 100_000);
}

#[tokio::test]
async fn an_embedded_store_takes_what_makes_it_no_larger() {
    const QUOTA: u64 = 20_000;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    let config = EmbeddedConfig { quota: QUOTA, ..EmbeddedConfig::default() };
    let path = directory.path().join("muster.redb");
    let embedded: Arc<dyn Store> = EmbeddedStore::open(path, config, &tasks).expect("opens");
    let ration = Arc::new(Ration::new(&SdkMeterProvider::default().meter("test")));
    let store = Rationed::new(embedded, ration.clone());
    let put = async |name: &str, bytes| {
        let key = format!("/cse-sr/inst/files/loud/default/service/{name}");
        store.txn(Txn { then: vec![Op::put(key, vec![0; bytes])], ..Txn::default() }).await
    };
    let key = "/cse-sr/inst/files/loud/default/service/a".len() as u64;
    // Exactly full.
    put("a", 9_000).await.expect("there is room");
    put("b", (QUOTA - 9_000 - 2 * key) as usize).await.expect("there is room");
    let space = store.space().await.expect("it tells").expect("it has a quota");
    assert_eq!((space.used, space.full), (QUOTA, true));
    ration.set_space(Some(space), || Some(users(&["loud"], 1)));
    put("a", 9_000).await.expect("as large as before");
    assert!(matches!(put("c", 1_000).await, Err(StoreError::Rationed)));
    assert!(
        matches!(put("a", 9_001).await, Err(StoreError::Full(_))),
        "its ration has room, but the store has none"
    );
    let replaced = |name: &str, bytes, by: &str| {
        let [old, new] = [name, by].map(|name| format!("/cse-sr/inst/files/loud/default/service/{name}"));
        let then = vec![Op::put(new, vec![0; bytes]), Op::Delete(old)];
        store.txn(Txn { then, ..Txn::default() })
    };
    replaced("a", 9_000, "c").await.expect("what is deleted counts against what is written");
    put("c", 8_000).await.expect("smaller");
}
