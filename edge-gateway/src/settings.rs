//! The settings of the gateway: as values, and as declared to operators.
//!
//! [`Config`] is what the rooms need; `muster standalone` has it too. [`ProcessConfig`] adds what the
//! `edge-gateway` program needs besides.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use console::Console;
use host::certificates::Certificates;
use host::exposure::Exposure;
use host::http::ServerLimits;
use host::proxies::TrustedProxies;
use host::tls::ServerTls;
use settings::{Config as Read, Settings, Size};

pub use dns::DnsConfig;

mod process;

pub use crate::beats::BeatsConfig;
pub use crate::fanout::{FanoutConfig, PlainEnd};
pub use crate::forward::ForwardConfig;
pub use crate::heartbeat::HeartbeatConfig;
pub use crate::limits::LimitsConfig;
pub use crate::policy::PolicyConfig;
pub use crate::polls::PollsConfig;
pub use crate::rates::RatesConfig;
pub use crate::reads::{ReadsConfig, StateFile};
pub use crate::session::SessionConfig;
pub use crate::upstream::{NamesConfig, UpstreamConfig};
pub use process::ProcessConfig;

/// The settings of the gateway's rooms; [`Default`] is meant for production.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address that clients connect to.
    pub listen: SocketAddr,
    /// Access control, and the listeners that may do without.
    pub exposure: Exposure,
    /// The label `instance` of the metrics that keep Service-Center's names; empty takes `listen`.
    pub instance: String,
    /// The limits of the listener. Its `connections` come on top of those of watchers.
    pub http: ServerLimits,
    /// The sessions that may be open.
    pub limits: LimitsConfig,
    /// The proxies that are trusted to name their client.
    pub proxies: TrustedProxies,
    /// The accounts that certificates of clients stand for.
    pub certificates: Certificates,
    /// The shards.
    pub fanout: FanoutConfig,
    /// Pings and deadlines of sessions.
    pub session: SessionConfig,
    /// Connections that carry heartbeats.
    pub heartbeat: HeartbeatConfig,
    /// Heartbeats that are answered here.
    pub beats: BeatsConfig,
    /// Access control.
    pub access: PolicyConfig,
    /// The way from the bus and the control planes.
    pub upstream: UpstreamConfig,
    /// Clients that poll, which drains wait for.
    pub polls: PollsConfig,
    /// The time over which sessions end in a drain, so that their clients do not all reach another gateway at
    /// once.
    pub drain_over: Duration,
    /// The time for which plain watches may go on in a drain while no other gateway is ready to take them. A
    /// shorter one than `drain_over` counts as that.
    pub drain_latest: Duration,
    /// Forwarded requests of one tenant that are under way at once while others send requests, too. 0 is no
    /// limit.
    pub tenant_requests: usize,
    /// A control plane is asked, in the client's name, before a watch is granted.
    pub authorize: bool,
    /// Watches are served as server-sent events, too.
    pub event_streams: bool,
    /// Prometheus may discover the instances here.
    pub http_sd: bool,
    /// The server of DNS.
    pub dns: DnsConfig,
    /// Services are told to Envoy and gRPC over xDS, too.
    pub xds: bool,
    /// Eureka's REST interface is served, too.
    pub eureka: bool,
    /// Paths of the process's own routes that are served beside the API, behind a guard of their own.
    pub own_paths: &'static [&'static str],
    /// The pages for people.
    pub console: Console,
    /// Each request becomes a line in the log.
    pub access_log: bool,
}

impl Default for Config {
    fn default() -> Self {
        let heartbeat = HeartbeatConfig::default();
        Self {
            // Service-Center's port. Other machines must not reach a gateway that was only tried out.
            listen: SocketAddr::from(([127, 0, 0, 1], 30100)),
            exposure: Exposure::default(),
            instance: String::new(),
            http: ServerLimits { name: "api", ..ServerLimits::default() },
            limits: LimitsConfig::default(),
            proxies: TrustedProxies::default(),
            certificates: Certificates::default(),
            fanout: FanoutConfig::default(),
            session: SessionConfig::default(),
            drain_over: heartbeat.drain_over,
            drain_latest: heartbeat.drain_over,
            heartbeat,
            beats: BeatsConfig::default(),
            access: PolicyConfig::default(),
            upstream: UpstreamConfig::default(),
            polls: PollsConfig::default(),
            tenant_requests: 0,
            authorize: false,
            event_streams: true,
            http_sd: true,
            dns: DnsConfig::default(),
            xds: true,
            eureka: true,
            own_paths: &[],
            console: Console::default(),
            access_log: false,
        }
    }
}

