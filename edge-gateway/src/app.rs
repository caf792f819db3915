//! The wiring: the one file that names every room.
//!
//! ```text
//! bus ──▶ upstream ──▶ shards ──▶ watchers
//!            ▲ join       ▲ socket
//!         gateway ────────┘         gateway ──▶ forward ──▶ control plane
//! ```
//!
//! A drain goes through these steps: not ready, and no new watch; the shards end their sessions, spread over
//! a time, while other requests are answered as before; no new connection; the upstream stops.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::Bus;
use dns::{Board, Server};
use futures_util::future::BoxFuture;
use host::address::reachable;
use host::admin::Readiness;
use host::admin::access::AccessControl;
use host::audit::Audit;
use host::fairness::{FairShares, Measuring};
use host::figures::sampler::Sampler;
use host::http::{SendBuffer, ServerLimits, ServerMetrics, listen, serve_until};
use host::inventory::Inventory;
use host::lifecycle::Tasks;
use opentelemetry::metrics::Meter;
use shared::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::beats::Beats;
use crate::catalogue::Catalogue;
use crate::eureka::Feeds;
use crate::fanout::{self, ShardHandle, ToShard};
use crate::fleet::{Fleet, Others, Peers};
use crate::forward::Forward;
use crate::gateway::encoding::Encoding;
use crate::gateway::{Drains, EdgeReads, Gateway, GatewayParts};
use crate::heartbeat::Batches;
use crate::hedge::Hedge;
use crate::limits::Limits;
use crate::logins::Logins;
use crate::metrics::{Metrics, list_bytes};
use crate::policy::{Follower, PolicyHandle};
use crate::polls::Polls;
use crate::rates::Rates;
use crate::readiness::{BusCondition, ControlPlaneCondition};
use crate::reads::{Barrier, Keeper, Lists};
use crate::settings::{Config, LimitsConfig};
use crate::survey::Surveys;
use crate::upstream::{Upstream, UpstreamHandle};
use crate::xds::Discovery;
use crate::zone::ZoneKeeper;

/// Reports of closed sessions that may wait for the upstream. When it is full the shard adds further ones up.
const CLOSED_QUEUE: usize = 1024;

/// Lists of services may take this part of the memory for finds.
const SHARE_OF_LISTS: usize = 4;

