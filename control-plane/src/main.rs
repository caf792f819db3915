//! The `control-plane` program: settings → logs → sockets → store and bus → rooms → serve → drain.
//!
//! Exit status: 0 after a drain, 1 when something could not be started or did not end in time, 64 for mistakes
//! in the settings.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use control_plane::app::{App, Parts};
use control_plane::process::ProcessConfig;
use control_plane::store::etcd::EtcdStore;
use shared::admin::{self, Readiness};
use shared::bus::NatsBus;
use shared::config;
use shared::http::{ServerLimits, ServerMetrics, serve, serve_counted};
use shared::lifecycle::Tasks;
use shared::telemetry::{Metrics, Telemetry};
use tokio::net::TcpListener;
use tracing::{error, info};

fn main() -> ExitCode {
    let command = clap::Command::new("control-plane")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves the registry API, keeps the truth in etcd and publishes each change once.");
    let config: ProcessConfig = match config::start(command) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let started = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(start(config)));
    match started {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            error!(reason = format!("{reason:#}"), "the control plane cannot run");
            if !tracing::dispatcher::has_been_set() {
                eprintln!("the control plane cannot run: {reason:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs with telemetry around it, which is handed over last.
async fn start(config: ProcessConfig) -> Result<bool> {
    let telemetry = Telemetry::start("muster-control-plane", &config.log)?;
    let ended = run(config, telemetry.metrics().clone()).await;
    telemetry.finish().await;
    ended
}

/// True when everything ended by itself.
async fn run(config: ProcessConfig, metrics: Metrics) -> Result<bool> {
    let tasks = Tasks::new();
    tasks.listen_for_signals()?;
    let api = bind(config.listen).await?;
    let admin = bind(config.admin_listen).await?;
    let listening = api.local_addr()?;
    let readiness = Readiness::new(&tasks);
    let bus = NatsBus::connect(config.nats, &tasks).await?;
    let parts = Parts {
        store: EtcdStore::connect(config.etcd, &tasks),
        bus: Arc::new(bus),
        config: config.plane,
        listening,
        meter: metrics.meter("control-plane"),
        readiness: readiness.clone(),
    };
    let app = App::build(parts, &tasks);
    let counted = ServerMetrics::new(&metrics.meter("http"), "api");
    info!(plane = "control", api = %listening, admin = %admin.local_addr()?, "listening");

    let admin_tasks = tasks.clone();
    let routes = admin::router(readiness, metrics, axum::Router::new());
    let admin_limits = ServerLimits { name: "admin", connections: 256, ..ServerLimits::default() };
    tasks.spawn_vital("admin", async move { serve(admin, routes, admin_limits, &admin_tasks).await });
    let (service, rest, api_tasks) = (app.service, app.rest, tasks.clone());
    let limits = ServerLimits { access_log: config.log.access, ..config.http };
    tasks.spawn_vital("api", async move {
        serve_counted(api, service, limits, counted, &api_tasks).await;
        rest.begin().await;
    });
    drop((app.registry, app.view, app.role));
    Ok(tasks.finish(config.grace).await)
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))
}
