//! Every instrument of this plane, one struct a room.
//!
//! Old names (`service_center_…`) keep their labels, so that existing dashboards work; ours start with
//! `muster_`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use parking_lot::Mutex;
use shared::clock::Clock;
use shared::model::Revision;
use shared::telemetry::metrics::{LATENCY_MICROSECONDS, LATENCY_SECONDS};

use crate::view::View;

/// Figures of the publisher.
#[derive(Clone)]
pub struct PublisherMetrics {
    clock: Clock,
    events: Counter<u64>,
    bookmarks: Counter<u64>,
    lag: Histogram<f64>,
    state: Arc<PublisherState>,
}

#[derive(Default)]
struct PublisherState {
    publishing: AtomicU64,
    epoch: AtomicU64,
    revision: AtomicU64,
}

impl PublisherMetrics {
    /// Makes the instruments. Gauges are read when they are scraped.
    pub fn new(meter: &Meter, clock: Clock) -> Self {
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
        Self {
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
            state,
        }
    }

    pub(crate) fn takes_over(&self, epoch: Revision) {
        self.state.publishing.store(1, Ordering::Relaxed);
        self.state.epoch.store(epoch, Ordering::Relaxed);
    }

    pub(crate) fn stands_by(&self) {
        self.state.publishing.store(0, Ordering::Relaxed);
    }

    pub(crate) fn published(&self, events: u64, oldest_micros: u64) {
        self.events.add(events, &[]);
        self.lag.record(self.clock.micros().saturating_sub(oldest_micros) as f64 / 1e6, &[]);
    }

    pub(crate) fn bookmarked(&self, revision: Revision) {
        self.bookmarks.add(1, &[]);
        self.state.revision.store(revision, Ordering::Relaxed);
    }
}

/// Figures of the view, read when they are scraped.
pub fn observe_view(meter: &Meter, view: &View, instance: &str) {
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
    let skipped = view.clone();
    meter
        .u64_observable_counter("muster_view_skipped_values_total")
        .with_description("Stored values that could not be read and were passed over.")
        .with_callback(move |observer| observer.observe(skipped.skipped(), &[]))
        .build();
    observe_totals(meter, view, instance);
}

/// The old totals, by tenant.
fn observe_totals(meter: &Meter, view: &View, instance: &str) {
    let labels = |instance: &str, domain: &str, project: &str| {
        [
            KeyValue::new("instance", instance.to_owned()),
            KeyValue::new("domain", domain.to_owned()),
            KeyValue::new("project", project.to_owned()),
        ]
    };
    for (name, help, read) in [
        (
            "service_center_db_service_total",
            "Services of a tenant.",
            (|tenant| tenant.service_count) as fn(&crate::view::TenantView) -> usize,
        ),
        ("service_center_db_instance_total", "Instances of a tenant.", |tenant| tenant.instance_count),
    ] {
        let (view, instance) = (view.clone(), instance.to_owned());
        let observe = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            let Ok(snapshot) = view.now() else { return };
            // Tenants are made by clients: past a bound they are told in one sum.
            let mut rest = 0;
            for (index, (tenant, part)) in snapshot.tenants.iter().enumerate() {
                let count = read(part) as u64;
                if index < TENANTS_TOLD {
                    observer.observe(count, &labels(&instance, &tenant.domain, &tenant.project));
                } else {
                    rest += count;
                }
            }
            if rest > 0 {
                observer.observe(rest, &labels(&instance, "other", "other"));
            }
        };
        meter.u64_observable_gauge(name).with_description(help).with_callback(observe).build();
    }
}

/// Tenants with a series of their own.
const TENANTS_TOLD: usize = 100;

/// Figures of heartbeats, under their old names.
#[derive(Clone)]
pub struct HeartbeatMetrics {
    labels: [[KeyValue; 2]; 2],
    beats: Counter<u64>,
    durations: Histogram<f64>,
}

impl HeartbeatMetrics {
    /// Makes the instruments; `instance` is the address that labels this node.
    pub fn new(meter: &Meter, instance: &str) -> Self {
        let labels = |status: &'static str| {
            [KeyValue::new("instance", instance.to_owned()), KeyValue::new("status", status)]
        };
        Self {
            labels: [labels("FAILURE"), labels("SUCCESS")],
            beats: meter
                .u64_counter("service_center_db_heartbeat_total")
                .with_description("Counter of heartbeat renew")
                .build(),
            durations: meter
                .f64_histogram("service_center_db_heartbeat_durations_microseconds")
                .with_description("Latency of heartbeat renew")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
        }
    }

    pub(crate) fn beat(&self, renewed: bool, took: Duration) {
        let labels = &self.labels[usize::from(renewed)];
        self.beats.add(1, labels);
        self.durations.record(took.as_secs_f64() * 1e6, labels);
    }
}

/// Domains with series of their own; the rest, which clients can make as many of as they like, share `other`.
const DOMAINS_TOLD: usize = 100;

/// Figures of the API, under their old names.
#[derive(Clone)]
pub struct ApiMetrics {
    instance: String,
    requests: Counter<u64>,
    successes: Counter<u64>,
    durations: Histogram<f64>,
    domains: Arc<Mutex<HashSet<String>>>,
}

impl ApiMetrics {
    /// Makes the instruments; `instance` is the address that labels this node.
    pub fn new(meter: &Meter, instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            requests: meter
                .u64_counter("service_center_http_request_total")
                .with_description("Counter of requests received into ROA handler")
                .build(),
            successes: meter
                .u64_counter("service_center_http_success_total")
                .with_description("Counter of successful requests processed by ROA handler")
                .build(),
            durations: meter
                .f64_histogram("service_center_http_request_durations_microseconds")
                .with_description("HTTP request latency of ROA handler")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
            domains: Arc::default(),
        }
    }

    /// The label of a domain: its name while there are few, else `other`.
    pub(crate) fn domain(&self, headers: &HeaderMap) -> String {
        let sent = headers.get("x-domain-name").and_then(|value| value.to_str().ok());
        let domain = sent.map(str::trim).filter(|domain| !domain.is_empty()).unwrap_or("default");
        let mut told = self.domains.lock();
        let known = told.contains(domain) || (told.len() < DOMAINS_TOLD && told.insert(domain.to_owned()));
        if known { domain.to_owned() } else { "other".to_owned() }
    }

    pub(crate) fn answered(
        &self,
        method: &'static str,
        api: &'static str,
        domain: String,
        code: u16,
        took: Duration,
    ) {
        let common = [
            KeyValue::new("method", method),
            KeyValue::new("instance", self.instance.clone()),
            KeyValue::new("api", api),
            KeyValue::new("domain", domain),
        ];
        self.durations.record(took.as_secs_f64() * 1e6, &common);
        let [method, instance, api, domain] = common;
        let counted = [method, instance, api, domain, KeyValue::new("code", code.to_string())];
        self.requests.add(1, &counted);
        if code < 400 {
            self.successes.add(1, &counted);
        }
    }
}
