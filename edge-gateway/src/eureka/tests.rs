//! The codec, the translation and the deltas, against random records, random changes and a model of the
//! clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use follow::read::{Instances, ReadTopic};
use http::Method;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::event::Position;
use shared::model::{DataCenter, HealthCheck, Instance, Revision, ServiceKey, ServiceRef, Tenant};

use super::apps::{Listed, Scope};
use super::bodies::{Amount, Form, Format, body};
use super::book::{Book, RETENTION, State};
use super::json::{Detail, read};
use super::model::{ActionType, Info, Lease, Place, Port, Status};
use super::path::{Asked, Operation, is_renewal};
use super::{json as codec, record, xml};

fn key(name: &str, version: &str) -> ServiceKey {
    ServiceKey {
        app_id: "default".into(),
        service_name: name.into(),
        version: version.into(),
        ..ServiceKey::default()
    }
}

fn port() -> impl Strategy<Value = Port> {
    (any::<u16>(), any::<bool>()).prop_map(|(number, enabled)| Port { number, enabled })
}

fn own_status() -> impl Strategy<Value = Status> {
    prop_oneof![Just(Status::Up), Just(Status::Down), Just(Status::Starting), Just(Status::OutOfService)]
}

prop_compose! {
    fn registration()(
        texts in vec("\\PC{0,12}", 10),
        id in "[a-z:.]{1,80}",
        ports in (port(), port()),
        metadata in btree_map("[a-zA-Z.@<&-]{1,8}", "\\PC{0,8}", 0..4),
        place in btree_map("[a-z-]{1,8}", "\\PC{0,8}", 0..2),
        status in own_status(),
        overridden in proptest::option::of(own_status()),
        times in (1_u32..100, 1_u32..300),
        country_id in any::<i32>(),
        last_dirty in 1..u64::MAX,
        is_coordinating in any::<bool>(),
    ) -> Info {
        let text = |index: usize| texts[index].clone();
        Info {
            instance_id: id,
            app: "ORDERS".into(),
            app_group_name: text(0),
            host_name: "host".into(),
            ip_addr: "10.0.0.1".into(),
            sid: text(1),
            port: ports.0,
            secure_port: ports.1,
            home_page_url: text(2),
            status_page_url: text(3),
            health_check_url: text(4),
            secure_health_check_url: text(5),
            vip_address: text(6),
            secure_vip_address: text(7),
            country_id,
            place: Place { name: "MyOwn".into(), class: "a.Class".into(), metadata: place },
            status,
            own_status: status,
            overridden,
            lease: Lease { renewal: times.0, duration: times.1 },
            weight: metadata.get("weight").cloned(),
            metadata,
            registered: 0,
            last_updated: 0,
            last_dirty,
            asg_name: text(8),
            is_coordinating,
        }
    }
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(info in registration()) {
        let mut info = info;
        info.metadata.remove("@class");
        info.place.metadata.remove("@class");
        let body = codec::instance(&info, ActionType::Added, Detail::Full);
        prop_assert_eq!(read(&body), Ok(info));
    }

    #[test]
    fn a_registration_is_given_back_as_it_was(info in registration()) {
        let instance = record::to_instance(&info, info.status);
        let text = serde_json::to_string(&instance).expect("serialises");
        let stored: Instance = serde_json::from_str(&text).expect("reads");
        let mut back = record::to_info(&key("Orders", "1.0.0"), &stored);
        back.last_updated = 0;
        prop_assert_eq!(back, info);
    }

    #[test]
    fn xml_has_no_letter_that_would_break_it(info in registration()) {
        let text = String::from_utf8(xml::instance(&info, ActionType::Added, Detail::Full)).expect("text");
        let mut open = Vec::new();
        let mut rest = &*text;
        while let Some(at) = rest.find('<') {
            prop_assert!(!rest[..at].contains('>'), "{text}");
            let end = at + rest[at..].find('>').expect("an end");
            let tag = &rest[at + 1..end];
            match tag.strip_prefix('/') {
                Some(name) => prop_assert_eq!(open.pop(), Some(name.to_owned())),
                None => open.push(tag.split(' ').next().unwrap_or_default().to_owned()),
            }
            rest = &rest[end + 1..];
        }
        prop_assert!(open.is_empty() && rest.is_empty());
    }

    #[test]
    fn any_body_is_read_or_refused(body in vec(any::<u8>(), 0..200)) {
        let _ = read(&body);
    }

    #[test]
    fn any_path_is_read_or_refused(path in "/eureka/(in/)?\\PC{0,40}") {
        for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE] {
            let _ = Asked::read(&method, &path);
        }
    }
}

