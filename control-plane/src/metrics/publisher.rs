//! Figures of the publisher.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use host::telemetry::metrics::{LATENCY_MICROSECONDS, LATENCY_SECONDS};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use shared::clock::Clock;
use shared::model::Revision;

use crate::view::{Change, View};

/// Figures of the publisher.
#[derive(Clone)]
pub struct PublisherMetrics {
    clock: Clock,
    events: Counter<u64>,
    bookmarks: Counter<u64>,
    lag: Histogram<f64>,
    dispatched: Counter<u64>,
    durations: Histogram<f64>,
    of_instances: [KeyValue; 2],
    state: Arc<PublisherState>,
}

#[derive(Default)]
struct PublisherState {
    publishing: AtomicU64,
    epoch: AtomicU64,
    revision: AtomicU64,
    cursor: AtomicU64,
}

impl PublisherMetrics {
    /// Makes the instruments; `instance` is the address that labels this node. Gauges are read when they are
    /// scraped.
    pub fn new(meter: &Meter, clock: Clock, instance: &str) -> Self {
        let state = Arc::new(PublisherState::default());
        let gauge = |name: &'static str, help: &'static str, read: fn(&PublisherState) -> u64| {
            let state = state.clone();
            meter
                .u64_observable_gauge(name)
                .with_description(help)
                .with_callback(move |observer| observer.observe(read(&state), &[]))
                .build();
        };
        gauge("muster_publisher_active", "1 while this replica is the publisher.", |s| {
            s.publishing.load(Ordering::Relaxed)
        });
        gauge("muster_publisher_epoch", "Epoch of this replica's last term as publisher.", |s| {
            s.epoch.load(Ordering::Relaxed)
        });
        gauge("muster_publisher_revision", "Revision that this replica's last bookmark covered.", |s| {
            s.revision.load(Ordering::Relaxed)
        });
        let it = Self {
            clock,
            events: meter
                .u64_counter("muster_publisher_events_total")
                .with_description("Changes handed to the bus.")
                .build(),
            bookmarks: meter
                .u64_counter("muster_publisher_bookmarks_total")
                .with_description("Bookmarks sent.")
                .build(),
            lag: meter
                .f64_histogram("muster_publisher_lag_seconds")
                .with_description(
                    "From learning of a commit to handing it to the bus, of a batch's oldest change.",
                )
                .with_boundaries(LATENCY_SECONDS.to_vec())
                .build(),
            dispatched: meter
                .u64_counter("service_center_db_dispatch_event_total")
                .with_description("Changes of instances handed to the bus")
                .build(),
            durations: meter
                .f64_histogram("service_center_db_dispatch_event_durations_microseconds")
                .with_description("From hearing of a change of an instance to handing it to the bus")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
            of_instances: [
                KeyValue::new("instance", instance.to_owned()),
                KeyValue::new("prefix", "/cse-sr/inst/files/"),
            ],
            state,
        };
        it.events.add(0, &[]);
        it.bookmarks.add(0, &[]);
        it.dispatched.add(0, &it.of_instances);
        it
    }

    /// Reports how far the publishing replica is behind its view; a replica that stands by is not behind.
    pub fn observe_backlog(&self, meter: &Meter, view: &View) {
        let (state, view) = (self.state.clone(), view.clone());
        meter
            .u64_observable_gauge("muster_publisher_backlog_revisions")
            .with_description(
                "Revisions that the publisher's view has and that it has not handed to the bus.",
            )
            .with_callback(move |observer| {
                let publishing = state.publishing.load(Ordering::Relaxed) == 1;
                let reached = view.now().map_or(0, |snapshot| snapshot.revision);
                let behind = reached.saturating_sub(state.cursor.load(Ordering::Relaxed));
                observer.observe(if publishing { behind } else { 0 }, &[]);
            })
            .build();
    }

    /// Everything up to `revision` has been handed to the bus.
    pub(crate) fn reached(&self, revision: Revision) {
        self.state.cursor.store(revision, Ordering::Relaxed);
    }

    /// Unix microseconds, by the clock that events carry.
    pub(crate) fn now(&self) -> u64 {
        self.clock.micros()
    }

    pub(crate) fn takes_over(&self, epoch: Revision) {
        self.state.publishing.store(1, Ordering::Relaxed);
        self.state.epoch.store(epoch, Ordering::Relaxed);
    }

    pub(crate) fn stands_by(&self) {
        self.state.publishing.store(0, Ordering::Relaxed);
    }

    /// A batch was handed to the bus.
    pub(crate) fn published(&self, changes: &[Change]) {
        let Some(oldest) = changes.first().map(Change::committed_at) else { return };
        let micros = self.clock.micros().saturating_sub(oldest) as f64;
        self.events.add(changes.len() as u64, &[]);
        self.lag.record(micros / 1e6, &[]);
        let of_instances = changes.iter().filter(|it| matches!(it, Change::Instance(_))).count() as u64;
        if of_instances > 0 {
            self.dispatched.add(of_instances, &self.of_instances);
            self.durations.record(micros, &self.of_instances);
        }
    }

    pub(crate) fn bookmarked(&self, revision: Revision) {
        self.bookmarks.add(1, &[]);
        self.state.revision.store(revision, Ordering::Relaxed);
    }
}
