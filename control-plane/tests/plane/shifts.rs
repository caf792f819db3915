//! Shifts over the API: weights change in steps, and each of them can be stopped and taken back.

use std::time::Duration;

use crate::probe::Probe;
use crate::session::{SERVICES, account, guarded, role, root};
use serde_json::{Value, json};

/// The weights that clients see of the instances of two services.
async fn weights(probe: &Probe, services: &[String; 2]) -> [String; 2] {
    let mut weights = [String::new(), String::new()];
    for (service, weight) in services.iter().zip(&mut weights) {
        let answer = probe.get(&format!("/microservices/{service}/instances/i")).await.ok();
        let shown = &answer["instance"]["properties"]["weight"];
        *weight = shown.as_str().unwrap_or_default().to_owned();
    }
    weights
}

async fn two_versions(probe: &Probe) -> [String; 2] {
    let mut services = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let service = probe.service(json!({"serviceName": "order", "version": version})).await;
        probe.instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
        services.push(service);
    }
    services.try_into().expect("two")
}

fn plan(services: &[String; 2], steps: &[(u8, u64)]) -> Value {
    let steps: Vec<_> =
        steps.iter().map(|(weight, seconds)| json!({"toWeight": weight, "seconds": seconds})).collect();
    let [from, to] = services;
    json!({"from": {"serviceId": from}, "to": {"serviceId": to}, "steps": steps, "reason": "order 2"})
}

async fn start(probe: &Probe, plan: &Value) -> String {
    let reply = probe.post("/shifts", plan).await.ok();
    reply["shiftId"].as_str().expect("an id").to_owned()
}

async fn shift(probe: &Probe, id: &str) -> Value {
    probe.get(&format!("/shifts/{id}")).await.ok()["shift"].clone()
}

