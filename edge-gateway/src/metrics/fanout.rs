//! Instruments of the shards.

use host::telemetry::metrics::{LATENCY_MICROSECONDS, LATENCY_SECONDS};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use super::Skew;
use crate::close::Reason;

/// The instruments of the shards.
#[derive(Clone, Debug)]
pub(crate) struct FanoutMetrics {
    published: Counter<u64>,
    publish_micros: Histogram<f64>,
    lag: Histogram<f64>,
    write_lag: Histogram<f64>,
    queue_micros: Histogram<f64>,
    health: Counter<u64>,
    skew: Skew,
    pending: UpDownCounter<i64>,
    merged: Counter<u64>,
    slow: Counter<u64>,
    merging: Counter<u64>,
    open: UpDownCounter<i64>,
    closed: Counter<u64>,
    success: Vec<KeyValue>,
    failure: Vec<KeyValue>,
    waiting: Vec<KeyValue>,
}

impl FanoutMetrics {
    pub(super) fn new(meter: &Meter, instance: &KeyValue, skew: Skew) -> Self {
        let source = KeyValue::new("source", "INSTANCE");
        let with = |status| vec![instance.clone(), source.clone(), KeyValue::new("status", status)];
        let metrics = Self {
            published: meter
                .u64_counter("service_center_notify_publish_total")
                .with_description("Counter of publishing instance events")
                .build(),
            publish_micros: meter
                .f64_histogram("service_center_notify_publish_durations_microseconds")
                .with_description("Latency of publishing instance events")
                .with_boundaries(LATENCY_MICROSECONDS.into())
                .build(),
            lag: meter
                .f64_histogram("muster_edge_event_lag_seconds")
                .with_description(
                    "Time from the commit of a change to its write, for the newest change of each chunk of sessions",
                )
                .with_boundaries(LATENCY_SECONDS.into())
                .build(),
            write_lag: meter
                .f64_histogram("muster_edge_write_lag_seconds")
                .with_description(
                    "Time from the bus to the write, for the newest change of each chunk of sessions",
                )
                .with_boundaries(LATENCY_SECONDS.into())
                .build(),
            queue_micros: meter
                .f64_histogram("service_center_notify_pending_durations_microseconds")
                .with_description("Latency of pending instance events")
                .with_boundaries(LATENCY_MICROSECONDS.into())
                .build(),
            health: meter
                .u64_counter("muster_edge_health_checks_total")
                .with_description("Checks of watchers: asked (a ping was sent), answered (a pong came), given_up (nothing came)")
                .build(),
            skew,
            pending: meter
                .i64_up_down_counter("service_center_notify_pending_total")
                .with_description("Gauge of pending instance events")
                .build(),
            merged: meter
                .u64_counter("muster_edge_events_merged_total")
                .with_description(
                    "Events of slow watchers that were merged into a later one of the same instance",
                )
                .build(),
            slow: meter
                .u64_counter("muster_edge_slow_watchers_total")
                .with_description("Times that a watcher did not take all that was pending at once")
                .build(),
            merging: meter
                .u64_counter("muster_edge_merging_watchers_total")
                .with_description(
                    "Times that a watcher was so far behind that its events were merged per instance",
                )
                .build(),
            open: meter
                .i64_up_down_counter("muster_edge_sessions")
                .with_description("Sessions in the shards, including those that are being upgraded")
                .build(),
            closed: meter
                .u64_counter("muster_edge_sessions_closed_total")
                .with_description("Sessions ended, by reason")
                .build(),
            // Made once, because these labels go with every report of every shard.
            success: with("SUCCESS"),
            failure: with("FAILURE"),
            waiting: vec![instance.clone(), source.clone()],
        };
        // Every series begins at zero: a rate cannot count the event that creates its series.
        metrics.tally(Tallied::default());
        metrics.open.add(0, &[]);
        metrics.slow.add(0, &[]);
        metrics.merging.add(0, &[]);
        for reason in Reason::ALL {
            metrics.closed.add(0, &[KeyValue::new("reason", reason.label())]);
        }
        metrics
    }

    /// Adds a shard's counts since its last report.
    pub(crate) fn tally(&self, tallied: Tallied) {
        self.published.add(tallied.delivered, &self.success);
        self.published.add(tallied.failed, &self.failure);
        self.merged.add(tallied.merged, &[]);
        self.pending.add(tallied.pending, &self.waiting);
        let checks =
            [("asked", tallied.pings), ("answered", tallied.pongs), ("given_up", tallied.read_timeouts)];
        for (outcome, count) in checks {
            self.health.add(count, &[KeyValue::new("outcome", outcome)]);
        }
    }

    /// Records the age of a push when it was written. All times are unix microseconds; a push without a time
    /// of commit is a difference, whose age nobody knows, and is not recorded.
    pub(crate) fn lag(&self, committed_at: u64, received_at: u64, now: u64) {
        if committed_at == 0 {
            return;
        }
        let micros = self.skew.between(committed_at, now) as f64;
        self.publish_micros.record(micros, &self.success);
        self.lag.record(micros / 1e6, &[]);
        if received_at > 0 {
            self.write_lag.record(now.saturating_sub(received_at) as f64 / 1e6, &[]);
        }
    }

    /// Records the age of a push when it reached a shard. Both times are unix microseconds.
    pub(crate) fn queued(&self, committed_at: u64, now: u64) {
        if committed_at > 0 {
            self.queue_micros.record(self.skew.between(committed_at, now) as f64, &self.waiting);
        }
    }

    /// A session was reserved.
    pub(crate) fn opened(&self) {
        self.open.add(1, &[]);
    }

    /// A session ended.
    pub(crate) fn closed(&self, reason: Reason) {
        self.open.add(-1, &[]);
        self.closed.add(1, &[KeyValue::new("reason", reason.label())]);
    }

    /// A watcher did not take all that was pending.
    pub(crate) fn became_slow(&self) {
        self.slow.add(1, &[]);
    }

    /// A watcher was so far behind that its pushes are merged.
    pub(crate) fn began_merging(&self) {
        self.merging.add(1, &[]);
    }
}

/// A shard's counts since its last report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tallied {
    /// Pushes that were written.
    pub delivered: u64,
    /// Pushes that were pending when their session ended.
    pub failed: u64,
    /// Pushes that were merged into others.
    pub merged: u64,
    /// The change in the number of pending pushes.
    pub pending: i64,
    /// Pings sent.
    pub pings: u64,
    /// Pongs received.
    pub pongs: u64,
    /// Sessions that ended because their clients sent nothing for too long.
    pub read_timeouts: u64,
}
