//! Checks whether a program could run on this machine: its settings, ports, certificate, store, bus and open
//! files.

use shared::clock::Clock;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bus::{NatsBus, NatsConfig};
use control_plane::advertise::Advertised;
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{RangeRequest, Store as _, StoreError};
use host::lifecycle::Tasks;
use host::tls::{ServerTls, with_advice};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{Finding, Outcome, failed, ok, servers, warning};
use crate::standalone::StandaloneConfig;

/// A certificate that expires sooner than this deserves a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// File descriptors that a program needs beside those of its connections.
const SPARE_FILES: usize = 256;

/// The program that is to run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum CheckedProgram {
    ControlPlane,
    EdgeGateway,
    Standalone,
}

/// The surroundings that the settings of a program ask for.
#[derive(Default)]
struct Requirements {
    listen: Vec<(&'static str, SocketAddr)>,
    tls: Option<ServerTls>,
    etcd: Option<EtcdConfig>,
    nats: Option<NatsConfig>,
    /// Only programs that register themselves have one.
    advertised: Option<Advertised>,
    connections: usize,
}

/// Checks everything that can be checked without starting the program. `patience` bounds each check of a
/// server.
pub(super) async fn check(program: CheckedProgram, file: Option<&Path>, patience: Duration) -> Vec<Finding> {
    let requirements = match requirements(program, file) {
        Ok(requirements) => requirements,
        // With wrong settings the other checks would check something else than the program needs.
        Err(mistakes) => {
            return mistakes
                .0
                .iter()
                .map(|mistake| Finding::new("settings", failed(mistake.to_string())))
                .collect();
        }
    };
    let mut findings = vec![Finding::new("settings", ok("no mistakes"))];
    for (name, address) in &requirements.listen {
        findings.push(Finding::new(*name, port(*address).await));
    }
    if let Some(advertised) = &requirements.advertised {
        findings.push(Finding::new("advertise", told(advertised)));
    }
    if let Some(tls) = &requirements.tls {
        findings.push(Finding::new("certificate", certificate(tls.expires())));
        // The end of its validity is told by the line before.
        for fault in tls.faults().into_iter().filter(|fault| !fault.contains("has expired")) {
            findings.push(Finding::new("certificate", warning(fault)));
        }
    }
    if let Some(config) = requirements.etcd {
        findings.push(Finding::new("etcd", etcd(config, patience).await));
    }
    if let Some(config) = requirements.nats {
        findings.push(Finding::new("nats", nats(config, patience).await));
    }
    findings.push(Finding::new("open files", files(requirements.connections)));
    findings
}

fn requirements(program: CheckedProgram, file: Option<&Path>) -> Result<Requirements, settings::Mistakes> {
    Ok(match program {
        CheckedProgram::ControlPlane => {
            let config: control_plane::settings::ProcessConfig = settings::check(file)?;
            Requirements {
                listen: vec![("listen", config.listen), ("admin-listen", config.admin_listen)],
                advertised: Some(Advertised::new(
                    config.plane.advertise.as_ref(),
                    config.listen,
                    config.http.tls.is_some(),
                )),
                connections: config.http.connections,
                tls: config.http.tls,
                etcd: Some(config.etcd),
                nats: Some(config.nats),
            }
        }
        CheckedProgram::EdgeGateway => {
            let config: edge_gateway::settings::ProcessConfig = settings::check(file)?;
            Requirements {
                listen: [("listen", config.gateway.listen), ("admin-listen", config.admin_listen)]
                    .into_iter()
                    .chain(config.gateway.dns.listen.map(|address| ("dns.listen", address)))
                    .collect(),
                connections: config.gateway.limits.node,
                tls: config.gateway.http.tls,
                nats: Some(config.nats),
                ..Requirements::default()
            }
        }
        CheckedProgram::Standalone => {
            let config: StandaloneConfig = settings::check(file)?;
            let admin = config.admin_listen.map(|address| ("admin-listen", address));
            Requirements {
                listen: std::iter::once(("listen", config.gateway.listen))
                    .chain(admin)
                    .chain(config.gateway.dns.listen.map(|address| ("dns.listen", address)))
                    .collect(),
                advertised: Some(Advertised::new(
                    config.plane.advertise.as_ref(),
                    config.gateway.listen,
                    config.gateway.http.tls.is_some(),
                )),
                connections: config.gateway.limits.node,
                tls: config.gateway.http.tls,
                ..Requirements::default()
            }
        }
    })
}

async fn port(address: SocketAddr) -> Outcome {
    // Port 0 would always be free, and so it is reported; programs that use it choose another one at each
    // start.
    match TcpListener::bind(address).await {
        Ok(_) => ok(format!("{address} is free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => failed(format!(
            "{address} is taken by another process: `ss -ltnp 'sport = :{}'` shows which",
            address.port()
        )),
        Err(e) => failed(format!("{address} cannot be listened on: {e}")),
    }
}

/// The address that clients will be told.
fn told(Advertised { endpoint, is_guessed, .. }: &Advertised) -> Outcome {
    if *is_guessed {
        warning(format!(
            "clients will be told {endpoint}, because `listen` means every address of this machine: set \
             `advertise` if they reach the registry under another one, as behind gateways"
        ))
    } else {
        ok(format!("clients will be told {endpoint}"))
    }
}

fn certificate(expires: SystemTime) -> Outcome {
    let when = humantime::format_rfc3339_seconds(expires);
    // Files are read again when they change, so a renewed certificate needs no restart.
    match expires.duration_since(Clock::system().now()) {
        Err(_) => {
            failed(format!("it has expired ({when}): put a new one in its place, no restart is needed"))
        }
        Ok(remaining) if remaining < EXPIRES_SOON => {
            warning(format!("it expires soon ({when}): put a new one in its place, no restart is needed"))
        }
        Ok(_) => ok(format!("valid until {when}")),
    }
}

async fn etcd(config: EtcdConfig, patience: Duration) -> Outcome {
    let endpoints = config.endpoints.join(", ");
    let tasks = Tasks::new();
    let store = EtcdStore::connect(config, &tasks);
    // A read of one key of ours needs the right credentials and a leader, as the program does.
    let request = RangeRequest { limit: 1, ..RangeRequest::prefix("/cse-sr/") };
    let asking = async { Ok((store.range(request).await?, store.version().await?)) };
    let reply: Result<Result<_, StoreError>, _> = timeout(patience, asking).await;
    tasks.drain().cancel();
    tasks.abort().cancel();
    match reply {
        Ok(Ok((reply, version))) => {
            servers::etcd(&format!("{endpoints} answers, at revision {}", reply.revision), &version)
        }
        Ok(Err(e)) => {
            let told = with_advice(format!("{endpoints}: {e}"));
            failed(format!("{told}; look at etcd.endpoints, and whether etcd has a leader"))
        }
        Err(_) => failed(format!("{endpoints}: no reply in time; look at etcd.endpoints and firewalls")),
    }
}

async fn nats(config: NatsConfig, patience: Duration) -> Outcome {
    let urls: Vec<_> = config.urls.iter().map(|url| without_secrets(url)).collect();
    let urls = urls.join(", ");
    match timeout(patience, NatsBus::probe(config)).await {
        Ok(Ok(version)) => servers::nats(&format!("{urls} answers"), &version),
        Ok(Err(e)) if e.starts_with("refused") => {
            failed(format!("{urls} {e}; look at nats.user, nats.password and nats.token"))
        }
        Ok(Err(e)) => {
            let told = with_advice(format!("{urls}: {e}"));
            failed(format!("{told}; look at nats.urls, and whether the server runs"))
        }
        Err(_) => failed(format!("{urls}: no reply in time; look at nats.urls and firewalls")),
    }
}

/// The address without its password, so that the result can be passed on.
fn without_secrets(url: &str) -> String {
    url.parse::<settings::Url>().map_or_else(|()| "?".to_owned(), |url| url.to_string())
}

/// Checks the limit of this process: the program, started from the same shell, would inherit the same.
fn files(connections: usize) -> Outcome {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    let wanted = connections.saturating_add(SPARE_FILES);
    match soft {
        None => warning("the limit on open files cannot be read"),
        Some(soft) if soft < wanted => failed(format!(
            "{soft} files may be open, and {connections} connections are allowed: raise it (ulimit -n, LimitNOFILE) or \
             allow fewer connections"
        )),
        Some(soft) => ok(format!("{soft} files may be open, for {connections} connections")),
    }
}
