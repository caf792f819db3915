//! The API over the embedded store, as far as it goes beyond the contract or needs a look inside. The
//! conformance suite holds the contract.

use std::time::Duration;

use crate::probe::Probe;
use control_plane::keys;
use control_plane::store::{Op, RangeRequest, Txn};
use serde_json::{Value, json};
use shared::model::{ServiceRef, Tenant};

#[tokio::test]
async fn an_instance_that_moved_is_stored_when_it_registers_again() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"serviceName": "order"})).await;
    let mut instance = json!({"hostName": "n", "instanceId": "i", "endpoints": ["rest://10.0.0.1:1"]});
    probe.instance(&provider, instance.clone()).await;
    let path = format!("/microservices/{provider}/instances/i");
    probe.put(&format!("{path}/status?value=OUTOFSERVICE"), &Value::Null).await.empty();
    instance["endpoints"] = json!(["rest://10.0.0.1:2"]);
    probe.instance(&provider, instance).await;
    let read = probe.get(&path).await.ok()["instance"].clone();
    assert_eq!(read["endpoints"], json!(["rest://10.0.0.1:2"]));
    assert_eq!(read["status"], "OUTOFSERVICE", "the status that an operator set outlives a restart");
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let (consumer, provider) = {
        let probe = Probe::start_in(directory.path()).await;
        let consumer =
            probe.service(json!({"appId": "shop", "serviceName": "cart", "version": "1.0.0"})).await;
        let provider = probe.service(json!({"appId": "shop", "serviceName": "order"})).await;
        probe.instance(&provider, json!({"hostName": "n", "instanceId": "i"})).await;
        probe.get_as(&consumer, "/instances?appId=shop&serviceName=order&version=0%2B").await.ok();
        probe.stop().await;
        (consumer, provider)
    };
    let probe = Probe::start_in(directory.path()).await;
    let instance = format!("/microservices/{provider}/instances/i");
    probe.put(&format!("{instance}/heartbeat"), &Value::Null).await.empty();
    let providers = probe.get(&format!("/microservices/{consumer}/providers")).await.ok();
    assert_eq!(providers["providers"][0]["serviceId"], provider);
    probe.stop().await;
}

#[tokio::test]
async fn more_schemas_than_one_transaction_holds_are_replaced_whole() {
    let probe = Probe::start().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let schemas = format!("/microservices/{id}/schemas");
    let content = "x".repeat(15_000);
    for prefix in ["a", "b"] {
        let mut batch = Vec::new();
        for n in 0..100 {
            batch.push(json!({"schemaId": format!("{prefix}{n:03}"), "summary": "s", "schema": content}));
        }
        probe.post(&schemas, &json!({"schemas": batch})).await.empty();
        let listed = probe.get(&schemas).await.ok()["schemas"].as_array().expect("a list").clone();
        assert_eq!(listed.len(), 100);
        assert!(
            listed.iter().all(|schema| schema["schemaId"].as_str().is_some_and(|id| id.starts_with(prefix)))
        );
    }
}

fn service(name: &str) -> Value {
    json!({"service": {"serviceId": name, "serviceName": name}})
}

fn instance(id: &str) -> Value {
    json!({"instance": {"instanceId": id, "hostName": "n"}})
}

#[tokio::test]
async fn a_full_tenant_takes_only_what_exists_already() {
    let probe = Probe::start_with(&[("MUSTER_QUOTA_SERVICES", "2"), ("MUSTER_QUOTA_INSTANCES", "2")]).await;
    let headers = [("X-Domain-Name", "full")];
    let post = async |path: &str, body: Value| {
        probe.send("POST", &format!("/v4/default/registry{path}"), &headers, body.to_string()).await
    };
    for _ in 0..2 {
        for name in ["a", "b"] {
            post("/microservices", service(name)).await.ok();
            post("/microservices/a/instances", instance(name)).await.ok();
        }
    }
    post("/microservices", service("c")).await.refused("400100");
    post("/microservices/a/instances", instance("c")).await.refused("400100");
}

/// An instance with an endpoint of this many bytes.
fn large(id: &str, bytes: usize) -> Value {
    json!({"instanceId": id, "hostName": "n", "endpoints": [format!("rest://{}", "a".repeat(bytes))]})
}

