//! Many clients that change one object at the same time, as when a whole site starts.

use std::sync::Arc;

use crate::probe::Probe;
use control_plane::store::Store;
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

const FIND: &str = "/instances?appId=default&serviceName=order&version=0%2B";

/// Two replicas of one store.
async fn replicas() -> [Probe; 2] {
    let mut shared: Option<Arc<dyn Store>> = None;
    let first = Probe::start_over(|store| {
        shared = Some(store.clone());
        store
    });
    let first = first.await;
    let shared = shared.expect("the first replica has a store");
    [first, Probe::start_over(|_| shared).await]
}

async fn consumers(probe: &Probe, count: usize) -> Vec<String> {
    join_all((0..count).map(|n| probe.service(json!({"serviceName": format!("c{n}")})))).await
}

/// The number of consumers that a provider has.
async fn consumers_of(probe: &Probe, provider: &str) -> usize {
    let listed = probe.get(&format!("/microservices/{provider}/consumers")).await.ok();
    listed["consumers"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_thousand_consumers_find_one_provider_at_once() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"serviceName": "order"})).await;
    let consumers = consumers(&probe, 1000).await;
    let finds = join_all(consumers.iter().map(|consumer| probe.get_as(consumer, FIND))).await;
    finds.into_iter().for_each(|found| drop(found.ok()));
    assert_eq!(consumers_of(&probe, &provider).await, 1000);
}

#[tokio::test]
async fn a_find_outlives_the_caller_that_writes_for_it() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"serviceName": "order"})).await;
    let consumers = consumers(&probe, 3).await;
    let mut finds = consumers.iter().map(|consumer| Box::pin(probe.get_as(consumer, FIND)));
    let [mut first, mut second, mut third] = std::array::from_fn(|_| finds.next().expect("three finds"));
    // The first writes; the others wait for it. Then the second writes for the third, and its client goes.
    for find in [&mut first, &mut second, &mut third] {
        assert!(find.now_or_never().is_none());
    }
    first.await.ok();
    assert!((&mut second).now_or_never().is_none());
    drop(second);
    third.await.ok();
    assert!(consumers_of(&probe, &provider).await >= 2);
}

#[tokio::test]
async fn replicas_that_record_finds_at_once_lose_none() {
    let replicas = replicas().await;
    let provider = replicas[0].service(json!({"serviceName": "order"})).await;
    let consumers = consumers(&replicas[0], 200).await;
    let finds = consumers.iter().zip(replicas.iter().cycle());
    let finds = join_all(finds.map(|(consumer, replica)| replica.get_as(consumer, FIND))).await;
    finds.into_iter().for_each(|found| drop(found.ok()));
    assert_eq!(consumers_of(&replicas[0], &provider).await, 200);
}

#[tokio::test]
async fn every_change_of_one_object_succeeds() {
    let replicas = replicas().await;
    let service = replicas[0].service(json!({"serviceName": "order"})).await;
    let path = format!("/microservices/{service}");
    let instance = format!("{path}/instances/i");
    replicas[0].instance(&service, json!({"hostName": "n", "instanceId": "i"})).await;
    let mut changes = Vec::new();
    for (n, replica) in (0..128).zip(replicas.iter().cycle()) {
        let properties = json!({"properties": {"k": n.to_string()}});
        changes.push((replica, format!("{path}/properties"), properties.clone()));
        changes.push((replica, format!("{instance}/properties"), properties));
        let status = ["UP", "DOWN"][n % 2];
        changes.push((replica, format!("{instance}/status?value={status}"), Value::Null));
    }
    let answers = changes.iter().map(|(replica, path, body)| replica.put(path, body));
    join_all(answers).await.into_iter().for_each(crate::probe::Answer::empty);
}

/// A site starts after a blackout: each client registers its service and its instance, and finds its
/// provider.
#[tokio::test]
async fn a_whole_site_starts_at_once_without_an_error() {
    const CLIENTS: usize = 300;
    let probe = &Probe::start().await;
    let provider = &probe.service(json!({"serviceName": "order"})).await;
    let start = async |n: usize| {
        let consumer = probe.service(json!({"serviceName": format!("c{}", n % 50)})).await;
        let instance =
            json!({"hostName": "n", "instanceId": format!("i{n}"), "endpoints": [format!("rest://h:{n}")]});
        let provides = n.is_multiple_of(2);
        probe.instance(if provides { provider } else { &consumer }, instance).await;
        probe.get_as(&consumer, FIND).await.ok();
        let beat = format!("/microservices/{provider}/instances/i{n}/heartbeat");
        if provides {
            probe.put(&beat, &Value::Null).await.empty();
        }
    };
    join_all((0..CLIENTS).map(start)).await;
    let found = probe.get(&format!("/microservices/{provider}/instances")).await.ok();
    assert_eq!(found["instances"].as_array().map_or(0, Vec::len), CLIENTS / 2);
    assert_eq!(consumers_of(probe, provider).await, 50);
}
