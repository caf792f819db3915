//! Instruments of the upstream: the bus, the control plane's answers, the publisher's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use follow::tracker::Fates;
use host::telemetry::metrics::LATENCY_SECONDS;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use super::Skew;
use crate::watch::Cause;

/// The instruments of the upstream.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamMetrics {
    events: Counter<u64>,
    malformed: Counter<u64>,
    resyncs: Counter<u64>,
    retries: Counter<u64>,
    hedged: Counter<u64>,
    repaired: Counter<u64>,
    topics: Gauge<u64>,
    held: Gauge<u64>,
    held_tenants: Gauge<u64>,
    held_bytes: Gauge<u64>,
    groups: Gauge<u64>,
    names: Gauge<u64>,
    depth: Gauge<u64>,
    revision: Gauge<u64>,
    bus_lag: Histogram<f64>,
    skew: Skew,
    clock: Arc<ClockState>,
}

/// The values that gauges read when they are scraped.
#[derive(Debug)]
struct ClockState {
    began: Instant,
    /// The arrival of the publisher's last message, in microseconds since `began`.
    heard: AtomicU64,
    /// The shortest travel time of a bookmark, from the publisher's clock to ours, in microseconds.
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
        let metrics = Self {
            events: meter
                .u64_counter("muster_edge_events_total")
                .with_description("Events from the bus: applied, duplicate, gap (something before them is missing), or unwatched")
                .build(),
            malformed: meter
                .u64_counter("muster_edge_messages_malformed_total")
                .with_description("Messages from the bus that could not be decoded")
                .build(),
            resyncs: meter
                .u64_counter("muster_edge_resyncs_total")
                .with_description("Providers whose state was requested again, by cause")
                .build(),
            retries: meter
                .u64_counter("muster_edge_requests_repeated_total")
                .with_description("Requests to the control plane that failed and were repeated")
                .build(),
            hedged: meter
                .u64_counter("muster_edge_requests_hedged_total")
                .with_description("Requests that one control plane did not answer soon, so that all of them were asked")
                .build(),
            repaired: meter
                .u64_counter("muster_edge_differences_total")
                .with_description("Changes that were found by comparing states and not received as events")
                .build(),
            held: meter
                .u64_gauge("muster_edge_finds_consumers")
                .with_description("Consumers that the gateway follows for their finds")
                .build(),
            held_tenants: meter
                .u64_gauge("muster_edge_held_tenants")
                .with_description("Domains and projects that are followed as a whole for other dialects")
                .build(),
            held_bytes: meter
                .u64_gauge("muster_edge_finds_bytes")
                .with_description("Memory for consumers that are followed for their finds, and their providers, about")
                .build(),
            topics: meter.u64_gauge("muster_edge_topics").with_description("Providers that the gateway follows for its watchers").build(),
            groups: meter
                .u64_gauge("muster_edge_groups")
                .with_description("Groups of watchers with the same selector, by kind of selector")
                .build(),
            names: meter
                .u64_gauge("muster_edge_names")
                .with_description("Names of services and selections that the gateway's watches hold, registered or not")
                .build(),
            depth: meter
                .u64_gauge("muster_edge_shard_queue_depth")
                .with_description("Messages that wait for the shard with the longest queue")
                .build(),
            revision: meter
                .u64_gauge("muster_edge_revision")
                .with_description("The highest revision pushed")
                .build(),
            bus_lag: meter
                .f64_histogram("muster_edge_bus_lag_seconds")
                .with_description(
                    "Time that events spent on the bus, for the oldest event of each batch",
                )
                .with_boundaries(LATENCY_SECONDS.into())
                .build(),
            skew,
            clock,
        };
        for cause in Cause::ALL {
            metrics.resyncs.add(0, &[KeyValue::new("cause", cause.label())]);
        }
        for fate in ["applied", "duplicate", "gap", "unwatched"] {
            metrics.events.add(0, &[KeyValue::new("fate", fate)]);
        }
        metrics.malformed.add(0, &[]);
        metrics.retries.add(0, &[]);
        metrics.hedged.add(0, &[]);
        metrics.repaired.add(0, &[]);
        metrics
    }

    /// Instruments that nobody reads.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let provider = opentelemetry_sdk::metrics::SdkMeterProvider::default();
        let meter = opentelemetry::metrics::MeterProvider::meter(&provider, "test");
        super::Metrics::new(&meter, "test").upstream
    }

    /// A batch of events was taken from the bus.
    pub(crate) fn events(&self, fates: Fates) {
        // A count of zero is skipped below: adding looks the series up, and most batches have a single fate.
        let counts = [
            ("applied", fates.applied),
            ("duplicate", fates.duplicate),
            ("gap", fates.gap),
            ("unwatched", fates.unwatched),
        ];
        for (fate, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            self.events.add(count, &[KeyValue::new("fate", fate)]);
        }
    }

    /// A message could not be decoded.
    pub(crate) fn malformed(&self) {
        self.malformed.add(1, &[]);
    }

    /// The state of providers is requested again.
    pub(crate) fn resync(&self, cause: Cause, topics: u64) {
        self.resyncs.add(topics, &[KeyValue::new("cause", cause.label())]);
    }

    /// A request failed and will be repeated.
    pub(crate) fn retry(&self) {
        self.retries.add(1, &[]);
    }

    /// A request was sent to all control planes.
    pub(crate) fn hedged(&self) {
        self.hedged.add(1, &[]);
    }

    /// A comparison of states showed differences.
    pub(crate) fn repaired(&self, differences: u64) {
        self.repaired.add(differences, &[]);
    }

    /// Records the current size of the upstream.
    pub(crate) fn stand(
        &self,
        topics: usize,
        groups: impl IntoIterator<Item = (&'static str, u64)>,
        names: usize,
        depth: usize,
        revision: u64,
    ) {
        self.topics.record(topics as u64, &[]);
        for (kind, count) in groups {
            self.groups.record(count, &[KeyValue::new("selector", kind)]);
        }
        self.names.record(names as u64, &[]);
        self.depth.record(depth as u64, &[]);
        self.revision.record(revision, &[]);
    }

    /// Records the consumers that are followed for their finds, the tenants that are followed as a whole, and
    /// their memory.
    pub(crate) fn holds(&self, consumers: usize, tenants: usize, bytes: usize) {
        self.held.record(consumers as u64, &[]);
        self.held_tenants.record(tenants as u64, &[]);
        self.held_bytes.record(bytes as u64, &[]);
    }

    /// A message of the publisher arrived.
    pub(crate) fn heard(&self, at: Instant) {
        let since = at.saturating_duration_since(self.clock.began);
        self.clock.heard.store(since.as_micros() as u64, Ordering::Relaxed);
    }

    /// Sets the shortest recent travel time of a bookmark, by the clocks of both ends, in microseconds. It is
    /// negative when the publisher's clock is ahead by more than the bookmark travelled.
    pub(crate) fn clock_offset(&self, shortest: i64) {
        self.clock.offset.store(shortest, Ordering::Relaxed);
        self.skew.set(u64::try_from(-shortest.min(0)).unwrap_or(0));
    }

    /// A batch was taken from the bus, whose oldest event was published at `published_at`; both in unix
    /// microseconds.
    pub(crate) fn took(&self, published_at: u64, now: u64) {
        if published_at > 0 {
            self.bus_lag.record(self.skew.between(published_at, now) as f64 / 1e6, &[]);
        }
    }
}

fn observe_clock(meter: &Meter, clock: &Arc<ClockState>) {
    // Computed at the scrape: a value written on arrival would stand still just when the publisher is silent.
    let staleness = clock.clone();
    meter
        .f64_observable_gauge("muster_edge_staleness_seconds")
        .with_description("Time since the last message of the publisher, or since the start")
        .with_callback(move |gauge| {
            let heard = Duration::from_micros(staleness.heard.load(Ordering::Relaxed));
            gauge.observe(staleness.began.elapsed().saturating_sub(heard).as_secs_f64(), &[]);
        })
        .build();
    let offset = clock.clone();
    meter
        .f64_observable_gauge("muster_edge_clock_offset_seconds")
        .with_description("Shortest recent travel time of a bookmark by the clocks of both ends; a negative value is clock skew")
        .with_callback(move |gauge| gauge.observe(offset.offset.load(Ordering::Relaxed) as f64 / 1e6, &[]))
        .build();
}