#[tokio::test]
async fn no_route_stores_an_instance_that_the_bus_cannot_carry() {
    let probe = Probe::start().await;
    for bytes in [1_100_000, 62_000] {
        let body =
            json!({"service": {"serviceId": "s", "serviceName": "s"}, "instances": [large("i", bytes)]});
        let refusal = probe.post("/microservices", &body).await.refused("400001");
        assert!(refusal["detail"].as_str().is_some_and(|text| text.contains("too large")), "{refusal}");
    }
    let instances = "/microservices/s/instances";
    assert_eq!(probe.get(instances).await.ok(), json!({}), "nothing was stored");
    probe.post(instances, &json!({"instance": large("i", 62_000)})).await.refused("400001");

    // Of the size that Service-Center takes with a service, and nearly the limit.
    let body = json!({"service": {"serviceId": "s", "serviceName": "s"}, "instances": [large("i", 61_000)]});
    probe.post("/microservices", &body).await.ok();
    let instance = format!("{instances}/i");
    let properties = json!({"properties": {"k": "v".repeat(2000)}});
    probe.put(&format!("{instance}/properties"), &properties).await.refused("400001");
    let stored = probe.get(&instance).await.ok()["instance"].clone();
    let room = 61_440 - stored.to_string().len();
    let body =
        json!({"service": {"serviceId": "s", "serviceName": "s"}, "instances": [large("j", 61_000 + room)]});
    probe.post("/microservices", &body).await.ok();
    let longer = "OUTOFSERVICE";
    probe.put(&format!("{instances}/j/status?value={longer}"), &Value::Null).await.refused("400001");
    probe.put(&format!("{instance}/status?value=DOWN"), &Value::Null).await.empty();
}

#[tokio::test]
async fn an_environment_has_a_length() {
    let probe = Probe::start().await;
    let long = "production".repeat(1000);
    let body = json!({"service": {"serviceName": "s", "environment": long}});
    probe.post("/microservices", &body).await.refused("400001");
}

/// An instance that lives for these seconds without a heartbeat.
fn living(seconds: u32) -> Value {
    let check = json!({"mode": "push", "interval": seconds, "times": 0});
    json!({"instanceId": "i", "hostName": "n", "healthCheck": check})
}

#[tokio::test]
async fn the_lease_follows_the_health_check_of_each_registration() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    let path = format!("/microservices/{service}/instances/i");
    let reference = ServiceRef::new(Tenant::default(), &service);
    let stored = async || {
        let mut leases = Vec::new();
        for key in [keys::instance(&reference, "i"), keys::lease(&reference, "i")] {
            let reply = probe.store().range(RangeRequest::key(key)).await.expect("a reply");
            leases.push(reply.items[0].lease.expect("a lease").to_string());
            leases.push(String::from_utf8_lossy(&reply.items[0].value).into_owned());
        }
        // The second one is the record of the instance.
        leases.remove(1);
        leases
    };
    probe.instance(&service, living(1)).await;
    let short = stored().await;
    probe.instance(&service, living(120)).await;
    let long = stored().await;
    assert_ne!(short[0], long[0]);
    assert!(long.iter().all(|lease| *lease == long[0]), "instance, lease record and its text name one lease");
    assert_eq!(probe.get(&path).await.ok()["instance"]["healthCheck"]["interval"], 120);
    tokio::time::sleep(Duration::from_secs(3)).await;
    probe.put(&format!("{path}/heartbeat"), &Value::Null).await.empty();
    // A registration that says the same is a heartbeat and changes nothing.
    probe.instance(&service, living(120)).await;
    assert_eq!(stored().await, long);

    probe.instance(&service, living(1)).await;
    let mut waited = 0;
    while probe.get(&path).await.status == 200 {
        assert!(waited < 50, "the instance outlives the lease that its health check asks for");
        waited += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_registration_again_stores_changed_properties() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    for zone in ["east", "west"] {
        let instance = json!({"instanceId": "i", "hostName": "n", "properties": {"zone": zone}});
        probe.instance(&service, instance).await;
        let read = probe.get(&format!("/microservices/{service}/instances/i")).await.ok();
        assert_eq!(read["instance"]["properties"]["zone"], zone);
    }
}

