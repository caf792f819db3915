//! The timeline over the API: each change with its cause.

use std::time::Duration;

use crate::probe::Probe;
use serde_json::{Value, json};

/// The instances and causes of a service's changes, oldest first.
async fn causes(probe: &Probe, path: &str) -> Vec<(String, String)> {
    let answer = probe.get(&format!("{path}/timeline")).await.ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changes = answer["timeline"]["changes"].as_array().cloned().unwrap_or_default();
    changes.iter().map(|change| (text(&change["instanceId"]), text(&change["cause"]))).collect()
}

#[tokio::test]
async fn each_change_is_told_with_its_cause() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    let path = format!("/microservices/{service}");
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i", "properties": {"a": "b"}})).await;
    probe.put(&format!("{path}/instances/i/status?value=DOWN"), &Value::Null).await.empty();
    let wish = json!({"serviceId": service, "weight": 1, "reason": "trial"});
    let id = probe.put("/overrides", &wish).await.ok()["overrideId"].as_str().expect("an id").to_owned();
    probe.delete(&format!("/overrides/{id}")).await.empty();
    probe.delete(&format!("{path}/instances/i")).await.empty();
    let check = json!({"mode": "push", "interval": 1, "times": 1});
    probe.instance(&service, json!({"hostName": "n", "instanceId": "j", "healthCheck": check})).await;
    let of_j = format!("{path}/instances/j");
    let mut revisions = probe.revisions();
    let lost = async {
        while causes(&probe, &of_j).await.len() < 2 {
            revisions.changed().await.expect("the view lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), lost).await.expect("within the deadline");
    let all = causes(&probe, &path).await;
    let of_i = ["registered", "changed", "status-changed", "override", "override-ended", "unregistered"];
    let expected = of_i.iter().map(|cause| ("i", *cause)).chain([("j", "registered"), ("j", "beat-lost")]);
    assert_eq!(all, expected.map(|(id, cause)| (id.to_owned(), cause.to_owned())).collect::<Vec<_>>());
    let answer = probe.get(&format!("{path}/instances/i/timeline")).await.ok();
    let by = &answer["timeline"]["changes"][3];
    assert_eq!(
        (&by["by"], &by["reason"], &by["overrideId"]),
        (&json!("anonymous"), &json!("trial"), &json!(id))
    );
    probe.get("/microservices/nobody/timeline").await.refused("400012");
    probe.stop().await;
}

#[tokio::test]
async fn a_node_that_listed_anew_says_since_when_it_knows() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = Probe::start_in(directory.path()).await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    let path = format!("/microservices/{service}");
    probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    let registered =
        probe.get(&format!("{path}/timeline")).await.ok()["timeline"]["changes"][0]["revision"].clone();
    probe.stop().await;
    let probe = Probe::start_in(directory.path()).await;
    let timeline = probe.get(&format!("{path}/timeline")).await.ok()["timeline"].clone();
    assert_eq!(timeline["changes"], json!([]));
    assert!(timeline["since"].as_u64() >= registered.as_u64(), "{timeline}");
    probe.put(&format!("{path}/instances/i/status?value=DOWN"), &Value::Null).await.empty();
    assert_eq!(causes(&probe, &path).await, [("i".to_owned(), "status-changed".to_owned())]);
    probe.stop().await;
}
