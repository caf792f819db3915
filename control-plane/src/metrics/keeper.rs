//! Instruments of the deadlines that the publisher keeps.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Meter};

/// Instruments of the deadlines that the publisher keeps.
#[derive(Clone)]
pub(crate) struct KeeperMetrics {
    instances: Gauge<u64>,
    frozen: Gauge<u64>,
    ended: Counter<u64>,
    renewals: Counter<u64>,
    silent: Counter<u64>,
}

impl KeeperMetrics {
    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let metrics = Self {
            instances: meter
                .u64_gauge("muster_keeper_instances")
                .with_description("Instances with long leases whose deadlines this replica keeps.")
                .build(),
            frozen: meter
                .u64_gauge("muster_keeper_frozen_instances")
                .with_description(
                    "Instances whose time seems over and that cannot be ended, for want of news.",
                )
                .build(),
            ended: meter
                .u64_counter("muster_keeper_ended_total")
                .with_description("Instances that were ended because their time was over.")
                .build(),
            renewals: meter
                .u64_counter("muster_keeper_renewals_total")
                .with_description("Renewals of long leases, by outcome.")
                .build(),
            silent: meter
                .u64_counter("muster_keeper_silent_total")
                .with_description("Reporters of heartbeats that were given up because they were silent.")
                .build(),
        };
        metrics.leave();
        metrics.ended.add(0, &[]);
        metrics.silent.add(0, &[]);
        for outcome in ["ok", "failed"] {
            metrics.renewals.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        metrics
    }

    pub(crate) fn count(&self, instances: usize, frozen: usize) {
        self.instances.record(instances as u64, &[]);
        self.frozen.record(frozen as u64, &[]);
    }

    /// The term in the seat is over.
    pub(crate) fn leave(&self) {
        self.count(0, 0);
    }

    pub(crate) fn ended(&self) {
        self.ended.add(1, &[]);
    }

    pub(crate) fn renewed(&self, is_ok: bool) {
        self.renewals.add(1, &[KeyValue::new("outcome", if is_ok { "ok" } else { "failed" })]);
    }

    pub(crate) fn silent(&self) {
        self.silent.add(1, &[]);
    }
}
