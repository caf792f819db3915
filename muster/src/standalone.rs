//! `muster standalone`: both planes in this process, on an embedded store and an in-process bus.
//!
//! In: the settings of both planes, without those for the way between them. Out: a registry, until a signal
//! or a failure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use bus::local::LocalBus;
use clap::{ArgMatches, Command};
use control_plane::app::{App, Parts};
use control_plane::inventory;
use control_plane::keys::Name;
use control_plane::registry::service::derived_id;
use control_plane::store::embedded::{EmbeddedConfig, EmbeddedStore};
use edge_gateway::forward::InProcess;
use edge_gateway::settings::PollsConfig;
use host::audit::Audit;
use host::exposure::{self, Exposure};
use host::figures::sampler::Sampler;
use host::program::{self, Host, Program, ProgramSettings};
use settings::{Config, Settings, Size};
use shared::model::Tenant;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::failure;

/// The name of the command.
pub(crate) const NAME: &str = "standalone";
/// The store's file in the data directory.
pub(crate) const STORE_FILE: &str = "muster.redb";

/// The settings of a standalone registry: those of both planes, without etcd, NATS and addresses between the
/// planes.
pub(crate) struct StandaloneConfig {
    /// Directory of the embedded store.
    pub(crate) data_dir: PathBuf,
    /// The most bytes of keys and values in the embedded store.
    pub(crate) store_quota: u64,
    /// Address of a separate listener for `/live`, `/ready`, `/metrics`. Without it they share `listen`.
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Logs, the duration of a drain, and the token of remote operators.
    pub(crate) program: ProgramSettings,
    /// The control plane.
    pub(crate) plane: control_plane::settings::Config,
    /// The gateway. Its address is the registry's.
    pub(crate) gateway: edge_gateway::Config,
}

impl Config for StandaloneConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        // A registry that is only tried out must not be open to the whole network.
        settings.set_default("listen", "127.0.0.1:30100");
        // Watchers of a single process have no other gateway to go to, so spreading their ends would only
        // take time.
        settings.set_default("drain-over", "1s");
        // The view of this process answers, without a second copy beside it and without a network between.
        settings.set_default("edge.reads", "false");
        let gateway = edge_gateway::Config::read(settings);
        if gateway.http.reuse_port {
            settings.mistake(
                "http.reuse-port",
                "a standalone registry has its data for itself, so no other process can take its place while it runs",
            );
        }
        let admin_listen = settings.optional(
            "admin-listen",
            "Address for /live, /ready and /metrics; without it they are served beside the API.",
        );
        if let Some(address) = admin_listen {
            exposure::check_apart(settings, ("admin-listen", address), ("listen", gateway.listen));
        }
        Self {
            data_dir: settings.get(
                "data-dir",
                "./muster-data",
                "Directory of the embedded store; created if missing.",
            ),
            store_quota: settings
                .within::<Size>(
                    "store.quota",
                    "2GiB",
                    "1MiB"..="1024GiB",
                    "Bytes of keys and values in the embedded store. A write that would make them more is refused, \
                     and from 80 % on tenants that wrote much of late are slowed.",
                )
                .0 as u64,
            admin_listen,
            program: ProgramSettings::read(settings, "0s", "20s", "10m"),
            plane: control_plane::settings::Config::read(settings),
            gateway,
        }
    }
}

/// The command with its flags.
pub(crate) fn command() -> Command {
    settings::augment::<StandaloneConfig>(
        Command::new(NAME).about("Run a registry in this process, with nothing else installed"),
    )
}

impl Program for StandaloneConfig {
    const SERVICE: &'static str = "muster-standalone";

    fn program(&self) -> &ProgramSettings {
        &self.program
    }
}

/// Runs until a signal or a failure.
pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    program::run(settings::resolve::<StandaloneConfig>(matches), failure::SOFTWARE, start)
}

