//! Overrides over the API: they win over what instances report, until they end.

use std::time::Duration;

use crate::probe::Probe;
use crate::session::{SERVICES, account, guarded, role, root};
use serde_json::{Value, json};

const OVERRIDES: &str = "/v4/default/registry/overrides";

/// The status and the weight that clients see.
async fn shown(probe: &Probe, service: &str, id: &str) -> (String, String) {
    let answer = probe.get(&format!("/microservices/{service}/instances/{id}")).await.ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&answer["instance"]["status"]), text(&answer["instance"]["properties"]["weight"]))
}

fn seen(status: &str, weight: &str) -> (String, String) {
    (status.to_owned(), weight.to_owned())
}

#[tokio::test]
async fn neither_a_registration_nor_a_restart_undoes_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = Probe::start_in(directory.path()).await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    let body = json!({"serviceId": service, "instanceId": "i", "status": "OUTOFSERVICE", "weight": 5, "reason": "hot"});
    let set = probe.put("/overrides", &body).await.ok();
    assert_eq!(shown(&probe, &service, "i").await, seen("OUTOFSERVICE", "5"));
    // It comes back with other properties, as after a deployment; and by another registration altogether.
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i", "properties": {"a": "b"}})).await;
    assert_eq!(shown(&probe, &service, "i").await, seen("OUTOFSERVICE", "5"));
    probe.delete(&format!("/microservices/{service}/instances/i")).await.empty();
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    assert_eq!(shown(&probe, &service, "i").await, seen("OUTOFSERVICE", "5"));
    // The reported status changes beside it, and shows when it ends.
    probe
        .put(&format!("/microservices/{service}/instances/i/status?value=TESTING"), &Value::Null)
        .await
        .empty();
    probe.stop().await;
    let probe = Probe::start_in(directory.path()).await;
    assert_eq!(shown(&probe, &service, "i").await, seen("OUTOFSERVICE", "5"));
    let before = probe.get(&format!("/microservices/{service}/instances/i")).await.revision();
    let id = set["overrideId"].as_str().expect("an id");
    let listed = probe.get(&format!("/overrides/{id}")).await.ok();
    assert_eq!(
        (&listed["override"]["owner"], &listed["override"]["reason"]),
        (&json!("anonymous"), &json!("hot"))
    );
    probe.delete(&format!("/overrides/{id}")).await.empty();
    assert_eq!(shown(&probe, &service, "i").await, seen("TESTING", ""));
    // A client that has the earlier reply is not told that nothing changed.
    probe.get(&format!("/microservices/{service}/instances/i?rev={before}")).await.ok();
    assert_eq!(probe.get("/overrides").await.ok(), json!({}));
    probe.delete(&format!("/overrides/{id}")).await.refused("400001");
    // The view that a restart lists has the same revision of the instance.
    let after = probe.get(&format!("/microservices/{service}/instances/i")).await.revision();
    probe.stop().await;
    let probe = Probe::start_in(directory.path()).await;
    assert_eq!(probe.get(&format!("/microservices/{service}/instances/i")).await.revision(), after);
    // A service that comes back has none of its old overrides.
    probe.put("/overrides", &body).await.ok();
    probe.delete(&format!("/microservices/{service}?force=1")).await.empty();
    probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    assert_eq!(shown(&probe, &service, "i").await, seen("UP", ""));
    probe.stop().await;
}

