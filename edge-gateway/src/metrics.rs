//! Every instrument of the gateway: one struct a room, handed in, counted per batch and not per frame.
//!
//! Service-Center's names are kept where its dashboards look for them; its summaries are histograms here.
//! Labels have few values: enums, and domains only up to a bound.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

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
        Self {
            hub: HubMetrics::new(meter, &instance),
            sessions: SessionMetrics::new(meter, &instance),
            upstream: UpstreamMetrics::new(meter),
        }
    }
}

/// Of the shards.
#[derive(Clone, Debug)]
pub(crate) struct HubMetrics {
    published: Counter<u64>,
    publish_micros: Histogram<f64>,
    lag: Histogram<f64>,
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
    fn new(meter: &Meter, instance: &KeyValue) -> Self {
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
        it.tally(0, 0, 0, 0);
        it.open.add(0, &[]);
        it.slow.add(0, &[]);
        it.merging.add(0, &[]);
        for reason in Reason::ALL {
            it.closed.add(0, &[KeyValue::new("reason", reason.label())]);
        }
        it
    }

    /// What a shard has done since it last told.
    pub(crate) fn tally(&self, delivered: u64, failed: u64, merged: u64, pending: i64) {
        self.published.add(delivered, &self.success);
        self.published.add(failed, &self.failure);
        self.merged.add(merged, &[]);
        self.pending.add(pending, &self.waiting);
    }

    /// An event was written; both in unix microseconds. Without a time of commit nothing is recorded.
    pub(crate) fn lag(&self, committed_at: u64, now: u64) {
        if committed_at == 0 {
            return;
        }
        let micros = now.saturating_sub(committed_at) as f64;
        self.publish_micros.record(micros, &self.success);
        self.lag.record(micros / 1e6, &[]);
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
        for full in [Full::Node, Full::Domain, Full::Consumer] {
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
    staleness: Gauge<f64>,
    revision: Gauge<u64>,
}

impl UpstreamMetrics {
    fn new(meter: &Meter) -> Self {
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
                .with_description("Consumers with open watches")
                .build(),
            depth: meter
                .u64_gauge("muster_edge_shard_queue_depth")
                .with_description("Messages that wait for the fullest shard")
                .build(),
            staleness: meter
                .f64_gauge("muster_edge_staleness_seconds")
                .with_description("Since the last word of the publisher, or the loss of the bus")
                .build(),
            revision: meter
                .u64_gauge("muster_edge_revision")
                .with_description("The highest revision pushed")
                .build(),
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
    pub(crate) fn stand(&self, topics: usize, groups: usize, depth: usize, revision: u64, stale: Duration) {
        self.topics.record(topics as u64, &[]);
        self.groups.record(groups as u64, &[]);
        self.depth.record(depth as u64, &[]);
        self.revision.record(revision, &[]);
        self.staleness.record(stale.as_secs_f64(), &[]);
    }
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
