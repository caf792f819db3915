//! `muster standalone`: both planes in this process, on an embedded store and an in-process bus.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use clap::{ArgMatches, Command};
use control_plane::app::{App, Parts};
use control_plane::store::embedded::{EmbeddedConfig, EmbeddedStore};
use opentelemetry::KeyValue;
use shared::admin::{self, Readiness};
use shared::bus::local::LocalBus;
use shared::config::{self, Config, Settings};
use shared::http::{ServerLimits, ServerMetrics, serve, serve_counted};
use shared::lifecycle::Tasks;
use shared::telemetry::logs::LogConfig;
use shared::telemetry::metrics::Metrics;
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::failure;

/// The name of the command.
pub(crate) const NAME: &str = "standalone";

/// The settings of a standalone registry.
#[derive(Debug)]
pub(crate) struct StandaloneConfig {
    /// Where clients and watchers are served.
    pub(crate) listen: SocketAddr,
    /// Where the embedded store keeps its file.
    pub(crate) data_dir: PathBuf,
    /// A listener of their own for `/live`, `/ready`, `/metrics`; otherwise they share `listen`.
    pub(crate) admin_listen: Option<SocketAddr>,
    /// How long a drain may take.
    pub(crate) grace: Duration,
    /// What each listener grants.
    pub(crate) limits: ServerLimits,
    /// Logs.
    pub(crate) log: LogConfig,
    /// The control plane in it.
    pub(crate) plane: control_plane::config::Config,
}

impl Config for StandaloneConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            listen: settings.get(
                "listen",
                "127.0.0.1:30100",
                "Address on which clients and watchers are served.",
            ),
            data_dir: settings.get(
                "data-dir",
                "./muster-data",
                "Directory of the embedded store; made if missing.",
            ),
            admin_listen: settings.optional(
                "admin-listen",
                "Address for /live, /ready and /metrics; without it they are served beside the API.",
            ),
            grace: settings.within(
                "grace",
                "20s",
                "0s"..="10m",
                "Time that a drain may take before it is cut short.",
            ),
            limits: ServerLimits::read(settings, "api"),
            log: LogConfig::read(settings),
            plane: control_plane::config::Config::read(settings),
        }
    }
}

/// The command with its flags.
pub(crate) fn command() -> Command {
    config::augment::<StandaloneConfig>(
        Command::new(NAME).about("Run a registry in this process, with nothing else installed"),
    )
}

/// Runs until a signal or a failure.
pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    let config = match config::resolve::<StandaloneConfig>(matches) {
        Ok(config) => config,
        Err(status) => return status,
    };
    if let Err(e) = config.log.init() {
        eprintln!("muster: {e}");
        return ExitCode::from(failure::SOFTWARE);
    }
    let run = async { run(config).await.inspect_err(|e| error!("cannot run: {e:#}")) };
    match tokio::runtime::Runtime::new().map(|runtime| runtime.block_on(run)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) | Err(_) => ExitCode::from(failure::SOFTWARE),
    }
}

async fn run(config: StandaloneConfig) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    tasks.listen_for_signals()?;
    let metrics = Metrics::new([KeyValue::new("service.name", "muster-standalone")])?;
    let readiness = Readiness::new(&tasks);
    let api = bind(config.listen).await?;
    let listening = api.local_addr()?;

    let file = config.data_dir.join("muster.redb");
    let bus = Arc::new(LocalBus::new());
    let parts = Parts {
        store: EmbeddedStore::open(&file, EmbeddedConfig::default(), &tasks)
            .with_context(|| format!("the store in {} cannot be opened", file.display()))?,
        bus,
        config: config.plane,
        listening,
        meter: metrics.meter("control-plane"),
        readiness: readiness.clone(),
    };
    let App { service, idle, .. } = App::build(parts, &tasks);

    let counted = ServerMetrics::new(&metrics.meter("http"), "api");
    let admin = admin::router(readiness, metrics, Router::new());
    let routes = match config.admin_listen {
        None => admin.fallback_service(service),
        Some(address) => {
            let listener = bind(address).await?;
            let limits = ServerLimits { name: "admin", connections: 256, ..ServerLimits::default() };
            let tasks = tasks.clone();
            tasks.clone().spawn_vital("admin", async move { serve(listener, admin, limits, &tasks).await });
            Router::new().fallback_service(service)
        }
    };
    info!(api = %listening, data = %file.display(), "listening");
    let serving = tasks.clone();
    tasks.spawn_vital("api", async move {
        serve_counted(api, routes, config.limits, counted, &serving).await;
        // No request is left: the rooms behind may stop.
        idle.cancel();
    });
    anyhow::ensure!(tasks.finish(config.grace).await, "the drain did not end in time");
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))
}
