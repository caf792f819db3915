//! The benchmark that Service-Center ships: one service that watches itself, 2500 watches, 2500 changes one
//! after the other. That procedure had no check; here every frame is counted, ordered and timed.
//!
//! Everything goes through the gateway's one address, as the original has it. Arguments: watchers and
//! changes, else 2500 and 2500.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::crowd::{self, Crowd};
use benches::report::Report;
use benches::stage::Stage;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let [watchers, changes] = benches::arguments([2500, 2500])?;
    let columns = [
        "frames",
        "expected",
        "p50 ms",
        "p99 ms",
        "max ms",
        "wall s",
        "PUT/s",
        "frames/s",
        "gateway CPU s",
        "control CPU s",
        "gateway MiB",
    ];
    let report = Report::new("seed", &columns);
    tokio::runtime::Runtime::new()?.block_on(run(&report, watchers, changes))
}

async fn run(report: &Report, watchers: usize, changes: usize) -> Result<()> {
    let stage = Stage::start("30s").await;
    let gateway = stage.world.client(0);
    let service = json!({"service": {"serviceName": "testInstance", "appId": "testApp", "version": "1.0"}});
    let id = gateway.call("POST", "/microservices", "", &service).await.ok();
    let id = id["serviceId"].as_str().context("an id")?.to_owned();
    // Nothing sends heartbeats for this instance; with these figures it outlives the run.
    let instance = json!({"instance": {"hostName": "cse",
        "healthCheck": {"mode": "push", "interval": 30000, "times": 20000}}});
    let path = format!("/microservices/{id}/instances");
    let instance = gateway.call("POST", &path, "", &instance).await.ok();
    let instance = instance["instanceId"].as_str().context("an id")?.to_owned();
    // The find records that the service depends on itself. A watch without dependencies receives nothing.
    let find = "/instances?appId=testApp&serviceName=testInstance&version=1.0";
    gateway.call("GET", find, &id, &Value::Null).await.ok();

    let mut crowd = Crowd::start()?;
    crowd.open(stage.world.gateways[0].api, std::slice::from_ref(&id), watchers, 0)?;
    let before = stage.gateway_cpu()?;
    let control_before = stage.control_plane_cpu()?;
    let began = Instant::now();
    let path = format!("/microservices/{id}/instances/{instance}/properties");
    let clock = shared::clock::Clock::system();
    for seq in 1..=changes as u64 {
        let stamp = benches::stamp::Stamp { provider: 0, seq, at: clock.micros() };
        gateway.call("PUT", &path, "", &json!({"properties": stamp.properties()})).await.ok();
    }
    let puts = changes as f64 / began.elapsed().as_secs_f64();
    let expected = (watchers * changes) as u64;
    let sight = crowd.collect(expected, PATIENCE)?;
    let wall = began.elapsed().as_secs_f64();
    report.row(
        &format!("{watchers} watchers, {changes} changes"),
        &[
            Some(sight.received as f64),
            Some(expected as f64),
            Some(sight.p50_ms),
            Some(sight.p99_ms),
            Some(sight.max_ms),
            Some(wall),
            Some(puts),
            Some(sight.received as f64 / wall),
            Some(stage.gateway_cpu()? - before),
            Some(stage.control_plane_cpu()? - control_before),
            Some(stage.gateway_resident()? / 1048576.0),
        ],
    );
    sight.check(expected)
}
