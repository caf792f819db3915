//! Every instrument of the gateway: one struct per room, handed in. Shards count per batch and not per frame.
//!
//! The names of Service-Center's metrics are kept where its dashboards look for them; its summaries are
//! histograms here. Labels have few values: enums, and domains only up to a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

mod beats;
mod dialects;
mod drains;
mod fanout;
mod fleet;
mod forward;
mod policy;
mod reads;
mod sessions;
mod upstream;
mod xds;

pub(crate) use beats::{AnsweredBy, BeatsMetrics};
pub(crate) use dialects::{Dialect, DialectMetrics, Outcome};
pub(crate) use drains::{DrainEnd, DrainMetrics};
pub(crate) use fanout::{FanoutMetrics, Tallied};
pub(crate) use fleet::FleetMetrics;
pub(crate) use forward::ForwardMetrics;
pub(crate) use policy::{Decision, PolicyMetrics};
pub(crate) use reads::{Answered, ReadsMetrics, list_bytes};
pub(crate) use sessions::SessionMetrics;
pub(crate) use upstream::UpstreamMetrics;
pub(crate) use xds::XdsMetrics;

/// The instruments of all rooms that the gateway has once.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub dialects: DialectMetrics,
    pub drains: DrainMetrics,
    pub fanout: FanoutMetrics,
    pub fleet: FleetMetrics,
    pub policy: PolicyMetrics,
    pub reads: ReadsMetrics,
    pub sessions: SessionMetrics,
    pub upstream: UpstreamMetrics,
    pub xds: XdsMetrics,
}

impl Metrics {
    /// Every instrument, at zero. `instance` names this node, as Service-Center's metrics do.
    pub(crate) fn new(meter: &Meter, instance: &str) -> Self {
        let instance = KeyValue::new("instance", instance.to_owned());
        let skew = Skew::default();
        Self {
            dialects: DialectMetrics::new(meter),
            drains: DrainMetrics::new(meter),
            fleet: FleetMetrics::new(meter),
            policy: PolicyMetrics::new(meter),
            reads: ReadsMetrics::new(meter),
            fanout: FanoutMetrics::new(meter, &instance, skew.clone()),
            sessions: SessionMetrics::new(meter, &instance),
            upstream: UpstreamMetrics::new(meter, skew),
            xds: XdsMetrics::new(meter),
        }
    }
}

/// The time by which the publisher's clock is at least ahead of ours, in microseconds.
///
/// Bookmarks show it: none can arrive before it was sent. A time of the publisher's clock is corrected by it
/// before it is compared with one of ours. A clock that is behind cannot be told from a slow network, and is
/// not corrected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skew(Arc<AtomicU64>);

impl Skew {
    fn set(&self, micros: u64) {
        // Relaxed: the value stands alone, and a figure that is one bookmark late is right enough.
        self.0.store(micros, Ordering::Relaxed);
    }

    /// Microseconds from `then`, by the publisher's clock, to `now`, by ours.
    fn between(&self, then: u64, now: u64) -> u64 {
        now.saturating_add(self.0.load(Ordering::Relaxed)).saturating_sub(then)
    }
}
