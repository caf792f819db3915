//! A real Prometheus that takes its targets from a gateway, with the example of `docs/prometheus.md`.

use std::collections::BTreeSet;

use harness::{Client, Node, Process, World, eventually, port};
use serde_json::json;

use crate::deploy::read;

/// A Prometheus that discovers.
struct Discovering {
    process: Process,
    client: Client,
}

impl Discovering {
    /// Starts one with the example of the page, which asks this gateway each second.
    async fn start(gateway: &Node) -> Self {
        let page = read("docs/prometheus.md");
        let (_, rest) = page.split_once("```yaml\n").expect("the page has the example");
        let example = rest.split_once("```").expect("the example ends").0;
        let replaced = |text: &str, from: &str, to: &str| {
            assert!(text.contains(from), "the example contains {from}");
            text.replace(from, to)
        };
        let config = replaced(example, "muster.example:30100", &gateway.api.to_string());
        let config = replaced(&config, "refresh_interval: 15s", "refresh_interval: 1s");
        let address = port::local();
        let process = Process::installed("prometheus", "prometheus").args([
            "--config.file=prometheus.yml".to_owned(),
            "--storage.tsdb.path=data".to_owned(),
            format!("--web.listen-address={address}"),
        ]);
        std::fs::write(process.directory().join("prometheus.yml"), config).expect("a file is written");
        process.start();
        let discovering = Self { process, client: Client::new(address) };
        discovering.ready().await;
        discovering
    }

    async fn ready(&self) {
        eventually("Prometheus is ready", || async {
            assert!(self.process.is_running(), "Prometheus has ended");
            (self.client.try_get("/-/ready").await?.status == 200).then_some(())
        })
        .await;
    }

    /// The addresses and services of the targets. `None` while it does not answer.
    async fn targets(&self) -> Option<BTreeSet<String>> {
        let answer = self.client.try_get("/api/v1/targets?state=active").await?;
        let body = answer.ok();
        let active = body["data"]["activeTargets"].as_array()?;
        let shown = active.iter().map(|target| {
            let text = |name: &str| target["labels"][name].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("service"), text("instance"))
        });
        Some(shown.collect())
    }

    async fn has(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|target| (*target).to_owned()).collect();
        eventually(&format!("Prometheus has {expected:?}"), || async {
            (self.targets().await? == expected).then_some(())
        })
        .await;
    }
}

async fn register(client: &Client, service: &str, id: &str, endpoint: &str) {
    // A label name that Prometheus 2 takes from nobody, and would freeze all targets for.
    let body = json!({"instance": {"instanceId": id, "hostName": id, "endpoints": [endpoint],
        "properties": {"größe.in-metern": "1"},
        "healthCheck": {"mode": "push", "interval": 3600, "times": 3}}});
    client.call("POST", &format!("/microservices/{service}/instances"), "", &body).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_keeps_its_targets_without_control_planes() {
    let world = World::with().planes(2).gateways(1).start().await;
    let client = world.client(0);
    let order = client.service("order").await;
    register(&client, &order, "a", "rest://127.0.0.1:9").await;
    let prometheus = Discovering::start(&world.gateways[0]).await;
    prometheus.has(&["order 127.0.0.1:9"]).await;
    register(&client, &order, "b", "highway://[::1]:7").await;
    register(&client, &order, "nobody", "rest://0.0.0.0:9").await;
    let both = ["order 127.0.0.1:9", "order [::1]:7"];
    prometheus.has(&both).await;
    client
        .call("PUT", &format!("/microservices/{order}/instances/b/status?value=DOWN"), "", &json!(null))
        .await
        .ok();
    prometheus.has(&both[..1]).await;
    client
        .call("PUT", &format!("/microservices/{order}/instances/b/status?value=UP"), "", &json!(null))
        .await
        .ok();
    prometheus.has(&both).await;

    for plane in &world.control_planes {
        plane.process.kill();
    }
    // Prometheus keeps no targets over its end, so all of them come from the gateway.
    prometheus.process.kill();
    prometheus.process.start();
    prometheus.ready().await;
    prometheus.has(&both).await;

    // A gateway that begins anew, without a file of what it knew, knows nothing; an empty list would take the
    // targets.
    world.gateways[0].process.kill();
    world.gateways[0].process.start();
    let gateway = Client::new(world.gateways[0].api);
    eventually("the gateway says that it does not know", || async {
        (gateway.try_get("/prometheus/v1/targets?app=shop").await?.status == 503).then_some(())
    })
    .await;
    for _ in 0..3 {
        let failures = failed_refreshes(&prometheus).await;
        eventually("Prometheus asks again", || async {
            (failed_refreshes(&prometheus).await > failures).then_some(())
        })
        .await;
        assert_eq!(prometheus.targets().await.map(|targets| targets.len()), Some(2));
    }
    for plane in &world.control_planes {
        plane.process.start();
    }
    for plane in &world.control_planes {
        plane.ready().await;
    }
    client.unregister(&order, "a").await;
    prometheus.has(&both[1..]).await;
}

async fn failed_refreshes(prometheus: &Discovering) -> u64 {
    let metrics = prometheus.client.get("/metrics").await.text();
    let lines = metrics.lines().filter(|line| line.starts_with("prometheus_sd_http_failures_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}