#[tokio::test]
async fn its_time_ends_it_visibly() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    let body = json!({"serviceId": service, "status": "DOWN", "reason": "a minute's peace", "seconds": 1});
    probe.put("/overrides", &body).await.ok();
    let mut revisions = probe.revisions();
    let ended = async {
        while shown(&probe, &service, "i").await != seen("UP", "") {
            revisions.changed().await.expect("the view lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("within the deadline");
    assert_eq!(probe.get(&format!("/overrides?serviceId={service}")).await.ok(), json!({}));
    probe.stop().await;
}

#[tokio::test]
async fn a_hidden_service_answers_no_find_of_the_consumer() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order", "appId": "shop"})).await;
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    let cart =
        probe.service(json!({"serviceName": "cart", "appId": "shop", "properties": {"team": "a"}})).await;
    let other = probe.service(json!({"serviceName": "bill", "appId": "shop"})).await;
    let found = async |consumer: &str| {
        let find = "/instances?appId=shop&serviceName=order&version=0%2B";
        probe.get_as(consumer, find).await.text().contains("\"i\"")
    };
    assert!(found(&cart).await && found(&other).await);
    assert_eq!(probe.providers_in("default", &cart), std::slice::from_ref(&service));
    let body = json!({"serviceId": service, "hiddenFrom": {"team": "a"}, "reason": "misuse"});
    let id = probe.put("/overrides", &body).await.ok()["overrideId"].as_str().expect("an id").to_owned();
    assert!(!found(&cart).await && found(&other).await);
    assert_eq!(probe.providers_in("default", &cart), [""; 0]);
    probe.delete(&format!("/overrides/{id}")).await.empty();
    assert!(found(&cart).await);
    assert_eq!(probe.providers_in("default", &cart), [service]);
    probe.stop().await;
}

/// Pairs of few characters, each of which takes six bytes in JSON.
fn long_in_the_store() -> Value {
    let pairs = (0..16).map(|n| (format!("k{n}"), json!("\u{1}".repeat(256))));
    Value::Object(pairs.collect())
}

#[tokio::test]
async fn each_mistake_is_refused_with_its_field() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    for (wish, field) in [
        (json!({"reason": "r"}), "changes nothing"),
        (json!({"status": "AWAY", "reason": "r"}), "Status"),
        (json!({"weight": 101, "reason": "r"}), "weight"),
        (json!({"weight": 10}), "reason"),
        (json!({"weight": 10, "reason": "r", "seconds": 0}), "seconds"),
        (json!({"metadata": {"weight": "1"}, "reason": "r"}), "weight"),
        (json!({"metadata": {"k": "x".repeat(257)}, "reason": "r"}), "metadata"),
        (json!({"hiddenFrom": {"a": "b"}, "zone": "z", "reason": "r"}), "hiddenFrom"),
        (json!({"metadata": long_in_the_store(), "reason": "r"}), "bytes"),
        (json!({"instanceId": "i", "drain": true, "status": "DOWN", "reason": "r"}), "drain"),
    ] {
        let mut body = wish.clone();
        body["serviceId"] = json!(service);
        let refusal = probe.put("/overrides", &body).await.refused("400001");
        assert!(refusal["detail"].as_str().is_some_and(|detail| detail.contains(field)), "{wish}: {refusal}");
    }
    let one = |service: &str, instance: &str| json!({"serviceId": service, "instanceId": instance, "weight": 1, "reason": "r"});
    probe.put("/overrides", &one("nobody", "")).await.refused("400012");
    probe.put("/overrides", &one(&service, "nobody")).await.refused("400017");
    for n in 0..64 {
        probe
            .put(
                "/overrides",
                &json!({"serviceId": service, "zone": format!("z{n}"), "weight": 1, "reason": "r"}),
            )
            .await
            .ok();
    }
    let more = json!({"serviceId": service, "zone": "more", "weight": 1, "reason": "r"});
    probe.put("/overrides", &more).await.refused("400100");
    // One that exists can be changed all the same.
    probe
        .put("/overrides", &json!({"serviceId": service, "zone": "z0", "weight": 2, "reason": "r"}))
        .await
        .ok();
    probe.stop().await;
}

#[tokio::test]
async fn many_ended_ones_leave_few_records() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    for n in 0..200 {
        let body = json!({"serviceId": service, "version": format!("1.{n}"), "weight": 1, "reason": "r"});
        let id = probe.put("/overrides", &body).await.ok()["overrideId"].as_str().expect("an id").to_owned();
        probe.delete(&format!("/overrides/{id}")).await.empty();
    }
    let snapshot = probe.view().now().expect("a view");
    let tenant = snapshot.tenant(&shared::model::Tenant::default()).expect("the tenant");
    assert!(tenant.overrides.size() < 100, "{}", tenant.overrides.size());
    probe.stop().await;
}

#[tokio::test]
async fn labels_decide_whose_overrides_an_account_knows() {
    let probe = guarded().await;
    let resource = json!({ "type": "service", "labels": { "environment": "production" } });
    role(&probe, "prod", json!([{ "resources": [resource], "verbs": ["*"] }])).await;
    let prodder = account(&probe, "prodder", &["prod"]).await;
    let root = root(&probe).await;
    let mut ids = Vec::new();
    for environment in ["production", "development"] {
        let service = json!({"service": {"appId": "a", "serviceName": "s", "environment": environment}});
        let service = root.send("POST", SERVICES, service).await.ok()["serviceId"].clone();
        let body = json!({"serviceId": service, "weight": 1, "reason": "r"});
        ids.push((root.send("PUT", OVERRIDES, body.clone()).await.ok()["overrideId"].clone(), body));
    }
    let path = |id: &Value| format!("{OVERRIDES}/{}", id.as_str().expect("an id"));
    let listed = prodder.get(OVERRIDES).await.ok();
    assert_eq!(listed["overrides"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["overrides"][0]["owner"], "root");
    prodder.send("PUT", OVERRIDES, ids[1].1.clone()).await.refused("403205");
    prodder.get(&path(&ids[1].0)).await.refused("400001");
    prodder.send("DELETE", &path(&ids[1].0), Value::Null).await.refused("400001");
    prodder.send("PUT", OVERRIDES, ids[0].1.clone()).await.ok();
    assert_eq!(prodder.get(&path(&ids[0].0)).await.ok()["override"]["owner"], "prodder");
    prodder.send("DELETE", &path(&ids[0].0), Value::Null).await.empty();
    probe.stop().await;
}
