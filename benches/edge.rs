//! Finds and heartbeats: at a control plane, through a gateway that forwards them, and answered by the gateway
//! itself, beside a bare handler that sends as many bytes.
//!
//! etcd, NATS, a control plane, a gateway and the clients run on the same machine over loopback. The CPU of
//! each program is counted by itself, so that the figures hold where the machine is busy; the throughput is
//! the whole machine's, clients included. Argument: seconds per row.

use std::time::Duration;

use anyhow::{Context, Result};
use benches::Latencies;
use benches::bare::{self, Bare};
use benches::call::{Client, ask, load, request};
use benches::report::Report;
use benches::usage::cpu_seconds;
use harness::World;
use serde_json::json;

const CLIENTS: usize = 16;
/// Clients that ask whether something has changed at once: many of them share the question to the store.
const CROWD: usize = 256;
/// Heartbeats in a batch.
const BATCH: usize = 100;
/// The time in which a gateway comes to follow a consumer, or to know an instance: two bookmarks, and their
/// rounding.
const WARM: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() -> Result<()> {
    if bare::become_child_if_asked().await? {
        return Ok(());
    }
    let [seconds] = benches::arguments([5])?;
    let length = Duration::from_secs(seconds as u64);
    let columns = ["per s", "p50 ms", "gateway µs", "plane µs", "etcd µs", "nats µs", "all µs", "of bare"];
    let report = Report::new("edge", &columns);
    finds(&report, length).await?;
    heartbeats(&report, length).await
}

async fn finds(report: &Report, length: Duration) -> Result<()> {
    for (name, direct, reads, polls, confirm) in [
        ("at a control plane", true, "false", "60s", "true"),
        ("forwarded", false, "false", "60s", "true"),
        ("from its state", false, "true", "60s", "true"),
        ("from its state, clients not followed", false, "true", "0s", "true"),
        ("from its state, not confirmed", false, "true", "60s", "false"),
    ] {
        let plan = World::with()
            .gateway_flag("--edge-reads", reads)
            .gateway_flag("--edge-polls", polls)
            .gateway_flag("--edge-confirm-unchanged", confirm);
        let world = plan.start().await;
        let registry = harness::Client::new(world.control_planes[0].api);
        let consumer = registry.service("consumer").await;
        let mut paths = Vec::new();
        for (provider, instances) in [("one", 1), ("hundred", 100)] {
            let service = registry.service(provider).await;
            for n in 0..instances {
                registry.instance_with(&service, &format!("instance-{n}"), 7200).await;
            }
            paths.push((
                instances,
                format!("/v4/default/registry/instances?appId=shop&serviceName={provider}&version=0%2B"),
            ));
        }
        let server = if direct { world.control_planes[0].api } else { world.gateways[0].api }.to_string();
        let consumer = format!("X-ConsumerId: {consumer}\r\n");
        let mut bench = Bench { world, server, clients: CLIENTS, consumer, length };
        for (instances, path) in &paths {
            let find = ask(path, &bench.consumer);
            bench.load(&bench.server, &find, WARM).await?;
            let answer = Client::connect(&bench.server).await?.call(&find).await?;
            let bare = Bare::start(answer.body.len())?;
            bench.row(report, &format!("find of {instances}, {name}"), &find, &bare).await?;
            if *instances == 100 {
                let revision = answer.revision.context("a find has a revision")?;
                let unchanged = ask(&format!("{path}&rev={revision}"), &bench.consumer);
                let bare = Bare::start(0)?;
                bench.row(report, &format!("304, {name}"), &unchanged, &bare).await?;
                let crowd = Bench { clients: CROWD, ..bench };
                crowd.row(report, &format!("304 of {CROWD} clients, {name}"), &unchanged, &bare).await?;
                bench = Bench { clients: CLIENTS, ..crowd };
            }
        }
    }
    Ok(())
}

/// Heartbeats of one instance, and of many in a batch, in each way in which leases are kept.
async fn heartbeats(report: &Report, length: Duration) -> Result<()> {
    for (name, mode, at_gateway) in [
        ("renewed in etcd", "direct", "false"),
        ("reported by a control plane", "reported", "false"),
        ("reported by the gateway", "reported", "true"),
    ] {
        let plan = World::with().plane_flag("--lease-mode", mode).gateway_flag("--edge-beats", at_gateway);
        let world = plan.start().await;
        let registry = harness::Client::new(world.control_planes[0].api);
        let service = registry.service("provider").await;
        let mut names = Vec::new();
        for n in 0..BATCH {
            // Twice as long as a pair of rows takes. Instances that live much longer keep ordinary leases.
            registry.instance_with(&service, &format!("instance-{n}"), 60).await;
            names.push(json!({"serviceId": service, "instanceId": format!("instance-{n}")}));
        }
        let path = "/v4/default/registry";
        let one =
            request("PUT", &format!("{path}/microservices/{service}/instances/instance-0/heartbeat"), "", "");
        let many =
            request("PUT", &format!("{path}/heartbeats"), "", &json!({"instances": names}).to_string());
        let server = world.gateways[0].api.to_string();
        let bench = Bench { world, server, clients: CLIENTS, consumer: String::new(), length };
        for (what, heartbeat) in [("heartbeat".to_owned(), one), (format!("batch of {BATCH}"), many)] {
            bench.load(&bench.server, &heartbeat, WARM).await?;
            let answer = Client::connect(&bench.server).await?.call(&heartbeat).await?;
            let bare = Bare::start(answer.body.len())?;
            bench.row(report, &format!("{what}, {name}"), &heartbeat, &bare).await?;
        }
    }
    Ok(())
}

struct Bench {
    world: World,
    /// The address that is asked.
    server: String,
    /// Clients that ask at once, each on its own connection.
    clients: usize,
    /// The header of the consumer.
    consumer: String,
    length: Duration,
}

impl Bench {
    async fn row(&self, report: &Report, what: &str, request: &[u8], bare: &Bare) -> Result<()> {
        let floor = self.load(&bare.address.to_string(), &ask("/", ""), self.length).await?;
        let world = &self.world;
        let programs = [
            world.gateways[0].process.pid(),
            world.control_planes[0].process.pid(),
            world.etcd.pid(),
            world.nats.pid(),
        ];
        let before = programs.map(cpu_seconds);
        let calls = self.load(&self.server, request, self.length).await?;
        let count = calls.per_second() * self.length.as_secs_f64();
        let mut costs = Vec::new();
        for (program, before) in programs.into_iter().zip(before) {
            costs.push((cpu_seconds(program)? - before?) * 1e6 / count);
        }
        let mut figures = vec![Some(calls.per_second()), Some(calls.quantile_ms(0.5))];
        figures.extend(costs.iter().copied().map(Some));
        figures.push(Some(costs.iter().sum()));
        figures.push(Some(calls.per_second() / floor.per_second()));
        report.row(what, &figures);
        Ok(())
    }

    async fn load(&self, server: &str, request: &[u8], length: Duration) -> Result<Latencies> {
        load(server, request, self.clients, length).await
    }
}
