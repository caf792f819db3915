//! Whether a program could run on this machine: its settings, its ports, its certificate, its store, its bus, the
//! files it may open.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bus::{NatsBus, NatsConfig};
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{RangeRequest, Store as _};
use host::lifecycle::Tasks;
use host::tls::ServerTls;
use settings::Config;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{Finding, State};
use crate::standalone::StandaloneConfig;

/// A certificate that ends sooner is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Descriptors beyond those of connections.
const SPARE_FILES: usize = 256;

/// Which program is to run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Program {
    ControlPlane,
    EdgeGateway,
    Standalone,
}

/// What its settings say about its surroundings.
#[derive(Default)]
struct Needs {
    listen: Vec<(&'static str, SocketAddr)>,
    tls: Option<ServerTls>,
    etcd: Option<EtcdConfig>,
    nats: Option<NatsConfig>,
    connections: usize,
}

/// Checks everything that can be checked without starting the program.
pub(super) async fn check(program: Program, file: Option<&Path>, patience: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut note = |check: &str, (state, detail): (State, String)| {
        findings.push(Finding { check: check.to_owned(), state, detail });
    };
    let needs = match needs(program, file) {
        Ok(needs) => needs,
        Err(mistakes) => {
            mistakes.0.iter().for_each(|it| note("settings", (State::Failed, it.to_string())));
            return findings;
        }
    };
    note("settings", (State::Ok, "no mistakes".to_owned()));
    for (name, address) in &needs.listen {
        note(name, port(*address).await);
    }
    if let Some(tls) = &needs.tls {
        note("certificate", certificate(tls.expires()));
    }
    if let Some(config) = needs.etcd {
        note("etcd", etcd(config, patience).await);
    }
    if let Some(config) = needs.nats {
        note("nats", nats(config, patience).await);
    }
    note("open files", files(needs.connections));
    findings
}

fn needs(program: Program, file: Option<&Path>) -> Result<Needs, settings::Mistakes> {
    fn read<C: Config>(file: Option<&Path>) -> Result<C, settings::Mistakes> {
        settings::check(file)
    }
    Ok(match program {
        Program::ControlPlane => {
            let it: control_plane::process::ProcessConfig = read(file)?;
            Needs {
                listen: vec![("listen", it.listen), ("admin-listen", it.admin_listen)],
                connections: it.http.connections,
                tls: it.http.tls,
                etcd: Some(it.etcd),
                nats: Some(it.nats),
            }
        }
        Program::EdgeGateway => {
            let it: edge_gateway::settings::ProcessConfig = read(file)?;
            Needs {
                listen: vec![("listen", it.gateway.listen), ("admin-listen", it.admin_listen)],
                connections: it.gateway.limits.node,
                tls: it.gateway.http.tls,
                etcd: None,
                nats: Some(it.nats),
            }
        }
        Program::Standalone => {
            let it: StandaloneConfig = read(file)?;
            let admin = it.admin_listen.map(|address| ("admin-listen", address));
            Needs {
                listen: std::iter::once(("listen", it.gateway.listen)).chain(admin).collect(),
                connections: it.gateway.limits.node,
                tls: it.gateway.http.tls,
                ..Needs::default()
            }
        }
    })
}

async fn port(address: SocketAddr) -> (State, String) {
    match TcpListener::bind(address).await {
        Ok(_) => (State::Ok, format!("{address} is free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            let advice = format!("ss -ltnp 'sport = :{}' says who", address.port());
            (State::Failed, format!("{address} is taken by another process: {advice}"))
        }
        Err(e) => (State::Failed, format!("{address} cannot be listened on: {e}")),
    }
}

fn certificate(expires: SystemTime) -> (State, String) {
    let when = humantime::format_rfc3339_seconds(expires);
    match expires.duration_since(SystemTime::now()) {
        Err(_) => (
            State::Failed,
            format!("it has expired ({when}): put a new one in its place, no restart is needed"),
        ),
        Ok(left) if left < SOON => {
            (State::Warning, format!("it expires soon ({when}): put a new one in its place"))
        }
        Ok(_) => (State::Ok, format!("valid until {when}")),
    }
}

async fn etcd(config: EtcdConfig, patience: Duration) -> (State, String) {
    let endpoints = config.endpoints.join(", ");
    let tasks = Tasks::new();
    let store = EtcdStore::connect(config, &tasks);
    let request = RangeRequest { limit: 1, ..RangeRequest::prefix("/cse-sr/") };
    let asked = timeout(patience, store.range(request)).await;
    tasks.drain().cancel();
    tasks.abort().cancel();
    match asked {
        Ok(Ok(reply)) => (State::Ok, format!("{endpoints} answers, at revision {}", reply.revision)),
        Ok(Err(e)) => (
            State::Failed,
            format!("{endpoints}: {e}; look at etcd.endpoints, and whether etcd has a leader"),
        ),
        Err(_) => {
            (State::Failed, format!("{endpoints}: no answer in time; look at etcd.endpoints and firewalls"))
        }
    }
}

async fn nats(config: NatsConfig, patience: Duration) -> (State, String) {
    let urls: Vec<_> = config.urls.iter().map(|url| without_secrets(url)).collect();
    let urls = urls.join(", ");
    match timeout(patience, NatsBus::probe(config)).await {
        Ok(Ok(())) => (State::Ok, format!("{urls} answers")),
        Ok(Err(e)) if e.starts_with("refused") => {
            (State::Failed, format!("{urls} {e}; look at nats.user, nats.password and nats.token"))
        }
        Ok(Err(e)) => (State::Failed, format!("{urls}: {e}; look at nats.urls, and whether the server runs")),
        Err(_) => (State::Failed, format!("{urls}: no answer in time; look at nats.urls and firewalls")),
    }
}

/// As it may be shown.
fn without_secrets(url: &str) -> String {
    url.parse::<settings::Url>().map_or_else(|()| "?".to_owned(), |url| url.to_string())
}

/// Children inherit the limit, so ours is what the program would have.
fn files(connections: usize) -> (State, String) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    let wanted = connections.saturating_add(SPARE_FILES);
    match soft {
        None => (State::Warning, "the limit cannot be read; cannot tell".to_owned()),
        Some(soft) if soft < wanted => (
            State::Failed,
            format!(
                "{soft} may be open and {connections} connections are allowed: raise it (ulimit -n, LimitNOFILE) or lower that"
            ),
        ),
        Some(soft) => (State::Ok, format!("{soft} may be open, for {connections} connections")),
    }
}