#[tokio::test]
async fn a_batch_is_bounded_in_elements_and_in_its_reply() {
    let probe = Probe::start().await;
    for id in 0..2 {
        let instances: Vec<Value> = (0..10).map(|n| large(&format!("i{n}"), 40_000)).collect();
        let service =
            json!({"serviceId": format!("s{id}"), "serviceName": format!("s{id}"), "version": "1.0.0"});
        probe.post("/microservices", &json!({"service": service, "instances": instances})).await.ok();
    }
    let action = "/instances/action?type=query";
    let find = |name: &str| json!({"service": {"appId": "default", "serviceName": name, "version": "0+"}});
    let finds = |count: usize| json!({"services": vec![find("s0"); count]});
    // Two services of 400 KB each, one of them twice: every element has its own outcome.
    let mixed = json!({"services": [find("s0"), find("s1"), find("s0"), find("none"), find("none")]});
    let found = probe.post(action, &mixed).await.ok()["services"].clone();
    let updated = found["updated"].as_array().expect("a list");
    let indexes: Vec<_> = updated.iter().map(|element| element["index"].clone()).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_eq!(updated[0]["instances"], updated[2]["instances"]);
    assert_eq!(found["failed"][0]["indexes"], json!([3, 4]));

    probe.post(action, &finds(60)).await.ok();
    let refusal = probe.post(action, &finds(1000)).await.refused("400001");
    assert!(refusal["detail"].as_str().is_some_and(|text| text.contains("32 MiB")), "{refusal}");
    probe.post(action, &finds(10_001)).await.refused("400001");
    let one = json!({"instance": {"serviceId": "s0", "instanceId": "i0"}});
    probe.post(action, &json!({"instances": vec![one.clone(); 1000]})).await.refused("400001");
    probe.post(action, &json!({"instances": vec![one; 10_001]})).await.refused("400001");

    let beat = json!({"serviceId": "s0", "instanceId": "i0"});
    probe.put("/heartbeats", &json!({"instances": vec![beat; 10_001]})).await.refused("400001");
    let small: Vec<Value> = (0..101).map(|n| large(&format!("j{n}"), 10)).collect();
    let body = json!({"service": {"serviceName": "s2"}, "instances": small});
    probe.post("/microservices", &body).await.refused("400001");
    let provider = |n: usize| json!({"serviceName": format!("p{n}"), "version": "0+"});
    let consumer = json!({"appId": "default", "serviceName": "s0", "version": "1.0.0"});
    let providers: Vec<Value> = (0..1001).map(provider).collect();
    let body = json!({"dependencies": [{"consumer": consumer, "providers": providers}]});
    probe.post("/dependencies", &body).await.refused("400001");
    let ids: Vec<String> = (0..10_001).map(|n| format!("x{n}")).collect();
    let body = json!({"serviceIds": ids}).to_string();
    probe.send("DELETE", "/v4/default/registry/microservices", &[], body).await.refused("400001");
}

