//! Heartbeats that control planes and gateways answer and report to the publisher (`lease.mode = reported`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::{Client, Node, Pair, Plan, Watcher, World, eventually};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A world in which gateways pass heartbeats on, so that control planes report.
fn reported(planes: usize) -> Plan {
    at_gateways(planes).gateway_flag("--edge-beats", "false")
}

fn at_gateways(planes: usize) -> Plan {
    World::with().planes(planes).plane_flag("--lease-mode", "reported")
}

/// The sum over the control planes that answer.
async fn sum(nodes: &[Node], name: &str, labels: &str) -> f64 {
    let mut sum = 0.0;
    for node in nodes {
        sum += node.try_metric(name, labels).await.unwrap_or(0.0);
    }
    sum
}

const BEATS: &str = "muster_beats_total";
const OPERATIONS: &str = "service_center_db_backend_operation_total";
const REPORTED: &str = r#"way="reported""#;
const AT_GATEWAYS: &str = "muster_edge_beats_total";
const HERE: &str = r#"answered_by="gateway""#;
const PASSED_ON: &str = r#"answered_by="control_plane""#;

/// Sends heartbeats of an instance, whatever happens to the system, until it is dropped.
pub(crate) struct Beater {
    /// Answers that said that the instance does not exist.
    lost: Arc<AtomicU64>,
    paused: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Beater {
    pub(crate) fn of(client: Client, service: &str, id: &str) -> Self {
        Self::over(vec![client], service, id)
    }

    /// Sends to the first that answers, and then to the same one again, as an SDK with several addresses.
    pub(crate) fn over(clients: Vec<Client>, service: &str, id: &str) -> Self {
        let path = format!("/microservices/{service}/instances/{id}/heartbeat");
        let (lost, paused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, pause) = (lost.clone(), paused.clone());
        let task = tokio::spawn(async move {
            let mut turn = 0;
            loop {
                if !pause.load(Ordering::Relaxed) {
                    let client = &clients[turn % clients.len()];
                    // One that gets no answer is repeated, as by an SDK.
                    let sent = tokio::time::timeout(
                        Duration::from_secs(1),
                        client.try_call("PUT", &path, &Value::Null),
                    );
                    match sent.await {
                        Ok(Some(answer)) if answer.status == 400 => {
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => turn += 1,
                    }
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        Self { lost, paused, task }
    }

    /// Answers that said that the instance does not exist.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Sends no heartbeat any more.
    pub(crate) fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }
}

impl Drop for Beater {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until so many instances were ended by their time. A watcher may hear of it before it is counted.
async fn ended(world: &World, times: f64) {
    eventually("the end is counted", || async {
        (sum(&world.control_planes, "muster_keeper_ended_total", "").await == times).then_some(())
    })
    .await;
}

async fn more_reported(world: &World, more: f64) {
    let before = sum(&world.control_planes, BEATS, REPORTED).await;
    eventually("heartbeats are reported", || async {
        (sum(&world.control_planes, BEATS, REPORTED).await >= before + more).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lives_by_reports_and_ends_once_without() {
    let world = reported(2).start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair(0).await;
    client.instance_with(&provider, "i", 1).await;
    watcher.expect("CREATE", "i", "").await;
    let beater = Beater::of(world.client(0), &provider, "i");
    more_reported(&world, 1.0).await;
    let renewed = sum(&world.control_planes, OPERATIONS, r#"operation="LEASE_RENEW""#).await;
    // Three times the instance's life.
    more_reported(&world, 20.0).await;
    assert_eq!(beater.lost(), 0);
    let after = sum(&world.control_planes, OPERATIONS, r#"operation="LEASE_RENEW""#).await;
    // The publisher's seat is renewed every second, and the nodes' own instances now and then.
    assert!(after - renewed < 15.0, "{renewed} {after}");
    beater.paused.store(true, Ordering::Relaxed);
    watcher.expect("DELETE", "i", "").await;
    ended(&world, 1.0).await;
    let path = format!("/microservices/{provider}/instances/i/heartbeat");
    let refused = client.call("PUT", &path, "", &Value::Null).await;
    assert!(refused.text().contains("400017"), "{}", refused.text());
    client.instance(&provider, "next").await;
    watcher.expect("CREATE", "next", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_beat_live_through_every_loss() {
    let world = reported(2).start().await;
    let client = world.client(0);
    let provider = client.service("order").await;
    let mut beaters = Vec::new();
    for n in 0..8 {
        let id = format!("i{n}");
        client.instance_with(&provider, &id, 3).await;
        beaters.push(Beater::of(world.client(0), &provider, &id));
    }
    more_reported(&world, 20.0).await;
    // The seat's holder, with what it has answered a moment ago.
    let holder = world.publisher().await;
    holder.process.kill();
    more_reported(&world, 40.0).await;
    holder.process.start();
    holder.ready().await;
    // The one that reports, likewise.
    for node in &world.control_planes {
        if node.api != world.publisher().await.api {
            node.process.kill();
            more_reported(&world, 40.0).await;
            node.process.start();
            node.ready().await;
            break;
        }
    }
    // The bus: heartbeats renew leases until it is back.
    world.nats.kill();
    let renewed = sum(&world.control_planes, BEATS, r#"way="renewed""#).await;
    eventually("heartbeats renew leases", || async {
        (sum(&world.control_planes, BEATS, r#"way="renewed""#).await > renewed + 60.0).then_some(())
    })
    .await;
    world.nats.restart().await;
    more_reported(&world, 40.0).await;
    // A holder that stands still, and wakes up as one that has lost its seat.
    let holder = world.publisher().await;
    holder.process.freeze();
    eventually("another one publishes", || async {
        for node in world.control_planes.iter().filter(|node| node.api != holder.api) {
            if node.try_metric("muster_publisher_active", "").await == Some(1.0) {
                return Some(());
            }
        }
        None
    })
    .await;
    holder.process.thaw();
    more_reported(&world, 80.0).await;
    assert_eq!(beaters.iter().map(Beater::lost).sum::<u64>(), 0, "somebody who beats was ended");
    assert_eq!(sum(&world.control_planes, "muster_keeper_ended_total", "").await, 0.0);
    // And the one that stops still ends, after its time and no other.
    beaters[0].paused.store(true, Ordering::Relaxed);
    eventually("the silent one ends", || async {
        let list =
            client.call("GET", &format!("/microservices/{provider}/instances"), "", &Value::Null).await;
        (!list.text().contains(r#""i0""#)).then_some(())
    })
    .await;
    assert_eq!(beaters[1..].iter().map(Beater::lost).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_leases_end_in_time_after_a_return_to_direct() {
    let world = reported(1).start().await;
    let Pair { provider, mut watcher, .. } = world.pair(0).await;
    world.client(0).instance_with(&provider, "i", 2).await;
    watcher.expect("CREATE", "i", "").await;
    let [node] = &world.control_planes[..] else { panic!("one control plane") };
    node.process.kill();
    let direct = harness::Process::ours("control-plane")
        .args(["--listen", &node.api.to_string(), "--admin-listen", &node.admin.to_string()])
        .args(["--etcd", &format!("http://{}", world.etcd.endpoint()), "--nats", &world.nats.url()]);
    direct.start();
    let beater = Beater::of(world.client(0), &provider, "i");
    let renewals = r#"operation="LEASE_RENEW""#;
    eventually("heartbeats renew the lease for longer than its life", || async {
        (node.try_metric(OPERATIONS, renewals).await? > 60.0).then_some(())
    })
    .await;
    assert_eq!(beater.lost(), 0, "it beats");
    beater.paused.store(true, Ordering::Relaxed);
    watcher.expect("DELETE", "i", "").await;
}

async fn more_at_gateways(world: &World, more: f64) {
    let before = sum(&world.gateways, AT_GATEWAYS, HERE).await;
    eventually("gateways answer heartbeats", || async {
        (sum(&world.gateways, AT_GATEWAYS, HERE).await >= before + more).then_some(())
    })
    .await;
}

fn heartbeat_path(service: &str, id: &str) -> String {
    format!("/microservices/{service}/instances/{id}/heartbeat")
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_answer_heartbeats_as_control_planes_do() {
    let world = at_gateways(2).gateways(2).start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair(0).await;
    for id in ["i", "k"] {
        client.instance_with(&provider, id, 1).await;
        watcher.expect("CREATE", id, "").await;
    }
    let path = heartbeat_path(&provider, "i");
    let many = json!({"instances": [
        {"serviceId": provider, "instanceId": "i"},
        {"serviceId": provider, "instanceId": "k"},
        {"serviceId": provider, "instanceId": "i"},
    ]});
    let direct = Client::new(world.control_planes[0].api);
    let beater = Beater::of(world.client(0), &provider, "i");
    let other = Beater::of(world.client(0), &provider, "k");
    // Three times their lives.
    more_at_gateways(&world, 40.0).await;
    assert_eq!(beater.lost() + other.lost(), 0);
    // One heartbeat, many, and those that a control plane refuses: the answers are the same everywhere.
    for (path, body) in [
        (&*path, &Value::Null),
        ("/heartbeats", &many),
        ("/heartbeats", &json!({"instances": []})),
        ("/heartbeats", &json!({"instances": [{"serviceId": provider, "instanceId": "no"}]})),
        (&*heartbeat_path(&provider, "no"), &Value::Null),
    ] {
        let here = client.call("PUT", path, "", body).await;
        let there = direct.call("PUT", path, "", body).await;
        assert_eq!((here.status, here.text()), (there.status, there.text()), "{path} {body}");
        for name in ["content-type", "server", "x-muster-beats"] {
            assert_eq!(here.headers.get(name), there.headers.get(name), "{path} {name}");
        }
    }
    let passed_on = sum(&world.gateways, AT_GATEWAYS, PASSED_ON).await;
    let answered = client.call("PUT", "/heartbeats", "", &many).await;
    assert_eq!(answered.status, 200);
    assert_eq!(sum(&world.gateways, AT_GATEWAYS, PASSED_ON).await, passed_on, "a batch is answered here");
    assert_eq!(world.gateways[0].metric("muster_edge_known_instances", "").await, 2.0);

    // An instance that is unregistered here is not found with the next heartbeat, and one that is
    // unregistered elsewhere soon.
    beater.paused.store(true, Ordering::Relaxed);
    client.unregister(&provider, "i").await;
    watcher.expect("DELETE", "i", "").await;
    assert!(client.call("PUT", &path, "", &Value::Null).await.text().contains("400017"));
    let before = sum(&world.control_planes, "muster_keeper_ended_total", "").await;
    world.client(1).unregister(&provider, "k").await;
    watcher.expect("DELETE", "k", "").await;
    eventually("the heartbeats of an instance that is gone are refused", || async {
        (other.lost() > 0).then_some(())
    })
    .await;
    // One that stops ends, once, by its time.
    client.instance_with(&provider, "m", 1).await;
    watcher.expect("CREATE", "m", "").await;
    let last = Beater::of(world.client(1), &provider, "m");
    more_at_gateways(&world, 20.0).await;
    last.paused.store(true, Ordering::Relaxed);
    watcher.expect("DELETE", "m", "").await;
    assert_eq!(last.lost(), 0);
    ended(&world, before + 1.0).await;
    let refused = client.call("PUT", &heartbeat_path(&provider, "m"), "", &Value::Null).await;
    assert!(refused.text().contains("400017"), "{}", refused.text());
    client.instance(&provider, "next").await;
    watcher.expect("CREATE", "next", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_and_renewals_of_known_instances_reach_no_control_plane() {
    let plan = at_gateways(2).gateway_flag("--heartbeat-websocket-ping-interval", "1s");
    let world = plan.start().await;
    let gateway = Client::new(world.gateways[0].api);
    let Pair { provider, mut watcher, .. } = world.pair(0).await;
    world.client(0).instance_with(&provider, "i", 3).await;
    watcher.expect("CREATE", "i", "").await;
    let mut pongs = Watcher::open(world.gateways[0].api, &heartbeat_path(&provider, "i")[1..]).await;
    // Answers each ping, and ends with the connection.
    let pongs = tokio::spawn(async move { while pongs.text().await.is_some() {} });
    let eureka = "/eureka/in/app=shop/apps/BILLING";
    let json = [("accept", "application/json"), ("content-type", "application/json")];
    let body = json!({"instance": {
        "instanceId": "b:1", "app": "BILLING", "hostName": "node-1", "ipAddr": "10.0.0.1", "vipAddress": "billing",
        "status": "UP", "port": {"$": 8080, "@enabled": "true"},
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 3, "durationInSecs": 9}, "lastDirtyTimestamp": "7",
    }});
    let registered = gateway.try_send("POST", eureka, &json, body.to_string()).await.expect("an answer");
    assert_eq!(registered.status, 204, "{}", registered.text());
    let renewal = format!("{eureka}/b:1?lastDirtyTimestamp=7");
    let renew = || async {
        let answer = gateway.try_send("PUT", &renewal, &json, String::new()).await;
        answer.map(|answer| answer.status)
    };
    eventually("the gateway knows both instances", || async {
        let known = renew().await == Some(200)
            && world.gateways[0].metric("muster_edge_known_instances", "").await == 2.0;
        known.then_some(())
    })
    .await;
    let asked = async || {
        let beats = sum(&world.gateways, AT_GATEWAYS, PASSED_ON).await;
        let put = r#"method="PUT""#;
        (beats, sum(&world.control_planes, "service_center_http_request_total", put).await)
    };
    // A control plane counts a heartbeat after it has answered it.
    let before = eventually("each heartbeat that was passed on is counted", || async {
        let (beats, counted) = asked().await;
        (beats == counted).then_some((beats, counted))
    })
    .await;
    let answered = sum(&world.gateways, AT_GATEWAYS, HERE).await;
    // More of each than either instance could miss.
    for _ in 0..10 {
        assert_eq!(renew().await, Some(200));
        more_at_gateways(&world, 2.0).await;
    }
    assert!(sum(&world.gateways, AT_GATEWAYS, HERE).await >= answered + 20.0);
    assert_eq!(asked().await, before, "no heartbeat of a known instance is passed on");
    assert!(!pongs.is_finished(), "the connection stays");
    // Both are ended by their time once they are silent.
    let list = format!("/microservices/{provider}/instances");
    pongs.abort();
    watcher.expect("DELETE", "i", "").await;
    assert!(!world.client(0).call("GET", &list, "", &Value::Null).await.text().contains(r#""i""#));
    eventually("the silent client of Eureka is gone", || async {
        let shown = gateway.try_send("GET", &format!("{eureka}/b:1"), &json, String::new()).await?;
        (shown.status == 404).then_some(())
    })
    .await;
    assert_eq!(renew().await, Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_beat_at_gateways_live_through_losses() {
    let world = at_gateways(2).gateways(2).start().await;
    let client = world.client(0);
    let provider = client.service("order").await;
    let mut beaters = Vec::new();
    for n in 0..8 {
        let id = format!("i{n}");
        client.instance_with(&provider, &id, 3).await;
        let clients = vec![world.client(n % 2), world.client((n + 1) % 2)];
        beaters.push(Beater::over(clients, &provider, &id));
    }
    more_at_gateways(&world, 40.0).await;
    // A gateway, with what it has answered a moment ago.
    world.gateways[1].process.kill();
    more_at_gateways(&world, 80.0).await;
    world.gateways[1].process.start();
    world.gateways[1].ready().await;
    // One that stands still: its clients go to the other one, and it wakes up untrusted.
    world.gateways[0].process.freeze();
    let before = world.gateways[1].metric(AT_GATEWAYS, HERE).await;
    eventually("the other gateway answers", || async {
        (world.gateways[1].try_metric(AT_GATEWAYS, HERE).await? > before + 80.0).then_some(())
    })
    .await;
    world.gateways[0].process.thaw();
    // The seat's holder.
    let holder = world.publisher().await;
    holder.process.kill();
    more_at_gateways(&world, 80.0).await;
    holder.process.start();
    holder.ready().await;
    // A replica that takes the seat while there is no bus begins its term only with the bus. Gateways answer
    // for some seconds after the holder's death, so their answers do not show that the seat has moved.
    world.publisher().await;
    more_at_gateways(&world, 80.0).await;
    // The bus: heartbeats are passed on, and renew leases until it is back.
    world.nats.kill();
    let renewed = sum(&world.control_planes, BEATS, r#"way="renewed""#).await;
    eventually("heartbeats renew leases", || async {
        (sum(&world.control_planes, BEATS, r#"way="renewed""#).await > renewed + 60.0).then_some(())
    })
    .await;
    // One that stops meanwhile ends all the same: the publisher asks its lease.
    beaters[0].paused.store(true, Ordering::Relaxed);
    let list = format!("/microservices/{provider}/instances");
    let has_ended = async |id: &str| {
        let answer = Client::new(world.publisher().await.api).call("GET", &list, "", &Value::Null).await;
        (!answer.text().contains(&format!("\"{id}\""))).then_some(())
    };
    eventually("the silent one ends without the bus", || has_ended("i0")).await;
    world.nats.restart().await;
    more_at_gateways(&world, 80.0).await;
    assert_eq!(beaters[1..].iter().map(Beater::lost).sum::<u64>(), 0, "somebody who beats was ended");
    assert_eq!(sum(&world.control_planes, "muster_keeper_ended_total", "").await, 1.0);
    // And another one after everything.
    beaters[1].paused.store(true, Ordering::Relaxed);
    eventually("the silent one ends", || has_ended("i1")).await;
    assert_eq!(beaters[2..].iter().map(Beater::lost).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_passes_heartbeats_on_where_modes_are_mixed() {
    // The control planes renew leases, so there is nothing to report to.
    let world = World::with().gateways(1).start().await;
    let Pair { provider, mut watcher, .. } = world.pair(0).await;
    world.client(0).instance_with(&provider, "i", 1).await;
    watcher.expect("CREATE", "i", "").await;
    let beater = Beater::of(world.client(0), &provider, "i");
    eventually("heartbeats are passed on", || async {
        (sum(&world.gateways, AT_GATEWAYS, PASSED_ON).await > 20.0).then_some(())
    })
    .await;
    assert_eq!((beater.lost(), sum(&world.gateways, AT_GATEWAYS, HERE).await), (0, 0.0));
    assert_eq!(world.gateways[0].metric("muster_edge_beats_trusted", "").await, 0.0);
    // A second one reports, on the same store. The first has the seat, and takes no reports.
    let reporting = harness::Process::ours("control-plane")
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--lease-mode", "reported"])
        .args(["--etcd", &format!("http://{}", world.etcd.endpoint()), "--nats", &world.nats.url()]);
    reporting.start();
    let api = reporting.address("api").await;
    eventually("an instance is registered with a long lease", || async {
        let body = json!({"instance": {"instanceId": "long", "hostName": "h", "healthCheck":
            {"mode": "push", "interval": 1, "times": 1}}});
        let path = format!("/microservices/{provider}/instances");
        let answer = Client::new(api).try_call("POST", &path, &body).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    watcher.expect("CREATE", "long", "").await;
    let long = Beater::of(world.client(0), &provider, "long");
    let passed_on = sum(&world.gateways, AT_GATEWAYS, PASSED_ON).await;
    eventually("heartbeats are passed on for longer than its life", || async {
        (sum(&world.gateways, AT_GATEWAYS, PASSED_ON).await > passed_on + 40.0).then_some(())
    })
    .await;
    assert_eq!(sum(&world.gateways, AT_GATEWAYS, HERE).await, 0.0);
    assert_eq!((beater.lost(), long.lost()), (0, 0));
}
