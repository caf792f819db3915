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
    reported: Counter<u64>,
    shift_steps: Counter<u64>,
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
            reported: meter
                .u64_counter("muster_beats_total")
                .with_description(
                    "Heartbeats of instances with long leases, by whether a report tells of them.",
                )
                .build(),
            shift_steps: meter
                .u64_counter("muster_shift_steps_total")
                .with_description("Steps of shifts that were due, by their outcome.")
                .build(),
        };
        // Series that exist from the start let dashboards see the first increase.
        for labels in &metrics.labels {
            metrics.beats.add(0, labels);
        }
        for way in ["reported", "renewed"] {
            metrics.reported.add(0, &[KeyValue::new("way", way)]);
        }
        for outcome in ["taken", "done", "interrupted", "lost", "failed"] {
            metrics.shift_steps.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        metrics
    }

    pub(crate) fn beat(&self, renewed: bool, took: Duration) {
        let labels = &self.labels[usize::from(renewed)];
        self.beats.add(1, labels);
        self.durations.record(took.as_secs_f64() * 1e6, labels);
    }

    /// Counts a heartbeat of an instance with a long lease. One that is not reported renews the lease.
    pub(crate) fn reported(&self, is_reported: bool) {
        let way = if is_reported { "reported" } else { "renewed" };
        self.reported.add(1, &[KeyValue::new("way", way)]);
    }

    /// Counts a step of a shift that was due.
    pub(crate) fn stepped(&self, outcome: &'static str) {
        self.shift_steps.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// Records the time between the store's reply to a transaction and its arrival in the view.
    pub(crate) fn reached(&self, took: Duration) {
        self.commit_to_view.record(took.as_secs_f64(), &[]);
    }
}