/// Starts both planes. They run as tasks of the host from then on.
async fn start(config: StandaloneConfig, host: &mut Host<StandaloneConfig>) -> anyhow::Result<()> {
    let tasks = host.tasks.clone();
    let readiness = host.readiness.clone();
    tasks.delay_drain(move || tokio::time::sleep(config.program.drain_delay));
    // The port is taken first: a second process on the same address fails before it touches the data.
    let api = bind(config.gateway.listen).await?;
    let listening = api.local_addr()?;
    let exposure = config.gateway.exposure;
    if let Some(notice) = exposure.notice(listening) {
        warn!(%listening, "{notice}");
    }

    let mut plane = config.plane;
    plane.rbac.open_keys(&config.data_dir)?;
    let mut audit = config.program.audit;
    if plane.rbac.enabled {
        audit.file.get_or_insert_with(|| config.data_dir.join(host::audit::FILE_NAME));
    }
    let audit = Audit::open(&audit, &host.metrics.meter("audit"), &tasks)?;
    host.record_in(&audit);
    // One for both planes: they are one process.
    let sampler = Sampler::new(host.metrics.clone());
    let file = config.data_dir.join(STORE_FILE);
    // Of a registry that is new nobody has an answer.
    let is_new = !file.exists();
    let bus = Arc::new(LocalBus::new());
    let secure = config.gateway.http.tls.is_some();
    let store = EmbeddedConfig { quota: config.store_quota, ..EmbeddedConfig::default() };
    let parts = Parts {
        store: EmbeddedStore::open(&file, store, &tasks)
            .with_context(|| format!("the store in {} cannot be opened", file.display()))?,
        bus: bus.clone(),
        config: plane,
        listening,
        secure,
        meter: host.metrics.meter("control-plane"),
        readiness: readiness.clone(),
        audit: audit.clone(),
        sampler: sampler.clone(),
    };
    let App { service, drain: drain_handle, registry, .. } = App::build(parts, &tasks);
    host.access.add(service.access_control());
    let mut own_paths: &[&str] = &[];
    let (admin, routes) = match config.admin_listen {
        // Such requests pass through the gateway and arrive without the address of their peer. So the
        // operators' routes cannot tell that they come from this machine, and ask for the token.
        None => {
            own_paths = host::admin::PATHS;
            (listening, host.admin_routes().fallback_service(service))
        }
        Some(address) => {
            let listener = bind(address).await?;
            let admin = listener.local_addr()?;
            host.serve_admin(listener);
            (admin, Router::new().fallback_service(service))
        }
    };
    let forward = Arc::new(InProcess::new(routes));
    let polls = PollsConfig { none_before: is_new, ..config.gateway.polls };
    let parts = edge_gateway::Parts {
        config: edge_gateway::Config {
            access_log: config.program.log.access,
            own_paths,
            polls,
            ..config.gateway
        },
        listener: Some(api),
        bus,
        forward,
        meter: host.metrics.meter("edge-gateway"),
        readiness: readiness.clone(),
        audit,
        sampler,
    };
    let gateway = edge_gateway::App::build(parts, &tasks).await?;
    info!(plane = "both", api = %listening, %admin, data = %file.display(), "listening");
    let quotas = registry.quotas();
    let set_limits = gateway.on_limits();
    host.known.add(inventory::source(&registry));
    drop(registry);
    host.known.add(gateway.on_known());
    host.access.add(gateway.access_control());
    host.on_change(move |config| {
        quotas.set(&config.plane.registry);
        set_limits(&config.gateway.limits);
    });
    tasks.spawn_vital("gateway", async move {
        Box::pin(gateway.run()).await;
        // Only now the control plane may stop: requests and watchers that were still being served needed it.
        drain_handle.finish().await;
    });
    let drain = tasks.drain().clone();
    let own_admin = (admin != listening).then_some(admin);
    tasks.spawn(async move {
        let ready = drain.run_until_cancelled(readiness.ready()).await;
        if ready.is_some() {
            println!("{}", greeting(listening, secure, own_admin, exposure));
        }
    });
    Ok(())
}

/// The address at which a program on this machine reaches a listener.
fn reachable(listening: SocketAddr) -> SocketAddr {
    // 0.0.0.0 and [::] mean all addresses of the machine, and clients cannot connect to them everywhere.
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// The text for a person who has started the registry by hand: the next steps, as lines that work when
/// pasted.
fn greeting(
    listening: SocketAddr,
    secure: bool,
    own_admin: Option<SocketAddr>,
    exposure: Exposure,
) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "muster".into());
    let scheme = if secure { "https" } else { "http" };
    // A socket address writes brackets around IPv6.
    let server = format!("{scheme}://{}", reachable(listening));
    // The admin port never speaks TLS.
    let admin = own_admin.map_or_else(|| server.clone(), |admin| format!("http://{}", reachable(admin)));
    let at = if server == "http://127.0.0.1:30100" { String::new() } else { format!(" --server {server}") };
    let name = Name::new("", "default", "consumer");
    let notice = exposure.notice(listening).map_or_else(String::new, |notice| format!("Note: {notice}.\n"));
    // With access control the lines below need a token first.
    let login = if exposure.access_control {
        format!("  {program} login{at} --account root\n")
    } else {
        String::new()
    };
    let consumer = derived_id(&Tenant::default(), &name, "1.0.0");
    format!(
        "\nThe registry is ready at {server} (state: {admin}/ready, metrics: {admin}/metrics).\n\
         {notice}\
         To watch a change arrive, paste into another terminal:\n\n{login}  \
         {program} register{at} --name consumer\n  \
         {program} watch{at} --service {consumer} --provider provider &\n  \
         sleep 1; {program} register{at} --name provider --endpoint rest://127.0.0.1:8080\n\n\
         Ctrl-C stops the registry; its data stays."
    )
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greetings_address_works_when_pasted() {
        for (listening, server) in [
            ("[::1]:30100", "http://[::1]:30100 "),
            ("[::]:30100", "http://[::1]:30100 "),
            ("0.0.0.0:30101", "http://127.0.0.1:30101 "),
        ] {
            let listening = listening.parse().expect("an address");
            let text = greeting(listening, false, None, Exposure::default());
            assert!(text.contains(&format!("ready at {server}")), "{text}");
            assert!(text.contains(&format!("--server {server}")), "{text}");
            assert!(text.contains("access control is off"), "{text}");
            assert!(text.contains(&format!("metrics: {}/metrics", server.trim_end())), "{text}");
            let text = greeting(listening, true, "[::]:30101".parse().ok(), Exposure::default());
            assert!(text.contains("(state: http://[::1]:30101/ready,"), "{text}");
        }
    }
}