/// The calls of a kind that the control plane has sent to its store.
fn calls(probe: &Probe, operation: &str) -> f64 {
    let figures = probe.figures();
    let operation = format!("operation=\"{operation}\"");
    let is_counted = |line: &&str| {
        line.starts_with("service_center_db_backend_operation_total{") && line.contains(&operation)
    };
    let counts =
        figures.lines().filter(is_counted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum()
}

#[tokio::test]
async fn providers_that_do_not_exist_are_noted_together() {
    let probe = Probe::start().await;
    probe.service(json!({"serviceName": "c", "version": "1.0.0"})).await;
    let consumer = json!({"appId": "default", "serviceName": "c", "version": "1.0.0"});
    let provider = |n: usize| json!({"serviceName": format!("p{n}"), "version": "0+"});
    let providers: Vec<Value> = (0..400).map(provider).collect();
    let body = json!({"dependencies": [{"consumer": consumer, "providers": providers}]});
    let before = calls(&probe, "TXN");
    probe.put("/dependencies", &body).await.empty();
    let written = calls(&probe, "TXN") - before;
    // A hundred names are noted by each transaction, and no rule is written for them.
    assert!((4.0..=6.0).contains(&written), "{written}");
    probe.put("/dependencies", &body).await.empty();
    let again = calls(&probe, "TXN") - before - written;
    assert!(again < 2.0, "all names are noted already: {again} of {written}");
}

#[tokio::test]
async fn a_batch_asks_the_store_once_for_all_that_is_absent_or_unchanged() {
    let probe = Probe::start().await;
    let order = probe.service(json!({"serviceName": "order", "version": "1.0.0"})).await;
    probe
        .post(&format!("/microservices/{order}/instances"), &json!({"instance": {"hostName": "h"}}))
        .await
        .ok();
    let find = |name: String, rev: &str| json!({"service": {"appId": "default", "serviceName": name, "version": "0+"}, "rev": rev});
    let mut finds: Vec<Value> = (0..300).map(|n| find(format!("nobody-{n}"), "")).collect();
    finds.push(find("order".into(), ""));
    let path = "/instances/action?type=query";
    let first = probe.post(path, &json!({ "services": finds })).await.ok();
    let rev = first["services"]["updated"][0]["rev"].as_str().expect("a revision").to_owned();
    finds.push(find("order".into(), &rev));
    let before = calls(&probe, "SYNC");
    let again = probe.post(path, &json!({ "services": finds })).await.ok();
    assert_eq!(again["services"]["notModified"], json!([301]));
    assert_eq!(again["services"]["failed"][0]["indexes"].as_array().map(Vec::len), Some(300));
    let asked = calls(&probe, "SYNC") - before;
    assert!(asked <= 3.0, "{asked} questions");
}

#[tokio::test]
async fn one_alias_registered_at_once_has_one_owner() {
    let probe = Probe::start().await;
    let register = async |name: &str, requested: &str| {
        let service = json!({"serviceId": requested, "serviceName": name, "alias": "shared:alias"});
        probe.post("/microservices", &json!({ "service": service })).await
    };
    let (first, second) = tokio::join!(register("a", ""), register("b", ""));
    let owner = first.ok()["serviceId"].clone();
    assert_eq!(second.ok()["serviceId"], owner);
    // As when one comes after the other.
    assert_eq!(register("c", "").await.ok()["serviceId"], owner);
    register("d", "another").await.refused("400010");
}

#[tokio::test]
async fn the_dump_has_a_revision_for_everything() {
    let probe = Probe::start().await;
    let body = json!({
        "service": {"serviceName": "order", "version": "1.0.0", "alias": "o"},
        "tags": {"zone": "east"},
        "rules": [{"ruleType": "BLACK", "attribute": "AppId", "pattern": "x"}],
        "instances": [{"hostName": "n"}],
    });
    let id = probe.post("/microservices", &body).await.ok()["serviceId"].clone();
    let path = format!("/microservices/{}", id.as_str().expect("an id"));
    probe.put(&format!("{path}/schemas/a"), &json!({"schema": "A", "summary": "s"})).await.empty();
    probe.delete(&format!("{path}/tags/zone")).await.empty();
    let key = |version: &str| json!({"appId": "default", "serviceName": "order", "version": version});
    let all = json!({"consumer": key("1.0.0"), "providers": [{"serviceName": "*"}]});
    probe.post("/dependencies", &json!({"dependencies": [all]})).await.empty();
    let dump = probe.send("GET", "/v4/default/admin/dump", &[], String::new()).await.ok()["cache"].clone();
    let mut kinds = Vec::new();
    for (kind, entries) in dump.as_object().expect("kinds") {
        kinds.push(kind.as_str());
        for entry in entries.as_array().expect("entries") {
            assert!(entry["rev"].as_u64().is_some_and(|rev| rev > 0), "{kind}: {entry}");
        }
    }
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            "dependencyRules",
            "instances",
            "serviceAliases",
            "serviceIndexes",
            "serviceRuleIndexes",
            "serviceRules",
            "serviceTags",
            "services",
            "summaries"
        ]
    );
    assert_eq!(dump["serviceTags"][0]["value"], json!({}));
    assert_eq!(dump["dependencyRules"].as_array().map(Vec::len), Some(2), "{}", dump["dependencyRules"]);
}

#[tokio::test]
async fn a_value_too_large_for_the_store_is_the_clients_mistake() {
    let probe = Probe::start().await;
    let id = probe.service(json!({"serviceName": "order", "version": "1.0.0"})).await;
    let large = "x".repeat(1_600_000);
    let path = format!("/microservices/{id}");
    let schema = json!({"schemaId": "a", "summary": "s", "schema": large});
    probe.put(&format!("{path}/schemas/a"), &schema).await.refused("400001");
    probe.post(&format!("{path}/schemas"), &json!({"schemas": [schema]})).await.refused("400001");
    let service = json!({"serviceName": "large", "properties": {"p": large}});
    let refusal = probe.post("/microservices", &json!({"service": service})).await.refused("400001");
    assert!(refusal["detail"].as_str().is_some_and(|text| text.contains("too large")), "{refusal}");

    // A provider with so many consumers that one more does not fit into its key.
    let name = keys::Name::new("", "default", "order");
    let key = keys::Key::ProviderRule(Tenant::default(), name, "0+".into()).render().expect("a key");
    let consumer = json!({"tenant": "default/default", "serviceName": "n".repeat(1000)});
    let full = json!({"Dependency": vec![consumer; 1500]}).to_string();
    let put = Txn { then: vec![Op::put(key, full)], ..Txn::default() };
    let written = probe.store().txn(put).await.expect("it just fits");
    probe.revisions().wait_for(|rev| *rev >= written.revision).await.expect("the view lives");
    let consumer = probe.service(json!({"serviceName": "cart"})).await;
    let find = "/instances?appId=default&serviceName=order&version=0%2B";
    assert_eq!(probe.get_as(&consumer, find).await.ok(), json!({}), "answered, though not recorded");
}
