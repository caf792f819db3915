//! The edge gateway's process: arguments, telemetry, rooms, run, drain.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use edge_gateway::config::{HubConfig, LimitsConfig, SessionConfig};
use edge_gateway::forward::{ForwardConfig, Replicas};
use edge_gateway::{App, Config};
use shared::admin::{self, Readiness};
use shared::bus::{NatsAuth, NatsBus, NatsConfig};
use shared::http::{ServerLimits, serve};
use shared::lifecycle::Tasks;
use shared::telemetry::metrics::Metrics;

/// Holds the watchers of Muster, pushes every instance change to them and forwards everything else.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where clients connect.
    #[arg(long, env = "MUSTER_LISTEN", default_value = "0.0.0.0:30100")]
    listen: SocketAddr,
    /// Where /live, /ready and /metrics are served.
    #[arg(long, env = "MUSTER_ADMIN_LISTEN", default_value = "0.0.0.0:30101")]
    admin_listen: SocketAddr,
    /// NATS servers, comma-separated.
    #[arg(long, env = "MUSTER_NATS", value_delimiter = ',', default_value = "nats://127.0.0.1:4222")]
    nats: Vec<String>,
    /// Name for NATS, with --nats-password.
    #[arg(long, env = "MUSTER_NATS_USER", requires = "nats_password")]
    nats_user: Option<String>,
    /// Password for NATS.
    #[arg(long, env = "MUSTER_NATS_PASSWORD", hide_env_values = true)]
    nats_password: Option<String>,
    /// Token for NATS.
    #[arg(long, env = "MUSTER_NATS_TOKEN", hide_env_values = true, conflicts_with = "nats_user")]
    nats_token: Option<String>,
    /// Control planes, comma-separated.
    #[arg(
        long,
        env = "MUSTER_CONTROL_PLANE",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:30110"
    )]
    control_plane: Vec<String>,
    /// Ask a control plane before a watch is granted; needed with access control.
    #[arg(long, env = "MUSTER_AUTHORIZE")]
    authorize: bool,
    /// Threads that hold sessions; one per core unless given.
    #[arg(long, env = "MUSTER_SHARDS")]
    shards: Option<NonZeroUsize>,
    /// Watchers of this node at most; 0 is no limit.
    #[arg(long, env = "MUSTER_MAX_SESSIONS", default_value_t = LimitsConfig::default().node)]
    max_sessions: usize,
    /// Watchers of one domain at most; 0 is no limit.
    #[arg(long, env = "MUSTER_MAX_SESSIONS_PER_DOMAIN", default_value_t = LimitsConfig::default().domain)]
    max_sessions_per_domain: usize,
    /// Watchers of one service at most; 0 is no limit.
    #[arg(long, env = "MUSTER_MAX_SESSIONS_PER_CONSUMER", default_value_t = LimitsConfig::default().consumer)]
    max_sessions_per_consumer: usize,
    /// Between two pings of the server to a watcher.
    #[arg(long, env = "MUSTER_PING_INTERVAL", default_value = "30s", value_parser = humantime::parse_duration)]
    ping_interval: Duration,
    /// Without a frame for so long a watcher is let go.
    #[arg(long, env = "MUSTER_READ_TIMEOUT", default_value = "120s", value_parser = humantime::parse_duration)]
    read_timeout: Duration,
    /// A watcher that takes nothing for so long is let go.
    #[arg(long, env = "MUSTER_WRITE_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration)]
    write_timeout: Duration,
    /// Over what time watchers are disconnected when the process ends.
    #[arg(long, env = "MUSTER_DRAIN_OVER", default_value = "15s", value_parser = humantime::parse_duration)]
    drain_over: Duration,
    /// How long the process may take to end before it stops at once.
    #[arg(long, env = "MUSTER_GRACE", default_value = "25s", value_parser = humantime::parse_duration)]
    grace: Duration,
}

impl Arguments {
    fn nats(&self) -> NatsConfig {
        let auth = match (&self.nats_token, &self.nats_user, &self.nats_password) {
            (Some(token), _, _) => NatsAuth::Token(token.clone()),
            (None, Some(name), Some(password)) => {
                NatsAuth::User { name: name.clone(), password: password.clone() }
            }
            (None, _, _) => NatsAuth::None,
        };
        NatsConfig { auth, ..NatsConfig::new(self.nats.clone(), "muster-edge-gateway") }
    }

    fn config(&self) -> Config {
        let shards = self.shards.unwrap_or(HubConfig::default().shards);
        Config {
            listen: self.listen,
            limits: LimitsConfig {
                node: self.max_sessions,
                domain: self.max_sessions_per_domain,
                consumer: self.max_sessions_per_consumer,
            },
            hub: HubConfig { shards, ..HubConfig::default() },
            session: SessionConfig {
                ping_interval: self.ping_interval,
                read_timeout: self.read_timeout,
                write_timeout: self.write_timeout,
            },
            drain_over: self.drain_over,
            authorize: self.authorize,
            ..Config::default()
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    shared::telemetry::logs::init(shared::telemetry::LogFormat::default(), "info")?;
    let tasks = Tasks::new();
    tasks.listen_for_signals().context("cannot listen for signals")?;
    let metrics = Metrics::new([])?;
    let meter = metrics.meter("edge-gateway");
    let readiness = Readiness::new(&tasks);

    let bus =
        Arc::new(NatsBus::connect(arguments.nats(), &tasks).await.context("the address of NATS is wrong")?);
    let forward =
        ForwardConfig { control_planes: arguments.control_plane.clone(), ..ForwardConfig::default() };
    let forward = Arc::new(Replicas::new(forward, &meter, &tasks)?);
    let app = App::build(arguments.config(), bus, forward, &meter, &readiness, &tasks).await?;

    let listener = tokio::net::TcpListener::bind(arguments.admin_listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.admin_listen))?;
    let routes = admin::router(readiness, metrics, axum::Router::new());
    let limits = ServerLimits { name: "admin", connections: 64, ..ServerLimits::default() };
    let of_admin = tasks.clone();
    tasks.spawn(async move { serve(listener, routes, limits, &of_admin).await });

    tracing::info!(address = %app.api_addr, "serving");
    tasks.spawn_vital("app", app.run());
    let in_time = tasks.finish(arguments.grace).await;
    tracing::info!("ended");
    Ok(if in_time { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
