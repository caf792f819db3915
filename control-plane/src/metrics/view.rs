//! Figures of the view: what is applied to it, and how it stands when it is asked for.

use std::sync::Arc;
use std::time::Duration;

use host::telemetry::metrics::LATENCY_MICROSECONDS;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use crate::store::KvEvent;
use crate::view::View;

/// The prefixes that Service-Center watches one by one; we watch them together and count them apart.
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
/// Everything else.
const OTHER: &str = "other";

/// Instruments of who follows the store.
#[derive(Clone)]
pub struct ViewMetrics {
    labels: Vec<[KeyValue; 2]>,
    events: Gauge<u64>,
    applied: [u64; PREFIXES.len() + 1],
    durations: Histogram<f64>,
    lists: Counter<u64>,
    breaks: Counter<u64>,
}

impl ViewMetrics {
    /// Makes the instruments; `instance` is the address that labels this node.
    pub fn new(meter: &Meter, instance: &str) -> Self {
        let labels = |prefix: &'static str| {
            [KeyValue::new("instance", instance.to_owned()), KeyValue::new("prefix", prefix)]
        };
        let it = Self {
            labels: PREFIXES.into_iter().chain([OTHER]).map(labels).collect(),
            events: meter
                .u64_gauge("service_center_db_backend_event_total")
                .with_description("Changes of the store that the view has taken in; only grows.")
                .build(),
            applied: [0; PREFIXES.len() + 1],
            durations: meter
                .f64_histogram("service_center_db_backend_event_durations_microseconds")
                .with_description("From hearing of a change of the store to having it in the view")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
            lists: meter
                .u64_counter("muster_view_lists_total")
                .with_description("Full lists of the store, by what made them necessary.")
                .build(),
            breaks: meter
                .u64_counter("muster_view_watch_breaks_total")
                .with_description("Times that the store could not be followed on.")
                .build(),
        };
        for labels in &it.labels {
            it.events.record(0, labels);
        }
        it.lists.add(0, &[KeyValue::new("cause", "start")]);
        it.lists.add(0, &[KeyValue::new("cause", "compacted")]);
        it.breaks.add(0, &[]);
        it
    }

    /// Changes were applied together, in this time. Counts them before they are gone.
    pub(crate) fn applied(&mut self, counts: Applied, took: Duration) {
        for (place, count) in counts.0.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.applied[place] += count;
            self.events.record(self.applied[place], &self.labels[place]);
            self.durations.record(took.as_secs_f64() * 1e6, &self.labels[place]);
        }
    }

    /// The store was listed.
    pub(crate) fn listed(&self, again: bool) {
        self.lists.add(1, &[KeyValue::new("cause", if again { "compacted" } else { "start" })]);
    }

    /// The watch ended.
    pub(crate) fn broke(&self) {
        self.breaks.add(1, &[]);
    }
}

/// How many changes of each prefix a batch has.
pub(crate) struct Applied([u64; PREFIXES.len() + 1]);

impl Applied {
    /// Counts them.
    pub(crate) fn of(events: &[KvEvent]) -> Self {
        let mut counts = [0; PREFIXES.len() + 1];
        for event in events {
            let place = PREFIXES.iter().position(|prefix| event.key().starts_with(prefix));
            counts[place.unwrap_or(PREFIXES.len())] += 1;
        }
        Self(counts)
    }
}

/// Makes the gauges of the view, read when they are scraped.
pub fn observe_view(meter: &Meter, view: &View) {
    let gauge = |name: &'static str, help: &'static str, read: fn(&View) -> u64| {
        let view = view.clone();
        meter
            .u64_observable_gauge(name)
            .with_description(help)
            .with_callback(move |observer| observer.observe(read(&view), &[]))
            .build();
    };
    gauge("muster_view_revision", "Revision that the view has reached; 0 until the first list.", |view| {
        view.now().map_or(0, |snapshot| snapshot.revision)
    });
    gauge("muster_view_history_changes", "Changes kept for replays.", |view| view.history().len() as u64);
    gauge("muster_protection_held_instances", "Expired instances that are held.", |view| {
        let services = |tenant: &Arc<crate::view::TenantView>| {
            tenant.services.values().map(|service| service.held.size() as u64).sum::<u64>()
        };
        view.now().map_or(0, |snapshot| snapshot.tenants.values().map(services).sum())
    });
    gauge("muster_protection_services", "Services that hold expired instances.", |view| {
        let services = |tenant: &Arc<crate::view::TenantView>| {
            tenant.services.values().filter(|service| service.held.size() > 0).count() as u64
        };
        view.now().map_or(0, |snapshot| snapshot.tenants.values().map(services).sum())
    });
    let skipped = view.clone();
    meter
        .u64_observable_counter("muster_view_skipped_values_total")
        .with_description("Stored values that could not be read and were passed over.")
        .with_callback(move |observer| observer.observe(skipped.skipped(), &[]))
        .build();
}