#[test]
fn registrations_of_all_languages_are_read() {
    // As py-eureka-client sends it; eureka-js-client sends a flag of a port as a text, Jackson a number as
    // one.
    let body = json!({ "instance": {
        "instanceId": "n:orders:80", "hostName": "n", "app": "orders", "ipAddr": "10.0.0.1", "status": "UP",
        "overriddenstatus": "UNKNOWN", "port": { "$": "80", "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": false }, "countryId": 1, "sid": null,
        "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
        "leaseInfo": { "renewalIntervalInSecs": 10, "durationInSecs": "25" },
        "metadata": { "@class": "java.util.Collections$EmptyMap", "a": 1, "b": true },
        "lastDirtyTimestamp": "1700000000000", "isCoordinatingDiscoveryServer": "false", "unknown": [1],
    } });
    let info = read(body.to_string().as_bytes()).expect("reads");
    assert_eq!(info.app, "ORDERS");
    assert_eq!(
        [info.port, info.secure_port].map(|port| (port.number, port.enabled)),
        [(80, true), (443, false)]
    );
    assert_eq!(info.metadata, BTreeMap::from([("a".into(), "1".into()), ("b".into(), "true".into())]));
    assert_eq!((info.lease.renewal, info.lease.duration), (10, 25));
    assert_eq!((info.overridden, info.last_dirty), (None, 1_700_000_000_000));
    for (pointer, value) in [
        ("/instance/dataCenterInfo", Value::Null),
        ("/instance/port/$", json!("x")),
        ("/instance/port/$", json!(70_000)),
        ("/instance/metadata/a", json!({})),
        ("/instance", Value::Null),
    ] {
        let mut bad = body.clone();
        *bad.pointer_mut(pointer).expect("is there") = value;
        read(bad.to_string().as_bytes()).expect_err(pointer);
    }
}

#[test]
fn a_registration_becomes_a_service_and_an_instance() {
    let metadata = [("version", "1.2.0"), ("zone", "a"), ("region", "eu")];
    let info = Info {
        instance_id: "n:orders:80".into(),
        app: "ORDERS".into(),
        host_name: "n".repeat(80),
        ip_addr: "fd00::1".into(),
        vip_address: "all,Orders".into(),
        port: Port { number: 80, enabled: true },
        secure_port: Port { number: 443, enabled: true },
        lease: Lease { renewal: 10, duration: 25 },
        metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Info::default()
    };
    assert_eq!(record::service_name(&info), "Orders");
    assert_eq!(record::service_version(&info), "1.2.0");
    let instance = record::to_instance(&info, Status::OutOfService);
    assert_eq!(instance.instance_id.len(), 40, "a colon is none of the registry's letters");
    assert_eq!(instance.endpoints, ["rest://[fd00::1]:80", "rest://[fd00::1]:443?sslEnabled=true"]);
    assert_eq!((instance.host_name.len(), &*instance.status), (64, "OUTOFSERVICE"));
    let check = instance.health_check.expect("heartbeats");
    assert_eq!((check.interval, check.times), (10, 2), "30 s are the first time that is not under 25 s");
    assert_eq!(instance.data_center_info.expect("a place").available_zone, "a");
    let other = Info { vip_address: "x".into(), metadata: BTreeMap::new(), ..info };
    assert_eq!((&*record::service_name(&other), &*record::service_version(&other)), ("orders", "0.0.1"));
    assert_eq!(record::registry_id("a-b_c.1"), "a-b_c.1");
}

