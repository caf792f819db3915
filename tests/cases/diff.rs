//! `muster diff` on real processes: it is silent when they agree, and names who does not.

use harness::port::local;
use harness::{Client, Nats, Process, World, eventually};
use serde_json::Value;

use crate::operate::muster;

/// The flags that name the processes.
fn admins(world: &World) -> String {
    let nodes = world.control_planes.iter().chain(&world.gateways);
    nodes.map(|node| format!("http://{}", node.admin)).collect::<Vec<_>>().join(",")
}

/// A consumer that watches `order` on both gateways, which therefore follow it.
async fn watched(world: &World) -> (String, [harness::Watcher; 2]) {
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    client.find(&consumer, "order", "").await.ok();
    let watchers = [world.watch(0, &consumer).await, world.watch(1, &consumer).await];
    // Nobody sends heartbeats. An expiry during the comparison would be a change of its own.
    client.instance_with(&provider, "first", 300).await;
    (provider, watchers)
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_finds_agreement_even_while_things_change() {
    let world = World::with().planes(2).gateways(2).start().await;
    let (provider, mut watchers) = watched(&world).await;
    for watcher in &mut watchers {
        watcher.expect("CREATE", "first", "").await;
    }
    let admins = admins(&world);
    let (status, text) = muster(&["diff", "--admin", &admins]).await;
    assert_eq!(status, 0, "{text}");
    assert!(text.matches("current").count() == 4 && text.matches("  edge  ").count() == 2, "{text}");

    let client = world.client(1);
    let changing = async {
        for n in 0.. {
            client.tag(&provider, "first", &n.to_string()).await;
        }
    };
    let arguments = ["diff", "--admin", &admins, "--output", "json"];
    let comparing = muster(&arguments);
    let (status, text) = tokio::select! { () = changing => unreachable!(), done = comparing => done };
    assert_eq!(status, 0, "{text}");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&report["agree"], report["processes"].as_array().map(Vec::len)), (&true.into(), Some(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_names_a_gateway_that_was_cut_off_and_its_missing_event() {
    let world = World::with().planes(2).gateways(2).linked().start().await;
    let (provider, mut watchers) = watched(&world).await;
    for watcher in &mut watchers {
        watcher.expect("CREATE", "first", "").await;
    }
    let stale = &world.gateways[1];
    let link = stale.bus.as_ref().expect("a world of links");
    // Only the bus is out of reach. The gateway still answers on its admin port and can be compared.
    link.cut().await;
    world.client(0).instance_with(&provider, "second", 300).await;
    watchers[0].expect("CREATE", "second", "").await;

    let admins = admins(&world);
    // The gateway cannot reach the revision of the others while it is cut off; `--settle` bounds the wait for
    // it.
    let (status, text) = muster(&["diff", "--admin", &admins, "--settle", "3s"]).await;
    assert_eq!(status, 1, "{text}");
    let missing = text.lines().find(|line| line.contains("second")).expect("names the instance");
    assert!(missing.starts_with(&stale.admin.to_string()) && missing.contains("absent"), "{text}");
    assert!(missing.contains("shop/order 1.0.0"), "{text}");
    let says = format!("1 difference; {} did not reach the revision of the others", stale.admin);
    assert!(text.contains(&says), "{text}");

    link.mend().await;
    eventually("they agree again", || async {
        (muster(&["diff", "--admin", &admins]).await.0 == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_of_two_clusters_do_not_agree() {
    let (a, b) = tokio::join!(World::with().gateways(0).start(), World::with().gateways(0).start());
    for world in [&a, &b] {
        // A control plane serves before it has registered itself, and until then both are empty.
        let client = Client::new(world.control_planes[0].api);
        eventually("it is registered in itself", || async {
            let all = client.call("GET", "/microservices", "", &Value::Null).await.ok();
            all["services"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
        })
        .await;
    }
    let admins = format!("http://{},http://{}", a.control_planes[0].admin, b.control_planes[0].admin);
    let (status, text) = muster(&["diff", "--admin", &admins, "--settle", "1s"]).await;
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("they do not agree") && text.contains("SERVICECENTER"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_be_asked_is_told_from_one_that_differs() {
    let nobody = format!("http://{},http://{}", local(), local());
    assert_eq!(muster(&["diff", "--admin", &nobody]).await.0, 69);
    let nats = Nats::start().await;
    let api = local();
    let admin = local();
    let gateway = Process::ours("edge-gateway").args([
        "--nats",
        &nats.url(),
        "--listen",
        &api.to_string(),
        "--admin-listen",
        &admin.to_string(),
    ]);
    gateway.start();
    let alone = format!("http://{admin}");
    let (status, text) = eventually("it can be asked", || async {
        let (status, text) = muster(&["diff", "--admin", &alone]).await;
        (status != 69).then_some((status, text))
    })
    .await;
    assert!(status == 64 && text.contains("two processes"), "{status}: {text}");
}