/// Waits for the change that brings the shift into a state.
async fn until(probe: &Probe, id: &str, is_reached: impl Fn(&Value) -> bool) -> Value {
    let mut revisions = probe.revisions();
    let reached = async {
        loop {
            let shift = shift(probe, id).await;
            if is_reached(&shift) {
                return shift;
            }
            revisions.changed().await.expect("the view lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("within the deadline")
}

fn pair(from: &str, to: &str) -> [String; 2] {
    [from.to_owned(), to.to_owned()]
}

#[tokio::test]
async fn a_shift_goes_its_steps_and_is_undone() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = Probe::start_in(directory.path()).await;
    let services = two_versions(&probe).await;
    let id = start(&probe, &plan(&services, &[(10, 1), (50, 1), (100, 1)])).await;
    let done = until(&probe, &id, |shift| shift["state"] == "done").await;
    assert_eq!((&done["step"], weights(&probe, &services).await), (&json!(3), pair("0", "100")));
    let timeline = probe.get(&format!("/microservices/{}/timeline", services[1])).await.ok();
    let told = timeline["timeline"]["changes"].as_array().cloned().unwrap_or_default();
    let told: Vec<_> =
        told.iter().filter(|change| change["cause"] == "override").map(|change| &change["reason"]).collect();
    let expected = [1, 2, 3].map(|step| json!(format!("shift by anonymous, step {step} of 3: order 2")));
    assert_eq!(told, expected.iter().collect::<Vec<_>>());
    probe.stop().await;
    let probe = Probe::start_in(directory.path()).await;
    assert_eq!(weights(&probe, &services).await, pair("0", "100"));
    assert_eq!(shift(&probe, &id).await["state"], "done");
    assert!(probe.figures().contains(r#"muster_shifts{state="done"} 1"#), "{}", probe.figures());
    probe.put(&format!("/shifts/{id}/undo"), &Value::Null).await.empty();
    assert_eq!(weights(&probe, &services).await, pair("", ""));
    assert_eq!(probe.get("/overrides").await.ok(), json!({}));
    // Once more does nothing, and nobody starts it anew.
    probe.put(&format!("/shifts/{id}/undo"), &Value::Null).await.empty();
    probe.put(&format!("/shifts/{id}/resume"), &Value::Null).await.refused("400001");
    probe.stop().await;
}

#[tokio::test]
async fn a_restart_takes_one_step_at_most() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = Probe::start_in(directory.path()).await;
    let services = two_versions(&probe).await;
    let id = start(&probe, &plan(&services, &[(10, 1), (20, 3600), (100, 1)])).await;
    probe.stop().await;
    let probe = Probe::start_in(directory.path()).await;
    let second = until(&probe, &id, |shift| shift["step"] == 2).await;
    assert_eq!((&second["state"], weights(&probe, &services).await), (&json!("running"), pair("80", "20")));
    let put = async |act: &str| probe.put(&format!("/shifts/{id}/{act}"), &Value::Null).await;
    put("pause").await.empty();
    put("pause").await.empty();
    assert_eq!(shift(&probe, &id).await["state"], "paused");
    probe.stop().await;
    let probe = Probe::start_in(directory.path()).await;
    assert_eq!(shift(&probe, &id).await["state"], "paused");
    probe.put(&format!("/shifts/{id}/resume"), &Value::Null).await.empty();
    probe.put(&format!("/shifts/{id}/resume"), &Value::Null).await.empty();
    assert_eq!(shift(&probe, &id).await["state"], "running");
    assert_eq!(weights(&probe, &services).await, pair("80", "20"));
    probe.stop().await;
}

#[tokio::test]
async fn nobody_elses_override_is_replaced() {
    let probe = Probe::start().await;
    let services = two_versions(&probe).await;
    let wish = |service: &str| json!({"serviceId": service, "weight": 7, "reason": "mine"});
    let mine = probe.put("/overrides", &wish(&services[1])).await.ok()["overrideId"].clone();
    let body = plan(&services, &[(10, 1), (50, 1)]);
    let refusal = probe.post("/shifts", &body).await.refused("400001");
    assert!(refusal["detail"].as_str().is_some_and(|text| text.contains("same target")), "{refusal}");
    probe.delete(&format!("/overrides/{}", mine.as_str().expect("an id"))).await.empty();
    let id = start(&probe, &body).await;
    // A second one with the same instances, either way round, is refused while the first has its weights.
    probe.post("/shifts", &body).await.refused("400001");
    let [old, new] = services.clone();
    probe.post("/shifts", &plan(&[new, old], &[(10, 1)])).await.refused("400001");
    // Somebody sets a weight in the middle: the plan stops, and touches nothing.
    probe.put("/overrides", &wish(&services[0])).await.ok();
    let stopped = until(&probe, &id, |shift| shift["state"] == "paused").await;
    // On a busy machine the second step may have come before that weight.
    let at_step = if stopped["step"] == 1 { pair("7", "10") } else { pair("7", "50") };
    assert_eq!(weights(&probe, &services).await, at_step, "{stopped}");
    assert!(stopped["obstacle"].as_str().is_some_and(|text| text.contains("anonymous")), "{stopped}");
    assert!(probe.figures().contains(r#"muster_shifts{state="interrupted"} 1"#), "{}", probe.figures());
    probe.put(&format!("/shifts/{id}/resume"), &Value::Null).await.refused("400001");
    probe.put(&format!("/shifts/{id}/undo"), &Value::Null).await.empty();
    assert_eq!(weights(&probe, &services).await, pair("7", ""));
    probe.stop().await;
}

#[tokio::test]
async fn a_shift_of_a_deleted_service_stops_and_is_undone() {
    let probe = Probe::start().await;
    let services = two_versions(&probe).await;
    let id = start(&probe, &plan(&services, &[(10, 1), (50, 1)])).await;
    probe.delete(&format!("/microservices/{}?force=1", services[0])).await.empty();
    let stopped = until(&probe, &id, |shift| shift["state"] == "paused").await;
    assert!(stopped["obstacle"].as_str().is_some_and(|text| text.contains("exist")), "{stopped}");
    probe.put(&format!("/shifts/{id}/undo"), &Value::Null).await.empty();
    assert_eq!(probe.get("/overrides").await.ok(), json!({}));
    probe.stop().await;
}

#[tokio::test]
async fn each_mistake_of_a_plan_is_refused_with_its_field() {
    let probe = Probe::start().await;
    let services = two_versions(&probe).await;
    let good = plan(&services, &[(10, 1)]);
    for (field, value, words) in [
        ("reason", json!(""), "reason"),
        ("steps", json!([]), "steps"),
        ("steps", json!(vec![json!({"toWeight": 1, "seconds": 1}); 51]), "steps"),
        ("steps", json!([{"toWeight": 101, "seconds": 1}]), "weight"),
        ("steps", json!([{"toWeight": 10, "fromWeight": 101, "seconds": 1}]), "weight"),
        ("steps", json!([{"toWeight": 0, "fromWeight": 0, "seconds": 1}]), "weight"),
        ("steps", json!([{"toWeight": 10}]), "seconds"),
        ("steps", json!([{"toWeight": 10, "seconds": 2_592_001}]), "seconds"),
        ("to", json!({"serviceId": services[0]}), "same instances"),
        ("to", json!({"serviceId": services[1], "zone": "a b"}), "zone"),
        ("to", json!({"serviceId": ""}), "ServiceId"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let refusal = probe.post("/shifts", &body).await.refused("400001");
        let detail = refusal["detail"].as_str().unwrap_or_default().to_lowercase();
        assert!(detail.contains(&words.to_lowercase()), "{body}: {refusal}");
    }
    let mut body = good.clone();
    body["from"]["instanceId"] = json!("nobody");
    probe.post("/shifts", &body).await.refused("400017");
    body["from"] = json!({"serviceId": "nobody"});
    probe.post("/shifts", &body).await.refused("400012");
    assert_eq!(probe.get("/shifts").await.ok(), json!({}));
    probe.stop().await;
}

#[tokio::test]
async fn both_services_of_a_shift_must_be_permitted() {
    let probe = guarded().await;
    let resource = json!({ "type": "service", "labels": { "environment": "production" } });
    role(&probe, "prod", json!([{ "resources": [resource], "verbs": ["*"] }])).await;
    let prodder = account(&probe, "prodder", &["prod"]).await;
    let root = root(&probe).await;
    let mut services = Vec::new();
    for (version, environment) in [("1", "production"), ("2", "production"), ("1", "development")] {
        let service =
            json!({"appId": "a", "serviceName": "s", "version": version, "environment": environment});
        let reply = root.send("POST", SERVICES, json!({ "service": service })).await.ok();
        services.push(reply["serviceId"].as_str().expect("an id").to_owned());
    }
    let [one, two, hidden] = <[String; 3]>::try_from(services).expect("three");
    let shifts = "/v4/default/registry/shifts";
    let steps = [(10, 3600)];
    for services in [[one.clone(), hidden.clone()], [hidden.clone(), one.clone()]] {
        prodder.send("POST", shifts, plan(&services, &steps)).await.refused("403205");
    }
    let own = prodder.send("POST", shifts, plan(&[one.clone(), two], &steps)).await.ok();
    let own = format!("{shifts}/{}", own["shiftId"].as_str().expect("an id"));
    assert_eq!(prodder.get(&own).await.ok()["shift"]["owner"], "prodder");
    let mixed = plan(&[hidden, one], &steps);
    let mut mixed_plan = mixed.clone();
    mixed_plan["to"]["version"] = json!("9");
    let mixed = root.send("POST", shifts, mixed_plan).await.ok();
    let mixed = format!("{shifts}/{}", mixed["shiftId"].as_str().expect("an id"));
    prodder.get(&mixed).await.refused("400001");
    for act in ["pause", "resume", "undo"] {
        prodder.send("PUT", &format!("{mixed}/{act}"), Value::Null).await.refused("400001");
    }
    let listed = prodder.get(shifts).await.ok();
    assert_eq!(listed["shifts"].as_array().map(Vec::len), Some(1), "{listed}");
    prodder.send("PUT", &format!("{own}/undo"), Value::Null).await.empty();
    probe.stop().await;
}
