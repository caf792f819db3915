//! The price of access control: requests with a token beside requests of a registry without access control,
//! and logins.
//!
//! etcd, NATS, a control plane, a gateway and the clients run on the same machine. CPU is counted per
//! program, so the figures to compare are those of one column within a run. Argument: seconds per row.

use std::path::Path;
use std::time::Duration;

use access::keys::KeyPairText;
use anyhow::{Context, Result};
use benches::Latencies;
use benches::call::{Client, ask, load, request};
use benches::report::Report;
use benches::usage::cpu_seconds;
use harness::{Plan, World, eventually};

const CLIENTS: usize = 16;
/// More logins at once than a machine has cores, so that the pool of hashes is never idle.
const LOGINS: usize = 8;
const PASSWORD: &str = "Complicated_password1";
const PROVIDER: &str = "/v4/default/registry/instances?appId=shop&serviceName=provider&version=0%2B";

#[tokio::main]
async fn main() -> Result<()> {
    let [seconds] = benches::arguments([5])?;
    let length = Duration::from_secs(seconds as u64);
    let report = Report::new("access", &["per s", "p50 ms", "gateway µs", "plane µs"]);
    let keys = tempfile::tempdir()?;
    let open = World::with().gateway_flag("--edge-reads", "false").start().await;
    let provider = harness::Client::new(open.control_planes[0].api);
    let service = provider.service("provider").await;
    provider.instance_with(&service, "instance", 7200).await;
    let calls = Calls { world: &open, clients: CLIENTS, length };
    calls.row(&report, "find, open", &ask(PROVIDER, "")).await?;
    drop(open);

    let world = guard(World::with().gateway_flag("--edge-reads", "false"), keys.path())?.start().await;
    let gateway = world.gateways[0].api.to_string();
    let login = format!(r#"{{"name":"root","password":"{PASSWORD}"}}"#);
    let login = request("POST", "/v4/token", "", &login);
    let answer = eventually("root is made and logs in", || async {
        Client::connect(&gateway).await.ok()?.call(&login).await.ok()
    })
    .await;
    let answer: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let token = answer["token"].as_str().context("a token")?;
    let header = format!("Authorization: Bearer {token}\r\n");
    eventually("the gateway knows the account", || async {
        let services = ask("/v4/default/registry/microservices", &header);
        Client::connect(&gateway).await.ok()?.call(&services).await.ok()
    })
    .await;
    register(&gateway, &header).await?;
    let calls = Calls { world: &world, clients: CLIENTS, length };
    calls.row(&report, "find, with a token", &ask(PROVIDER, &header)).await?;
    let calls = Calls { world: &world, clients: LOGINS, length };
    calls.row(&report, "login", &login).await?;
    Ok(())
}

/// Switches access control on.
fn guard(plan: Plan, keys: &Path) -> Result<Plan> {
    let pair = KeyPairText::generate()?;
    let path = |name: &str| keys.join(name).display().to_string();
    std::fs::write(path("private.key"), &pair.private)?;
    std::fs::write(path("public.key"), &pair.public)?;
    Ok(plan
        .plane_flag("--rbac-enable", "true")
        .gateway_flag("--rbac-enable", "true")
        .plane_flag("--rbac-private-key", &path("private.key"))
        .plane_flag("--rbac-public-key", &path("public.key"))
        .variable("SC_INIT_ROOT_PASSWORD", PASSWORD))
}

/// Registers the provider and its instance with a token.
async fn register(gateway: &str, header: &str) -> Result<()> {
    let mut client = Client::connect(gateway).await?;
    let base = "/v4/default/registry/microservices";
    let service = r#"{"service":{"serviceName":"provider","appId":"shop","version":"1.0.0"}}"#;
    let answer = client.call(&request("POST", base, header, service)).await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let id = answer["serviceId"].as_str().context("an id")?;
    let instance = r#"{"instance":{"hostName":"n","endpoints":["rest://10.0.0.1:80"]}}"#;
    client.call(&request("POST", &format!("{base}/{id}/instances"), header, instance)).await?;
    Ok(())
}

struct Calls<'a> {
    world: &'a World,
    clients: usize,
    length: Duration,
}

impl Calls<'_> {
    async fn row(&self, report: &Report, what: &str, request: &[u8]) -> Result<()> {
        let world = self.world;
        let programs = [world.gateways[0].process.pid(), world.control_planes[0].process.pid()];
        // The first requests open connections and fill caches.
        self.load(request, Duration::from_secs(1)).await?;
        let before = programs.map(cpu_seconds);
        let calls = self.load(request, self.length).await?;
        let count = calls.per_second() * self.length.as_secs_f64();
        let mut figures = vec![Some(calls.per_second()), Some(calls.quantile_ms(0.5))];
        for (program, before) in programs.into_iter().zip(before) {
            figures.push(Some((cpu_seconds(program)? - before?) * 1e6 / count));
        }
        report.row(what, &figures);
        Ok(())
    }

    async fn load(&self, request: &[u8], length: Duration) -> Result<Latencies> {
        let server = self.world.gateways[0].api.to_string();
        load(&server, request, self.clients, length).await
    }
}
