//! Instruments of the view: the changes that it applies, and the state of its watch.

use std::time::Duration;

use host::telemetry::metrics::LATENCY_MICROSECONDS;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

/// The prefixes that are counted apart. Service-Center has one watch for each of them, so its dashboards have
/// one series for each; we watch all of them together.
const PREFIXES: [&str; 14] = [
    "/cse-sr/inst/files/",
    "/cse-sr/inst/leases/",
    "/cse-sr/ms/files/",
    "/cse-sr/ms/indexes/",
    "/cse-sr/ms/alias/",
    "/cse-sr/ms/tags/",
    "/cse-sr/ms/schema-sum/",
    "/cse-sr/ms/schema-ref/",
    "/cse-sr/ms/rules/",
    "/cse-sr/ms/dep-rules/",
    "/cse-sr/ms/dep-queue/",
    "/cse-sr/domains/",
    "/cse-sr/projects/",
    "/cse-sr/muster/",
];
/// The label of all other keys.
const OTHER: &str = "other";

/// Instruments of the view.
#[derive(Clone)]
pub struct ViewMetrics {
    labels: Vec<[KeyValue; 2]>,
    // A gauge that only grows: Service-Center exports it as one, and its dashboards rely on the name and
    // type.
    events: Gauge<u64>,
    applied: [u64; PREFIXES.len() + 1],
    durations: Histogram<f64>,
    lists: Counter<u64>,
    breaks: Counter<u64>,
}

impl ViewMetrics {
    /// Makes the instruments; `instance` is the address that labels this node.
    pub fn new(meter: &Meter, instance: &str) -> Self {
        let mut labels = Vec::new();
        for prefix in PREFIXES.into_iter().chain([OTHER]) {
            labels.push([KeyValue::new("instance", instance.to_owned()), KeyValue::new("prefix", prefix)]);
        }
        let metrics = Self {
            labels,
            events: meter
                .u64_gauge("service_center_db_backend_event_total")
                .with_description("Changes of the store that the view has applied; only grows.")
                .build(),
            applied: [0; PREFIXES.len() + 1],
            durations: meter
                .f64_histogram("service_center_db_backend_event_durations_microseconds")
                .with_description("From receiving a change of the store to having it in the view")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
            lists: meter
                .u64_counter("muster_view_lists_total")
                .with_description("Full lists of the store, by cause.")
                .build(),
            breaks: meter
                .u64_counter("muster_view_watch_breaks_total")
                .with_description("Times that the watch of the store broke.")
                .build(),
        };
        // Series that exist from the start let dashboards see the first increase.
        for labels in &metrics.labels {
            metrics.events.record(0, labels);
        }
        metrics.lists.add(0, &[KeyValue::new("cause", "start")]);
        metrics.lists.add(0, &[KeyValue::new("cause", "compacted")]);
        metrics.breaks.add(0, &[]);
        metrics
    }

    /// Counts changes that were applied together, in `took` for all of them.
    pub(crate) fn applied(&mut self, counts: AppliedCounts, took: Duration) {
        for (index, count) in counts.0.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.applied[index] += count;
            self.events.record(self.applied[index], &self.labels[index]);
            self.durations.record(took.as_secs_f64() * 1e6, &self.labels[index]);
        }
    }

    /// Counts a full list; `again` is false for the first one.
    pub(crate) fn listed(&self, again: bool) {
        self.lists.add(1, &[KeyValue::new("cause", if again { "compacted" } else { "start" })]);
    }

    /// Counts a watch that broke.
    pub(crate) fn broke(&self) {
        self.breaks.add(1, &[]);
    }
}

/// The number of changes in a batch, for each prefix.
pub(crate) struct AppliedCounts([u64; PREFIXES.len() + 1]);

impl AppliedCounts {
    /// Counts the keys of changes.
    pub(crate) fn of<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        let mut counts = [0; PREFIXES.len() + 1];
        for key in keys {
            let index = PREFIXES.iter().position(|prefix| key.starts_with(prefix));
            counts[index.unwrap_or(PREFIXES.len())] += 1;
        }
        Self(counts)
    }
}
