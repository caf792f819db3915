//! The `control-plane` program: settings → logs → sockets → store and bus → rooms → serve → drain.
//!
//! Exit status: 0 after a drain, 1 when a part could not be started or did not end in time, 64 for mistakes
//! in the settings.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bus::NatsBus;
use control_plane::app::{App, Parts};
use control_plane::inventory;
use control_plane::settings::ProcessConfig;
use control_plane::store::etcd::EtcdStore;
use host::audit::Audit;
use host::figures::sampler::Sampler;
use host::http::{ServerLimits, ServerMetrics, listen, serve_counted};
use host::program::{self, Host};
use tokio::net::TcpListener;
use tracing::{info, warn};

fn main() -> ExitCode {
    let command = clap::Command::new("control-plane")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves the registry API, keeps the truth in etcd and publishes each change once.");
    program::run(settings::start(command), 1, start)
}

/// Starts everything as tasks of the host and returns.
async fn start(config: ProcessConfig, host: &mut Host<ProcessConfig>) -> Result<()> {
    let tasks = host.tasks.clone();
    // Sockets come first: a port in use is found before anything else has started.
    let api = bind(config.listen, config.http.reuse_port)?;
    let admin = bind(config.admin_listen, false)?;
    let listening = api.local_addr()?;
    tasks.delay_drain(move || tokio::time::sleep(config.program.drain_delay));
    let mut plane = config.plane;
    plane.rbac.open_keys(Path::new(""))?;
    if let Some(notice) = plane.exposure.notice(listening) {
        warn!(%listening, "{notice}");
    }
    let bus = NatsBus::connect(config.nats, &tasks).await?;
    bus.observe(&host.metrics.meter("bus"));
    let audit = Audit::open(&config.program.audit, &host.metrics.meter("audit"), &tasks)?;
    host.record_in(&audit);
    let parts = Parts {
        store: EtcdStore::connect(config.etcd, &tasks),
        bus: Arc::new(bus),
        config: plane,
        listening,
        secure: config.http.tls.is_some(),
        meter: host.metrics.meter("control-plane"),
        readiness: host.readiness.clone(),
        audit,
        sampler: Sampler::new(host.metrics.clone()),
    };
    let app = App::build(parts, &tasks);
    let meter = host.metrics.meter("http");
    let counted = ServerMetrics::new(&meter, "api");
    if let Some(tls) = &config.http.tls {
        tls.keep_fresh(&meter, &tasks);
    }
    info!(plane = "control", api = %listening, admin = %admin.local_addr()?, "listening");

    host.known.add(inventory::source(&app.registry));
    let quotas = app.registry.quotas();
    host.on_change(move |config| quotas.set(&config.plane.registry));
    host.access.add(app.service.access_control());
    host.serve_admin(admin);
    // The other handles are dropped with `app`: the store closes with its last handle.
    let App { service, drain, .. } = app;
    let limits = ServerLimits { access_log: config.program.log.access, ..config.http };
    host.tasks.spawn_vital("api", async move {
        serve_counted(api, service, limits, counted, &tasks).await;
        // No request is in flight any more, so no write can follow.
        drain.finish().await;
    });
    Ok(())
}

fn bind(address: SocketAddr, reuse_port: bool) -> Result<TcpListener> {
    listen(address, reuse_port).with_context(|| format!("cannot listen on {address}"))
}
