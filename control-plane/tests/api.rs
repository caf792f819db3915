//! The API over the embedded store, where it goes beyond the contract or needs a look inside. What any server must
//! do is held by the conformance suite.

mod probe;

use probe::Probe;
use serde_json::{Value, json};

#[tokio::test]
async fn an_instance_that_moved_is_stored_anew_when_it_registers_again() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"serviceName": "order"})).await;
    let at = |port: u16| json!({"hostName": "n", "instanceId": "i", "endpoints": [format!("rest://10.0.0.1:{port}")]});
    probe.instance(&provider, at(1)).await;
    let path = format!("/microservices/{provider}/instances/i");
    probe.put(&format!("{path}/status?value=OUTOFSERVICE"), &Value::Null).await.empty();
    probe.instance(&provider, at(2)).await;
    let read = probe.get(&path).await.ok()["instance"].clone();
    assert_eq!(read["endpoints"], json!(["rest://10.0.0.1:2"]));
    assert_eq!(read["status"], "OUTOFSERVICE", "an operator's word outlives a restart");
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
    let many = |prefix: &str| -> Value {
        let one = |n: usize| json!({"schemaId": format!("{prefix}{n:03}"), "summary": "s", "schema": "x".repeat(15_000)});
        json!({"schemas": (0..100).map(one).collect::<Vec<_>>()})
    };
    for prefix in ["a", "b"] {
        probe.post(&schemas, &many(prefix)).await.empty();
        let listed = probe.get(&schemas).await.ok()["schemas"].as_array().expect("a list").clone();
        assert_eq!(listed.len(), 100);
        assert!(
            listed.iter().all(|schema| schema["schemaId"].as_str().is_some_and(|id| id.starts_with(prefix)))
        );
    }
}

#[tokio::test]
async fn a_full_tenant_takes_nothing_new_and_everything_again() {
    let probe = Probe::start_with(&[("MUSTER_QUOTA_SERVICES", "2"), ("MUSTER_QUOTA_INSTANCES", "2")]).await;
    let headers = [("X-Domain-Name", "full")];
    let post = async |path: &str, body: Value| {
        probe.send("POST", &format!("/v4/default/registry{path}"), &headers, body.to_string()).await
    };
    let service = |name: &str| json!({"service": {"serviceId": name, "serviceName": name}});
    let instance = |id: &str| json!({"instance": {"instanceId": id, "hostName": "n"}});
    for _ in 0..2 {
        for name in ["a", "b"] {
            post("/microservices", service(name)).await.ok();
            post("/microservices/a/instances", instance(name)).await.ok();
        }
    }
    post("/microservices", service("c")).await.refused("400100");
    post("/microservices/a/instances", instance("c")).await.refused("400100");
}
