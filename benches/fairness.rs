//! One tenant floods a gateway while another one goes on: the honest tenant's times with fair shares and
//! without, beside its times in quiet.
//!
//! Eight honest clients find a provider, one request after another on a connection each. The flood comes from
//! a process of its own, in another project, with many connections that never pause. etcd, NATS, a control
//! plane and a gateway run on the same machine, so the flood's clients take processor time as well: what
//! compares is the ratio to the quiet time within one run. Arguments: connections of the flood, seconds per
//! row.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use benches::Latencies;
use benches::call::{Client, ask, load};
use benches::report::Report;
use futures_util::future::try_join_all;
use harness::World;

const HONEST: usize = 8;
const PATH: &str = "/registry/instances?appId=shop&serviceName=provider&version=0%2B";
/// The first argument of the process that floods.
const FLOOD: &str = "flood";
/// The places of a tenant in each row; 0 is no limit.
const PLACES: [&str; 4] = ["0", "64", "16", "4"];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, server, connections] = arguments.as_slice()
        && first == FLOOD
    {
        return flood(server, connections.parse()?).await;
    }
    let [connections, seconds] = benches::arguments([256, 10])?;
    let length = Duration::from_secs(seconds as u64);
    let columns = ["honest/s", "p50 ms", "p99 ms", "ratio of p99"];
    let report = Report::new("fairness", &columns);
    for places in PLACES {
        let plan = World::with()
            .plane_flag("--fairness-tenant-requests", places)
            .gateway_flag("--fairness-tenant-requests", places);
        let world = plan.start().await;
        let registry = harness::Client::new(world.control_planes[0].api);
        let service = registry.service("provider").await;
        registry.instance_with(&service, "instance", 7200).await;
        let server = world.gateways[0].api.to_string();
        let quiet = honest(&server, length).await?;
        let flood = Flood::start(&server, connections)?;
        let flooded = honest(&server, length).await?;
        drop(flood);
        row(&report, &format!("quiet, {places} places"), &quiet, None);
        row(&report, &format!("{connections} connections flood, {places} places"), &flooded, Some(&quiet));
    }
    Ok(())
}

fn row(report: &Report, what: &str, calls: &Latencies, quiet: Option<&Latencies>) {
    let ratio = quiet.map(|quiet| calls.quantile_ms(0.99) / quiet.quantile_ms(0.99));
    let [p50, p99] = [0.5, 0.99].map(|share| Some(calls.quantile_ms(share)));
    report.row(what, &[Some(calls.per_second()), p50, p99, ratio]);
}

/// The times of the honest tenant's requests.
async fn honest(server: &str, length: Duration) -> Result<Latencies> {
    let request = ask(&format!("/v4/default{PATH}"), "");
    load(server, &request, HONEST, length).await
}

/// The process that floods, ended with this.
struct Flood(Child);

impl Flood {
    fn start(server: &str, connections: usize) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let child = Command::new(program)
            .args([FLOOD, server, &connections.to_string()])
            // It ends with this process, too: the end of its input is its order to stop.
            .stdin(Stdio::piped())
            .spawn()
            .context("the flood cannot be started")?;
        Ok(Self(child))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // An error means that it has ended.
        _ = self.0.wait();
    }
}

/// Sends requests of another project without a pause until the input ends. Refusals are no reason to stop.
async fn flood(server: &str, connections: usize) -> Result<()> {
    let request = ask(&format!("/v4/flood{PATH}"), "");
    let flooding = try_join_all((0..connections).map(|_| async {
        let mut client = Client::connect(server).await?;
        loop {
            // The service does not exist in this project: the gateway and the control plane have their work
            // with the request all the same.
            if client.call(&request).await.is_err() {
                client = Client::connect(server).await?;
            }
        }
        #[expect(unreachable_code, reason = "it names the type of the error")]
        anyhow::Ok(())
    }));
    let stopped = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        flooded = flooding => flooded.map(drop),
        stopped = stopped => stopped?.map(drop).map_err(Into::into),
    }
}
