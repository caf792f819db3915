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

/// The slices of each row of finds. The rows take turns, so that what else the machine does meets all of them.
const TURNS: u32 = 8;

#[tokio::main]
async fn main() -> Result<()> {
    let [seconds] = benches::arguments([5])?;
    let length = Duration::from_secs(seconds as u64);
    let keys = tempfile::tempdir()?;
    let open = World::with().gateway_flag("--edge-reads", "false").start().await;
    let provider = harness::Client::new(open.control_planes[0].api);
    let service = provider.service("provider").await;
    provider.instance_with(&service, "instance", 7200).await;

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

    let report =
        Report::new("access", &["per s", "p50 ms", "gateway µs", "plane µs", "of open", "of open, plane"]);
    let mut rows = [
        Row::new("find, open", &open, ask(PROVIDER, "")),
        Row::new("find, open, with the header", &open, ask(PROVIDER, &header)),
        Row::new("find, with a token", &world, ask(PROVIDER, &header)),
    ];
    for row in &mut rows {
        // The first requests open connections and fill caches.
        row.turn(CLIENTS, Duration::from_secs(1)).await?;
        row.begin();
    }
    for _ in 0..TURNS {
        for row in &mut rows {
            row.turn(CLIENTS, length / TURNS).await?;
        }
    }
    let first = rows[0].cpu();
    for row in &rows {
        row.tell(&report, Some(first));
    }
    let mut logins = Row::new("login (argon2id)", &world, login);
    logins.turn(LOGINS, Duration::from_secs(1)).await?;
    logins.begin();
    logins.turn(LOGINS, length).await?;
    logins.tell(&report, None);
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

/// One kind of request, sent in turns.
struct Row {
    what: &'static str,
    server: String,
    programs: [u32; 2],
    request: Vec<u8>,
    took: Vec<Duration>,
    wall: Duration,
    /// Microseconds of each program.
    spent: [f64; 2],
}

impl Row {
    fn new(what: &'static str, world: &World, request: Vec<u8>) -> Self {
        let programs = [world.gateways[0].process.pid(), world.control_planes[0].process.pid()];
        let server = world.gateways[0].api.to_string();
        Self { what, server, programs, request, took: Vec::new(), wall: Duration::ZERO, spent: [0.0; 2] }
    }

    /// Forgets the turns before.
    fn begin(&mut self) {
        self.took.clear();
        self.wall = Duration::ZERO;
        self.spent = [0.0; 2];
    }

    async fn turn(&mut self, clients: usize, length: Duration) -> Result<()> {
        let before = [cpu_seconds(self.programs[0])?, cpu_seconds(self.programs[1])?];
        let calls = load(&self.server, &self.request, clients, length).await?;
        for ((spent, program), before) in self.spent.iter_mut().zip(self.programs).zip(before) {
            *spent += (cpu_seconds(program)? - before) * 1e6;
        }
        self.wall += calls.wall();
        self.took.extend(calls.into_durations());
        Ok(())
    }

    /// Microseconds of each program for one request.
    fn cpu(&self) -> [f64; 2] {
        self.spent.map(|spent| spent / self.took.len() as f64)
    }

    fn tell(&self, report: &Report, open: Option<[f64; 2]>) {
        let calls = Latencies::new(self.took.clone(), self.wall);
        let [gateway, plane] = self.cpu();
        let ratio = |at: usize| open.map(|open| self.cpu()[at] / open[at]);
        let [per_second, half] = [calls.per_second(), calls.quantile_ms(0.5)];
        let figures = [Some(per_second), Some(half), Some(gateway), Some(plane), ratio(0), ratio(1)];
        report.row(self.what, &figures);
    }
}
