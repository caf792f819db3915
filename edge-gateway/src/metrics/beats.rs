//! Instruments of heartbeats that may be answered here.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};

/// The process that has answered a request with heartbeats.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AnsweredBy {
    /// This gateway.
    Gateway,
    /// A control plane, or nobody.
    ControlPlane,
}

impl AnsweredBy {
    fn label(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::ControlPlane => "control_plane",
        }
    }
}

/// The instruments of heartbeats that may be answered here.
#[derive(Clone, Debug)]
pub(crate) struct BeatsMetrics {
    requests: Counter<u64>,
}

impl BeatsMetrics {
    /// Instruments that nobody reads.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build();
        Self::new(&opentelemetry::metrics::MeterProvider::meter(&provider, "none"))
    }

    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let requests = meter
            .u64_counter("muster_edge_beats_total")
            .with_description("Requests and WebSocket pongs with heartbeats, by the process that answered.")
            .build();
        for by in [AnsweredBy::Gateway, AnsweredBy::ControlPlane] {
            requests.add(0, &[KeyValue::new("answered_by", by.label())]);
        }
        Self { requests }
    }

    /// Observes the number of instances that are known, and whether their heartbeats may be answered.
    pub(crate) fn observe(
        meter: &Meter,
        known: impl Fn() -> usize + Send + Sync + 'static,
        is_certain: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        meter
            .u64_observable_gauge("muster_edge_known_instances")
            .with_description("Instances whose heartbeats this gateway may answer.")
            .with_callback(move |observer| observer.observe(known() as u64, &[]))
            .build();
        meter
            .u64_observable_gauge("muster_edge_beats_trusted")
            .with_description("1 while this gateway's reports of heartbeats reach a publisher.")
            .with_callback(move |observer| observer.observe(u64::from(is_certain()), &[]))
            .build();
    }

    /// A request with heartbeats was answered, or was passed on.
    pub(crate) fn answered(&self, by: AnsweredBy) {
        self.requests.add(1, &[KeyValue::new("answered_by", by.label())]);
    }
}
