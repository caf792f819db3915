//! Overrides in a fleet: every kind of client sees the one merge, whatever happens to the processes.

use harness::{Client, Watcher, World, eventually};
use serde_json::{Value, json};

use crate::operate::muster;

/// The instance in a frame of any watch.
fn instance_of(frame: &Value) -> Value {
    let is_state = frame["action"] == "RESET";
    if is_state { frame["instances"][0].clone() } else { frame["instance"].clone() }
}

/// Reads a watch until it tells an instance with this status, and returns the instance.
async fn told(watcher: &mut Watcher, status: &str) -> Value {
    loop {
        let frame = watcher.event().await;
        let instance = instance_of(&frame);
        if instance["status"] == status {
            return instance;
        }
    }
}

async fn found(client: &Client, consumer: &str) -> Value {
    client.find(consumer, "order", "").await.ok()["instances"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_and_finds_agree_about_an_override() {
    let world = World::with().planes(2).gateways(2).start().await;
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    client.instance(&provider, "i").await;
    client.find(&consumer, "order", "").await.ok();
    let gateway = world.gateways[0].api;
    let mut old = world.watch(1, &consumer).await;
    let mut resumable = Watcher::open(gateway, &format!("watcher?providers={provider}&rev=0")).await;
    told(&mut resumable, "UP").await;

    let server = format!("http://{gateway}");
    let set = ["override", "set", "--server", &server, "--service", &provider, "--instance", "i"];
    let wish = ["--status", "outofservice", "--weight", "5", "--reason", "hot", "--for", "1h"];
    let (status, id) = muster(&[&set[..], &wish].concat()).await;
    assert_eq!(status, 0, "{id}");
    let mut seen = vec![told(&mut old, "OUTOFSERVICE").await, told(&mut resumable, "OUTOFSERVICE").await];
    for gateway in [0, 1] {
        // A gateway that answers by itself may be a moment behind the other one's push.
        let one = eventually("the find shows it", || async {
            let one = found(&world.client(gateway), &consumer).await;
            (one["status"] == "OUTOFSERVICE").then_some(one)
        });
        seen.push(one.await);
    }
    for one in &seen {
        assert_eq!(one["properties"]["weight"], "5", "{one}");
        assert_eq!(one, &seen[0]);
    }

    // A registration with other data is pushed, still with the override.
    client.tag(&provider, "i", "again").await;
    let again = told(&mut old, "OUTOFSERVICE").await;
    assert_eq!((&again["properties"]["tag"], &again["properties"]["weight"]), (&json!("again"), &json!("5")));

    // A fail-over changes nothing either.
    let publisher = world.publisher().await;
    publisher.process.kill();
    publisher.process.start();
    publisher.ready().await;
    assert_eq!(found(&client, &consumer).await["status"], "OUTOFSERVICE");
    let (status, listed) = muster(&["override", "list", "--server", &server]).await;
    assert!(status == 0 && listed.contains("instance i") && listed.contains("hot"), "{listed}");

    let (status, text) = muster(&["override", "end", "--server", &server, id.trim()]).await;
    assert_eq!(status, 0, "{text}");
    let mut after = vec![told(&mut old, "UP").await, told(&mut resumable, "UP").await];
    after.push(
        eventually("the find shows the end", || async {
            let one = found(&client, &consumer).await;
            (one["status"] == "UP").then_some(one)
        })
        .await,
    );
    for one in &after {
        assert_eq!(one["properties"].get("weight"), None, "{one}");
        assert_eq!(one["properties"]["tag"], "again");
    }
    // Gateways and replicas that have compared digests had nothing to repair.
    assert!(
        world.gateways[0].try_metric("muster_edge_resyncs_total", r#"cause="digest""#).await.unwrap_or(0.0)
            == 0.0
    );
}
