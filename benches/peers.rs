//! A peer of this field beside us on the same work: registrations, heartbeats and finds of many clients.
//!
//! The peer is rnacos, a server of Nacos' protocol in Rust. It keeps instances that beat in memory alone, and
//! writes the others ("persistent", `ephemeral=false`) to its log. A registry of ours acknowledges what its
//! store has written, so `muster standalone` runs twice: with its file on the disk, and with its file in
//! memory (`/dev/shm`). The fleet is etcd, NATS, a control plane and a gateway, with the defaults and with
//! shared leases. Clients use keep-alive and the protocol of each server; the work is the same: an instance
//! with one address, one of a hundred services, and a find that answers ten instances.
//!
//! The CPU is that of all programs of the server together, per request. Arguments: connections, seconds per
//! row, rounds. The file of the peer is named by `MUSTER_TEST_RNACOS`; `cargo xtask bench peers` installs it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use benches::Latencies;
use benches::call::{Client, ask, load_each, request};
use benches::report::Report;
use benches::usage::cpu_seconds;
use harness::{Process, World, eventually, port};

/// Services that the registrations are spread over.
const SERVICES: usize = 100;
/// Instances of the service that is found.
const FOUND: usize = 10;
/// Instances that beat. Each beats once before any beats again.
const BEATING: usize = 1000;
/// The service that finds, as SDKs say with each find.
const CONSUMER: &str = "consumer";
const V4: &str = "/v4/default/registry";
const V1: &str = "/nacos/v1/ns/instance";

#[tokio::main]
async fn main() -> Result<()> {
    let [connections, seconds, rounds] = benches::arguments([64, 4, 2])?;
    let length = Duration::from_secs(seconds as u64);
    let report = Report::new("peers", &["per s", "p50 ms", "p99 ms", "CPU µs"]);
    for round in 1..=rounds {
        for kind in Kind::ALL {
            // Each round starts the server anew, without the instances that the round before has registered.
            let system = System::start(kind).await?;
            system.prepare().await?;
            for work in [Work::Register, Work::Beat, Work::Find] {
                if work == Work::Beat && !kind.has_beats() {
                    continue;
                }
                let before = system.cpu()?;
                let took = load_each(&system.server, connections, length, |n| kind.request(work, n)).await?;
                let spent = (system.cpu()? - before) * 1e6 / took.count() as f64;
                row(&report, &format!("{}, {}, {round}", work.words(), kind.words()), &took, spent);
            }
        }
    }
    Ok(())
}

fn row(report: &Report, what: &str, took: &Latencies, spent: f64) {
    let [p50, p99] = [0.5, 0.99].map(|share| took.quantile_ms(share));
    report.row(what, &[Some(took.per_second()), Some(p50), Some(p99), Some(spent)]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Register,
    Beat,
    Find,
}

impl Work {
    fn words(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Beat => "beat",
            Self::Find => "find",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    RnacosInMemory,
    RnacosPersistent,
    StandaloneInMemory,
    Standalone,
    Fleet,
    FleetWithSharedLeases,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::RnacosInMemory,
        Self::StandaloneInMemory,
        Self::RnacosPersistent,
        Self::Standalone,
        Self::Fleet,
        Self::FleetWithSharedLeases,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::RnacosInMemory => "rnacos, memory",
            Self::RnacosPersistent => "rnacos, disk",
            Self::StandaloneInMemory => "standalone, memory",
            Self::Standalone => "standalone, disk",
            Self::Fleet => "fleet",
            Self::FleetWithSharedLeases => "fleet, shared leases",
        }
    }

    fn is_peer(self) -> bool {
        matches!(self, Self::RnacosInMemory | Self::RnacosPersistent)
    }

    /// The peer's persistent instances do not beat.
    fn has_beats(self) -> bool {
        self != Self::RnacosPersistent
    }

    /// The `n`th request of a kind of work. Registrations are all of different instances.
    fn request(self, work: Work, n: usize) -> Vec<u8> {
        match (work, self.is_peer()) {
            (Work::Register, _) => self.register(&format!("crowd-{}", n % SERVICES), "new", n),
            (Work::Beat, false) => {
                let n = n % BEATING;
                let path =
                    format!("{V4}/microservices/beating-{}/instances/beat-{n}/heartbeat", n % SERVICES);
                request("PUT", &path, "", "")
            }
            (Work::Beat, true) => {
                let n = n % BEATING;
                let (ip, port) = address("beat", n);
                let service = format!("beating-{}", n % SERVICES);
                // {"ip":"…","port":…,"serviceName":"DEFAULT_GROUP@@…"} with its quotes and braces escaped.
                let beat = format!(
                    "%7B%22ip%22%3A%22{ip}%22%2C%22port%22%3A{port}%2C%22serviceName%22%3A%22DEFAULT_GROUP%40%40{service}%22%7D"
                );
                request("PUT", &format!("{V1}/beat?serviceName={service}&beat={beat}"), "", "")
            }
            (Work::Find, false) => {
                let consumer = format!("X-ConsumerId: {CONSUMER}\r\n");
                ask(&format!("{V4}/instances?appId=default&serviceName=found&version=0%2B"), &consumer)
            }
            (Work::Find, true) => ask(&format!("{V1}/list?serviceName=found"), ""),
        }
    }

    /// A registration of an instance. Its address follows from its group and its number.
    fn register(self, service: &str, group: &str, n: usize) -> Vec<u8> {
        let (ip, port) = address(group, n);
        if self.is_peer() {
            let ephemeral = self == Self::RnacosInMemory;
            let path = format!("{V1}?serviceName={service}&ip={ip}&port={port}&ephemeral={ephemeral}");
            return request("POST", &path, "", "");
        }
        let body = format!(
            r#"{{"instance":{{"instanceId":"{group}-{n}","hostName":"{ip}","endpoints":["rest://{ip}:{port}"]}}}}"#
        );
        request("POST", &format!("{V4}/microservices/{service}/instances"), "", &body)
    }
}

