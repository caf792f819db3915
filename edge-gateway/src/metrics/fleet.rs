//! Instruments of the fleet of gateways.

use opentelemetry::metrics::{Gauge, Meter};

/// The instruments of the fleet.
#[derive(Clone, Debug)]
pub(crate) struct FleetMetrics {
    ready: Gauge<u64>,
}

impl FleetMetrics {
    pub(super) fn new(meter: &Meter) -> Self {
        let ready = meter
            .u64_gauge("muster_edge_other_gateways_ready")
            .with_description("Other gateways that have announced on the bus that they are ready")
            .build();
        ready.record(0, &[]);
        Self { ready }
    }

    /// This many other gateways are ready.
    pub(crate) fn ready(&self, gateways: usize) {
        self.ready.record(gateways as u64, &[]);
    }
}
