//! A store that counts and times what is asked of it, under the names that existing dashboards know.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use shared::model::Revision;
use shared::telemetry::metrics::LATENCY_MICROSECONDS;

use super::{LeaseId, RangeReply, RangeRequest, Store, StoreError, Txn, TxnReply, WatchStream};

/// Passes every call on, and reports it.
pub struct Measured {
    inner: Arc<dyn Store>,
    instance: String,
    operations: Counter<u64>,
    durations: Histogram<f64>,
}

impl Measured {
    /// Reports the calls of `inner`; `instance` labels this node.
    pub fn new(inner: Arc<dyn Store>, meter: &Meter, instance: &str) -> Self {
        Self {
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
        }
    }

    fn report<T>(
        &self,
        operation: &'static str,
        begun: Instant,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // That a lease is gone is an answer, not a failure of the store.
        let failed = matches!(&outcome, Err(error) if !matches!(error, StoreError::LeaseNotFound));
        let labels = [
            KeyValue::new("instance", self.instance.clone()),
            KeyValue::new("operation", operation),
            KeyValue::new("status", if failed { "FAILURE" } else { "SUCCESS" }),
        ];
        self.operations.add(1, &labels);
        self.durations.record(begun.elapsed().as_secs_f64() * 1e6, &labels);
        outcome
    }
}

#[async_trait]
impl Store for Measured {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        let begun = Instant::now();
        self.report("GET", begun, self.inner.range(request).await)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let begun = Instant::now();
        self.report("TXN", begun, self.inner.txn(txn).await)
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        let begun = Instant::now();
        self.report("LEASE_GRANT", begun, self.inner.grant(ttl).await)
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
        self.inner.watch(prefix, from).await
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        let begun = Instant::now();
        self.report("SYNC", begun, self.inner.barrier(prefix).await)
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.report("COMPACT", begun, self.inner.compact(rev).await)
    }

    fn endpoints(&self) -> Vec<String> {
        self.inner.endpoints()
    }
}
