use follow::read::Proof;
use shared::model::{Instance, ServiceKey};

use super::*;

/// 2026, in unix microseconds.
const NOW: u64 = 1_790_000_000_000_000;

fn service(id: &str) -> ServiceRef {
    ServiceRef::new(Tenant::default(), id)
}

/// A consumer `c` of the provider `p`, which has two instances, and the tenant of both.
fn view(heard: Instant) -> EdgeView {
    let mut instances = Instances::new_sync();
    for (id, rev) in [("1", 5), ("2", 7)] {
        let instance = Instance {
            instance_id: id.into(),
            service_id: "p".into(),
            endpoints: vec![format!("rest://{id}:80")],
            properties: [("zone".to_owned(), "a".to_owned())].into(),
            ..Instance::default()
        };
        instances.insert_mut(id.into(), (Arc::new(instance), Revision::new(rev)));
    }
    let key = ServiceKey { app_id: "shop".into(), service_name: "p".into(), ..ServiceKey::default() };
    let at = Position::first_of(Revision::new(7));
    let mut topic = ReadTopic::remembered(Some(Arc::new(key)), at, instances);
    (topic.sound, topic.settled) = (true, true);
    let mut read = ReadView { bookmark: Revision::new(9), ..ReadView::default() };
    read.topics.insert_mut(service("p"), Arc::new(topic));
    let consumer = ReadInterest {
        changed_at: Revision::new(3),
        sound: true,
        settled: true,
        providers: Arc::new([service("p")].into()),
    };
    read.consumers.insert_mut(service("c"), Arc::new(consumer.clone()));
    read.tenants.insert_mut(Tenant::default(), ReadTenant { services: Arc::new(consumer), version: 4 });
    let lease = Lease::default();
    lease.keep("find p".into(), Resolution { rev: Revision::new(6), services: vec![service("p")] });
    EdgeView {
        read,
        leases: HashTrieMapSync::new_sync().insert(service("c"), Arc::new(lease)),
        tenants: HashTrieMapSync::new_sync().insert(Tenant::default(), Arc::default()),
        heard: Some(heard),
        incarnation: Some(3),
    }
}

#[test]
fn a_remembered_state_is_known_and_proves_nothing() {
    let heard = Instant::now();
    let now = heard + Duration::from_secs(5);
    let view = view(heard);
    let bytes = encode(&view, &mut Claims::new(), now, NOW).expect("there is a state");
    // A minute later, in another process.
    let restart = now + Duration::from_secs(60);
    let again = decode(&bytes, restart, NOW + 60_000_000).expect("is read");
    assert_eq!(again.heard, Some(heard), "the age goes on");
    assert_eq!((again.read.bookmark, again.incarnation), (view.read.bookmark, view.incarnation));
    let resolution =
        again.leases.get(&service("c")).and_then(|lease| lease.resolution("find p")).expect("is kept");
    let find = |view: &EdgeView, proof| {
        let found =
            view.read.find(&service("c"), &resolution, proof).map_err(|unknown| format!("{unknown:?}"))?;
        Ok(found
            .into_iter()
            .map(|(_, topic)| (topic.digest, topic.body().map(|body| body.plain().clone())))
            .collect::<Vec<_>>())
    };
    assert_eq!(find(&again, Proof::Last), find(&view, Proof::Last));
    assert_eq!(find(&view, Proof::Bookmark).map(|found| found.len()), Ok(1));
    assert_eq!(find(&again, Proof::Bookmark), Err::<Vec<_>, _>("Unsound".to_owned()));
    let names = |view: &EdgeView| {
        let tenant = Tenant::default();
        let services = view.read.services_of(&tenant).into_iter().flatten();
        services.map(|(service, topic)| (service.clone(), topic.key.clone())).collect::<Vec<_>>()
    };
    assert_eq!(names(&again), names(&view));
    assert!(again.tenants.contains_key(&Tenant::default()) && again.read.is_whole(&Tenant::default()));
}

#[test]
fn nothing_is_kept_before_the_first_bookmark() {
    let now = Instant::now();
    assert_eq!(encode(&EdgeView { heard: None, ..view(now) }, &mut Claims::new(), now, NOW), None);
}

#[test]
fn a_tenant_of_which_something_is_missing_is_not_kept() {
    let now = Instant::now();
    let mut view = view(now);
    view.read.topics.remove_mut(&service("p"));
    let again =
        decode(&encode(&view, &mut Claims::new(), now, NOW).expect("a state"), now, NOW).expect("is read");
    assert!(!again.read.tenants.contains_key(&Tenant::default()));
}

/// Also when it is written in the middle of that.
#[test]
fn a_state_claims_nothing_that_is_being_requested() {
    let now = Instant::now();
    let tenant = Tenant::default();
    let claimed = |view: &EdgeView, claims: &mut Claims| {
        let bytes = encode(view, claims, now, NOW).expect("a state");
        let again = decode(&bytes, now, NOW).expect("is read");
        Contained::left(again.tenants.get(&tenant).expect("is kept")).revision().get()
    };
    let whole = view(now);
    let mut missing = whole.clone();
    let mut topic = ReadTopic::clone(missing.read.topics.get(&service("p")).expect("is there"));
    topic.settled = false;
    missing.read.topics.insert_mut(service("p"), Arc::new(topic));
    let services = missing.read.tenants.get(&tenant).expect("is there").services.clone();
    missing.read.tenants.insert_mut(tenant.clone(), ReadTenant { services, version: 5 });
    missing.read.bookmark = Revision::new(12);
    let mut claims = Claims::new();
    assert_eq!(claimed(&missing, &mut claims), 0, "it was never seen whole");
    assert_eq!(claimed(&whole, &mut claims), 9);
    assert_eq!(claimed(&missing, &mut claims), 9);
    assert_eq!(claimed(&EdgeView { incarnation: Some(4), ..missing }, &mut claims), 0, "another history");
}

#[test]
fn damaged_and_foreign_bytes_are_refused() {
    let now = Instant::now();
    let bytes = encode(&view(now), &mut Claims::new(), now, NOW).expect("a state");
    let read = |bytes: &[u8]| decode(bytes, now, NOW).err();
    assert_eq!(read(&bytes), None);
    assert_eq!(read(b""), Some(NoState::Foreign));
    assert_eq!(read(b"MUSTEREDGE 2\nabcd"), Some(NoState::Foreign));
    for length in MAGIC.len()..bytes.len() {
        assert_eq!(read(&bytes[..length]), Some(NoState::Damaged), "{length} bytes");
    }
    for place in MAGIC.len()..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x10;
        assert_eq!(read(&flipped), Some(NoState::Damaged), "byte {place}");
    }
    // Whole, and senseless: a topic of a service that is not in the list.
    let state =
        pb::State { topics: vec![pb::Topic { service: 9, ..pb::Topic::default() }], ..pb::State::default() };
    let body = state.encode_to_vec();
    let senseless = [MAGIC, &crc32fast::hash(&body).to_be_bytes(), &body].concat();
    assert_eq!(read(&senseless), Some(NoState::Malformed));
    assert_eq!(decode(&bytes, now, NOW - 1).err(), Some(NoState::Untimely), "the clock went back");
}
