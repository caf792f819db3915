//! Settings of operators: quotas, lease times, shared services.

use crate::probe::{Answer, Probe};
use control_plane::settings::ProcessConfig;
use serde_json::{Value, json};

#[tokio::test]
async fn quotas_hold_under_concurrency_and_spare_existing_things() {
    let probe = Probe::start_with(&[("MUSTER_QUOTA_SERVICES", "6"), ("MUSTER_QUOTA_INSTANCES", "4")]).await;
    // The tenant also has the registry's own service and instance.
    let bodies: Vec<Value> = (0..20).map(|n| json!({"service": {"serviceName": format!("s{n}")}})).collect();
    let requests = bodies.iter().map(async |body| probe.post("/microservices", body).await.status);
    let statuses = futures_util::future::join_all(requests).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5);
    let refused = probe.post("/microservices", &json!({"service": {"serviceName": "more"}})).await;
    assert!(refused.refused("400100")["detail"].as_str().is_some_and(|d| d.contains("max num is 6")));
    let listed = probe.get("/microservices").await.ok()["services"].as_array().expect("a list").clone();
    let existing = listed.iter().find(|s| s["serviceName"] != "SERVICECENTER").expect("one of ours");
    let name = existing["serviceName"].as_str().expect("a name");
    probe.service(json!({ "serviceName": name })).await;
    let id = existing["serviceId"].as_str().expect("an id");
    for n in 0..3 {
        probe.instance(id, json!({"hostName": "n", "instanceId": format!("i{n}")})).await;
    }
    let body = json!({"instance": {"hostName": "n"}});
    probe.post(&format!("/microservices/{id}/instances"), &body).await.refused("400100");
    probe.instance(id, json!({"hostName": "n", "instanceId": "i0"})).await;
    probe.delete(&format!("/microservices/{id}/instances/i0")).await.empty();
    probe.instance(id, json!({"hostName": "n"})).await;
}

