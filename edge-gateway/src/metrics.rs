//! Every instrument of the gateway: one struct a room, handed in, counted per batch and not per frame.
//!
//! Service-Center's names are kept where its dashboards look for them; its summaries are histograms here.
//! Labels have few values: enums, and domains only up to a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

mod forward;
mod hub;
mod sessions;
mod upstream;

pub(crate) use forward::ForwardMetrics;
pub(crate) use hub::{HubMetrics, Tallied};
pub(crate) use sessions::SessionMetrics;
pub(crate) use upstream::UpstreamMetrics;

/// All rooms.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub hub: HubMetrics,
    pub sessions: SessionMetrics,
    pub upstream: UpstreamMetrics,
}

impl Metrics {
    /// Every instrument, at zero. `instance` names this node, as Service-Center's metrics do.
    pub(crate) fn new(meter: &Meter, instance: &str) -> Self {
        let instance = KeyValue::new("instance", instance.to_owned());
        let skew = Skew::default();
        Self {
            hub: HubMetrics::new(meter, &instance, skew.clone()),
            sessions: SessionMetrics::new(meter, &instance),
            upstream: UpstreamMetrics::new(meter, skew),
        }
    }
}

/// How far the publisher's clock is ahead of ours at least, as its bookmarks show: nothing arrives before it was
/// sent. Times of both are compared by it. A clock that is behind cannot be told from a slow way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skew(Arc<AtomicU64>);

impl Skew {
    /// The publisher's clock is so many microseconds ahead.
    fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::Relaxed);
    }

    /// Microseconds from `then`, by the publisher's clock, to `now`, by ours.
    fn between(&self, then: u64, now: u64) -> u64 {
        now.saturating_add(self.0.load(Ordering::Relaxed)).saturating_sub(then)
    }
}
