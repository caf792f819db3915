//! The settings of the gateway: those of its rooms, which `muster standalone` has too, and those of the
//! `edge-gateway` program.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bus::NatsConfig;
use host::http::ServerLimits;
use host::program::Program;
use host::telemetry::LogConfig;
use host::tls::{self, ClientFiles};
use settings::{Config as Read, Secret, Settings, Size, Url};

use crate::config::{Config, HeartbeatConfig, HubConfig, LimitsConfig, SessionConfig, UpstreamConfig};
use crate::forward::ForwardConfig;

impl Read for Config {
    fn read(settings: &mut Settings<'_>) -> Self {
        let default = Self::default();
        let drain_over = settings.within(
            "drain-over",
            "15s",
            "0s"..="1h",
            "Time over which watchers are disconnected at the end, so that they do not come back all at once.",
        );
        Self {
            listen: settings.get("listen", "0.0.0.0:30100", "Address that clients connect to."),
            http: ServerLimits::read(
                settings,
                "api",
                "Connections open at once beyond those of watchers; more wait until one ends.",
            ),
            limits: settings.live(|settings| LimitsConfig {
                node: settings.get("watch.per-node", "100000", "Watchers of this node; 0 is no limit."),
                domain: settings.get("watch.per-domain", "0", "Watchers of one domain on this node; 0 is no limit."),
                consumer: settings.get(
                    "watch.per-consumer",
                    "10000",
                    "Watchers of one service on this node; 0 is no limit.",
                ),
                memory: settings
                    .get::<Size>(
                        "watch.memory",
                        "0B",
                        "Resident memory of the process from which on no watcher is let in; 0B is no limit.",
                    )
                    .0 as u64,
            }),
            hub: HubConfig {
                shards: settings
                    .optional::<usize>("watch.shards", "Threads that hold watchers. Default: one per core.")
                    .and_then(NonZeroUsize::new)
                    .unwrap_or(default.hub.shards),
                slow_after_bytes: settings
                    .within::<Size>(
                        "watch.slow-after",
                        "1MiB",
                        "64KiB"..="1GiB",
                        "How far a watcher may be behind before what it misses is merged per instance.",
                    )
                    .0,
                send_buffer_bytes: settings
                    .within::<Size>(
                        "watch.send-buffer",
                        "128KiB",
                        "4KiB"..="16MiB",
                        "What the kernel may hold for a watcher; what is there cannot be merged any more.",
                    )
                    .0,
            },
            session: SessionConfig {
                ping_interval: settings.within(
                    "watch.ping-interval",
                    "30s",
                    "1s"..="1h",
                    "Pause between two pings to a watcher; old clients give up after 60 s of silence.",
                ),
                read_timeout: settings.within(
                    "watch.read-timeout",
                    "120s",
                    "2s"..="24h",
                    "A watcher that sends nothing, not even a pong, for so long is let go.",
                ),
                write_timeout: settings.within(
                    "watch.write-timeout",
                    "5s",
                    "100ms"..="10m",
                    "A watcher that takes nothing at all of what is pending for so long is let go.",
                ),
            },
            upstream: UpstreamConfig {
                topics: settings.get(
                    "watch.services",
                    "100000",
                    "Services whose instances this node follows for its watchers; 0 is no limit.",
                ),
                digest_interval: settings.within(
                    "watch.digest-interval",
                    "30s",
                    "1s"..="1h",
                    "Pause between two comparisons of the gateway's state with a control plane's.",
                ),
                bookmark_interval: settings.within(
                    "watch.bookmark-interval",
                    "10s",
                    "1s"..="1h",
                    "Pause between two bookmarks to clients that resume, at least.",
                ),
                ..default.upstream
            },
            heartbeat: HeartbeatConfig {
                session: SessionConfig {
                    ping_interval: settings.within(
                        "heartbeat.websocket-ping-interval",
                        "30s",
                        "1s"..="1h",
                        "Pause between two pings to a client that sends its heartbeats over a WebSocket: its pace.",
                    ),
                    ..SessionConfig::default()
                },
                drain_over,
            },
            authorize: settings.get(
                "watch.authorize",
                "false",
                "Ask a control plane, in the client's name, before a watch is granted; needed with access control.",
            ),
            drain_over,
            ..default
        }
    }
}

/// Everything that the program is told.
pub struct ProcessConfig {
    /// Where liveness, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// What proves from afar that an operator asks on the admin port.
    pub admin_token: Option<Secret>,
    /// How long a drain may take.
    pub grace: Duration,
    /// Logs.
    pub log: LogConfig,
    /// The bus.
    pub nats: NatsConfig,
    /// The control planes.
    pub forward: ForwardConfig,
    /// The gateway's rooms.
    pub gateway: Config,
}

impl Read for ProcessConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        let gateway = Config::read(settings);
        settings.alias("control-plane.urls", "control-plane");
        let control_planes: Vec<Url> = settings.get(
            "control-plane.urls",
            "http://127.0.0.1:30110",
            "Control planes, which get everything that is not a watch.",
        );
        let tls = settings.section("control-plane", control_plane_tls);
        if control_planes.iter().any(|url| !is_base(url)) {
            settings.mistake(
                "control-plane.urls",
                "expected http://host:port or https://host:port, nothing more",
            );
        }
        if control_planes.is_empty() {
            settings.mistake("control-plane.urls", "at least one control plane is needed");
        }
        let grace: Duration = settings.within(
            "grace",
            "25s",
            "0s"..="1h",
            "How long everything may take to end after SIGTERM before it is dropped.",
        );
        if grace < gateway.drain_over {
            settings.mistake("grace", "the grace period must be at least as long as drain-over");
        }
        Self {
            admin_listen: settings.get(
                "admin-listen",
                "127.0.0.1:30101",
                "Address of /live, /ready, /metrics, and for operators /config, /known and /drain.",
            ),
            admin_token: settings.optional(
                "admin-token",
                "Lets who sends it as a bearer token use /config, /known and /drain from afar.",
            ),
            grace,
            log: LogConfig::read(settings),
            nats: NatsConfig::read(settings, "muster-edge-gateway"),
            forward: ForwardConfig {
                control_planes: control_planes
                    .iter()
                    .map(|url| url.as_str().trim_end_matches('/').to_owned())
                    .collect(),
                tls,
                ..ForwardConfig::default()
            },
            gateway,
        }
    }
}

impl Program for ProcessConfig {
    const SERVICE: &'static str = "muster-edge-gateway";

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn grace(&self) -> Duration {
        self.grace
    }

    fn admin_token(&self) -> Option<&Secret> {
        self.admin_token.as_ref()
    }
}

fn is_base(url: &Url) -> bool {
    let parts = url.parts();
    matches!(url.scheme(), "http" | "https") && parts.path() == "/" && parts.query().is_none()
}

/// What is trusted at control planes that speak TLS, and shown to those that ask.
fn control_plane_tls(settings: &mut Settings<'_>) -> ClientFiles {
    let ca = settings.optional(
        "ca",
        "PEM file with the authorities to trust at https:// control planes. Default: the system's.",
    );
    let certificate: Option<PathBuf> = settings
        .optional("certificate", "PEM file with our certificate for control planes that ask for one.");
    let key: Option<PathBuf> =
        settings.optional("key", "PEM file with the key of our certificate for control planes.");
    if certificate.is_some() != key.is_some() {
        settings.mistake("certificate", "a certificate and its key go together");
    }
    let files = ClientFiles { ca, identity: certificate.zip(key) };
    if files != ClientFiles::default()
        && let Err(e) = tls::client(&files)
    {
        settings.mistake("ca", e.to_string());
    }
    files
}