#[test]
fn an_instance_of_the_other_world_can_be_called() {
    let instance = Instance {
        instance_id: "i".into(),
        host_name: "pod-7".into(),
        status: "TESTING".into(),
        endpoints: ["highway://10.0.0.7:70", "rest://10.0.0.7:443?sslEnabled=true", "rest://10.0.0.7:80"]
            .map(Into::into)
            .into(),
        properties: BTreeMap::from([("zone".into(), "own".into())]),
        health_check: Some(HealthCheck { interval: 5, times: 2, ..HealthCheck::default() }),
        data_center_info: Some(DataCenter {
            name: "dc".into(),
            region: "eu".into(),
            available_zone: "a".into(),
        }),
        timestamp: "7".into(),
        mod_timestamp: "9".into(),
        ..Instance::default()
    };
    let info = record::to_info(&key("Orders", "1.2.0"), &instance);
    assert_eq!((&*info.app, &*info.instance_id, &*info.vip_address), ("ORDERS", "i", "Orders"));
    assert_eq!(
        (&*info.host_name, &*info.ip_addr),
        ("10.0.0.7", "10.0.0.7"),
        "the host is what can be called"
    );
    assert_eq!(
        [info.port, info.secure_port].map(|port| (port.number, port.enabled)),
        [(80, true), (443, true)]
    );
    assert_eq!((info.status, info.lease.duration), (Status::OutOfService, 15));
    assert_eq!((info.registered, info.last_updated), (7000, 9000));
    let metadata: Vec<_> = info.metadata.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(metadata, [("region", "eu"), ("version", "1.2.0"), ("zone", "own")]);
    let other = Instance { endpoints: vec!["highway://n:70".into()], ..instance.clone() };
    let other = record::to_info(&key("Orders", "1.2.0"), &other);
    assert_eq!((&*other.host_name, other.port.number), ("n", 70));
    let none = Instance { endpoints: Vec::new(), ..instance };
    assert_eq!(record::to_info(&key("Orders", "1.2.0"), &none).host_name, "pod-7");
}

#[test]
fn statuses_follow_the_rules_of_eureka() {
    use Status::{Down, OutOfService, Starting, Unknown, Up};
    for (own, overridden, before, expected) in [
        (Down, Some(OutOfService), Some(Up), Down),
        (Starting, None, Some(Up), Starting),
        (Up, Some(OutOfService), Some(Up), OutOfService),
        (Up, None, Some(OutOfService), OutOfService),
        (Up, None, Some(Starting), Up),
        (OutOfService, None, None, OutOfService),
        (Unknown, None, None, Up),
    ] {
        assert_eq!(
            record::status_after(own, overridden, before),
            expected,
            "{own} {overridden:?} {before:?}"
        );
    }
}

#[test]
fn an_operators_weight_does_not_become_the_clients() {
    let mut shown = record::to_instance(&Info { instance_id: "i".into(), ..Info::default() }, Status::Up);
    shown.properties.insert("weight".into(), "0".into());
    let own = record::record_of(&shown).expect("a record");
    assert!(!record::properties_with(&shown, &own, []).contains_key("weight"));
    let entries = [("weight".to_owned(), "50".to_owned()), ("a".to_owned(), "b".to_owned())];
    let next = record::properties_with(&shown, &own, entries);
    assert_eq!((&*next["weight"], &*next["a"]), ("50", "b"));
}

#[test]
fn paths_name_an_operation_and_a_place() {
    let asked = |method: Method, path: &str| Asked::read(&method, path);
    let plain = asked(Method::GET, "/eureka/apps/").expect("a path").expect("whole");
    assert_eq!(plain.operation, Operation::Apps);
    assert_eq!((&*plain.place.scope.app_id, &*plain.place.scope.environment), ("default", ""));
    let other = "/eureka/in/domain=acme,project=p,env=production,app=shop/apps/orders/n%3Ao%3A80";
    assert!(is_renewal(&Method::PUT, other) && !is_renewal(&Method::GET, other));
    let other = asked(Method::PUT, other).expect("a path").expect("whole");
    assert_eq!(other.operation, Operation::Renew("ORDERS".into(), "n:o:80".into()));
    assert_eq!((other.place.domain.as_deref(), other.place.project.as_deref()), (Some("acme"), Some("p")));
    assert_eq!((&*other.place.scope.app_id, &*other.place.scope.environment), ("shop", "production"));
    for bad in ["x", "app", "app=", "app=a,app=b", "app=%ff", "name=a"] {
        let path = format!("/eureka/in/{bad}/apps");
        asked(Method::GET, &path).expect("a path").expect_err(bad);
    }
    for none in ["/eureka/", "/eureka/v2/apps", "/eureka/apps/a/b/c", "/eureka/in/apps", "/eureka"] {
        assert_eq!(asked(Method::GET, none), None, "{none}");
    }
    assert_eq!(asked(Method::POST, "/eureka/apps/a/b"), None);
}