#[test]
fn the_members_of_etcd_are_shown_as_they_were_given() {
    let members = "http://10.0.0.1:2379,http://10.0.0.2:2379/";
    let sources = settings::Sources::default().with_variable("MUSTER_ETCD_ENDPOINTS", members);
    let config = settings::parse::<ProcessConfig>(&sources).expect("settings are right");
    assert_eq!(config.etcd.endpoints, ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
}

/// Sends a request from a consumer of another domain.
async fn elsewhere(probe: &Probe, method: &str, path: &str, consumer: &str, body: String) -> Answer {
    let headers = [("X-Domain-Name", "tenant-b"), ("X-ConsumerId", consumer)];
    probe.send(method, &format!("/v4/default/registry{path}"), &headers, body).await
}

#[tokio::test]
async fn a_shared_service_is_found_and_watched_from_every_domain() {
    let probe = Probe::start_with(&[("MUSTER_REGISTRY_SHARED_SERVICES", "config-center, other")]).await;
    let shared = json!({"serviceName": "config-center", "environment": "production", "version": "1.0.0"});
    let provider = probe.service(shared).await;
    probe.instance(&provider, json!({"hostName": "n", "instanceId": "i"})).await;
    let body = json!({"service": {"serviceName": "cart", "appId": "shop", "version": "1.0.0"}}).to_string();
    let consumer = elsewhere(&probe, "POST", "/microservices", "", body).await.ok()["serviceId"].clone();
    let consumer = consumer.as_str().expect("an id").to_owned();
    let find = "/instances?appId=default&serviceName=config-center&version=0%2B&env=";
    let found = elsewhere(&probe, "GET", find, &consumer, String::new()).await;
    let rev = found.revision();
    assert_eq!(
        found.ok()["instances"][0]["instanceId"],
        "i",
        "the consumer's application and environment do not matter"
    );
    // From now on the watch of a consumer in the other domain delivers its changes.
    let interested = probe.providers_in("tenant-b", &consumer);
    assert_eq!(interested, std::slice::from_ref(&provider));
    probe
        .put(&format!("/microservices/{provider}/instances/i/status?value=DOWN"), &Value::Null)
        .await
        .empty();
    let again = "/instances?appId=default&serviceName=config-center&version=0%2B&env=";
    let found = elsewhere(&probe, "GET", again, &consumer, String::new()).await;
    assert_ne!(found.revision(), rev);
    // A service that is not shared is found in the caller's own domain only.
    let plain = "/instances?appId=default&serviceName=plain&version=0%2B";
    probe.service(json!({"serviceName": "plain"})).await;
    elsewhere(&probe, "GET", plain, "", String::new()).await.refused("400012");
}

#[tokio::test]
async fn heartbeat_floors_and_a_fixed_lease_time_are_kept() {
    let variables =
        [("MUSTER_REGISTRY_INSTANCE_MIN_INTERVAL", "5"), ("MUSTER_REGISTRY_INSTANCE_MIN_TIMES", "3")];
    let probe = Probe::start_with(&variables).await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let check = json!({"mode": "push", "interval": 1, "times": 1});
    probe.instance(&id, json!({"hostName": "n", "instanceId": "i", "healthCheck": check})).await;
    let read = probe.get(&format!("/microservices/{id}/instances/i")).await.ok();
    assert_eq!(read["instance"]["healthCheck"], json!({"mode": "push", "interval": 5, "times": 3}));
    let pull = json!({"mode": "pull", "interval": 7, "times": 9, "port": 80, "url": "/health"});
    probe.instance(&id, json!({"hostName": "n", "instanceId": "p", "healthCheck": pull})).await;
    let read = probe.get(&format!("/microservices/{id}/instances/p")).await.ok();
    let forced = json!({"mode": "pull", "interval": 30, "times": 3, "port": 80, "url": "/health"});
    assert_eq!(read["instance"]["healthCheck"], forced);
    let overflow = json!({"mode": "push", "interval": 2_147_483_647, "times": 2_147_483_647});
    let body = json!({"instance": {"hostName": "n", "healthCheck": overflow}});
    probe.post(&format!("/microservices/{id}/instances"), &body).await.refused("400001");
}

#[tokio::test]
async fn the_registrys_own_instance_has_the_advertised_address() {
    let variables = [
        ("MUSTER_ADVERTISE", "registry.example:443"),
        ("MUSTER_DATA_CENTER_NAME", "dc1"),
        ("MUSTER_DATA_CENTER_REGION", "north"),
        ("MUSTER_DATA_CENTER_ZONE", "az1"),
    ];
    let probe = Probe::start_with(&variables).await;
    let own = probe.get("/health").await.ok()["instances"][0].clone();
    assert_eq!(own["endpoints"], json!(["rest://registry.example:443/"]));
    assert_eq!(own["dataCenterInfo"], json!({"name": "dc1", "region": "north", "availableZone": "az1"}));
    let find = "/instances?appId=default&serviceName=SERVICECENTER&version=latest&env=production";
    assert!(probe.get(find).await.ok()["instances"].is_array());
    for other in ["KIE", "CseConfigCenter"] {
        let find = format!("/instances?appId=default&serviceName={other}&version=latest");
        probe.get(&find).await.refused("400012");
    }
    let id = own["serviceId"].as_str().expect("an id");
    probe.delete(&format!("/microservices/{id}?force=1")).await.refused("400001");
}

/// True when a line of the metrics has the name and all labels.
fn has(text: &str, name: &str, labels: &[&str]) -> bool {
    text.lines().any(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
}

#[tokio::test]
async fn metrics_have_their_old_names_and_bounded_labels() {
    let probe = Probe::start().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&id, json!({"hostName": "n", "instanceId": "i"})).await;
    probe.put(&format!("/microservices/{id}/instances/i/heartbeat"), &Value::Null).await.empty();
    probe.put(&format!("/microservices/{id}/instances/x/heartbeat"), &Value::Null).await.refused("400017");
    for n in 0..150 {
        let domain = format!("domain-{n}");
        let headers = [("X-Domain-Name", domain.as_str())];
        probe.send("GET", "/v4/default/registry/microservices", &headers, String::new()).await.ok();
    }
    let text = probe.figures();
    assert!(has(&text, "service_center_db_heartbeat_total{", &[r#"status="SUCCESS""#]));
    assert!(has(&text, "service_center_db_heartbeat_total{", &[r#"status="FAILURE""#]));
    assert!(has(
        &text,
        "service_center_db_backend_operation_total{",
        &[r#"operation="LEASE_RENEW""#, r#"status="SUCCESS""#]
    ));
    let requests = "service_center_http_request_total{";
    assert!(has(
        &text,
        requests,
        &[r#"api="SendHeartbeat""#, r#"code="400""#, r#"domain="default""#, r#"method="PUT""#]
    ));
    assert!(has(&text, requests, &[r#"api="ListService""#, r#"domain="domain-0""#]));
    assert!(
        has(&text, requests, &[r#"api="ListService""#, r#"domain="other""#]) && !text.contains("domain-149")
    );
}
