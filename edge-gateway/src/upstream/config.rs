//! The configuration of the upstream.

use std::time::Duration;

use crate::reads::ReadsConfig;

/// The way in which the gateway follows the control plane.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The longest wait for one part of a reply. After it the request is made again.
    pub request_timeout: Duration,
    /// The longest time for which a watch waits for its group to open. After it the watch is refused with
    /// 503.
    pub open_timeout: Duration,
    /// The time between two comparisons of digests with a replica, jittered. They are the repair of last
    /// resort.
    pub digest_interval: Duration,
    /// The shortest time between two bookmarks to every client that can resume.
    pub bookmark_interval: Duration,
    /// The most providers in one request.
    pub replay_batch: usize,
    /// The most replay requests that are under way at once.
    pub replays: usize,
    /// The most providers that may be followed; 0 is no limit. A watch beyond it is refused before its
    /// consumer's interest is known, so the last watch that is admitted may exceed it.
    pub topics: usize,
    /// The names in watches.
    pub names: NamesConfig,
    /// A resynchronisation begins at random within this time, so that the gateways of a fleet do not all
    /// request at the same moment.
    pub resync_jitter: Duration,
    /// Finds that are answered here.
    pub reads: ReadsConfig,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(3),
            // Clients wait longer than this for a handshake, and a gateway that knows nothing should say so.
            open_timeout: Duration::from_secs(5),
            digest_interval: Duration::from_secs(30),
            // An idle client that loses its gateway then resumes from ten seconds ago at worst.
            bookmark_interval: Duration::from_secs(10),
            // With a few instances for each provider, a reply fits into a handful of parts.
            replay_batch: 128,
            replays: 4,
            // A topic takes a few KiB, at most some tens of KiB.
            topics: 100_000,
            names: NamesConfig::default(),
            resync_jitter: Duration::from_millis(200),
            reads: ReadsConfig::default(),
        }
    }
}

/// The names of services and selections that open watches may hold, whether they exist or not; 0 is no limit.
#[derive(Clone, Debug)]
pub struct NamesConfig {
    /// On this node.
    pub node: usize,
    /// Of one domain.
    pub domain: usize,
    /// Of one consumer.
    pub consumer: usize,
}

impl Default for NamesConfig {
    fn default() -> Self {
        // A name takes some 250 bytes: 60 MB for the node.
        Self { node: 250_000, domain: 100_000, consumer: 20_000 }
    }
}
