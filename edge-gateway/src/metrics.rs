//! Every instrument of the gateway: one struct a room, handed in, counted per batch and not per frame.
//!
//! Service-Center's names are kept where its dashboards look for them; its summaries are histograms here.
//! Labels have few values: enums, and domains only up to a bound.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};
use parking_lot::Mutex;
use shared::telemetry::metrics::{LATENCY_MICROSECONDS, LATENCY_SECONDS};

use crate::limits::Full;
use crate::session::close::Reason;
use crate::upstream::Cause;

/// Domains that have a label of their own; the rest is `other`.
const MAX_DOMAINS: usize = 100;

/// All rooms.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub hub: HubMetrics,
    pub sessions: SessionMetrics,
    pub upstream: UpstreamMetrics,
}

impl Metrics {
    /// Every instrument, at zero. `instance` names this node, as Service-Center's metrics do.
    pub(crate) fn new(meter: &Meter, instance: &str) -> Self {
        let instance = KeyValue::new("instance", instance.to_owned());
        let skew = Skew::default();
        Self {
            hub: HubMetrics::new(meter, &instance, skew.clone()),
            sessions: SessionMetrics::new(meter, &instance),
            upstream: UpstreamMetrics::new(meter, skew),
        }
    }
}

/// How far the publisher's clock is ahead of ours at least, as its bookmarks show: nothing arrives before it was
/// sent. Times of both are compared by it. A clock that is behind cannot be told from a slow way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skew(Arc<AtomicU64>);

impl Skew {
    /// The publisher's clock is so many microseconds ahead.
    fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::Relaxed);
    }

    /// Microseconds from `then`, by the publisher's clock, to `now`, by ours.
    fn between(&self, then: u64, now: u64) -> u64 {
        now.saturating_add(self.0.load(Ordering::Relaxed)).saturating_sub(then)
    }
}

/// Of the shards.
#[derive(Clone, Debug)]
pub(crate) struct HubMetrics {
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

impl HubMetrics {
    fn new(meter: &Meter, instance: &KeyValue, skew: Skew) -> Self {
        let source = KeyValue::new("source", "INSTANCE");
        let with = |status| vec![instance.clone(), source.clone(), KeyValue::new("status", status)];
        let it = Self {
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
                    "From the commit of a change to its writing, the newest of each chunk of sessions",
                )
                .with_boundaries(LATENCY_SECONDS.into())
                .build(),
            write_lag: meter
                .f64_histogram("muster_edge_write_lag_seconds")
                .with_description(
                    "From taking an event from the bus to its writing, the newest of each chunk of sessions",
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
                .with_description("Checks of watchers: asked by a ping, answered, or given up")
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
                    "Times that a watcher was so far behind that its events are merged per instance",
                )
                .build(),
            open: meter
                .i64_up_down_counter("muster_edge_sessions")
                .with_description("Sessions in the shards, those being upgraded included")
                .build(),
            closed: meter
                .u64_counter("muster_edge_sessions_closed_total")
                .with_description("Sessions ended, by reason")
                .build(),
            success: with("SUCCESS"),
            failure: with("FAILURE"),
            waiting: vec![instance.clone(), source.clone()],
        };
        it.tally(Tallied::default());
        it.open.add(0, &[]);
        it.slow.add(0, &[]);
        it.merging.add(0, &[]);
        for reason in Reason::ALL {
            it.closed.add(0, &[KeyValue::new("reason", reason.label())]);
        }
        it
    }

    /// What a shard has done since it last told.
    pub(crate) fn tally(&self, it: Tallied) {
        self.published.add(it.delivered, &self.success);
        self.published.add(it.failed, &self.failure);
        self.merged.add(it.merged, &[]);
        self.pending.add(it.pending, &self.waiting);
        let checks = [("asked", it.asked), ("answered", it.answered), ("given_up", it.given_up)];
        for (outcome, count) in checks {
            self.health.add(count, &[KeyValue::new("outcome", outcome)]);
        }
    }

    /// An event was written; all in unix microseconds. Without a time of commit nothing is recorded.
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

    /// An event was queued for sessions; both in unix microseconds.
    pub(crate) fn queued(&self, committed_at: u64, now: u64) {
        if committed_at > 0 {
            self.queue_micros.record(self.skew.between(committed_at, now) as f64, &self.waiting);
        }
    }

    /// A session begins.
    pub(crate) fn opened(&self) {
        self.open.add(1, &[]);
    }

    /// A session ended.
    pub(crate) fn closed(&self, reason: Reason) {
        self.open.add(-1, &[]);
        self.closed.add(1, &[KeyValue::new("reason", reason.label())]);
    }