/// The reason for which a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The API port cannot be used.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The address of DNS cannot be used.
    #[error("cannot listen on {0} for DNS")]
    Dns(SocketAddr, #[source] std::io::Error),
    /// A thread cannot be started.
    #[error("cannot start the shards")]
    Shards(#[source] std::io::Error),
    /// The descriptors of the gRPC services cannot be read.
    #[error("cannot serve gRPC reflection")]
    Grpc(#[source] tonic_reflection::server::Error),
}

/// The gateway's surroundings.
pub struct Parts {
    /// The settings.
    pub config: Config,
    /// The socket of the API, if it is bound already; `None` binds `config.listen`.
    pub listener: Option<TcpListener>,
    /// The bus. It need not be connected yet.
    pub bus: Arc<dyn Bus>,
    /// The way to the control planes. They need not be there yet.
    pub forward: Arc<dyn Forward>,
    /// The meter of all instruments.
    pub meter: Meter,
    /// The readiness of the process, for the conditions `bus` and `control_plane`.
    pub readiness: Readiness,
    /// The audit log of the process.
    pub audit: Audit,
    /// Reads the figures of the process.
    pub sampler: Sampler,
}

/// The conditions under which a gateway is given work.
struct Conditions {
    bus: BusCondition,
    control_plane: ControlPlaneCondition,
}

/// A gateway whose socket is bound and whose rooms are joined. It serves nothing before [`App::run`].
pub struct App {
    /// The address that clients connect to, as bound.
    pub api_addr: SocketAddr,
    /// The address of DNS, as bound; `None` without DNS.
    pub dns_addr: Option<SocketAddr>,
    /// The name of this gateway in metrics.
    pub instance: String,
    listener: TcpListener,
    gateway: Gateway,
    limits: Arc<Limits>,
    rates: Arc<Rates>,
    measuring: Measuring,
    fleet: Fleet,
    surveys: Surveys,
    follower: Follower,
    policy: PolicyHandle,
    dns: Option<(Server, ZoneKeeper)>,
    beats: (Beats, Arc<dyn Bus>),
    upstream: Upstream,
    handle: UpstreamHandle,
    shards: Vec<ShardHandle>,
    keeper: Option<Keeper>,
    conditions: Conditions,
    server_limits: ServerLimits,
    server_metrics: ServerMetrics,
    config: Config,
    tasks: Tasks,
}

impl App {
    /// Binds the API port, unless it is bound already, and joins the rooms.
    ///
    /// # Errors
    /// When the port cannot be bound or a thread cannot be started.
    pub async fn build(parts: Parts, tasks: &Tasks) -> Result<Self, StartError> {
        let Parts { config, listener, bus, forward, meter, readiness, audit, sampler } = parts;
        let listener = match listener {
            Some(listener) => Ok(listener),
            None => listen(config.listen, config.http.reuse_port),
        };
        let listener = listener.map_err(|error| StartError::Listen(config.listen, error))?;
        let api_addr = listener.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
        // With port 0 only the bound address tells gateways apart, and on all addresses of their machines
        // only one of those.
        let instance = if config.instance.is_empty() {
            reachable(api_addr).to_string()
        } else {
            config.instance.clone()
        };
        let metrics = Metrics::new(&meter, &instance);

        // Each shard has a channel of its own: one with many closed sessions must not take the room of the
        // others.
        let (senders, closed): (Vec<_>, Vec<_>) =
            (0..config.fanout.shards.get()).map(|_| mpsc::channel(CLOSED_QUEUE)).unzip();
        let (others, others_known) = watch::channel(Others::default());
        let peers = Peers::new();
        let fleet = Fleet {
            name: instance.clone(),
            peers: peers.clone(),
            bus: bus.clone(),
            readiness: readiness.clone(),
            reachable: forward.reachable(),
            others,
            metrics: metrics.fleet,
            sampler: sampler.clone(),
        };
        let policy = PolicyHandle::new(config.access.clone(), Clock::system(), metrics.policy);
        let shards = fanout::start(
            &config.fanout,
            &config.session,
            &metrics.fanout,
            senders,
            &others_known,
            &policy,
            tasks,
        )
        .map_err(StartError::Shards)?;
        let follower = Follower {
            handle: policy.clone(),
            bus: bus.clone(),
            hedge: Hedge::new(metrics.upstream.clone()),
            timeout: config.upstream.request_timeout,
            condition: config.access.enable.then(|| readiness.condition("access_policy")),
        };
        let beats = Beats::new(&config.beats, policy.clone(), &meter);
        let (upstream, handle) = Upstream::new(
            config.upstream.clone(),
            bus.clone(),
            shards.clone(),
            closed,
            policy.clone(),
            beats.clone(),
            metrics.upstream,
        );

        let server_limits = server_limits(&config);
        if let Some(tls) = &server_limits.tls {
            tls.keep_fresh(&meter, tasks);
        }
        let limits = Limits::new(config.limits.clone(), metrics.sessions.clone());
        let rates = Arc::new(Rates::new(config.limits.rates.clone()));
        let keeper = config.upstream.reads.state.clone().map(|file| Keeper {
            file,
            reads: handle.reads().clone(),
            metrics: metrics.reads.clone(),
        });
        if let Some(keeper) = &keeper {
            keeper.load().await;
        }
        let reads = config.upstream.reads.enabled.then(|| {
            let of_barrier = handle.clone();
            let (barrier, barriers) = Barrier::new(move || {
                let upstream = of_barrier.clone();
                async move { upstream.changes().await }
            });
            tasks.spawn_named("barrier", barriers.run(tasks.abort().clone()));
            let reads = handle.reads().clone();
            let lists = Arc::new(Lists::new(reads.config.memory / SHARE_OF_LISTS, reads.config.idle));
            let kept = lists.clone();
            list_bytes(&meter, move || kept.bytes());
            EdgeReads { reads, barrier, reachable: forward.reachable(), metrics: metrics.reads, lists }
        });
        let catalogue = Catalogue::new(handle.clone());
        let board = Board::default();
        dns::register(&meter, &board);
        let dns = dns_of(&config, board, &catalogue, &policy)?;
        let polls = Polls::new(config.polls.clone(), Instant::now());
        let xds = config.xds.then(|| Discovery::new(catalogue.clone(), policy.clone(), tasks.clone()));
        let surveys = Surveys::new(
            handle.clone(),
            peers.clone(),
            bus.clone(),
            instance.clone(),
            polls.clone(),
            xds.clone(),
        );
        let (shares, measuring) = FairShares::new(config.tenant_requests, &meter, "gateway");
        let gateway = Gateway::new(GatewayParts {
            upstream: handle.clone(),
            forward: forward.clone(),
            limits: limits.clone(),
            rates: rates.clone(),
            shares,
            proxies: config.proxies.clone(),
            certificates: config.certificates.clone(),
            batches: Arc::new(Batches::new(forward.clone(), beats.clone(), metrics.sessions.clone())),
            beats: beats.clone(),
            metrics: metrics.sessions,
            policy: policy.clone(),
            own_paths: config.own_paths,
            console: config.console,
            authorize: config.authorize,
            event_streams: config.event_streams,
            logins: Logins::new(),
            eureka: config.eureka.then(|| Feeds::new(tasks.clone())),
            http_sd: config.http_sd,
            encoding: Encoding::default(),
            xds,
            xds_metrics: metrics.xds,
            catalogue,
            dialects: metrics.dialects,
            plain_end: config.fanout.plain_end,
            send_buffer: SendBuffer(config.fanout.send_buffer_bytes),
            heartbeat: config.heartbeat.clone(),
            grpc_services: grpc_services().map_err(StartError::Grpc)?,
            tasks: tasks.clone(),
            audit,
            instance: instance.clone(),
            sampler,
            peers,
            surveys: surveys.clone(),
            drains: Drains::new(metrics.drains),
            reads,
            polls,
        });
        let conditions = Conditions {
            bus: BusCondition {
                condition: readiness.condition("bus"),
                joined: handle.bus_joined(),
                behind: forward.bus_behind(),
            },
            control_plane: ControlPlaneCondition {
                condition: readiness.condition("control_plane"),
                reachable: forward.reachable(),
                others: others_known,
                reads: config.upstream.reads.enabled.then(|| handle.reads().clone()),
            },
        };
        Ok(Self {
            api_addr,
            dns_addr: dns.as_ref().map(|(server, _)| server.address()),
            instance,
            listener,
            gateway,
            limits,
            rates,
            measuring,
            fleet,
            surveys,
            follower,
            policy,
            dns,
            beats: (beats, bus),
            upstream,
            handle,
            shards,
            keeper,
            conditions,
            server_limits,
            server_metrics: ServerMetrics::new(&meter, "api"),
            config,
            tasks: tasks.clone(),
        })
    }

    /// Returns a function that changes the limits on watchers while the gateway runs.
    pub fn on_limits(&self) -> impl Fn(&LimitsConfig) + Send + 'static {
        let limits = self.limits.clone();
        let rates = self.rates.clone();
        move |config| {
            limits.set(config.clone());
            rates.set(&config.rates);
        }
    }

    /// Access control, for the admin port.
    pub fn access_control(&self) -> Arc<dyn AccessControl> {
        Arc::new(self.policy.clone())
    }

    /// Returns the source of the gateway's part in the inventory.
    pub fn on_known(&self) -> impl Fn() -> BoxFuture<'static, Option<Inventory>> + Send + Sync + 'static {
        let handle = self.handle.clone();
        move || {
            let handle = handle.clone();
            Box::pin(async move { handle.known().await })
        }
    }

    /// Makes the delay of a drain: `time` if other gateways are there, else nothing. Load balancers see in that
    /// time that this gateway is not ready, and send its watchers to the others when they end. Without others
    /// they could only come back here.
    pub fn delay(&self, time: Duration) -> impl FnOnce() -> Sleep + Send + 'static {
        let others = self.fleet.others.subscribe();
        move || tokio::time::sleep(if *others.borrow() == Others::None { Duration::ZERO } else { time })
    }

    /// Serves until the drain has ended: every session is closed and every request answered.
    pub async fn run(self) {
        // Not cancelled by the drain itself: sessions that are still open get their events until their end.
        let stop = CancellationToken::new();
        let upstream = Box::pin(self.upstream.run(stop.clone()));
        // An abort means that the drain did not end in time; nothing more is owed to a session then.
        let abort = self.tasks.abort().clone();
        self.tasks.spawn_vital("upstream", async move {
            let _ = abort.run_until_cancelled(upstream).await;
        });
        self.tasks.spawn_named("fairness", self.measuring.run(stop.clone()));
        self.tasks.spawn_named("fleet", self.fleet.run(self.tasks.leaving().clone(), stop.clone()));
        // Until everything else has ended: a reporter that has left puts off the end of no instance.
        let (beats, bus) = self.beats;
        self.tasks.spawn_named("beats", beats.run(bus, stop.clone()));
        if let Some(keeper) = self.keeper {
            self.tasks.spawn_named("state", keeper.run(stop.clone()));
        }
        self.tasks.spawn_named("surveys", self.surveys.answer_others(stop.clone()));
        self.tasks.spawn_named("policy", self.follower.run(stop.clone()));
        self.tasks.spawn_named("memory", self.limits.watch_memory(self.tasks.drain().clone()));
        if let Some((server, keeper)) = self.dns {
            self.tasks.spawn_named("zone", keeper.run(stop.clone()));
            server.run(&self.tasks, &stop);
        }
        let Conditions { bus, control_plane } = self.conditions;
        self.tasks.spawn_named("readiness", bus.run(self.tasks.drain().clone()));
        self.tasks.spawn_named("readiness", control_plane.run(self.tasks.drain().clone()));
        // Requests are answered while watchers remain: an SDK that finds its address refused may give up its
        // heartbeats, and a provider with a single address would expire.
        let of_serving = stop.clone();
        let draining = async {
            self.tasks.drain().cancelled().await;
            for shard in &self.shards {
                let Config { drain_over: over, drain_latest: latest, .. } = self.config;
                shard.send(ToShard::Drain { over, latest }).await;
            }
            for shard in &self.shards {
                // Every shard has its order before the first is waited for, so that they drain at the same
                // time.
                shard.ended().await;
            }
            stop.cancel();
            drop(self.handle);
        };
        let serving = serve_until(
            of_serving,
            self.listener,
            self.gateway,
            self.server_limits,
            self.server_metrics,
            &self.tasks,
        );
        tokio::join!(serving, draining);
    }
}