impl Read for Config {
    fn read(settings: &mut Settings<'_>) -> Self {
        let default = Self::default();
        let drain_over = settings.within_or(
            "drain-over",
            default.drain_over,
            "0s"..="1h",
            "Time over which a drain disconnects watchers, so that they do not all reach another gateway at once.",
        );
        let listen = settings.get_or("listen", default.listen, "Address that clients connect to.");
        let exposure = Exposure::read(settings);
        exposure.check(settings, "listen", listen);
        let http = ServerLimits::read(
            settings,
            "api",
            "Connections open at once, not counting those of watchers; further ones wait until one ends.",
        );
        let asks = http.tls.as_ref().is_some_and(ServerTls::asks_for_certificates);
        Self {
            listen,
            exposure,
            http,
            certificates: Certificates::read(settings, asks),
            // Read again while the gateway runs; see `App::on_limits`.
            limits: settings.live(|settings| read_limits(settings, &default.limits)),
            proxies: TrustedProxies::read(settings),
            fanout: read_fanout(settings, default.fanout),
            session: read_session(settings, &default.session),
            access: PolicyConfig {
                end_over: drain_over,
                ..settings.section("rbac", read_access)
            },
            upstream: read_upstream(settings, default.upstream),
            polls: PollsConfig {
                silent_after: settings.within_or(
                    "edge.polls",
                    default.polls.silent_after,
                    "0s"..="1m",
                    "Time for which a client that has found a service is expected to ask again: a drain waits until it has, or the time is over. The same at all nodes; 0s leaves clients that poll out of drains.",
                ),
                ..default.polls
            },
            heartbeat: HeartbeatConfig {
                session: read_heartbeat_session(settings, default.heartbeat.session),
                drain_over,
            },
            beats: read_beats(settings, &default.beats),
            tenant_requests: host::fairness::read(settings),
            authorize: settings.get_or(
                "watch.authorize",
                default.authorize,
                "Ask a control plane, in the client's name, before a watch is granted; only its yes opens the watch.",
            ),
            event_streams: settings.get_or(
                "sse",
                default.event_streams,
                "Serve watches as server-sent events at /v4/{project}/registry/events, too.",
            ),
            eureka: settings.get_or(
                "eureka",
                default.eureka,
                "Serve Eureka's REST interface at /eureka, too.",
            ),
            http_sd: settings.get_or(
                "http-sd",
                default.http_sd,
                "Serve the instances as targets for Prometheus at /prometheus/v1/targets, too.",
            ),
            dns: DnsConfig::read(settings, exposure),
            xds: settings.get_or(
                "xds",
                default.xds,
                "Serve services and instances to Envoy and gRPC over xDS v3 (gRPC), too.",
            ),
            drain_over,
            console: Console::read(settings),
            ..default
        }
    }
}

fn read_access(settings: &mut Settings<'_>) -> PolicyConfig {
    let default = PolicyConfig::default();
    PolicyConfig {
        enable: settings.get_or(
            "enable",
            default.enable,
            "Access control: requests need the token of an account. A gateway demands it too when its control planes have it on.",
        ),
        stale_for: settings.within_or(
            "stale-for",
            default.stale_for,
            "5s"..="1h",
            "Time after which a gateway that hears nothing of the access policy lets nothing new in.",
        ),
        ..default
    }
}

