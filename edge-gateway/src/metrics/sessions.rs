//! Instruments of admission, of who watches, and of heartbeats.

use std::collections::HashSet;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, UpDownCounter};
use parking_lot::Mutex;

use crate::watch::Full;

/// Domains that have a label of their own; the rest is `other`.
const MAX_DOMAINS: usize = 100;

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
    pub(super) fn new(meter: &Meter, instance: &KeyValue) -> Self {
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
