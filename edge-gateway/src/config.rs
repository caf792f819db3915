//! The gateway's whole configuration, as values.

use std::net::SocketAddr;
use std::time::Duration;

use host::http::ServerLimits;

pub use crate::heartbeat::HeartbeatConfig;
pub use crate::hub::HubConfig;
pub use crate::limits::LimitsConfig;
pub use crate::session::SessionConfig;
pub use crate::upstream::UpstreamConfig;

/// What a gateway needs to know; [`Default`] is meant for production.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The label `instance` of the metrics that keep Service-Center's names; empty takes `listen`.
    pub instance: String,
    /// What clients may do before and beside watching; its `connections` are those beyond the watchers'.
    pub http: ServerLimits,
    /// Sessions that may be open.
    pub limits: LimitsConfig,
    /// Fan-out.
    pub hub: HubConfig,
    /// Pings and deadlines of sessions.
    pub session: SessionConfig,
    /// Connections that carry heartbeats.
    pub heartbeat: HeartbeatConfig,
    /// How the gateway keeps up with the control plane.
    pub upstream: UpstreamConfig,
    /// Over what time watchers are disconnected in a drain, so that they do not come all at once elsewhere.
    pub drain_over: Duration,
    /// Ask the control plane, in the client's name, before a watch is granted; needed with access control.
    pub authorize: bool,
    /// Each request becomes a line in the log.
    pub access_log: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Service-Center's port, on all addresses: a gateway is there to be reached.
            listen: SocketAddr::from(([0, 0, 0, 0], 30100)),
            instance: String::new(),
            http: ServerLimits { name: "api", ..ServerLimits::default() },
            limits: LimitsConfig::default(),
            hub: HubConfig::default(),
            session: SessionConfig::default(),
            heartbeat: HeartbeatConfig::default(),
            upstream: UpstreamConfig::default(),
            // Within the thirty seconds that orchestrators usually grant, with some to spare.
            drain_over: Duration::from_secs(15),
            authorize: false,
            access_log: false,
        }
    }
}