fn read_limits(settings: &mut Settings<'_>, default: &LimitsConfig) -> LimitsConfig {
    LimitsConfig {
        node: settings.get_or("watch.per-node", default.node, "Watchers of this node; 0 is no limit."),
        domain: settings.get_or(
            "watch.per-domain",
            default.domain,
            "Watchers of one domain on this node; 0 is no limit.",
        ),
        consumer: settings.get_or(
            "watch.per-consumer",
            default.consumer,
            "Watchers of one service on this node; 0 is no limit.",
        ),
        memory: settings
            .get_or(
                "watch.memory",
                Size(usize::try_from(default.memory).unwrap_or(usize::MAX)),
                "Resident memory of the process at which no further watcher is admitted; 0B is no limit.",
            )
            .0 as u64,
        rates: settings.section("rate", read_rates),
    }
}

fn read_rates(settings: &mut Settings<'_>) -> RatesConfig {
    let mut rate = |key: &str, help: &'static str| settings.get(key, "0", help);
    RatesConfig {
        source_requests: rate(
            "source-requests",
            "Requests a second from one address; 0 is no limit. Heartbeats are not limited.",
        ),
        tenant_requests: rate(
            "tenant-requests",
            "Requests a second for one domain and project; 0 is no limit.",
        ),
        account_requests: rate(
            "account-requests",
            "Requests a second with tokens of one account; 0 is no limit.",
        ),
        source_watches: rate("source-watches", "Watches that one address opens a second; 0 is no limit."),
        tenant_watches: rate(
            "tenant-watches",
            "Watches that are opened a second for one domain and project; 0 is no limit.",
        ),
        account_watches: rate("account-watches", "Watches that one account opens a second; 0 is no limit."),
    }
}

fn read_fanout(settings: &mut Settings<'_>, default: FanoutConfig) -> FanoutConfig {
    FanoutConfig {
        shards: NonZeroUsize::new(settings.within(
            "watch.shards",
            "0",
            "0"..="1024",
            "Threads that hold watchers; 0 is one per core.",
        ))
        .unwrap_or(default.shards),
        slow_after_bytes: settings
            .within_or(
                "watch.slow-after",
                Size(default.slow_after_bytes),
                "64KiB"..="1GiB",
                "Bytes that a watcher may be behind before its pending events are merged per instance.",
            )
            .0,
        send_buffer_bytes: settings
            .within_or(
                "watch.send-buffer",
                Size(default.send_buffer_bytes),
                "4KiB"..="16MiB",
                "Bytes that the kernel may hold for a watcher; these cannot be merged any more.",
            )
            .0,
        plain_end: settings.get_or(
            "watch.plain-end",
            default.plain_end,
            "End of watches without a revision when this node wants them elsewhere: an error brings old Java clients back, a close does not.",
        ),
    }
}

fn read_session(settings: &mut Settings<'_>, default: &SessionConfig) -> SessionConfig {
    let config = SessionConfig {
        ping_interval: settings.within_or(
            "watch.ping-interval",
            default.ping_interval,
            "1s"..="1h",
            "Pause between two pings to a watcher; old clients give up after 60 s of silence.",
        ),
        read_timeout: settings.within_or(
            "watch.read-timeout",
            default.read_timeout,
            "2s"..="24h",
            "Time after which a watcher is disconnected that sends nothing, not even a pong; at least twice `watch.ping-interval`.",
        ),
        write_timeout: settings.within_or(
            "watch.write-timeout",
            default.write_timeout,
            "100ms"..="10m",
            "Time after which a watcher is disconnected that takes none of its pending bytes.",
        ),
    };
    // A watcher that has nothing to say answers pings only.
    if config.read_timeout < 2 * config.ping_interval {
        settings.mistake("watch.read-timeout", "it must be at least twice watch.ping-interval");
    }
    config
}

fn read_upstream(settings: &mut Settings<'_>, default: UpstreamConfig) -> UpstreamConfig {
    UpstreamConfig {
        topics: settings.get_or(
            "watch.services",
            default.topics,
            "Services whose instances this node follows for its watchers; 0 is no limit.",
        ),
        names: NamesConfig {
            node: settings.get_or(
                "watch.names-per-node",
                default.names.node,
                "Names of services and selections that this node's watches hold, registered or not; 0 is no limit.",
            ),
            domain: settings.get_or(
                "watch.names-per-domain",
                default.names.domain,
                "Such names in the watches of one domain on this node; 0 is no limit.",
            ),
            consumer: settings.get_or(
                "watch.names-per-consumer",
                default.names.consumer,
                "Such names in the watches of one service on this node; 0 is no limit.",
            ),
        },
        digest_interval: settings.within_or(
            "watch.digest-interval",
            default.digest_interval,
            "1s"..="1h",
            "Pause between two comparisons of the gateway's state with a control plane's.",
        ),
        bookmark_interval: settings.within_or(
            "watch.bookmark-interval",
            default.bookmark_interval,
            "1s"..="1h",
            "Shortest pause between two bookmarks to idle clients that can resume.",
        ),
        reads: read_reads(settings, default.reads),
        ..default
    }
}

