//! The codec, the translation and the paths, against random records.

use std::collections::BTreeMap;

use http::Method;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::model::{DataCenter, HealthCheck, Instance, ServiceKey};

use super::json::{Detail, read};
use super::model::{ActionType, Info, Lease, Place, Port, Status};
use super::path::{Asked, Operation, is_renewal};
use super::{json as codec, record, xml};

mod deltas;

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
