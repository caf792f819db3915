//! Instruments of the requests that are passed on.

use std::time::Duration;

use host::telemetry::metrics::LATENCY_SECONDS;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

/// Of the requests that are passed on.
#[derive(Clone, Debug)]
pub(crate) struct ForwardMetrics {
    requests: Counter<u64>,
    seconds: Histogram<f64>,
    retries: Counter<u64>,
    healthy: Gauge<u64>,
}

impl ForwardMetrics {
    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let it = Self {
            requests: meter
                .u64_counter("muster_edge_forwarded_total")
                .with_description("Requests passed on to the control plane, by outcome")
                .build(),
            seconds: meter
                .f64_histogram("muster_edge_forward_seconds")
                .with_description("From a request's head to its answer's head")
                .with_boundaries(LATENCY_SECONDS.into())
                .build(),
            retries: meter
                .u64_counter("muster_edge_forward_retries_total")
                .with_description("Requests tried again on another replica")
                .build(),
            healthy: meter
                .u64_gauge("muster_edge_control_planes_healthy")
                .with_description("Control planes that answer")
                .build(),
        };
        for outcome in ["ok", "error", "unavailable"] {
            it.requests.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        it.retries.add(0, &[]);
        it
    }

    /// A request was answered (`ok`, `error` for a 5xx) or could not be (`unavailable`).
    pub(crate) fn forwarded(&self, outcome: &'static str, took: Duration) {
        self.requests.add(1, &[KeyValue::new("outcome", outcome)]);
        self.seconds.record(took.as_secs_f64(), &[]);
    }

    /// A request goes to another replica.
    pub(crate) fn retried(&self) {
        self.retries.add(1, &[]);
    }

    /// So many replicas are healthy.
    pub(crate) fn healthy(&self, count: usize) {
        self.healthy.record(count as u64, &[]);
    }
}
