//! Instruments of the registry: heartbeats under their Service-Center names, and the time a write waits for
//! the view.

use std::time::Duration;

use host::telemetry::metrics::{LATENCY_MICROSECONDS, LATENCY_SECONDS};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

/// Instruments of the registry.
#[derive(Clone)]
pub(crate) struct RegistryMetrics {
    labels: [[KeyValue; 2]; 2],
    beats: Counter<u64>,
    durations: Histogram<f64>,
    commit_to_view: Histogram<f64>,
}

impl RegistryMetrics {
    /// Makes the instruments; `instance` is the address that labels this node.
    pub(crate) fn new(meter: &Meter, instance: &str) -> Self {
        let metrics = Self {
            labels: ["FAILURE", "SUCCESS"].map(|status| {
                [KeyValue::new("instance", instance.to_owned()), KeyValue::new("status", status)]
            }),
            beats: meter
                .u64_counter("service_center_db_heartbeat_total")
                .with_description("Counter of heartbeat renew")
                .build(),
            durations: meter
                .f64_histogram("service_center_db_heartbeat_durations_microseconds")
                .with_description("Latency of heartbeat renew")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
            commit_to_view: meter
                .f64_histogram("muster_commit_to_view_seconds")
                .with_description("From the store's reply to a transaction until this replica's view has it.")
                .with_boundaries(LATENCY_SECONDS.to_vec())
                .build(),
        };
        // Series that exist from the start let dashboards see the first increase.
        for labels in &metrics.labels {
            metrics.beats.add(0, labels);
        }
        metrics
    }

    pub(crate) fn beat(&self, renewed: bool, took: Duration) {
        let labels = &self.labels[usize::from(renewed)];
        self.beats.add(1, labels);
        self.durations.record(took.as_secs_f64() * 1e6, labels);
    }

    /// Records the time between the store's reply to a transaction and its arrival in the view.
    pub(crate) fn reached(&self, took: Duration) {
        self.commit_to_view.record(took.as_secs_f64(), &[]);
    }
}
