//! A control plane beside, or after, Service-Center nodes on one store. It reads the keys of both their
//! generations, and writes only keys that both can read.

use std::time::Duration;

use crate::probe::Probe;
use control_plane::keys::{DEPENDENCY_LOCKS, Key};
use control_plane::store::{LeaseId, Op, RangeRequest, Store, Txn};
use serde_json::{Value, json};

const PROVIDER: &str = "7062417bf9ebd4c646bb23059003cea42180894a";
const CONSUMER: &str = "4042a6a3e5a2893698ae363ea99a69eb63fc51cd";

fn key(name: &str, version: &str) -> Value {
    json!({"tenant": "default/default", "environment": "production", "appId": "springmvc", "serviceName": name, "version": version})
}

/// Keys and values as nodes of 2021 (v2.0) and of 2024 (v2.2) leave them in etcd.
fn written_by_service_center() -> Vec<(&'static str, String)> {
    vec![
        ("/cse-sr/domains/default", String::new()),
        ("/cse-sr/projects/default/default", String::new()),
        (
            "/cse-sr/ms/files/default/default/7062417bf9ebd4c646bb23059003cea42180894a",
            r#"{"serviceId":"7062417bf9ebd4c646bb23059003cea42180894a","appId":"springmvc","serviceName":"provider","version":"0.0.1","level":"FRONT","schemas":["old","new"],"status":"UP","properties":{"allowCrossApp":"true"},"timestamp":"1621475123","alias":"springmvc:provider","modTimestamp":"1621475123","environment":"production","registerBy":"SDK","framework":{"name":"servicecomb-java-chassis","version":"2.0.1"},"fieldOfTomorrow":{"x":1}}"#.into(),
        ),
        ("/cse-sr/ms/indexes/default/default/production/springmvc/provider/0.0.1", PROVIDER.into()),
        ("/cse-sr/ms/alias/default/default/production/springmvc/springmvc:provider/0.0.1", PROVIDER.into()),
        (
            "/cse-sr/ms/files/default/default/4042a6a3e5a2893698ae363ea99a69eb63fc51cd",
            r#"{"serviceId":"4042a6a3e5a2893698ae363ea99a69eb63fc51cd","appId":"springmvc","serviceName":"consumer","version":"1.0.0","level":"BACK","status":"UP","timestamp":"1621475123","modTimestamp":"1621475123","environment":"production"}"#.into(),
        ),
        ("/cse-sr/ms/indexes/default/default/production/springmvc/consumer/1.0.0", CONSUMER.into()),
        ("/cse-sr/ms/tags/default/default/7062417bf9ebd4c646bb23059003cea42180894a", r#"{"zone":"east"}"#.into()),
        (
            "/cse-sr/ms/rules/default/default/7062417bf9ebd4c646bb23059003cea42180894a/r1",
            r#"{"ruleId":"r1","ruleType":"BLACK","attribute":"ServiceName","pattern":"^spy","timestamp":"1621475123","modTimestamp":"1621475123"}"#.into(),
        ),
        ("/cse-sr/ms/rule-indexes/default/default/7062417bf9ebd4c646bb23059003cea42180894a/ServiceName/^spy", "r1".into()),
        ("/cse-sr/ms/schemas/default/default/7062417bf9ebd4c646bb23059003cea42180894a/old", "content of 2021".into()),
        ("/cse-sr/ms/schema-sum/default/default/7062417bf9ebd4c646bb23059003cea42180894a/old", "abc".into()),
        ("/cse-sr/ms/schema-ref/default/default/7062417bf9ebd4c646bb23059003cea42180894a/new", "5d41402abc4b".into()),
        ("/cse-sr/ms/schema-content/default/default/5d41402abc4b", "content of 2024".into()),
        (
            "/cse-sr/ms/dep-rules/default/default/c/production/springmvc/consumer/1.0.0",
            json!({"Dependency": [key("provider", "0.0.0+")]}).to_string(),
        ),
        (
            "/cse-sr/ms/dep-rules/default/default/p/production/springmvc/provider/0.0.0+",
            json!({"Dependency": [key("consumer", "1.0.0")]}).to_string(),
        ),
        ("/cse-sr/sys", r#"{"version":"2.2.0","environment":"prod"}"#.into()),
        ("/cse-sr/inst/files/default/default/7062417bf9ebd4c646bb23059003cea42180894a/broken", "{".into()),
    ]
}

async fn write(store: &dyn Store, items: Vec<(&str, String)>) {
    let then = items.into_iter().map(|(key, value)| Op::put(key, value)).collect();
    assert!(store.txn(Txn { then, ..Txn::default() }).await.expect("writes").succeeded);
}

/// Writes an instance on its lease, as a node of 2021 registers it.
async fn write_instance(store: &dyn Store, id: &str) -> LeaseId {
    let lease = store.grant(120).await.expect("a lease");
    let value = format!(
        r#"{{"instanceId":"{id}","serviceId":"{PROVIDER}","endpoints":["rest://10.0.0.7:8080"],"hostName":"node-7","status":"UP","properties":{{"tag":"1"}},"healthCheck":{{"mode":"push","interval":30,"times":3}},"timestamp":"1621475123","modTimestamp":"1621475123","version":"0.0.1"}}"#
    );
    let then = [("files", value), ("leases", lease.to_string())].map(|(kind, value)| Op::Put {
        key: format!("/cse-sr/inst/{kind}/default/default/{PROVIDER}/{id}"),
        value: value.into(),
        lease: Some(lease),
    });
    let then = then.to_vec();
    store.txn(Txn { then, ..Txn::default() }).await.expect("writes");
    lease
}

async fn value(store: &dyn Store, key: &str) -> Option<(Value, Option<LeaseId>)> {
    let reply = store.range(RangeRequest::key(key)).await.expect("reads");
    let kv = reply.items.first()?;
    let text = String::from_utf8(kv.value.to_vec()).expect("text");
    Some((serde_json::from_str(&text).unwrap_or(Value::String(text)), kv.lease))
}

async fn joined() -> Probe {
    let probe = Probe::start_with(&[("MUSTER_REGISTRY_QUEUE_PAUSE", "100ms")]).await;
    write(probe.store(), written_by_service_center()).await;
    write_instance(probe.store(), "b0ffb9feb22a11eaa76a08002706c83e").await;
    let path = format!("/microservices/{PROVIDER}/instances/b0ffb9feb22a11eaa76a08002706c83e");
    // The keys are written past the API, so only the watch can bring them into the view.
    let mut revisions = probe.revisions();
    while probe.get(&path).await.status != 200 {
        revisions.changed().await.expect("the view lives");
    }
    probe
}

#[tokio::test]
async fn everything_of_both_generations_is_read() {
    let probe = joined().await;
    let service = probe.get(&format!("/microservices/{PROVIDER}")).await.ok()["service"].clone();
    assert_eq!(service["framework"]["version"], "2.0.1");
    assert!(service.get("fieldOfTomorrow").is_none(), "clients see the fields of the contract only");
    let exists =
        "type=microservice&appId=springmvc&serviceName=springmvc:provider&version=latest&env=production";
    assert_eq!(probe.get(&format!("/existence?{exists}")).await.ok()["serviceId"], PROVIDER);
    let find = "/instances?appId=springmvc&serviceName=provider&version=0%2B&tags=zone";
    let found = probe.get_as(CONSUMER, find).await.ok();
    assert_eq!(found["instances"][0]["endpoints"], json!(["rest://10.0.0.7:8080"]));
    assert_eq!(found["instances"].as_array().map(Vec::len), Some(1), "the undecodable instance is skipped");
    let providers = probe.get(&format!("/microservices/{CONSUMER}/providers")).await.ok();
    assert_eq!(providers["providers"][0]["serviceId"], PROVIDER);
    for (schema, content) in [("old", "content of 2021"), ("new", "content of 2024")] {
        let read = probe.get(&format!("/microservices/{PROVIDER}/schemas/{schema}")).await.ok();
        assert_eq!(read["schema"], content);
    }
    assert_eq!(probe.get(&format!("/microservices/{PROVIDER}/rules")).await.ok()["rules"][0]["ruleId"], "r1");
    let beat = format!("/microservices/{PROVIDER}/instances/b0ffb9feb22a11eaa76a08002706c83e/heartbeat");
    probe.put(&beat, &Value::Null).await.empty();
}

#[tokio::test]
async fn a_rewritten_record_keeps_its_lease_and_unknown_fields() {
    let probe = joined().await;
    let instance = format!("/microservices/{PROVIDER}/instances/b0ffb9feb22a11eaa76a08002706c83e");
    let key = format!("/cse-sr/inst/files/default/default/{PROVIDER}/b0ffb9feb22a11eaa76a08002706c83e");
    let before = value(probe.store(), &key).await.expect("there").1;
    probe.put(&format!("{instance}/status?value=DOWN"), &Value::Null).await.empty();
    let (stored, lease) = value(probe.store(), &key).await.expect("there");
    assert_eq!((stored["status"].as_str(), lease), (Some("DOWN"), before));
    assert_eq!(stored["healthCheck"], json!({"mode": "push", "interval": 30, "times": 3}));
    probe.put(&format!("/microservices/{PROVIDER}/properties"), &json!({"properties": {}})).await.empty();
    let file = format!("/cse-sr/ms/files/default/default/{PROVIDER}");
    assert_eq!(value(probe.store(), &file).await.expect("there").0["fieldOfTomorrow"], json!({"x": 1}));
    // A newer node reads the reference first. Without a reference it reads the content that we wrote.
    probe.put(&format!("/microservices/{PROVIDER}/schemas/new"), &json!({"schema": "ours"})).await.empty();
    let reference = format!("/cse-sr/ms/schema-ref/default/default/{PROVIDER}/new");
    assert!(value(probe.store(), &reference).await.is_none());
    let content = format!("/cse-sr/ms/schemas/default/default/{PROVIDER}/new");
    assert_eq!(value(probe.store(), &content).await.expect("there").0, "ours");
}

#[tokio::test]
async fn written_keys_and_values_are_those_of_service_center() {
    let probe = Probe::start().await;
    let cart = probe
        .service(json!({"appId": "shop", "serviceName": "cart", "version": "1.0.0", "alias": "shop:cart"}))
        .await;
    let order = probe.service(json!({"appId": "shop", "serviceName": "order", "version": "1.0.0"})).await;
    probe.instance(&order, json!({"hostName": "n", "instanceId": "i"})).await;
    probe.get_as(&cart, "/instances?appId=shop&serviceName=order&version=0%2B").await.ok();
    let store = probe.store();
    assert_eq!(
        value(store, "/cse-sr/ms/indexes/default/default//shop/cart/1.0.0").await.expect("there").0,
        cart
    );
    assert_eq!(
        value(store, "/cse-sr/ms/alias/default/default//shop/shop:cart/1.0.0").await.expect("there").0,
        cart
    );
    for empty in ["/cse-sr/domains/default", "/cse-sr/projects/default/default"] {
        assert_eq!(value(store, empty).await.expect("there").0, "");
    }
    let (instance, lease) =
        value(store, &format!("/cse-sr/inst/files/default/default/{order}/i")).await.expect("there");
    assert_eq!(
        instance["healthCheck"],
        json!({"mode": "push", "interval": 30, "times": 3}),
        "old nodes stall without a health check"
    );
    assert_eq!(
        (instance["serviceId"].as_str(), instance["instanceId"].as_str()),
        (Some(order.as_str()), Some("i"))
    );
    let (text, same) =
        value(store, &format!("/cse-sr/inst/leases/default/default/{order}/i")).await.expect("there");
    assert_eq!(
        (text, same),
        (json!(lease.expect("a lease").get()), lease),
        "the key has the lease as decimal text, and is itself on that lease"
    );
    let rule =
        value(store, "/cse-sr/ms/dep-rules/default/default/c//shop/cart/1.0.0").await.expect("there").0;
    let provider =
        json!({"tenant": "default/default", "appId": "shop", "serviceName": "order", "version": "0+"});
    assert_eq!(rule, json!({"Dependency": [provider]}));
    let other = value(store, "/cse-sr/ms/dep-rules/default/default/p//shop/order/0+").await.expect("there").0;
    let consumer =
        json!({"tenant": "default/default", "appId": "shop", "serviceName": "cart", "version": "1.0.0"});
    assert_eq!(other, json!({"Dependency": [consumer]}));
    // Nothing else is written: our own keys are under prefixes that Service-Center does not read.
    let all = store.range(RangeRequest::prefix("/")).await.expect("reads").items;
    for kv in all {
        let known = Key::parse(&kv.key) != Key::Other;
        assert!(
            known || kv.key.starts_with("/muster/") || kv.key.starts_with("/cse-sr/muster/"),
            "{}",
            kv.key
        );
    }
}

#[tokio::test]
async fn rules_are_not_written_under_a_service_center_lock() {
    let probe = joined().await;
    for lock in DEPENDENCY_LOCKS {
        write(probe.store(), vec![(lock, "node-1-4711".into())]).await;
        let consumer = json!({"appId": "springmvc", "serviceName": "consumer", "version": "1.0.0", "environment": "production"});
        let body = json!({"dependencies": [{"consumer": consumer, "providers": []}]});
        let clear = probe.put("/dependencies", &body);
        let unlock = async {
            let key = "/cse-sr/ms/dep-rules/default/default/c/production/springmvc/consumer/1.0.0";
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(value(probe.store(), key).await.is_some(), "nothing was written under {lock}");
            let then = vec![Op::Delete(lock.into())];
            probe.store().txn(Txn { then, ..Txn::default() }).await.expect("unlocks");
        };
        let (cleared, ()) = tokio::join!(clear, unlock);
        cleared.empty();
        let again = "/instances?appId=springmvc&serviceName=provider&version=0%2B";
        probe.get_as(CONSUMER, again).await.ok();
    }
}

#[tokio::test]
async fn a_dependency_left_in_the_queue_is_applied() {
    let probe = joined().await;
    let queued = r#"{"consumer":{"tenant":"default/default","environment":"production","appId":"springmvc","serviceName":"consumer","version":"1.0.0"},"providers":[],"override":true}"#;
    let key = "/cse-sr/ms/dep-queue/default/default/4042a6a3e5a2893698ae363ea99a69eb63fc51cd/0";
    write(probe.store(), vec![(key, queued.into())]).await;
    let providers = format!("/microservices/{CONSUMER}/providers");
    let mut revisions = probe.revisions();
    let applied = async {
        while probe.get(&providers).await.ok() != json!({}) || value(probe.store(), key).await.is_some() {
            revisions.changed().await.expect("the view lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), applied).await.expect("within the deadline");
}

#[tokio::test]
async fn dependencies_stay_within_the_tenant_of_the_caller() {
    let probe = Probe::start().await;
    let send = async |domain: &str, method: &str, path: &str, body: Value| {
        let path = format!("/v4/default/registry{path}");
        probe.send(method, &path, &[("X-Domain-Name", domain)], body.to_string()).await
    };
    for domain in ["a", "b"] {
        for name in ["cart", "order"] {
            let id = format!("{name}-{domain}");
            let service = json!({"serviceId": id, "appId": "shop", "serviceName": name, "version": "1.0.0"});
            send(domain, "POST", "/microservices", json!({"service": service})).await.ok();
        }
    }
    let declared = |consumer: &str, providers: Value| {
        let consumer =
            json!({"tenant": consumer, "appId": "shop", "serviceName": "cart", "version": "1.0.0"});
        json!({"dependencies": [{"consumer": consumer, "providers": providers}]})
    };
    let order =
        |tenant: &str| json!({"tenant": tenant, "appId": "shop", "serviceName": "order", "version": "0+"});
    send("b", "PUT", "/dependencies", declared("", json!([order("")]))).await.empty();

    // Neither erased nor added to, by a body that names the other tenant.
    send("a", "PUT", "/dependencies", declared("b/default", json!([]))).await.empty();
    assert_eq!(probe.providers_in("b", "cart-b"), ["order-b"]);
    for method in ["POST", "PUT"] {
        let body = declared("b/default", json!([order("b/default")]));
        send("a", method, "/dependencies", body).await.empty();
        assert_eq!(probe.providers_in("a", "cart-a"), ["order-a"], "the caller's own service is meant");
        assert_eq!(probe.providers_in("b", "cart-b"), ["order-b"]);
        let consumers = send("b", "GET", "/microservices/order-b/consumers", Value::Null).await.ok();
        assert_eq!(consumers["consumers"].as_array().map(Vec::len), Some(1), "{consumers}");
    }
    let everything = json!([{"tenant": "b/default", "serviceName": "*"}]);
    send("a", "PUT", "/dependencies", declared("", everything)).await.empty();
    let seen = probe.providers_in("a", "cart-a");
    assert!(seen.contains(&"order-a".to_owned()) && !seen.contains(&"order-b".to_owned()), "{seen:?}");

    // A shared service of the default tenant is everybody's.
    let own = probe.get("/microservices").await.ok()["services"][0].clone();
    let shared = json!([{
        "tenant": "default/default", "environment": own["environment"], "appId": own["appId"],
        "serviceName": own["serviceName"], "version": "0+",
    }]);
    send("a", "PUT", "/dependencies", declared("", shared)).await.empty();
    assert_eq!(json!(probe.providers_in("a", "cart-a")), json!([own["serviceId"]]));
}
