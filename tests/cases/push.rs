//! Two control planes, two gateways, real etcd and NATS: every change reaches every interested watcher, in
//! order, exactly once.

use std::time::{Duration, Instant};

use harness::{Client, Direction, Pair, World, eventually};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_watchers_on_every_gateway_in_order() {
    let world = World::with().planes(2).gateways(2).start().await;
    let a = world.client(0);
    let b = world.client(1);
    let consumer = a.service("cart").await;
    let provider = b.service("order").await;
    a.find(&consumer, "order", "").await.ok();
    let mut watchers = vec![
        world.watch(0, &consumer).await,
        world.watch(1, &consumer).await,
        world.watch(1, &consumer).await,
    ];
    // Writes alternate between the gateways, and so between the control planes.
    b.instance(&provider, "i").await;
    for n in 0..20 {
        [&a, &b][n % 2].tag(&provider, "i", &n.to_string()).await;
    }
    a.unregister(&provider, "i").await;
    for watcher in &mut watchers {
        watcher.expect("CREATE", "i", "").await;
        for n in 0..20 {
            watcher.expect("UPDATE", "i", &n.to_string()).await;
        }
        watcher.expect("DELETE", "i", "19").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_takes_milliseconds() {
    let world = World::with().start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair(0).await;
    client.instance(&provider, "i").await;
    watcher.expect("CREATE", "i", "").await;
    let mut took = Vec::new();
    for n in 0..50 {
        let started = Instant::now();
        let tag = n.to_string();
        let ((), seen) = tokio::join!(client.tag(&provider, "i", &tag), watcher.seen());
        took.push(started.elapsed());
        assert_eq!(seen.2, n.to_string());
    }
    took.sort();
    println!("PUT to frame: p50 {:?}, worst {:?}", took[25], took[49]);
    // Not a measurement (benches measure): a debounce, or a wait for a retry, would show in each.
    assert!(took[25] < Duration::from_millis(100), "a push is delayed on purpose: {:?}", took[25]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_appears_later_is_pushed_from_the_start() {
    let world = World::with().planes(2).gateways(2).start().await;
    let a = world.client(0);
    let b = world.client(1);
    let consumer = a.service("cart").await;
    let mut watcher = world.watch(1, &consumer).await;
    assert_eq!(a.find(&consumer, "order", "").await.status, 400, "nothing has the name yet");
    let provider = b.service("order").await;
    b.instance(&provider, "first").await;
    watcher.expect("CREATE", "first", "").await;
    b.instance(&provider, "second").await;
    watcher.expect("CREATE", "second", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_deleted_and_registered_anew_is_pushed_again() {
    let world = World::with().planes(2).gateways(2).start().await;
    let a = world.client(0);
    let b = world.client(1);
    let consumer = a.service("cart").await;
    let provider = b.service("order").await;
    b.instance(&provider, "before").await;
    a.find(&consumer, "order", "").await.ok();
    let mut watcher = world.watch(1, &consumer).await;
    b.call("DELETE", &format!("/microservices/{provider}?force=1"), "", &Value::Null).await.ok();
    watcher.expect("DELETE", "before", "").await;
    let again = b.service("order").await;
    b.instance(&again, "after").await;
    watcher.expect("CREATE", "after", "").await;
}

/// The lines that an operator sees in the log of each process.
fn log_lines(world: &World) -> Vec<usize> {
    let mut counts = Vec::new();
    for node in world.nodes() {
        let log = node.process.log();
        let levels = ["INFO", "WARN", "ERROR"];
        counts.push(log.lines().filter(|line| levels.iter().any(|level| line.contains(level))).count());
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_write_no_line_each_into_any_log() {
    let world = World::with().start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair_of(0, &["i"]).await;
    let before = log_lines(&world);
    assert!(before.iter().all(|count| *count > 0), "they do write a log: {before:?}");
    for n in 0..1000 {
        let tag = n.to_string();
        client.tag(&provider, "i", &tag).await;
        watcher.expect("UPDATE", "i", &tag).await;
    }
    let after = log_lines(&world);
    // Some lines are allowed, because processes also report on themselves; a line per change would be a
    // thousand.
    assert!(before.iter().zip(&after).all(|(before, after)| after - before < 20), "{before:?}, {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_is_effective_when_the_find_answers() {
    let world = World::with().planes(2).gateways(2).start().await;
    let a = world.client(0);
    let b = world.client(1);
    let consumer = a.service("cart").await;
    let mut watchers = vec![world.watch(0, &consumer).await, world.watch(1, &consumer).await];
    for round in 0..10 {
        let name = format!("provider-{round}");
        let provider = b.service(&name).await;
        a.find(&consumer, &name, "").await.ok();
        // Registered right after the find was answered: an interest that took effect later would miss it.
        b.instance(&provider, &name).await;
        for watcher in &mut watchers {
            watcher.expect("CREATE", &name, "").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_after_a_push_is_never_stale() {
    let world = World::with().planes(2).gateways(2).start().await;
    let a = world.client(0);
    let b = world.client(1);
    let consumer = a.service("cart").await;
    let provider = a.service("order").await;
    a.instance(&provider, "i").await;
    let mut rev = a.find(&consumer, "order", "").await.revision().to_owned();
    let mut watcher = world.watch(0, &consumer).await;
    for n in 0..60 {
        let tag = n.to_string();
        // The write and the receipt are awaited together, because the push may arrive before the write is
        // answered.
        let (_, seen) = tokio::join!(b.tag(&provider, "i", &tag), watcher.seen());
        assert_eq!(seen.2, tag);
        // The gateway sends it to either control plane.
        let pulled = a.find(&consumer, "order", &rev).await;
        assert_eq!(pulled.status, 200, "304 after a push");
        assert_eq!(pulled.ok()["instances"][0]["properties"]["tag"], tag);
        rev = pulled.revision().to_owned();
        assert_eq!(b.find(&consumer, "order", &rev).await.status, 304);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_at_the_gateway_that_pushed_is_never_stale_though_nobody_is_asked() {
    let world = World::with().gateway_flag("--edge-confirm-unchanged", "false").start().await;
    let unchanged = || world.gateways[0].metric("muster_edge_finds_total", "answered=\"unchanged\"");
    let client = world.client(0);
    // Not through the gateway, which would wait for its own clients' writes.
    let writer = Client::new(world.control_planes[0].api);
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    writer.instance(&provider, "i").await;
    let mut rev = client.find(&consumer, "order", "").await.revision().to_owned();
    eventually("the gateway answers by itself", || async {
        client.find(&consumer, "order", &rev).await;
        (unchanged().await > 0.0).then_some(())
    })
    .await;
    let mut watcher = world.watch(0, &consumer).await;
    let before = unchanged().await;
    for n in 0..100 {
        let tag = n.to_string();
        let (_, seen) = tokio::join!(writer.tag(&provider, "i", &tag), watcher.seen());
        assert_eq!(seen.2, tag);
        let pulled = client.find(&consumer, "order", &rev).await;
        assert_eq!(pulled.status, 200, "304 after a push");
        assert_eq!(pulled.ok()["instances"][0]["properties"]["tag"], tag);
        rev = pulled.revision().to_owned();
        assert_eq!(client.find(&consumer, "order", &rev).await.status, 304);
    }
    assert_eq!(unchanged().await - before, 100.0, "no control plane was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_after_an_answered_write_is_never_stale() {
    let world = World::with().planes(2).gateways(2).linked().start().await;
    let [a, b] = [world.client(0), world.client(1)];
    let provider = a.service("order").await;
    a.instance(&provider, "i").await;
    // One control plane hears of every change late.
    let store = world.control_planes[1].store.as_ref().expect("a world of links");
    store.slow(Direction::ToClient, Duration::from_millis(20));
    let path = format!("/microservices/{provider}/instances/i");
    let uncached = format!("{path}?noCache=1");
    for n in 0..40 {
        let tag = n.to_string();
        a.tag(&provider, "i", &tag).await;
        // The gateway of the write knows of it; the other one has to ask the store.
        for (client, path) in [(&a, &path), (&b, &uncached)] {
            let read = client.call("GET", path, "", &Value::Null).await.ok();
            assert_eq!(read["instance"]["properties"]["tag"], tag, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_instance_is_told_and_a_beating_one_lives() {
    let world = World::with().planes(2).start().await;
    let client = world.client(0);
    let Pair { consumer, provider, mut watcher } = world.pair(0).await;
    // A lease of two seconds, against heartbeats every half second: a late heartbeat does not end it.
    client.instance_with(&provider, "beats", 1).await;
    client.instance_with(&provider, "silent", 1).await;
    watcher.expect("CREATE", "beats", "").await;
    watcher.expect("CREATE", "silent", "").await;
    let heartbeat = format!("/microservices/{provider}/instances/beats/heartbeat");
    // Only one of the two instances gets heartbeats, so exactly one lease ends.
    let expired = loop {
        tokio::select! {
            seen = watcher.seen() => break seen,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                client.call("PUT", &heartbeat, "", &Value::Null).await.ok();
            }
        }
    };
    assert_eq!((expired.0.as_str(), expired.1.as_str()), ("DELETE", "silent"));
    let left = client.find(&consumer, "order", "").await.ok();
    assert_eq!(left["instances"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_told_at_once_and_its_watch_ends() {
    let world = World::with().planes(2).gateways(2).start().await;
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let mut watchers = vec![world.watch(0, &consumer).await, world.watch(1, &consumer).await];
    client.call("DELETE", &format!("/microservices/{consumer}?force=1"), "", &Value::Null).await.ok();
    for watcher in &mut watchers {
        assert_eq!(watcher.text().await.as_deref(), Some("service does not exist"));
        assert_eq!(watcher.text().await, None);
    }
    let mut never = world.watch(0, "no-such-service").await;
    assert_eq!(never.text().await.as_deref(), Some("service does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_service_is_pushed_to_watchers_of_every_domain() {
    let world = World::with().plane_flag("--registry-shared-services", "weather").start().await;
    let gateway = world.client(0);
    let send = async |domain: &str, method: &str, path: &str, consumer: &str, body: Value| {
        let path = format!("/v4/default/registry{path}");
        let headers = [("X-Domain-Name", domain), ("X-ConsumerId", consumer)];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        gateway.try_send(method, &path, &headers, body).await.expect("an answer")
    };
    let register = async |domain: &str, app: &str, name: &str, environment: &str| {
        let body = json!({"service": {"appId": app, "serviceName": name, "version": "1.0.0", "environment": environment}});
        let answer = send(domain, "POST", "/microservices", "", body).await.ok();
        answer["serviceId"].as_str().expect("an id").to_owned()
    };
    // Shared services are those of the registry's own tenant and environment.
    let provider = register("default", "default", "weather", "production").await;
    let (near, far) =
        (register("default", "shop", "near", "").await, register("tenant-1", "shop", "far", "").await);
    let find = "/instances?appId=default&serviceName=weather&version=0%2B&env=production";
    let mut watchers = Vec::new();
    for (domain, consumer) in [("default", &near), ("tenant-1", &far)] {
        send(domain, "GET", find, consumer, Value::Null).await.ok();
        watchers.push(harness::Watcher::connect_in(world.gateways[0].api, domain, consumer).await);
    }
    // One that has not asked for it hears nothing of it.
    let other = register("tenant-2", "shop", "other", "").await;
    let own = register("tenant-2", "shop", "own", "").await;
    let path = "/instances?appId=shop&serviceName=own&version=0%2B";
    send("tenant-2", "GET", path, &other, Value::Null).await.ok();
    let mut elsewhere = harness::Watcher::connect_in(world.gateways[0].api, "tenant-2", &other).await;

    gateway.instance(&provider, "i").await;
    gateway.tag(&provider, "i", "sunny").await;
    gateway.unregister(&provider, "i").await;
    for watcher in &mut watchers {
        for (action, tag) in [("CREATE", ""), ("UPDATE", "sunny"), ("DELETE", "sunny")] {
            let event = watcher.event().await;
            assert_eq!((&event["action"], &event["instance"]["instanceId"]), (&json!(action), &json!("i")));
            assert_eq!(event["key"]["serviceName"], "weather");
            assert_eq!(event["instance"]["properties"]["tag"].as_str().unwrap_or_default(), tag);
        }
    }
    let body = json!({"instance": {"instanceId": "mine", "hostName": "n"}});
    send("tenant-2", "POST", &format!("/microservices/{own}/instances"), "", body).await.ok();
    elsewhere.expect("CREATE", "mine", "").await;
    // A pull agrees.
    let pulled = send("tenant-1", "GET", find, &far, Value::Null).await;
    assert_eq!(pulled.text(), "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_provider_is_told_instance_by_instance() {
    let world = World::with().planes(2).gateways(2).start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair(1).await;
    for n in 0..30 {
        client.instance(&provider, &format!("i{n:02}")).await;
        watcher.expect("CREATE", &format!("i{n:02}"), "").await;
    }
    client.call("DELETE", &format!("/microservices/{provider}?force=1"), "", &Value::Null).await.ok();
    let mut gone: Vec<String> = Vec::new();
    for _ in 0..30 {
        let (action, id, _) = watcher.seen().await;
        assert_eq!(action, "DELETE");
        gone.push(id);
    }
    // One transaction deletes all of them. This test is about completeness, not about their order in it.
    gone.sort();
    gone.dedup();
    assert_eq!(gone.len(), 30, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_come_up_in_any_order_and_say_when_they_are_ready() {
    let world = World::with().start().await;
    // The worst order of a cold start: our programs come up while neither server is there.
    world.nats.kill();
    world.etcd.kill();
    for node in world.control_planes.iter().chain(&world.gateways) {
        node.process.kill();
        node.process.start();
    }
    let cp = Client::new(world.control_planes[0].api);
    let refused =
        eventually("the control plane answers", || cp.try_get("/v4/default/registry/microservices")).await;
    assert_eq!(
        (refused.status, refused.headers.contains_key("retry-after")),
        (503, true),
        "{}",
        refused.text()
    );
    for node in world.control_planes.iter().chain(&world.gateways) {
        let admin = Client::new(node.admin);
        let report = eventually("the admin port answers", || admin.try_get("/ready")).await;
        assert_eq!(report.status, 503);
    }
    world.etcd.restart().await;
    world.nats.restart().await;
    for node in world.control_planes.iter().chain(&world.gateways) {
        node.ready().await;
    }
    world.client(0).service("works").await;
}
