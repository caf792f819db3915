//! A cold start: after a blackout all programs start at once, and all clients register and find at once.
//!
//! A client tries again as the SDKs do when a connection is refused, and when it is told 503 with
//! `Retry-After` it comes back after that time; both are counted. Every other answer but 200 is an error that
//! its application sees.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{Answer, Client, World, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Clients of an ordinary run. `MUSTER_COLD_START` sets another number, for a measurement.
const CLIENTS: usize = 200;
/// The fewest services, each with as many of the clients.
const SERVICES: usize = 20;
/// Clients of one service, if there are many.
const EACH: usize = 50;
/// Providers that each client finds.
const PROVIDERS: usize = 3;
/// The time in which every client is served.
const PATIENCE: Duration = Duration::from_secs(300);

/// The observations of one client.
#[derive(Debug, Default)]
struct Seen {
    /// Connections that were refused before the first answer.
    refused: usize,
    /// Answers 503 with `Retry-After`.
    told_to_wait: usize,
    errors: Vec<String>,
    is_served: bool,
    /// The longest time of a call that was answered with 200.
    longest: Duration,
}

impl Seen {
    /// Calls until the call succeeds.
    async fn call(&mut self, client: &Client, path: &str, consumer: &str, body: &Value) -> Answer {
        let method = if body.is_null() { "GET" } else { "POST" };
        let path = format!("/v4/default/registry{path}");
        loop {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let begun = Instant::now();
            let answer = client.try_send(method, &path, &[("X-ConsumerId", consumer)], body).await;
            let wait = match answer {
                Some(answer) if answer.status == 200 => {
                    self.is_served = true;
                    self.longest = self.longest.max(begun.elapsed());
                    return answer;
                }
                Some(answer) => {
                    let after = answer.headers.get("retry-after").and_then(|value| value.to_str().ok());
                    let after = after.and_then(|seconds| seconds.parse().ok());
                    match after.filter(|_| answer.status == 503) {
                        Some(seconds) => {
                            self.told_to_wait += 1;
                            Duration::from_secs(seconds)
                        }
                        None => {
                            self.errors.push(format!("{} {}", answer.status, answer.text()));
                            Duration::from_secs(1)
                        }
                    }
                }
                None if self.is_served => {
                    self.errors.push(format!("{path}: the connection ended without an answer"));
                    Duration::from_secs(1)
                }
                None => {
                    self.refused += 1;
                    Duration::from_millis(fastrand::u64(100..300))
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// A client registers its instance and finds its providers.
async fn come_back(gateway: SocketAddr, services: Arc<Vec<String>>, number: usize) -> Seen {
    let client = Client::new(gateway);
    let mut seen = Seen::default();
    let own = &services[number % services.len()];
    let body = json!({"instance": {"instanceId": format!("i{number}"), "hostName": "node",
        "endpoints": [format!("rest://10.0.0.1:80/{number}")],
        "healthCheck": {"mode": "push", "interval": 300, "times": 1}}});
    seen.call(&client, &format!("/microservices/{own}/instances"), "", &body).await;
    for next in 1..=PROVIDERS {
        let provider = (number + next) % services.len();
        let path = format!("/instances?appId=shop&serviceName=cold-{provider}&version=0%2B");
        seen.call(&client, &path, own, &Value::Null).await;
    }
    seen
}

/// One of etcd's own metrics; `None` while it does not answer.
async fn of_etcd(etcd: &Client, name: &str) -> Option<f64> {
    let text = etcd.try_get("/metrics").await?.text();
    let line =
        text.lines().find(|line| line.starts_with(name) && line.as_bytes().get(name.len()) == Some(&b' '))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_all_come_at_once_after_a_blackout_see_no_error() {
    let asked = std::env::var("MUSTER_COLD_START").ok().and_then(|text| text.parse().ok());
    let clients = asked.unwrap_or(CLIENTS);
    let world = World::with().planes(2).gateways(2).start().await;
    let registry = world.client(0);
    let mut services = Vec::new();
    for number in 0..SERVICES.max(clients / EACH) {
        services.push(registry.service(&format!("cold-{number}")).await);
    }
    let services = Arc::new(services);

    for node in world.nodes() {
        node.process.kill();
    }
    world.etcd.kill();
    world.nats.kill();
    let mut crowd = JoinSet::new();
    for number in 0..clients {
        let gateway = world.gateways[number % world.gateways.len()].api;
        crowd.spawn(come_back(gateway, services.clone(), number));
    }
    let began = Instant::now();
    for node in world.nodes() {
        node.process.start();
    }
    tokio::join!(world.etcd.restart(), world.nats.restart());

    let address = world.etcd.endpoint().trim_start_matches("http://").parse().expect("an address");
    let etcd = Client::new(address);
    let stop = CancellationToken::new();
    let watching = {
        let (etcd, stop) = (etcd.clone(), stop.clone());
        tokio::spawn(async move {
            let mut most = 0.0_f64;
            while !stop.is_cancelled() {
                most = most.max(of_etcd(&etcd, "etcd_server_proposals_pending").await.unwrap_or(0.0));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            most
        })
    };
    let all = tokio::time::timeout(PATIENCE, crowd.join_all()).await.expect("every client is served");
    let took = began.elapsed();
    stop.cancel();
    let pending = watching.await.expect("the watch of etcd ends");
    let committed = of_etcd(&etcd, "etcd_server_proposals_committed_total").await.expect("a counter");

    let sum = |of: fn(&Seen) -> usize| all.iter().map(of).sum::<usize>();
    let longest = all.iter().map(|seen| seen.longest).max().unwrap_or_default();
    eprintln!(
        "{clients} clients: all served in {:.1} s, {} connections refused, {} told to wait, {} errors, \
         longest call {:.2} s, etcd: {committed} commits, at most {pending} under way",
        took.as_secs_f64(),
        sum(|seen| seen.refused),
        sum(|seen| seen.told_to_wait),
        sum(|seen| seen.errors.len()),
        longest.as_secs_f64(),
    );
    let errors: Vec<&String> = all.iter().flat_map(|seen| &seen.errors).collect();
    assert!(errors.is_empty(), "{} errors, such as {:?}", errors.len(), errors.first());
    // A lease and a transaction for each, which often shares one with others; a rule for each provider of a
    // service; and what the programs themselves write.
    let most = 2 * clients + 4 * services.len() * PROVIDERS + 1000;
    assert!(committed <= most as f64, "{committed} commits of etcd, and {most} are enough");

    eventually("every client is found", || async {
        let mut found = 0;
        for service in services.iter() {
            let path = format!("/v4/default/registry/microservices/{service}/instances");
            let listed = world.client(1).try_get(&path).await.filter(|answer| answer.status == 200)?.ok();
            found += listed["instances"].as_array().map_or(0, Vec::len);
        }
        (found == clients).then_some(())
    })
    .await;
}