/// The listener's limits. Watchers count as connections of the listener too, on top of its own limit.
fn server_limits(config: &Config) -> ServerLimits {
    let watchers = if config.limits.node == 0 { usize::MAX / 2 } else { config.limits.node };
    let connections = watchers.saturating_add(config.http.connections);
    ServerLimits { connections, access_log: config.access_log, ..config.http.clone() }
}

/// The server of DNS, and the keeper of its zone. `None` without an address.
fn dns_of(
    config: &Config,
    board: Board,
    catalogue: &Catalogue,
    policy: &PolicyHandle,
) -> Result<Option<(Server, ZoneKeeper)>, StartError> {
    let Some(listen) = config.dns.listen else { return Ok(None) };
    let sockets = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let server =
        Server::bind(&config.dns, listen, sockets, &board).map_err(|error| StartError::Dns(listen, error))?;
    let keeper = ZoneKeeper {
        config: config.dns.clone(),
        origin: server.origin().clone(),
        board,
        catalogue: catalogue.clone(),
        policy: policy.clone(),
    };
    Ok(Some((server, keeper)))
}

/// The standard services that gRPC clients expect: health, and reflection over our contracts.
fn grpc_services() -> Result<axum::Router, tonic_reflection::server::Error> {
    // The reporter may go: the server's status begins as SERVING, and readiness proper is on the admin port.
    let (_, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(tonic::service::Routes::new(health).add_service(reflection).into_axum_router())
}
