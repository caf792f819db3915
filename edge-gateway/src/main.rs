//! The `edge-gateway` program: settings → logs → sockets → bus and control planes → rooms → serve → drain.
//!
//! Exit status: 0 after a drain, 1 when something could not be started or did not end in time, 64 for mistakes
//! in the settings.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use edge_gateway::App;
use edge_gateway::forward::Replicas;
use edge_gateway::process::ProcessConfig;
use shared::admin::{self, Readiness};
use shared::bus::NatsBus;
use shared::config;
use shared::http::{ServerLimits, serve};
use shared::lifecycle::Tasks;
use shared::telemetry::{Metrics, Telemetry};
use tokio::net::TcpListener;
use tracing::{error, info};

fn main() -> ExitCode {
    let command = clap::Command::new("edge-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Holds watchers, pushes every instance change to them and forwards everything else.");
    let config: ProcessConfig = match config::start(command) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(start(config)));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            error!(reason = format!("{reason:#}"), "the edge gateway cannot run");
            if !tracing::dispatcher::has_been_set() {
                eprintln!("the edge gateway cannot run: {reason:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs with telemetry around it, which is handed over last.
async fn start(config: ProcessConfig) -> Result<bool> {
    let telemetry = Telemetry::start("muster-edge-gateway", &config.log)?;
    let ended = run(config, telemetry.metrics().clone()).await;
    telemetry.finish().await;
    ended
}

/// True when everything ended by itself.
async fn run(config: ProcessConfig, metrics: Metrics) -> Result<bool> {
    let tasks = Tasks::new();
    tasks.listen_for_signals().context("cannot listen for signals")?;
    let meter = metrics.meter("edge-gateway");
    let readiness = Readiness::new(&tasks);
    let address = config.admin_listen;
    let admin = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bus = NatsBus::connect(config.nats, &tasks).await.context("the address of NATS is wrong")?;
    let forward = Replicas::new(config.forward, &meter, &tasks)?;
    let gateway = edge_gateway::Config { access_log: config.log.access, ..config.gateway };
    let app = App::build(gateway, Arc::new(bus), Arc::new(forward), &meter, &readiness, &tasks).await?;
    info!(plane = "edge", api = %app.api_addr, admin = %admin.local_addr()?, "listening");

    let routes = admin::router(readiness, metrics, axum::Router::new());
    let limits = ServerLimits { name: "admin", connections: 256, ..ServerLimits::default() };
    let of_admin = tasks.clone();
    tasks.spawn_vital("admin", async move { serve(admin, routes, limits, &of_admin).await });
    tasks.spawn_vital("app", app.run());
    Ok(tasks.finish(config.grace).await)
}
