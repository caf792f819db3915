//! The `edge-gateway` program: settings → logs → sockets → bus and control planes → rooms → serve → drain.
//!
//! Exit status: 0 after a drain, 1 when something could not be started or did not end in time, 64 for
//! mistakes in the settings.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bus::NatsBus;
use edge_gateway::forward::Replicas;
use edge_gateway::settings::ProcessConfig;
use edge_gateway::{App, Config, Parts};
use host::audit::Audit;
use host::figures::sampler::Sampler;
use host::program::{self, Host};
use host::telemetry::process::observe_usage;
use tokio::net::TcpListener;
use tracing::{info, warn};

fn main() -> ExitCode {
    let command = clap::Command::new("edge-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Holds watchers, pushes every instance change to them and forwards everything else.");
    program::run(settings::start(command), 1, start)
}

/// Starts everything; it runs among the host's tasks from then on.
async fn start(config: ProcessConfig, host: &mut Host<ProcessConfig>) -> Result<()> {
    let tasks = &host.tasks.clone();
    let meter = host.metrics.meter("edge-gateway");
    let address = config.admin_listen;
    let exposure = config.gateway.exposure;
    let admin = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bus = NatsBus::connect(config.nats, tasks).await.context("cannot use the addresses of NATS")?;
    bus.observe(&meter);
    let forward = Arc::new(Replicas::new(config.forward, &meter, tasks)?);
    let audit = Audit::open(&config.program.audit, &host.metrics.meter("audit"), tasks)?;
    host.record_in(&audit);
    let parts = Parts {
        config: Config { access_log: config.program.log.access, ..config.gateway },
        listener: None,
        bus: Arc::new(bus),
        forward,
        meter: meter.clone(),
        readiness: host.readiness.clone(),
        audit,
        sampler: Sampler::new(host.metrics.clone()),
    };
    let app = App::build(parts, tasks).await?;
    // Not in App::build: in `muster standalone` the control plane observes the same process.
    observe_usage(&meter, &app.instance);
    if let Some(notice) = exposure.notice(app.api_addr) {
        warn!(listening = %app.api_addr, "{notice}");
    }
    info!(plane = "edge", api = %app.api_addr, admin = %admin.local_addr()?, "listening");

    host.known.add(app.on_known());
    host.access.add(app.access_control());
    let set_limits = app.on_limits();
    tasks.delay_drain(app.delay(config.program.drain_delay));
    tasks.spawn_vital("app", app.run());
    host.serve_admin(admin);
    host.on_change(move |config| set_limits(&config.gateway.limits));
    Ok(())
}
