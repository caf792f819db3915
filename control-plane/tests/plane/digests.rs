//! The digests of the audit log: each write says what was stored before it and after it, so that the records
//! of one thing form a chain.

use std::path::Path;

use crate::probe::Probe;
use crate::session::{PASSWORD, SERVICES, root};
use serde_json::{Value, json};

async fn guarded(directory: &Path) -> Probe {
    let variables = [
        ("MUSTER_RBAC_ENABLE", "true"),
        ("MUSTER_RBAC_ROOT_PASSWORD", PASSWORD),
        ("MUSTER_RBAC_PASSWORD_HASH", "scrypt"),
    ];
    let probe = Probe::start_configured(directory, &variables).await;
    let mut revisions = probe.revisions();
    while !probe.view().now().expect("listed").policy.accounts.contains_key("root") {
        revisions.changed().await.expect("the view lives");
    }
    probe
}

fn records(directory: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(directory.join(host::audit::FILE_NAME)).expect("is written");
    text.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect()
}

#[tokio::test]
async fn digests_lead_from_each_write_to_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path()).await;
    let root = root(&probe).await;
    let send = async |method: &str, path: &str, body: Value| {
        let answer = root.send(method, &format!("{SERVICES}{path}"), body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer.text()
    };
    let service =
        json!({"service": {"appId": "a", "serviceName": "s", "version": "1.0.0", "serviceId": "s"}});
    let instance =
        json!({"instance": {"instanceId": "i", "hostName": "h", "endpoints": ["rest://10.0.0.1:80"]}});
    let rule = |pattern: &str| json!({"ruleType": "BLACK", "attribute": "AppId", "pattern": pattern});
    send("POST", "", service.clone()).await;
    send("PUT", "/s/properties", json!({"properties": {"k": "v"}})).await;
    send("POST", "/s/instances", instance).await;
    send("PUT", "/s/instances/i/status?value=DOWN", Value::Null).await;
    send("PUT", "/s/instances/i/properties", json!({"properties": {"k": "v"}})).await;
    send("DELETE", "/s/instances/i", Value::Null).await;
    send("POST", "/s/tags", json!({"tags": {"a": "one", "b": "one"}})).await;
    send("PUT", "/s/tags/a?value=two", Value::Null).await;
    send("DELETE", "/s/tags/a", Value::Null).await;
    let made: Value =
        serde_json::from_str(&send("POST", "/s/rules", json!({"rules": [rule("x")]})).await).expect("JSON");
    let id = made["RuleIds"][0].as_str().expect("an id");
    send("PUT", &format!("/s/rules/{id}"), rule("y")).await;
    send("DELETE", &format!("/s/rules/{id}"), Value::Null).await;
    send("PUT", "/s/schemas/x", json!({"schema": "one", "summary": "1"})).await;
    send("PUT", "/s/schemas/x", json!({"schema": "two", "summary": "2"})).await;
    send("DELETE", "/s/schemas/x", Value::Null).await;
    send("POST", "/s/schemas", json!({"schemas": [{"schemaId": "y", "schema": "three", "summary": "3"}]}))
        .await;
    let depends = |provider: &str| {
        let key = |name: &str| json!({"appId": "a", "serviceName": name, "version": "1.0.0"});
        json!({"dependencies": [{"consumer": key("s"), "providers": [key(provider)]}]})
    };
    for provider in ["p", "q"] {
        send("POST", "", json!({"service": {"appId": "a", "serviceName": provider, "version": "1.0.0"}}))
            .await;
    }
    for (method, provider) in [("POST", "p"), ("POST", "q"), ("PUT", "p")] {
        let path = "/v4/default/registry/dependencies";
        let answer = root.send(method, path, depends(provider)).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    send("DELETE", "/s?force=1", Value::Null).await;
    drop(root);
    probe.stop().await;

    let records = records(directory.path());
    // From the end of one record to the beginning of the next, within each chain; true for one that must be
    // empty.
    let digests: Vec<(Option<&str>, Option<&str>)> = records
        .iter()
        .filter(|record| record["path"].as_str().is_some_and(|path| path.starts_with(SERVICES)))
        .map(|record| (record["before"].as_str(), record["after"].as_str()))
        .collect();
    assert_eq!(digests.len(), 19, "{records:#?}");
    for chain in [&digests[..2], &digests[2..6], &digests[6..9], &digests[9..12], &digests[12..15]] {
        assert_eq!(chain[0].0, None, "nothing was stored before: {chain:?}");
        for pair in chain.windows(2) {
            assert!(pair[0].1.is_some() && pair[0].1 == pair[1].0, "{chain:?}");
            assert_ne!(pair[1].0, pair[1].1, "something has changed: {chain:?}");
        }
    }
    for end in [5, 11, 14, 18] {
        assert!(digests[end].0.is_some() && digests[end].1.is_none(), "a deletion leaves nothing: {end}");
    }
    let rules: Vec<(Option<&str>, Option<&str>)> = records
        .iter()
        .filter(|record| record["path"] == "/v4/default/registry/dependencies")
        .map(|record| (record["before"].as_str(), record["after"].as_str()))
        .collect();
    let [(None, Some(one)), (Some(one_before), Some(both)), (Some(both_before), Some(last))] = rules[..]
    else {
        panic!("each request notes the rules before and after it: {rules:?}")
    };
    assert_eq!((one, both), (one_before, both_before));
    assert_ne!(both, last, "an overwrite leaves one rule");
    let batch = digests[15];
    assert!(batch.0.is_some() && batch.1.is_some() && batch.0 != batch.1, "{batch:?}");
}
