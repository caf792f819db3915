//! The wiring: the one file that names every room.
//!
//! ```text
//! bus ──▶ upstream ──▶ shards ──▶ watchers
//!            ▲ join       ▲ socket
//!         gateway ────────┘         gateway ──▶ forward ──▶ control plane
//! ```
//!
//! Drain: not ready → accept nothing → shards end their sessions, spread over a time → upstream → end.

use std::net::SocketAddr;
use std::sync::Arc;

use bus::Bus;
use futures_util::future::BoxFuture;
use host::admin::{Condition, Readiness};
use host::http::{ServerLimits, ServerMetrics, serve_counted};
use host::inventory::Known;
use host::lifecycle::Tasks;
use host::telemetry::process::observe_usage;
use opentelemetry::metrics::Meter;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, LimitsConfig};
use crate::forward::Forward;
use crate::gateway::{Gateway, Inner};
use crate::heartbeat::Batches;
use crate::hub::{self, ShardHandle, ToShard};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::upstream::{Upstream, UpstreamHandle};

/// News of ended sessions that may wait for the upstream; more is kept, added up, in the shard.
const LEFT_QUEUE: usize = 1024;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The API port.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The shards' threads.
    #[error("cannot start the shards")]
    Shards(#[source] std::io::Error),
    /// The descriptors that reflection serves.
    #[error("cannot serve gRPC reflection")]
    Grpc(#[source] tonic_reflection::server::Error),
}

/// A gateway whose socket is bound and whose rooms are joined; nothing is served before [`App::run`].
pub struct App {
    /// Where clients connect: the bound address.
    pub api_addr: SocketAddr,
    /// The name of this node in figures.
    pub instance: String,
    listener: TcpListener,
    gateway: Gateway,
    limits: Arc<Limits>,
    upstream: Upstream,
    handle: UpstreamHandle,
    shards: Vec<ShardHandle>,
    conditions: [(Condition, watch::Receiver<bool>); 2],
    server: (ServerLimits, ServerMetrics),
    config: Config,
    tasks: Tasks,
}

impl App {
    /// Binds the API port and joins the rooms. The bus and the control plane need not be there yet.
    ///
    /// # Errors
    /// When the port cannot be bound or a thread cannot be started.
    pub async fn build(
        config: Config,
        bus: Arc<dyn Bus>,
        forward: Arc<dyn Forward>,
        meter: &Meter,
        readiness: &Readiness,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| StartError::Listen(config.listen, error))?;
        let it = Self::build_on(listener, config, bus, forward, meter, readiness, tasks)?;
        observe_usage(meter, &it.instance);
        Ok(it)
    }

    /// Like [`App::build`], on a socket that is bound already.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn build_on(
        listener: TcpListener,
        config: Config,
        bus: Arc<dyn Bus>,
        forward: Arc<dyn Forward>,
        meter: &Meter,
        readiness: &Readiness,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let api_addr = listener.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
        let instance =
            if config.instance.is_empty() { api_addr.to_string() } else { config.instance.clone() };
        let metrics = Metrics::new(meter, &instance);
        let (senders, left): (Vec<_>, Vec<_>) =
            (0..config.hub.shards.get()).map(|_| mpsc::channel(LEFT_QUEUE)).unzip();
        let shards = hub::start(&config.hub, &config.session, &metrics.hub, senders, tasks)
            .map_err(StartError::Shards)?;
        let (upstream, handle) =
            Upstream::new(config.upstream.clone(), bus, shards.clone(), left, metrics.upstream);
        let watchers = if config.limits.node == 0 { usize::MAX / 2 } else { config.limits.node };
        let connections = watchers.saturating_add(config.http.connections);
        let server = ServerLimits { connections, access_log: config.access_log, ..config.http.clone() };
        if let Some(tls) = &server.tls {
            tls.keep_fresh(meter, tasks);
        }
        let limits = Limits::new(config.limits.clone(), metrics.sessions.clone());
        let gateway = Gateway::new(Inner {
            upstream: handle.clone(),
            forward: forward.clone(),
            limits: limits.clone(),
            batches: Arc::new(Batches::new(forward.clone(), metrics.sessions.clone())),
            metrics: metrics.sessions,
            authorize: config.authorize,
            heartbeat: config.heartbeat.clone(),
            grpc_services: grpc_services().map_err(StartError::Grpc)?,
            tasks: tasks.clone(),
        });
        let conditions = [
            (readiness.condition("bus"), handle.bus_joined()),
            (readiness.condition("control_plane"), forward.reachable()),
        ];
        Ok(Self {
            api_addr,
            instance,
            listener,
            gateway,
            limits,
            upstream,
            handle,
            shards,
            conditions,
            server: (server, ServerMetrics::new(meter, "api")),
            config,
            tasks: tasks.clone(),
        })
    }

    /// Changes the limits on watchers while it runs.
    pub fn on_limits(&self) -> impl Fn(&LimitsConfig) + Send + 'static {
        let limits = self.limits.clone();
        move |config| limits.set(config.clone())
    }

    /// Tells what is known of the providers that are followed, while it runs.
    pub fn on_known(&self) -> impl Fn() -> BoxFuture<'static, Option<Known>> + Send + Sync + 'static {
        let handle = self.handle.clone();
        move || {
            let handle = handle.clone();
            Box::pin(async move { handle.known().await })
        }
    }

    /// Serves until the drain has ended: every session is closed and every request answered.
    pub async fn run(self) {
        let Self {
            listener,
            gateway,
            limits,
            upstream,
            handle,
            shards,
            conditions,
            server,
            config,
            tasks,
            ..
        } = self;
        // Not the drain: sessions that are still open get their events until their end.
        let stop = CancellationToken::new();
        let (of_upstream, abort) = (stop.clone(), tasks.abort().clone());
        tasks.spawn_vital("upstream", async move {
            let _ = abort.run_until_cancelled(upstream.run(of_upstream)).await;
        });
        tasks.spawn(limits.watch_memory(tasks.drain().clone()));
        for (condition, state) in conditions {
            tasks.spawn(show(condition, state, tasks.drain().clone()));
        }
        let draining = async {
            tasks.drain().cancelled().await;
            for shard in &shards {
                shard.send(ToShard::Drain { over: config.drain_over }).await;
            }
            for shard in &shards {
                shard.ended().await;
            }
            stop.cancel();
            drop(handle);
        };
        tokio::join!(serve_counted(listener, gateway, server.0, server.1, &tasks), draining);
    }
}

/// The standard services that gRPC clients expect: health, and reflection over our contracts.
fn grpc_services() -> Result<axum::Router, tonic_reflection::server::Error> {
    let (_, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(tonic::service::Routes::new(health).add_service(reflection).into_axum_router())
}

/// Shows a state as a condition of readiness.
async fn show(condition: Condition, mut state: watch::Receiver<bool>, drain: CancellationToken) {
    loop {
        let met = *state.borrow_and_update();
        condition.set(met, if met { "joined" } else { "not reachable" });
        match drain.run_until_cancelled(state.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}
