//! Instruments of forwarded requests.

use std::time::Duration;

use host::telemetry::metrics::LATENCY_SECONDS;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

/// The instruments of forwarded requests.
#[derive(Clone, Debug)]
pub(crate) struct ForwardMetrics {
    requests: Counter<u64>,
    seconds: Histogram<f64>,
    retries: Counter<u64>,
    healthy: Gauge<u64>,
    ready: Gauge<u64>,
}

impl ForwardMetrics {
    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let metrics = Self {
            requests: meter
                .u64_counter("muster_edge_forwarded_total")
                .with_description("Requests forwarded to a control plane, by outcome")
                .build(),
            seconds: meter
                .f64_histogram("muster_edge_forward_seconds")
                .with_description("Time from a forwarded request to the head of its answer")
                .with_boundaries(LATENCY_SECONDS.into())
                .build(),
            retries: meter
                .u64_counter("muster_edge_forward_retries_total")
                .with_description("Requests sent a second time, to another control plane")
                .build(),
            healthy: meter
                .u64_gauge("muster_edge_control_planes_healthy")
                .with_description("Control planes that answer")
                .build(),
            ready: meter
                .u64_gauge("muster_edge_control_planes_ready")
                .with_description("Control planes that answer and say that they are ready")
                .build(),
        };
        // A series that exists only after its first event cannot show that there was none.
        for outcome in ["ok", "error", "unavailable", "client"] {
            metrics.requests.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        metrics.retries.add(0, &[]);
        metrics
    }

    /// A request was answered (`ok`, or `error` for a 5xx) or could not be (`unavailable`, or
    /// `client` when the client's own body failed).
    pub(crate) fn forwarded(&self, outcome: &'static str, took: Duration) {
        self.requests.add(1, &[KeyValue::new("outcome", outcome)]);
        self.seconds.record(took.as_secs_f64(), &[]);
    }

    /// A request goes to a second replica.
    pub(crate) fn retried(&self) {
        self.retries.add(1, &[]);
    }

    /// The number of replicas that answer, and of those among them that are ready.
    pub(crate) fn healthy(&self, answering: usize, ready: usize) {
        self.healthy.record(answering as u64, &[]);
        self.ready.record(ready as u64, &[]);
    }
}