/// An address of its own for each instance of a group.
fn address(group: &str, n: usize) -> (String, usize) {
    let first = match group {
        "new" => 10,
        "beat" => 11,
        _ => 12,
    };
    (format!("{first}.{}.{}.{}", n >> 16 & 0xff, n >> 8 & 0xff, n & 0xff), 8080)
}

/// A server with its programs.
struct System {
    kind: Kind,
    server: String,
    _world: Option<World>,
    _process: Option<Process>,
    programs: Vec<u32>,
    /// The folder of a file in memory.
    _memory: Option<tempfile::TempDir>,
}

impl System {
    async fn start(kind: Kind) -> Result<Self> {
        match kind {
            Kind::RnacosInMemory | Kind::RnacosPersistent => Self::peer(kind).await,
            Kind::Standalone => Self::standalone(kind, None).await,
            Kind::StandaloneInMemory => {
                let memory = tempfile::tempdir_in("/dev/shm").context("a folder in memory")?;
                Self::standalone(kind, Some(memory)).await
            }
            Kind::Fleet => Ok(Self::fleet(kind, World::with().start().await)),
            Kind::FleetWithSharedLeases => {
                let plan =
                    World::with().plane_flag("--lease-mode", "reported").plane_flag("--lease-shared", "true");
                Ok(Self::fleet(kind, plan.start().await))
            }
        }
    }

    async fn peer(kind: Kind) -> Result<Self> {
        let [api, grpc, console] = [(); 3].map(|()| port::free());
        let process = Process::installed("rnacos", "rnacos, which `cargo xtask bench peers` installs")
            .env("RNACOS_HTTP_PORT", api.to_string())
            .env("RNACOS_GRPC_PORT", grpc.to_string())
            .env("RNACOS_HTTP_CONSOLE_PORT", console.to_string())
            .env("RNACOS_SDK_HOST", "127.0.0.1")
            .env("RNACOS_CONFIG_DB_DIR", "data")
            .env("RUST_LOG", "error");
        process.start();
        let system = Self::of(kind, SocketAddr::from(([127, 0, 0, 1], api)), process, None);
        eventually("the peer has a leader", || async {
            Client::connect(&system.server).await.ok()?.call(&kind.register("ready", "found", 0)).await.ok()
        })
        .await;
        Ok(system)
    }

    async fn standalone(kind: Kind, memory: Option<tempfile::TempDir>) -> Result<Self> {
        let api = port::local();
        let folder =
            memory.as_ref().map_or_else(|| "data".into(), |folder| folder.path().display().to_string());
        let process =
            Process::ours("muster").args(["standalone", "--data-dir", &folder, "--listen", &api.to_string()]);
        process.start();
        let client = harness::Client::new(api);
        eventually("the registry is ready", || async {
            (client.try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
        Ok(Self::of(kind, api, process, memory))
    }

    fn of(kind: Kind, server: SocketAddr, process: Process, memory: Option<tempfile::TempDir>) -> Self {
        let programs = vec![process.pid()];
        Self {
            kind,
            server: server.to_string(),
            _world: None,
            _process: Some(process),
            programs,
            _memory: memory,
        }
    }

    fn fleet(kind: Kind, world: World) -> Self {
        let server = world.gateways[0].api.to_string();
        let mut programs: Vec<u32> = world.nodes().map(|node| node.process.pid()).collect();
        programs.extend([world.etcd.pid(), world.nats.pid()]);
        Self { kind, server, _world: Some(world), _process: None, programs, _memory: None }
    }

    /// CPU seconds of all its programs.
    fn cpu(&self) -> Result<f64> {
        self.programs.iter().map(|pid| cpu_seconds(*pid)).sum()
    }

    /// Registers what is found and what beats. The peer makes a service with its first instance.
    async fn prepare(&self) -> Result<()> {
        let mut client = Client::connect(&self.server).await?;
        if !self.kind.is_peer() {
            let names = (0..SERVICES).flat_map(|n| [format!("crowd-{n}"), format!("beating-{n}")]);
            for name in names.chain(["found".to_owned(), CONSUMER.to_owned()]) {
                let body = format!(
                    r#"{{"service":{{"serviceId":"{name}","serviceName":"{name}","appId":"default"}}}}"#
                );
                client.call(&request("POST", &format!("{V4}/microservices"), "", &body)).await?;
            }
        }
        for n in 0..FOUND {
            client.call(&self.kind.register("found", "found", n)).await?;
        }
        for n in 0..BEATING {
            client.call(&self.kind.register(&format!("beating-{}", n % SERVICES), "beat", n)).await?;
        }
        Ok(())
    }
}
