//! Mass-expiry protection: a service keeps half of its instances, visibly and for a bounded time. Ordinary
//! deletes are never held.

use std::time::Duration;

use crate::probe::Probe;
use serde_json::{Value, json};
use shared::model::{ServiceRef, Tenant};

/// Waits until `done` is true, and checks it whenever the view has moved.
async fn until(probe: &Probe, done: impl AsyncFn() -> bool) {
    let mut revisions = probe.revisions();
    let wait = async {
        while !done().await {
            revisions.changed().await.expect("the view lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("within the deadline");
}

async fn living(probe: &Probe, service: &str) -> usize {
    let answer = probe.get(&format!("/microservices/{service}/instances")).await.ok();
    answer["instances"].as_array().map_or(0, Vec::len)
}

async fn protections(probe: &Probe) -> Value {
    probe.send("GET", "/v4/default/admin/protections", &[], String::new()).await.ok()
}

/// A service with ten instances that expire together, in two seconds.
async fn ten_expiring(probe: &Probe) -> String {
    let service = probe.service(json!({"serviceName": "order"})).await;
    for n in 0..10 {
        // The shortest lease of the contract: (times + 1) intervals.
        let check = json!({"mode": "push", "interval": 1, "times": 1});
        probe
            .instance(&service, json!({"hostName": "n", "instanceId": format!("i{n}"), "healthCheck": check}))
            .await;
    }
    service
}

#[tokio::test]
async fn half_of_an_expired_service_is_held_until_it_registers() {
    let probe = Probe::start().await;
    let service = ten_expiring(&probe).await;
    let held = async || protections(&probe).await["protections"][0]["held"].as_array().map_or(0, Vec::len);
    until(&probe, async || held().await == 5).await;
    assert_eq!(living(&probe, &service).await, 5, "half of the instances are shown as before");
    let kept = protections(&probe).await["protections"][0]["held"][0]["instanceId"].clone();
    let kept = kept.as_str().expect("an id");
    let beat = format!("/microservices/{service}/instances/{kept}/heartbeat");
    probe.put(&beat, &Value::Null).await.refused("400017");
    probe.instance(&service, json!({"hostName": "n", "instanceId": kept})).await;
    probe.put(&beat, &Value::Null).await.empty();
    assert_eq!((held().await, living(&probe, &service).await), (4, 5));
    let release = format!("/v4/default/admin/protections/{service}");
    probe.send("DELETE", &release, &[], String::new()).await.empty();
    assert_eq!(protections(&probe).await, json!({}), "an operator ends the protection");
    assert_eq!(living(&probe, &service).await, 1);
}

#[tokio::test]
async fn the_protection_ends_by_itself() {
    let probe = Probe::start_with(&[("MUSTER_PROTECTION_HOLD", "2s")]).await;
    let service = ten_expiring(&probe).await;
    until(&probe, async || living(&probe, &service).await == 5).await;
    until(&probe, async || living(&probe, &service).await == 0).await;
    assert_eq!(protections(&probe).await, json!({}));
}

#[tokio::test]
async fn an_unregistered_instance_is_never_held() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    for n in 0..10 {
        probe.instance(&service, json!({"hostName": "n", "instanceId": format!("i{n}")})).await;
    }
    // Counted down, so that `n` is also the number of remaining instances.
    for n in (0..10).rev() {
        probe.delete(&format!("/microservices/{service}/instances/i{n}")).await.empty();
        assert_eq!(living(&probe, &service).await, n);
    }
    assert_eq!(protections(&probe).await, json!({}));
}

#[tokio::test]
async fn a_restarted_registry_still_holds_its_instances() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = Probe::start_in(directory.path()).await;
    let service = ten_expiring(&probe).await;
    let recorded = async || {
        let held = protections(&probe).await["protections"][0]["held"].as_array().map_or(0, Vec::len);
        held == 5 && probe.unrecorded() == 0
    };
    // Without a record nothing would survive the restart: a replica alone knows only its own conclusions.
    until(&probe, recorded).await;
    probe.stop().await;
    let probe = Probe::start_in(directory.path()).await;
    assert_eq!(living(&probe, &service).await, 5);
    probe.delete(&format!("/microservices/{service}?force=1")).await.empty();
    assert_eq!(protections(&probe).await, json!({}));
    probe.stop().await;
}

#[tokio::test]
async fn instances_that_register_together_are_all_counted() {
    let probe = Probe::start().await;
    let service = probe.service(json!({"serviceName": "order"})).await;
    let registering =
        (0..40).map(|n| probe.instance(&service, json!({"hostName": "n", "instanceId": n.to_string()})));
    futures_util::future::join_all(registering).await;
    let snapshot = probe.view().now().expect("a view");
    let view = snapshot.any_service(&ServiceRef::new(Tenant::default(), &service)).expect("the service");
    assert_eq!((view.usual_size, view.living()), (40, 40));
}