// Deltas.

fn orders() -> Scope {
    Scope { environment: String::new(), app_id: "default".into() }
}

/// The services of a tenant, as random changes leave them.
#[derive(Default)]
struct World {
    rev: u64,
    services: BTreeMap<u8, BTreeMap<u8, (Arc<Instance>, Revision)>>,
    topics: BTreeMap<ServiceRef, Arc<ReadTopic>>,
}

impl World {
    fn change(&mut self, service: u8, id: u8, status: Option<Status>) {
        self.rev += 1;
        let instances = self.services.entry(service).or_default();
        match status {
            None => _ = instances.remove(&id),
            Some(status) => {
                let info = Info {
                    instance_id: format!("n:{service}:{id}"),
                    app: format!("S{service}"),
                    ..Info::default()
                };
                let mut instance = record::to_instance(&info, status);
                instance.mod_timestamp = self.rev.to_string();
                instances.insert(id, (Arc::new(instance), Revision::new(self.rev)));
            }
        }
        let reference = ServiceRef::new(Tenant::default(), service.to_string());
        let key = key(&format!("s{service}"), "1.0.0");
        let all = instances.values().map(|(one, rev)| (one.instance_id.clone(), (one.clone(), *rev)));
        let at = Position { rev: Revision::new(self.rev), ..Position::default() };
        let topic = ReadTopic::remembered(Some(Arc::new(key)), at, all.collect());
        self.topics.insert(reference, Arc::new(topic));
    }

    fn end(&mut self, service: u8) {
        self.rev += 1;
        self.services.remove(&service);
        self.topics.remove(&ServiceRef::new(Tenant::default(), service.to_string()));
    }

    fn state(&self, book: &mut Book, now: Duration) -> State {
        book.advance(&self.topics, Revision::new(self.rev), now)
    }
}

/// A client as Java's is: it applies what a delta says, and compares hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reader {
    applications: BTreeMap<String, BTreeMap<String, (Status, u64)>>,
}

impl Reader {
    fn fetched(listed: &Listed<'_>) -> Self {
        let mut reader = Self::default();
        for application in &listed.applications {
            let all = application.instances.iter().map(|(info, _)| entry(info));
            reader.applications.insert(application.name.to_owned(), all.collect());
        }
        reader
    }

    /// Takes in a delta. False if the hashes differ afterwards.
    fn apply(&mut self, listed: &Listed<'_>) -> bool {
        for application in &listed.applications {
            for (info, action) in &application.instances {
                if *action == ActionType::Deleted {
                    if let Some(known) = self.applications.get_mut(application.name) {
                        known.remove(&info.instance_id);
                        if known.is_empty() {
                            self.applications.remove(application.name);
                        }
                    }
                    continue;
                }
                // An application that is new is taken as the delta has it, with those that have left.
                let known = self
                    .applications
                    .entry(application.name.to_owned())
                    .or_insert_with(|| application.instances.iter().map(|(info, _)| entry(info)).collect());
                let (id, seen) = entry(info);
                known.insert(id, seen);
            }
        }
        self.hash() == listed.hash
    }

    fn hash(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (status, _) in self.applications.values().flat_map(BTreeMap::values) {
            *counts.entry(status.to_string()).or_default() += 1;
        }
        counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }
}

