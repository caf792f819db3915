//! Shifts in a fleet: finds, watchers and dialects see the same weights at each step, also when the process
//! that takes the steps dies in between.

use harness::{Client, Watcher, World, eventually, port};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::dns::{answer_of, register};
use crate::operate::muster;

/// Registers a version of `order` with one instance, and returns the id of the service.
async fn version(client: &Client, version: &str, address: &str) -> String {
    let service = json!({"appId": "shop", "serviceName": "order", "version": version});
    let reply = client.call("POST", "/microservices", "", &json!({ "service": service })).await.ok();
    let service = reply["serviceId"].as_str().expect("an id").to_owned();
    register(client, &service, &format!("i{}", &version[..1]), address, json!({})).await;
    service
}

/// The weights of both instances, as far as a list of instances has them.
fn weights(instances: &Value) -> [String; 2] {
    let mut weights = [String::new(), String::new()];
    for instance in instances.as_array().into_iter().flatten() {
        let index = usize::from(instance["instanceId"] == "i2");
        weights[index] = instance["properties"]["weight"].as_str().unwrap_or_default().to_owned();
    }
    weights
}

/// Reads a watch until it has told these weights.
async fn told(watcher: &mut Watcher, known: &mut [String; 2], expected: &[String; 2]) {
    while known != expected {
        let frame = watcher.event().await;
        let instance = &frame["instance"];
        let index = usize::from(instance["instanceId"] == "i2");
        known[index] = instance["properties"]["weight"].as_str().unwrap_or_default().to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_sees_each_step_of_a_shift() {
    let dns = port::local();
    let world = World::with().planes(2).gateway_flag("--dns-listen", &dns.to_string());
    let world = world.start().await;
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let old = version(&client, "1.0.0", "10.0.0.1").await;
    let new = version(&client, "2.0.0", "10.0.0.2").await;
    client.find(&consumer, "order", "").await.ok();
    let mut watcher = world.watch(0, &consumer).await;

    let server = format!("http://{}", world.gateways[0].api);
    let start = ["shift", "start", "--server", &server, "--service", &old, "--to-service", &new];
    let steps = ["--step", "10:3s", "--step", "60/30:3s", "--step", "100:1s", "--reason", "order 2"];
    let (status, id) = muster(&[&start[..], &steps].concat()).await;
    assert_eq!(status, 0, "{id}");
    let mut known = [String::new(), String::new()];
    for (step, from, to) in [(1, "90", "10"), (2, "30", "60"), (3, "0", "100")] {
        let expected = [from.to_owned(), to.to_owned()];
        told(&mut watcher, &mut known, &expected).await;
        // The watcher is told at once. Until the next step comes, everybody else must have seen this one.
        if step < 3 {
            let act = ["shift", "pause", "--server", &server, id.trim()];
            let (status, text) = muster(&act).await;
            assert_eq!(status, 0, "{text}");
        }
        eventually("the find shows the step", || async {
            let found = client.find(&consumer, "order", "").await.ok();
            (weights(&found["instances"]) == expected).then_some(())
        })
        .await;
        let records = [(from, "i1"), (to, "i2")];
        // An instance without weight takes no traffic, so DNS does not name it.
        let records = records.iter().filter(|(weight, _)| *weight != "0");
        let mut records: Vec<_> =
            records.map(|(weight, id)| format!("0 {weight} 8080 {id}.instance.order.shop.muster.")).collect();
        records.sort();
        eventually("DNS has the step", || async {
            let told = answer_of(dns, "_rest._tcp.order.shop.muster.", RecordType::SRV).await?;
            (told == records).then_some(())
        })
        .await;
        if step == 1 {
            // The next step is taken by whichever control plane is left.
            let publisher = world.publisher().await;
            publisher.process.kill();
            publisher.process.start();
            publisher.ready().await;
        }
        if step < 3 {
            let (status, text) = muster(&["shift", "resume", "--server", &server, id.trim()]).await;
            assert_eq!(status, 0, "{text}");
        }
    }
    let (status, text) = muster(&["shift", "watch", "--server", &server, id.trim()]).await;
    assert!(status == 0 && text.contains("step 3 of 3") && text.contains("done"), "{text}");
    let (status, text) = muster(&["shift", "undo", "--server", &server, id.trim()]).await;
    assert_eq!(status, 0, "{text}");
    told(&mut watcher, &mut known, &[String::new(), String::new()]).await;
    let (_, listed) = muster(&["shift", "list", "--server", &server]).await;
    assert!(listed.contains("undone") && listed.contains("order 2"), "{listed}");
}
