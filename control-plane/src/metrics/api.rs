//! Instruments of the API, under their Service-Center names.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use host::telemetry::metrics::LATENCY_MICROSECONDS;
use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use parking_lot::Mutex;

/// The most domains with series of their own. Clients can name any number of domains, so the rest share
/// `other`.
const MAX_DOMAINS: usize = 100;

/// Instruments of the API. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiMetrics {
    instance: String,
    requests: Counter<u64>,
    successes: Counter<u64>,
    durations: Histogram<f64>,
    domains: Arc<Mutex<HashSet<String>>>,
}

impl ApiMetrics {
    /// Makes the instruments; `instance` is the address that labels this node.
    pub(crate) fn new(meter: &Meter, instance: &str) -> Self {
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

    /// The label for the domain of a request: its name, or `other` beyond the most domains.
    pub(crate) fn domain(&self, headers: &HeaderMap) -> String {
        let sent = headers.get("x-domain-name").and_then(|value| value.to_str().ok());
        let domain = sent.map(str::trim).filter(|domain| !domain.is_empty()).unwrap_or("default");
        let mut labelled = self.domains.lock();
        let has_series =
            labelled.contains(domain) || (labelled.len() < MAX_DOMAINS && labelled.insert(domain.to_owned()));
        if has_series { domain.to_owned() } else { "other".to_owned() }
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
