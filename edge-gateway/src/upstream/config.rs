//! How the gateway keeps up with the control plane.

use std::time::Duration;

/// How the gateway keeps up with the control plane.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// How long a part of an answer may take before the question is asked again.
    pub request_timeout: Duration,
    /// How long a watch may wait for the control plane to say whom it concerns; then it is refused with 503.
    pub open_timeout: Duration,
    /// Between two comparisons with a replica, jittered: the repair of last resort.
    pub digest_interval: Duration,
    /// Between two bookmarks for clients that can resume, at least.
    pub bookmark_interval: Duration,
    /// Providers asked for in one request.
    pub replay_batch: usize,
    /// Requests for replay under way at once.
    pub replays: usize,
    /// Providers followed at once; 0 is no limit. Who would need more is refused, before it is known what a
    /// consumer is interested in: the last one let in may bring more.
    pub topics: usize,
    /// Resyncs after a reconnect begin within this time at random, so that gateways do not come all at once.
    pub resync_jitter: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(3),
            // Clients wait longer for a handshake, and a gateway that knows nothing should say so.
            open_timeout: Duration::from_secs(5),
            digest_interval: Duration::from_secs(30),
            // As often as an idle client needs to resume without being told everything again.
            bookmark_interval: Duration::from_secs(10),
            // A few instances each keep an answer within a handful of parts.
            replay_batch: 128,
            replays: 4,
            // Some tens of KiB each at most, mostly much less.
            topics: 100_000,
            resync_jitter: Duration::from_millis(200),
        }
    }
}
