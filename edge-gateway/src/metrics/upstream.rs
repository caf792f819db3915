//! Instruments of what comes from the bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::telemetry::metrics::LATENCY_SECONDS;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use super::Skew;
use crate::watch::Cause;

/// Of the bus's side.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamMetrics {
    events: Counter<u64>,
    malformed: Counter<u64>,
    resyncs: Counter<u64>,
    retries: Counter<u64>,
    repaired: Counter<u64>,
    topics: Gauge<u64>,
    groups: Gauge<u64>,
    depth: Gauge<u64>,
    revision: Gauge<u64>,
    bus_lag: Histogram<f64>,
    skew: Skew,
    clock: Arc<ClockState>,
}

/// What is read when it is scraped.
#[derive(Debug)]
struct ClockState {
    began: Instant,
    /// When the publisher was last heard of, in microseconds since `began`.
    heard: AtomicU64,
    /// The shortest way of a bookmark, by both clocks, in microseconds.
    offset: AtomicI64,
}

impl UpstreamMetrics {
    pub(super) fn new(meter: &Meter, skew: Skew) -> Self {
        let clock = Arc::new(ClockState {
            began: Instant::now(),
            heard: AtomicU64::new(0),
            offset: AtomicI64::new(0),
        });
        observe_clock(meter, &clock);
        let it = Self {
            events: meter
                .u64_counter("muster_edge_events_total")
                .with_description("Events of the bus, by what was made of them")
                .build(),
            malformed: meter
                .u64_counter("muster_edge_messages_malformed_total")
                .with_description("Messages of the bus that could not be understood")
                .build(),
            resyncs: meter
                .u64_counter("muster_edge_resyncs_total")
                .with_description("Providers asked for again, by cause")
                .build(),
            retries: meter
                .u64_counter("muster_edge_requests_repeated_total")
                .with_description("Requests to the control plane that failed and were made again")
                .build(),
            repaired: meter
                .u64_counter("muster_edge_differences_total")
                .with_description("Differences that were found by comparing states, not told by an event")
                .build(),
            topics: meter.u64_gauge("muster_edge_topics").with_description("Providers with interest").build(),
            groups: meter
                .u64_gauge("muster_edge_groups")
                .with_description("Groups of watchers that watch the same, by what they watch by")
                .build(),
            depth: meter
                .u64_gauge("muster_edge_shard_queue_depth")
                .with_description("Messages that wait for the fullest shard")
                .build(),
            revision: meter
                .u64_gauge("muster_edge_revision")
                .with_description("The highest revision pushed")
                .build(),
            bus_lag: meter
                .f64_histogram("muster_edge_bus_lag_seconds")
                .with_description(
                    "From handing an event to the bus to taking it there, the oldest of each batch",
                )
                .with_boundaries(LATENCY_SECONDS.into())
                .build(),
            skew,
            clock,
        };
        for cause in Cause::ALL {
            it.resyncs.add(0, &[KeyValue::new("cause", cause.label())]);
        }
        for fate in ["applied", "duplicate", "gap", "unwatched"] {
            it.event(fate, 0);
        }
        it.malformed.add(0, &[]);
        it.retries.add(0, &[]);
        it.repaired.add(0, &[]);
        it
    }

    /// Events came and were `applied`, a `duplicate`, beyond a `gap`, or `unwatched`.
    pub(crate) fn event(&self, fate: &'static str, count: u64) {
        self.events.add(count, &[KeyValue::new("fate", fate)]);
    }

    /// A message made no sense.
    pub(crate) fn malformed(&self) {
        self.malformed.add(1, &[]);
    }

    /// Providers are asked for again.
    pub(crate) fn resync(&self, cause: Cause, topics: u64) {
        self.resyncs.add(topics, &[KeyValue::new("cause", cause.label())]);
    }

    /// A request failed and will be made again.
    pub(crate) fn retry(&self) {
        self.retries.add(1, &[]);
    }

    /// States were compared and differed in so many instances.
    pub(crate) fn repaired(&self, differences: u64) {
        self.repaired.add(differences, &[]);
    }

    /// How things stand.
    pub(crate) fn stand(
        &self,
        topics: usize,
        groups: impl IntoIterator<Item = (&'static str, u64)>,
        depth: usize,
        revision: u64,
    ) {
        self.topics.record(topics as u64, &[]);
        for (kind, count) in groups {
            self.groups.record(count, &[KeyValue::new("selector", kind)]);
        }
        self.depth.record(depth as u64, &[]);
        self.revision.record(revision, &[]);
    }

    /// The publisher was heard of.
    pub(crate) fn heard(&self, at: Instant) {
        let since = at.saturating_duration_since(self.clock.began);
        self.clock.heard.store(since.as_micros() as u64, Ordering::Relaxed);
    }

    /// The shortest way of a bookmark lately, by the clocks of both ends, in microseconds; negative when the
    /// publisher's clock is ahead by more than the way takes.
    pub(crate) fn clock_offset(&self, shortest: i64) {
        self.clock.offset.store(shortest, Ordering::Relaxed);
        self.skew.set(u64::try_from(-shortest.min(0)).unwrap_or(0));
    }

    /// A batch was taken from the bus, whose oldest event was handed to it then; both in unix microseconds.
    pub(crate) fn took(&self, published_at: u64, now: u64) {
        if published_at > 0 {
            self.bus_lag.record(self.skew.between(published_at, now) as f64 / 1e6, &[]);
        }
    }
}

fn observe_clock(meter: &Meter, clock: &Arc<ClockState>) {
    let of = clock.clone();
    meter
        .f64_observable_gauge("muster_edge_staleness_seconds")
        .with_description("Since the last word of the publisher, or since the start")
        .with_callback(move |it| {
            let heard = Duration::from_micros(of.heard.load(Ordering::Relaxed));
            it.observe(of.began.elapsed().saturating_sub(heard).as_secs_f64(), &[]);
        })
        .build();
    let of = clock.clone();
    meter
        .f64_observable_gauge("muster_edge_clock_offset_seconds")
        .with_description("The shortest way of a bookmark lately, by both clocks: what is negative is skew")
        .with_callback(move |it| it.observe(of.offset.load(Ordering::Relaxed) as f64 / 1e6, &[]))
        .build();
}
