//! A store that counts and times its calls, under the metric names of Service-Center. It also adds the trace
//! context of a sampled request to its transactions.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use host::telemetry::metrics::LATENCY_MICROSECONDS;
use host::telemetry::trace::{self, SpanKind, Step};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use shared::clock::Clock;
use shared::model::Revision;

use super::trace::context_write;
use super::{
    GroupFigures, LeaseId, LeaseTime, RangeReply, RangeRequest, Store, StoreError, StoreSpace, Txn, TxnReply,
    WatchStream,
};

/// The `operation` labels. All series exist from the start, so that rates begin at zero.
const OPERATIONS: [&str; 7] = ["GET", "TXN", "LEASE_GRANT", "LEASE_RENEW", "LEASE_REVOKE", "SYNC", "COMPACT"];

/// Passes every call to another store, and reports it.
pub struct Measured {
    inner: Arc<dyn Store>,
    instance: String,
    operations: Counter<u64>,
    durations: Histogram<f64>,
}

impl Measured {
    /// Reports the calls of `inner`. `instance` is the address that labels this node.
    pub fn new(inner: Arc<dyn Store>, meter: &Meter, instance: &str) -> Self {
        let store = Self {
            inner,
            instance: instance.to_owned(),
            operations: meter
                .u64_counter("service_center_db_backend_operation_total")
                .with_description("Counter of backend operation")
                .build(),
            durations: meter
                .f64_histogram("service_center_db_backend_operation_durations_microseconds")
                .with_description("Latency of backend operation")
                .with_boundaries(LATENCY_MICROSECONDS.to_vec())
                .build(),
        };
        observe_group(meter, &store.inner);
        for operation in OPERATIONS {
            for failed in [false, true] {
                store.operations.add(0, &store.labels(operation, failed));
            }
        }
        store
    }

    fn labels(&self, operation: &'static str, failed: bool) -> [KeyValue; 3] {
        [
            KeyValue::new("instance", self.instance.clone()),
            KeyValue::new("operation", operation),
            KeyValue::new("status", if failed { "FAILURE" } else { "SUCCESS" }),
        ]
    }

    fn report<T>(
        &self,
        operation: &'static str,
        begun: Instant,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // A lease that is gone is a correct answer, not a failure of the store.
        let failed = matches!(&outcome, Err(error) if !matches!(error, StoreError::LeaseNotFound));
        let labels = self.labels(operation, failed);
        self.operations.add(1, &labels);
        self.durations.record(begun.elapsed().as_secs_f64() * 1e6, &labels);
        outcome
    }
}

/// Reports how many transactions share a commit: the counter of operations has the transactions.
fn observe_group(meter: &Meter, store: &Arc<dyn Store>) {
    type Read = fn(GroupFigures) -> u64;
    let counters: [(&'static str, &'static str, Read); 2] = [
        (
            "muster_store_commits_total",
            "Commits sent to the store, each of one transaction or of several that came together.",
            |figures| figures.commits,
        ),
        (
            "muster_store_busy_total",
            "Transactions refused because too many waited for the store.",
            |figures| figures.refused,
        ),
    ];
    for (name, help, read) in counters {
        // Weak: the meter must not keep the store open.
        let store = Arc::downgrade(store);
        meter
            .u64_observable_counter(name)
            .with_description(help)
            .with_callback(move |observer| {
                if let Some(store) = store.upgrade() {
                    observer.observe(read(store.group_figures()), &[]);
                }
            })
            .build();
    }
    let store = Arc::downgrade(store);
    meter
        .u64_observable_gauge("muster_store_waiting")
        .with_description("Transactions that wait to be committed together.")
        .with_callback(move |observer| {
            if let Some(store) = store.upgrade() {
                observer.observe(store.group_figures().waiting, &[]);
            }
        })
        .build();
}

#[async_trait]
impl Store for Measured {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        let begun = Instant::now();
        self.report("GET", begun, self.inner.range(request).await)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnReply, StoreError> {
        let begun = Instant::now();
        let mut step = trace::current()
            .and_then(|cause| Step::begin("transaction", SpanKind::Client, &cause, Clock::system().micros()));
        if let Some(step) = &step {
            txn.then.extend(context_write(&txn.then, &step.context()));
        }
        let outcome = self.inner.txn(txn).await;
        if let (Some(step), Err(error)) = (&mut step, &outcome) {
            step.fail(error.to_string());
        }
        self.report("TXN", begun, outcome)
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        let begun = Instant::now();
        self.report("LEASE_GRANT", begun, self.inner.grant(ttl).await)
    }

    async fn grant_long(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        let begun = Instant::now();
        self.report("LEASE_GRANT", begun, self.inner.grant_long(ttl).await)
    }

    async fn grant_shared(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        let begun = Instant::now();
        self.report("LEASE_GRANT", begun, self.inner.grant_shared(ttl).await)
    }

    async fn lease_time(&self, lease: LeaseId) -> Result<LeaseTime, StoreError> {
        let begun = Instant::now();
        self.report("LEASE_TTL", begun, self.inner.lease_time(lease).await)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.report("LEASE_RENEW", begun, self.inner.keep_alive(lease).await)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.report("LEASE_REVOKE", begun, self.inner.revoke(lease).await)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        // Not counted: a watch has no duration, and its events are counted by the view.
        self.inner.watch(prefix, from).await
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        let begun = Instant::now();
        self.report("SYNC", begun, self.inner.barrier(prefix).await)
    }

    async fn newest(&self, prefix: &str) -> Result<Revision, StoreError> {
        let begun = Instant::now();
        self.report("SYNC", begun, self.inner.newest(prefix).await)
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.report("COMPACT", begun, self.inner.compact(rev).await)
    }

    async fn space(&self) -> Result<Option<StoreSpace>, StoreError> {
        // Not counted: Service-Center has no such operation.
        self.inner.space().await
    }

    fn growth(&self, txn: &Txn) -> u64 {
        self.inner.growth(txn)
    }

    fn group_figures(&self) -> GroupFigures {
        self.inner.group_figures()
    }

    fn endpoints(&self) -> Vec<String> {
        self.inner.endpoints()
    }
}
