//! Instruments of streams of xDS. The streams themselves count as sessions, with the scheme `xDS`.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};

/// The values of the label `type`.
const TYPES: [&str; 4] = ["cluster", "endpoint", "listener", "route"];

/// The instruments of streams of xDS.
#[derive(Clone, Debug)]
pub(crate) struct XdsMetrics {
    requests: Counter<u64>,
    refusals: Counter<u64>,
    resources: Counter<u64>,
    bytes: Counter<u64>,
}

impl XdsMetrics {
    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let metrics = Self {
            requests: meter
                .u64_counter("muster_xds_requests_total")
                .with_description("Requests on streams of xDS, acknowledgements among them, by type")
                .build(),
            refusals: meter
                .u64_counter("muster_xds_nacks_total")
                .with_description("Answers over xDS that a client has refused, by type")
                .build(),
            resources: meter
                .u64_counter("muster_xds_resources_sent_total")
                .with_description("Resources sent over xDS, by type")
                .build(),
            bytes: meter
                .u64_counter("muster_xds_sent_bytes_total")
                .with_description("Bytes of answers sent over xDS, by type")
                .build(),
        };
        for kind in TYPES {
            metrics.asked(kind, 0);
            metrics.refused(kind, 0);
            metrics.sent(kind, 0, 0);
        }
        metrics
    }

    /// Requests have arrived.
    pub(crate) fn asked(&self, kind: &'static str, count: u64) {
        self.requests.add(count, &[of(kind)]);
    }

    /// Answers were refused.
    pub(crate) fn refused(&self, kind: &'static str, count: u64) {
        self.refusals.add(count, &[of(kind)]);
    }

    /// Resources were sent, in this many bytes.
    pub(crate) fn sent(&self, kind: &'static str, resources: usize, bytes: usize) {
        self.resources.add(resources as u64, &[of(kind)]);
        self.bytes.add(bytes as u64, &[of(kind)]);
    }
}

fn of(kind: &'static str) -> KeyValue {
    KeyValue::new("type", kind)
}