fn entry(info: &Info) -> (String, (Status, u64)) {
    (info.instance_id.clone(), (info.status, info.last_updated))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn deltas_lead_every_client_to_the_truth(
        changes in vec((0_u8..4, 0_u8..4, proptest::option::weighted(0.6, own_status()), 0_u64..60, any::<bool>()), 1..80),
        start in 0_usize..40,
    ) {
        let mut world = World::default();
        let mut now = Duration::from_secs(1000);
        let mut book = None;
        // One that asks each time, one that asks seldom, and one that comes from another gateway.
        let (mut often, mut seldom) = (None::<Reader>, None::<(Reader, Duration)>);
        let mut stranger = Reader::default();
        let mut version = 0;
        for (n, (service, id, status, pause, asks)) in changes.into_iter().enumerate() {
            now += Duration::from_secs(pause);
            match (status, id) {
                (None, 0) => world.end(service),
                _ => world.change(service, id, status),
            }
            if n < start {
                if n + 1 == start {
                    let state = world.state(&mut Book::new(now), now);
                    stranger = state.pages.get(&orders()).map(|page| Reader::fetched(&page.full(|_| true))).unwrap_or_default();
                }
                continue;
            }
            let book = book.get_or_insert_with(|| Book::new(now));
            let state = world.state(book, now);
            let page = state.pages.get(&orders()).cloned().unwrap_or_else(|| Arc::new(super::Page::empty(state.revision)));
            prop_assert!(page.version >= version, "versions never go back");
            version = page.version;
            let truth = Reader::fetched(&page.full(|_| true));
            let delta = page.delta(|_| true);
            match &mut often {
                None => often = Some(truth.clone()),
                Some(reader) => {
                    if !reader.apply(&delta) {
                        *reader = truth.clone();
                    }
                    prop_assert_eq!(&*reader, &truth);
                }
            }
            if asks {
                let asked = seldom.take();
                if let Some((mut reader, _)) = asked.filter(|(_, last)| now - *last < RETENTION) {
                    if !reader.apply(&delta) {
                        reader = truth.clone();
                    }
                    prop_assert_eq!(&reader, &truth);
                    seldom = Some((reader, now));
                } else {
                    seldom = Some((truth.clone(), now));
                }
            }
            if n == start {
                // It has asked another gateway a moment ago.
                if !stranger.apply(&delta) {
                    stranger = truth.clone();
                }
                prop_assert_eq!(&stranger, &truth);
            }
        }
    }
}

#[test]
fn a_delta_is_exact_once_the_tenant_was_known_for_long_enough() {
    let mut world = World::default();
    let at = |seconds: u64| Duration::from_secs(1000 + seconds);
    for id in 0..3 {
        world.change(1, id, Some(Status::Up));
    }
    let mut book = Book::new(at(0));
    let count = |state: &State| -> usize {
        let delta = state.pages[&orders()].delta(|_| true);
        delta.applications.iter().map(|application| application.instances.len()).sum()
    };
    assert_eq!(count(&world.state(&mut book, at(0))), 3, "everything, as nothing is known of before");
    assert_eq!(book.due(), Some(at(180)));
    world.change(1, 0, Some(Status::Down));
    assert_eq!(count(&world.state(&mut book, at(170))), 3);
    assert_eq!(count(&world.state(&mut book, at(180))), 1);
    world.change(1, 1, None);
    let state = world.state(&mut book, at(190));
    let page = state.pages[&orders()].clone();
    let delta = page.delta(|_| true);
    assert_eq!(delta.hash, "DOWN_1_UP_1_");
    let told: Vec<_> =
        delta.applications[0].instances.iter().map(|(info, action)| (&*info.instance_id, *action)).collect();
    assert_eq!(told, [("n:1:0", ActionType::Modified), ("n:1:1", ActionType::Deleted)]);
    // A change is told for three minutes.
    assert_eq!(book.due(), Some(at(350)));
    assert_eq!(count(&world.state(&mut book, at(349))), 2);
    assert_eq!(count(&world.state(&mut book, at(350))), 1);
    assert_eq!(count(&world.state(&mut book, at(370))), 0);
    assert_eq!(book.due(), None);
}

