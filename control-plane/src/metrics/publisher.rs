//! Instruments of the publisher.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use host::telemetry::metrics::{LATENCY_MICROSECONDS, LATENCY_SECONDS};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use shared::clock::Clock;
use shared::model::Revision;

/// The label of an event that was sent without the parts that made it too large.
const SENT_SHORTENED: &str = "shortened";
/// The label of a change that was not sent.
const SENT_NOTHING: &str = "nothing";

/// Instruments of the publisher. Cheap to clone.
#[derive(Clone)]
pub struct PublisherMetrics {
    clock: Clock,
    events: Counter<u64>,
    bookmarks: Counter<u64>,
    lag: Histogram<f64>,
    dispatched: Counter<u64>,
    durations: Histogram<f64>,
    of_instances: [KeyValue; 2],
    oversized: Counter<u64>,
    stand_ins: Counter<u64>,
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
    /// Makes the instruments; `instance` is the address that labels this node.
    pub fn new(meter: &Meter, clock: Clock, instance: &str) -> Self {
        let state = Arc::new(PublisherState::default());
        gauge(meter, &state, "muster_publisher_active", "1 while this replica is the publisher.", |s| {
            &s.publishing
        });
        gauge(
            meter,
            &state,
            "muster_publisher_epoch",
            "Epoch of this replica's last term as publisher.",
            |s| &s.epoch,
        );
        gauge(
            meter,
            &state,
            "muster_publisher_revision",
            "Revision that this replica's last bookmark covered.",
            |s| &s.revision,
        );
        let metrics = Self {
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
                    "From receiving a commit to handing it to the bus, for the oldest change of a batch.",
                )
                .with_boundaries(LATENCY_SECONDS.to_vec())
                .build(),
            dispatched: meter
                .u64_counter("service_center_db_dispatch_event_total")
                .with_description("Changes of instances handed to the bus")
                .build(),
            durations: meter
                .f64_histogram("service_center_db_dispatch_event_durations_microseconds")
                .with_description("From receiving a change of an instance to handing it to the bus")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
            of_instances: [
                KeyValue::new("instance", instance.to_owned()),
                KeyValue::new("prefix", "/cse-sr/inst/files/"),
            ],
            oversized: meter
                .u64_counter("muster_publisher_oversized_total")
                .with_description(
                    "Changes that are too large for the bus, by the part of them that was sent.",
                )
                .build(),
            stand_ins: meter
                .u64_counter("muster_publisher_stand_ins_total")
                .with_description("Times that this replica published because the publisher was silent.")
                .build(),
            state,
        };
        metrics.stand_ins.add(0, &[]);
        metrics.events.add(0, &[]);
        metrics.bookmarks.add(0, &[]);
        metrics.dispatched.add(0, &metrics.of_instances);
        for sent in [SENT_SHORTENED, SENT_NOTHING] {
            metrics.oversized.add(0, &[KeyValue::new("sent", sent)]);
        }
        metrics
    }

    /// Registers the gauge of the publisher's backlog: the revisions between `view_revision` and the cursor.
    pub fn observe_backlog(
        &self,
        meter: &Meter,
        view_revision: impl Fn() -> Revision + Send + Sync + 'static,
    ) {
        let state = self.state.clone();
        meter
            .u64_observable_gauge("muster_publisher_backlog_revisions")
            .with_description("Revisions in the publisher's view that have not been handed to the bus yet.")
            .with_callback(move |observer| {
                // Relaxed, here and below: each figure stands alone, and nothing is read because of another.
                let is_publishing = state.publishing.load(Ordering::Relaxed) == 1;
                let behind = view_revision().get().saturating_sub(state.cursor.load(Ordering::Relaxed));
                // The cursor of a replica that stands by does not move, so its distance means nothing.
                observer.observe(if is_publishing { behind } else { 0 }, &[]);
            })
            .build();
    }

    /// Notes that everything up to `revision` has been handed to the bus.
    pub(crate) fn reached(&self, revision: Revision) {
        self.state.cursor.store(revision.get(), Ordering::Relaxed);
    }

    /// Unix microseconds, by the clock that events carry.
    pub(crate) fn now(&self) -> u64 {
        self.clock.micros()
    }

    pub(crate) fn takes_over(&self, epoch: Revision) {
        self.state.publishing.store(1, Ordering::Relaxed);
        self.state.epoch.store(epoch.get(), Ordering::Relaxed);
    }

    pub(crate) fn stands_by(&self) {
        self.state.publishing.store(0, Ordering::Relaxed);
    }

    pub(crate) fn stands_in(&self) {
        self.stand_ins.add(1, &[]);
    }

    /// Counts a batch that was handed to the bus.
    pub(crate) fn published(&self, batch: PublishedBatch) {
        let micros = self.clock.micros().saturating_sub(batch.oldest_committed_at) as f64;
        self.events.add(batch.changes, &[]);
        self.lag.record(micros / 1e6, &[]);
        if batch.of_instances > 0 {
            self.dispatched.add(batch.of_instances, &self.of_instances);
            self.durations.record(micros, &self.of_instances);
        }
    }

    /// Counts a change that the bus cannot carry whole.
    pub(crate) fn omitted(&self, shortened: bool) {
        let sent = if shortened { SENT_SHORTENED } else { SENT_NOTHING };
        self.oversized.add(1, &[KeyValue::new("sent", sent)]);
    }

    pub(crate) fn bookmarked(&self, revision: Revision) {
        self.bookmarks.add(1, &[]);
        self.state.revision.store(revision.get(), Ordering::Relaxed);
    }
}

/// A batch of changes that was handed to the bus. It has at least one change.
pub(crate) struct PublishedBatch {
    /// The number of changes.
    pub changes: u64,
    /// The number of those that concern an instance.
    pub of_instances: u64,
    /// When this replica received the first change, in unix microseconds.
    pub oldest_committed_at: u64,
}

fn gauge(
    meter: &Meter,
    state: &Arc<PublisherState>,
    name: &'static str,
    help: &'static str,
    read: fn(&PublisherState) -> &AtomicU64,
) {
    let state = state.clone();
    meter
        .u64_observable_gauge(name)
        .with_description(help)
        .with_callback(move |observer| observer.observe(read(&state).load(Ordering::Relaxed), &[]))
        .build();
}
