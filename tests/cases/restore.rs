//! etcd is restored from a backup, to an earlier revision, under processes that go on running.

use std::time::Duration;

use harness::readers::{point_of, xds};
use harness::{Client, Watcher, World, eventually};
use serde_json::{Value, json};

async fn is_there(client: &Client, consumer: &str, wanted: &[&str]) -> Option<()> {
    let answer = client.try_find(consumer, "order").await.filter(|answer| answer.status == 200)?;
    let instances = answer.ok()["instances"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<_> = instances.iter().filter_map(|instance| instance["instanceId"].as_str()).collect();
    ids.sort_unstable();
    (ids == wanted).then_some(())
}

/// Writes until it is accepted.
async fn tag(client: &Client, provider: &str, id: &str, tag: &str) {
    let path = format!("/microservices/{provider}/instances/{id}/properties");
    let body = json!({"properties": {"tag": tag}});
    eventually("the write is accepted", || async {
        let answer = client.try_call("PUT", &path, &body).await?;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// The frames of a client that resumes, and the revision it would go on from.
async fn until(watcher: &mut Watcher, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let frame = watcher.event().await;
        if wanted(&frame) {
            return frame;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_to_an_earlier_revision_is_followed() {
    let world = World::with().planes(2).gateways(2).start().await;
    let a = world.client(0);
    let b = world.client(1);
    let consumer = a.service("cart").await;
    let provider = a.service("order").await;
    a.find(&consumer, "order", "").await.ok();
    for id in ["gone", "kept", "same"] {
        // The leases must not end while etcd is down, once for the backup and once for the restore.
        a.instance_with(&provider, id, 300).await;
    }
    a.tag(&provider, "kept", "old").await;
    world.etcd.back_up().await;
    eventually("writes go on", || is_there(&a, &consumer, &["gone", "kept", "same"])).await;
    let mut old = [world.watch(0, &consumer).await, world.watch(1, &consumer).await];
    let path = format!("microservices/{consumer}/watcher");
    let mut resuming = Watcher::open(world.gateways[0].api, &format!("{path}?rev=0")).await;

    // Changes that the backup lacks: one instance is deleted, one is new, one changes many times.
    eventually("the write is accepted", || async {
        let path = format!("/microservices/{provider}/instances/gone");
        let answer = b.try_call("DELETE", &path, &Value::Null).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    for n in 0..40 {
        tag(&b, &provider, "kept", &n.to_string()).await;
    }
    a.instance_with(&provider, "new", 300).await;
    // `new` was written last. Once everybody has received it, nothing is in flight that the restore could
    // overtake.
    for watcher in &mut old {
        while watcher.seen().await.1 != "new" {}
    }
    let last = until(&mut resuming, |frame| frame["instance"]["instanceId"] == "new").await;
    let seen = last["rev"].as_u64().expect("a revision");

    let name = "shop/order";
    let (before, _) = xds::endpoints(world.gateways[0].api, name, None).await.expect("endpoints");

    world.etcd.restore().await;
    // Every connected watcher receives the difference.
    for watcher in &mut old {
        let mut told = Vec::new();
        for _ in 0..3 {
            told.push(watcher.seen().await);
        }
        // The three differences come from comparing two states, which has no order of its own.
        told.sort();
        let told: Vec<_> = told.iter().map(|(a, id, tag)| (a.as_str(), id.as_str(), tag.as_str())).collect();
        assert_eq!(told, [("DELETE", "new", ""), ("UPDATE", "gone", ""), ("UPDATE", "kept", "old")]);
    }
    // A client that remembers revisions starts over and receives the state.
    // Its revisions belong to the history that was undone, so the gateway ends the watch.
    while resuming.text().await.is_some() {}
    let mut resuming = Watcher::open(world.gateways[1].api, &format!("{path}?rev={seen}")).await;
    let reset = until(&mut resuming, |frame| frame["action"] == "RESET").await;
    assert!(reset["rev"].as_u64().expect("a revision") < seen, "{reset}");
    assert_eq!(reset["instances"].as_array().map(Vec::len), Some(3), "{reset}");
    // Each client of xDS that comes back is told what the restore has undone: its version is of an earlier
    // incarnation, and the gateways agree about that.
    for gateway in &world.gateways {
        let (version, endpoints) = eventually("the restored state is told over xDS", || async {
            let told = xds::endpoints(gateway.api, name, Some(&before)).await?;
            (told.1.iter().any(|properties| properties.get("tag").is_some_and(|tag| tag == "old")))
                .then_some(told)
        })
        .await;
        let ((was, seen), (now, revision)) =
            (point_of(&before).expect("a version"), point_of(&version).expect("a version"));
        assert!(now > was && revision < seen, "{before}, then {version}: {endpoints:?}");
    }
    // And everything goes on in the new order.
    for client in [&a, &b] {
        eventually("reads go on", || is_there(client, &consumer, &["gone", "kept", "same"])).await;
    }
    tag(&b, &provider, "same", "after").await;
    for watcher in &mut old {
        watcher.expect("UPDATE", "same", "after").await;
    }
    let after = until(&mut resuming, |frame| frame["action"] == "UPDATE").await;
    assert_eq!(after["instance"]["properties"]["tag"], "after");
    let stale: f64 = world.gateways[0].metric("muster_edge_staleness_seconds", "").await;
    assert!(Duration::from_secs_f64(stale) < Duration::from_secs(30), "bookmarks are heard");
}