#[test]
fn a_page_stays_while_nothing_of_its_scope_changes() {
    let mut world = World::default();
    world.change(1, 0, Some(Status::Up));
    let mut book = Book::new(Duration::ZERO);
    let before = world.state(&mut book, Duration::from_secs(1)).pages[&orders()].clone();
    // The same service, read again.
    let (reference, topic) = world.topics.pop_first().expect("one");
    world.topics.insert(reference, Arc::new((*topic).clone()));
    world.rev += 5;
    let after = world.state(&mut book, Duration::from_secs(2)).pages[&orders()].clone();
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn another_version_of_one_client_replaces_the_first() {
    let info = Info { instance_id: "n:1".into(), app: "S".into(), ..Info::default() };
    let member = |service: &str, rev: u64, instance: Instance| {
        let reference = ServiceRef::new(Tenant::default(), service);
        let key = Arc::new(key("s", &format!("{rev}.0.0")));
        Arc::new(super::Member::of(&reference, &key, &Arc::new(instance), Revision::new(rev)))
    };
    let registered = || record::to_instance(&info, Status::Up);
    let both = [member("a", 2, registered()), member("b", 1, registered())];
    let all = super::Applications::of(both);
    let services: Vec<_> = all.iter().map(|member| &*member.service.id).collect();
    assert_eq!(services, ["a"]);
    // Two of the registry's own may have one id, and neither hides the other.
    let native = || Instance { instance_id: "i".into(), ..Instance::default() };
    let all = super::Applications::of([member("a", 1, native()), member("b", 2, native())]);
    let ids: Vec<_> = all.iter().map(|member| &*member.info.instance_id).collect();
    assert_eq!(ids, ["i", "i:b"]);
}

#[test]
fn an_earlier_version_is_found_while_the_page_shows_the_last() {
    let info = Info { instance_id: "n:1".into(), app: "S".into(), ..Info::default() };
    let topic = |version: &str, rev: u64, instance: Instance| {
        let mut instances = Instances::default();
        instances.insert_mut(instance.instance_id.as_str().into(), (Arc::new(instance), Revision::new(rev)));
        Arc::new(ReadTopic::remembered(Some(Arc::new(key("s", version))), Position::default(), instances))
    };
    let reference = |id: &str| ServiceRef::new(Tenant::default(), id);
    let registered = || record::to_instance(&info, Status::Up);
    let native = Instance { instance_id: "n:1".into(), ..Instance::default() };
    let services = BTreeMap::from([
        (reference("first"), topic("1.0.0", 1, registered())),
        (reference("native"), topic("1.1.0", 2, native)),
        (reference("last"), topic("2.0.0", 3, registered())),
    ]);
    let earlier = |last: &str| {
        let own = ("S", "n:1");
        let scope = Scope::of(&key("s", "1.0.0"));
        let found = super::apps::earlier_of(&services, &scope, own, &reference(last));
        found.into_iter().map(|member| member.service.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(earlier("last"), ["first"], "an instance that Eureka's clients have not made is left alone");
    assert_eq!(earlier("third"), ["first", "last"]);
}

#[tokio::test]
async fn a_body_is_made_once_and_shared() {
    let mut world = World::default();
    world.change(1, 0, Some(Status::Up));
    let state = world.state(&mut Book::new(Duration::ZERO), Duration::ZERO);
    let page = &state.pages[&orders()];
    let form = Form { format: Format::Json, detail: Detail::Full, gzip: false };
    let first = body(page, Amount::Full, form).await.expect("a body");
    let again = body(page, Amount::Full, form).await.expect("a body");
    assert_eq!(first.as_ptr(), again.as_ptr());
    let value: Value = serde_json::from_slice(&first).expect("JSON");
    assert_eq!(value["applications"]["apps__hashcode"], "UP_1_");
    assert_eq!(value["applications"]["application"][0]["instance"][0]["app"], "S1");
    let compact = Form { detail: Detail::Compact, ..form };
    let compact = body(page, Amount::Full, compact).await.expect("a body");
    let value: Value = serde_json::from_slice(&compact).expect("JSON");
    assert_eq!(value["applications"]["application"][0]["instance"][0]["metadata"], Value::Null);
}