    /// A watcher blocks.
    pub(crate) fn became_slow(&self) {
        self.slow.add(1, &[]);
    }

    /// A watcher left the log.
    pub(crate) fn began_merging(&self) {
        self.merging.add(1, &[]);
    }
}

/// What a shard has done since it last told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tallied {
    /// Events that were written.
    pub delivered: u64,
    /// Events of sessions that ended before.
    pub failed: u64,
    /// Events that were merged into others.
    pub merged: u64,
    /// How much the number of events that wait has changed.
    pub pending: i64,
    /// Pings sent.
    pub asked: u64,
    /// Pongs that came.
    pub answered: u64,
    /// Sessions that said nothing for too long.
    pub given_up: u64,
}

/// Of admission and the count of watchers.
#[derive(Clone, Debug)]
pub(crate) struct SessionMetrics {
    subscribers: UpDownCounter<i64>,
    refused: Counter<u64>,
    handshakes: Counter<u64>,
    heartbeat_sessions: UpDownCounter<i64>,
    heartbeats: Counter<u64>,
    heartbeat_requests: Counter<u64>,
    instance: KeyValue,
    domains: Arc<Mutex<HashSet<String>>>,
}

impl SessionMetrics {
    fn new(meter: &Meter, instance: &KeyValue) -> Self {
        let it = Self {
            subscribers: meter
                .i64_up_down_counter("service_center_notify_subscriber_total")
                .with_description("Gauge of subscribers")
                .build(),
            refused: meter
                .u64_counter("muster_edge_sessions_refused_total")
                .with_description("Watches refused before the upgrade, by the limit they met")
                .build(),
            handshakes: meter
                .u64_counter("muster_edge_handshakes_failed_total")
                .with_description("Watches that asked in a wrong way")
                .build(),
            heartbeat_sessions: meter
                .i64_up_down_counter("muster_edge_heartbeat_sessions")
                .with_description("Connections that carry heartbeats")
                .build(),
            heartbeats: meter
                .u64_counter("muster_edge_heartbeats_total")
                .with_description("Heartbeats passed on for connections, by outcome")
                .build(),
            heartbeat_requests: meter
                .u64_counter("muster_edge_heartbeat_requests_total")
                .with_description("Requests in which heartbeats of connections were passed on, many in one")
                .build(),
            instance: instance.clone(),
            domains: Arc::default(),
        };
        it.heartbeat_sessions.add(0, &[]);
        it.heartbeat_requests.add(0, &[]);
        for outcome in ["ok", "no_instance", "failed"] {
            it.heartbeats.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        for full in Full::ALL {
            it.refused.add(0, &[KeyValue::new("limit", full.label())]);
        }
        it.handshakes.add(0, &[]);
        it
    }

    /// Instruments that nobody reads.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build();
        let meter = opentelemetry::metrics::MeterProvider::meter(&provider, "none");
        Self::new(&meter, &KeyValue::new("instance", ""))
    }

    fn labels(&self, domain: &str, scheme: &'static str) -> [KeyValue; 3] {
        let mut known = self.domains.lock();
        if known.len() < MAX_DOMAINS && !known.contains(domain) {
            known.insert(domain.to_owned());
        }
        let domain = if known.contains(domain) { domain } else { "other" };
        let domain = KeyValue::new("domain", domain.to_owned());
        [self.instance.clone(), domain, KeyValue::new("scheme", scheme)]
    }

    /// A watcher came.
    pub(crate) fn opened(&self, domain: &str, scheme: &'static str) {
        self.subscribers.add(1, &self.labels(domain, scheme));
    }

    /// A watcher left.
    pub(crate) fn closed(&self, domain: &str, scheme: &'static str) {
        self.subscribers.add(-1, &self.labels(domain, scheme));
    }

    /// A watcher met a limit.
    pub(crate) fn refused(&self, full: Full) {
        self.refused.add(1, &[KeyValue::new("limit", full.label())]);
    }

    /// A connection for heartbeats came (1) or left (-1).
    pub(crate) fn heartbeat_session(&self, change: i64) {
        self.heartbeat_sessions.add(change, &[]);
    }

    /// A heartbeat was passed on: `ok`, `no_instance` or `failed`.
    pub(crate) fn heartbeat(&self, outcome: &'static str) {
        self.heartbeats.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// One or many heartbeats were sent in a request.
    pub(crate) fn heartbeats_sent(&self) {
        self.heartbeat_requests.add(1, &[]);
    }

    /// A handshake was none.
    pub(crate) fn bad_handshake(&self) {
        self.handshakes.add(1, &[]);
    }
}

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
    fn new(meter: &Meter, skew: Skew) -> Self {
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