fn read_reads(settings: &mut Settings<'_>, default: ReadsConfig) -> ReadsConfig {
    let reads = ReadsConfig {
        enabled: settings.get_or(
            "edge.reads",
            default.enabled,
            "Answer finds of consumers from what this node follows, where that proves the answer; otherwise a control plane answers all of them.",
        ),
        idle: settings.within_or(
            "edge.idle",
            default.idle,
            "10s"..="24h",
            "Time after which a consumer that asks nothing is not followed for its finds any more.",
        ),
        memory: settings
            .get_or(
                "edge.memory",
                Size(default.memory),
                "Memory for consumers that are followed for their finds, and their providers, about; those that asked longest ago go first; 0B is no limit. A quarter as much is kept of lists of services.",
            )
            .0,
        fresh: settings.within_or(
            "edge.fresh",
            default.fresh,
            "1500ms"..="1m",
            "Time without a bookmark after which finds are not answered here while a control plane answers.",
        ),
        stale_for: settings.within_or(
            "edge.stale-for",
            default.stale_for,
            "0s"..="365d",
            "Time without a bookmark for which finds are answered here, marked as stale, while no control plane answers; 0s is no limit.",
        ),
        confirm_unchanged: settings.get_or(
            "edge.confirm-unchanged",
            default.confirm_unchanged,
            "Ask a control plane before a find is answered with 304 here; finds that wait share the question. Otherwise a 304 may be one bookmark behind, as a 200 may be, and a client that watches at another node may get it just after it was pushed a change.",
        ),
        tenants: settings.get_or(
            "edge.tenants",
            default.tenants,
            "Domains and projects that this node follows as a whole for other dialects; 0 is no limit. Those that nobody reads make room.",
        ),
        state: read_state(settings),
    };
    let has_end = reads.stale_for > Duration::ZERO;
    if has_end && reads.stale_for < reads.fresh {
        settings.mistake("edge.stale-for", "must be at least as long as edge.fresh, or 0s");
    }
    reads
}

fn read_beats(settings: &mut Settings<'_>, default: &BeatsConfig) -> BeatsConfig {
    BeatsConfig {
        enabled: settings.get_or(
            "edge.beats",
            default.enabled,
            "Answer heartbeats of instances that are known to exist, and report them to the publisher, where the control planes have `lease.mode = reported`; otherwise, and while no report is acknowledged, a control plane answers all of them.",
        ),
        memory: settings
            .within_or(
                "edge.beats-memory",
                Size(default.memory),
                "64KiB"..="16GiB",
                "Memory for instances whose heartbeats are answered here, about 80 bytes each; those whose last heartbeat is the longest ago go first.",
            )
            .0,
    }
}

fn read_state(settings: &mut Settings<'_>) -> Option<StateFile> {
    let path = settings.optional(
        "edge.state-file",
        "File in which this node keeps what it follows, so that it answers finds after a restart while no control plane does. Each node needs its own.",
    );
    let interval = settings.within_or(
        "edge.state-interval",
        Duration::from_secs(30),
        "1s"..="1h",
        "Time between two writes of that file.",
    );
    path.map(|path| StateFile { path, interval })
}

fn read_heartbeat_session(settings: &mut Settings<'_>, default: SessionConfig) -> SessionConfig {
    SessionConfig {
        ping_interval: settings.within_or(
            "heartbeat.websocket-ping-interval",
            default.ping_interval,
            "1s"..="1h",
            "Pause between two pings to a client that sends heartbeats over a WebSocket; each pong is a heartbeat.",
        ),
        ..default
    }
}

#[cfg(test)]
mod tests;
