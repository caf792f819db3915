//! Instruments of admission, of watchers, and of heartbeats over WebSockets.

use std::collections::HashSet;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, UpDownCounter};
use parking_lot::Mutex;

use crate::rates::Party;
use crate::watch::Full;

/// Domains that have a label of their own; further ones are counted as `other`.
const MAX_DOMAINS: usize = 100;

/// The reasons for which plain watches are turned away.
const TURNED_AWAY: [&str; 4] = ["draining", "unreachable", "full", "undecided"];

/// The instruments of admission, watchers and heartbeats.
#[derive(Clone, Debug)]
pub(crate) struct SessionMetrics {
    subscribers: UpDownCounter<i64>,
    refused: Counter<u64>,
    handshakes: Counter<u64>,
    turned_away: Counter<u64>,
    too_fast: Counter<u64>,
    heartbeat_sessions: UpDownCounter<i64>,
    heartbeats: Counter<u64>,
    heartbeat_requests: Counter<u64>,
    instance: KeyValue,
    /// The domains that have a label of their own.
    domains: Arc<Mutex<HashSet<String>>>,
}

impl SessionMetrics {
    pub(super) fn new(meter: &Meter, instance: &KeyValue) -> Self {
        let metrics = Self {
            subscribers: meter
                .i64_up_down_counter("service_center_notify_subscriber_total")
                .with_description("Gauge of subscribers")
                .build(),
            refused: meter
                .u64_counter("muster_edge_sessions_refused_total")
                .with_description("Watches refused before the upgrade, by the limit that was reached")
                .build(),
            handshakes: meter
                .u64_counter("muster_edge_handshakes_failed_total")
                .with_description("Requests for a WebSocket whose handshake was incomplete or wrong")
                .build(),
            turned_away: meter
                .u64_counter("muster_edge_watches_turned_away_total")
                .with_description(
                    "Plain watches that could not be served and were upgraded and ended at once, by reason",
                )
                .build(),
            too_fast: meter
                .u64_counter("muster_edge_rate_limited_total")
                .with_description(
                    "Requests and watches refused because their client sends too many, by party",
                )
                .build(),
            heartbeat_sessions: meter
                .i64_up_down_counter("muster_edge_heartbeat_sessions")
                .with_description("Connections that carry heartbeats")
                .build(),
            heartbeats: meter
                .u64_counter("muster_edge_heartbeats_total")
                .with_description("Heartbeats of WebSocket connections, by outcome")
                .build(),
            heartbeat_requests: meter
                .u64_counter("muster_edge_heartbeat_requests_total")
                .with_description("Requests that carried heartbeats of WebSocket connections, many in one")
                .build(),
            instance: instance.clone(),
            domains: Arc::default(),
        };
        metrics.heartbeat_sessions.add(0, &[]);
        metrics.heartbeat_requests.add(0, &[]);
        for outcome in ["ok", "no_instance", "failed"] {
            metrics.heartbeats.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        for full in Full::ALL {
            metrics.refused.add(0, &[KeyValue::new("limit", full.label())]);
        }
        metrics.handshakes.add(0, &[]);
        for party in Party::ALL {
            metrics.too_fast.add(0, &[KeyValue::new("party", party.as_str())]);
        }
        for reason in TURNED_AWAY {
            metrics.turned_away.add(0, &[KeyValue::new("reason", reason)]);
        }
        metrics
    }

    /// A request was refused, because a party sends too many.
    pub(crate) fn too_fast(&self, party: &'static str) {
        self.too_fast.add(1, &[KeyValue::new("party", party)]);
    }

    /// Instruments that nobody reads.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build();
        let meter = opentelemetry::metrics::MeterProvider::meter(&provider, "none");
        Self::new(&meter, &KeyValue::new("instance", ""))
    }

    fn labels(&self, domain: &str, scheme: &'static str) -> [KeyValue; 3] {
        let mut labelled = self.domains.lock();
        // A domain keeps its label for ever: its closing must be counted where its opening was.
        if labelled.len() < MAX_DOMAINS && !labelled.contains(domain) {
            labelled.insert(domain.to_owned());
        }
        let label = if labelled.contains(domain) { domain } else { "other" };
        let domain = KeyValue::new("domain", label.to_owned());
        [self.instance.clone(), domain, KeyValue::new("scheme", scheme)]
    }

    /// A watcher was admitted.
    pub(crate) fn opened(&self, domain: &str, scheme: &'static str) {
        self.subscribers.add(1, &self.labels(domain, scheme));
    }

    /// An admitted watcher has gone.
    pub(crate) fn closed(&self, domain: &str, scheme: &'static str) {
        self.subscribers.add(-1, &self.labels(domain, scheme));
    }

    /// A watcher was refused because of a limit.
    pub(crate) fn refused(&self, full: Full) {
        self.refused.add(1, &[KeyValue::new("limit", full.label())]);
    }

    /// A connection for heartbeats opened (1) or closed (-1).
    pub(crate) fn heartbeat_session(&self, change: i64) {
        self.heartbeat_sessions.add(change, &[]);
    }

    /// A heartbeat ended with `ok`, `no_instance` or `failed`.
    pub(crate) fn heartbeat(&self, outcome: &'static str) {
        self.heartbeats.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// A request was sent, with one heartbeat or with many.
    pub(crate) fn heartbeats_sent(&self) {
        self.heartbeat_requests.add(1, &[]);
    }

    /// A plain watch was upgraded and ended at once, for one of the reasons in [`TURNED_AWAY`].
    pub(crate) fn turned_away(&self, reason: &'static str) {
        self.turned_away.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// A handshake was incomplete or wrong.
    pub(crate) fn bad_handshake(&self) {
        self.handshakes.add(1, &[]);
    }
}
