//! Instruments of streams of xDS. The streams themselves count as sessions, with the scheme `xDS`.
//!
//! The counts are plain numbers that are read when somebody asks for the metrics: finding an instrument's
//! attributes for each answer would cost more than the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// The values of the label `type`.
const TYPES: [&str; 4] = ["cluster", "endpoint", "listener", "route"];

/// The counts of each type.
type Counts = [AtomicU64; TYPES.len()];

/// The instruments of streams of xDS. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct XdsMetrics(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: Counts,
    refusals: Counts,
    resources: Counts,
    bytes: Counts,
}

impl XdsMetrics {
    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let metrics = Self::default();
        metrics.show(
            meter,
            "muster_xds_requests_total",
            "Requests on streams of xDS, acknowledgements among them, by type",
            |counters| &counters.requests,
        );
        metrics.show(
            meter,
            "muster_xds_nacks_total",
            "Answers over xDS that a client has refused, by type",
            |counters| &counters.refusals,
        );
        metrics.show(
            meter,
            "muster_xds_resources_sent_total",
            "Resources sent over xDS, by type",
            |counters| &counters.resources,
        );
        metrics.show(
            meter,
            "muster_xds_sent_bytes_total",
            "Bytes of answers sent over xDS, by type",
            |counters| &counters.bytes,
        );
        metrics
    }

    fn show(
        &self,
        meter: &Meter,
        name: &'static str,
        description: &'static str,
        counts: fn(&Counters) -> &Counts,
    ) {
        let counters = self.0.clone();
        meter
            .u64_observable_counter(name)
            .with_description(description)
            .with_callback(move |observer| {
                for (kind, count) in TYPES.iter().zip(counts(&counters)) {
                    let attributes = [KeyValue::new("type", *kind)];
                    observer.observe(count.load(Ordering::Relaxed), &attributes);
                }
            })
            .build();
    }

    /// A request has arrived.
    pub(crate) fn asked(&self, kind: &str) {
        add(&self.0.requests, kind, 1);
    }

    /// An answer was refused.
    pub(crate) fn refused(&self, kind: &str) {
        add(&self.0.refusals, kind, 1);
    }

    /// Resources were sent, in this many bytes.
    pub(crate) fn sent(&self, kind: &str, resources: usize, bytes: usize) {
        add(&self.0.resources, kind, resources);
        add(&self.0.bytes, kind, bytes);
    }
}

fn add(counts: &Counts, kind: &str, count: usize) {
    let found = TYPES.iter().zip(counts).find(|(of, _)| **of == kind);
    if let Some((_, known)) = found {
        known.fetch_add(count as u64, Ordering::Relaxed);
    }
}
