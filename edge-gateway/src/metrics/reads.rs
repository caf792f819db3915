//! Instruments of finds that may be answered here.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Meter};

/// The way in which a find was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answered {
    /// In full, from the gateway's own state.
    Here,
    /// With 304, from the gateway's own state.
    Unchanged,
    /// By a control plane.
    Forwarded,
    /// From the gateway's own state, because no control plane answered.
    Stale,
}

impl Answered {
    const ALL: [Self; 4] = [Self::Here, Self::Unchanged, Self::Forwarded, Self::Stale];

    fn label(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Unchanged => "unchanged",
            Self::Forwarded => "forwarded",
            Self::Stale => "stale",
        }
    }
}

/// Begins to show the bytes of the lists that are kept.
pub(crate) fn list_bytes(meter: &Meter, bytes: impl Fn() -> usize + Send + Sync + 'static) {
    meter
        .u64_observable_gauge("muster_edge_list_bytes")
        .with_description("Bytes of the lists of services that are kept here")
        .with_callback(move |observer| observer.observe(bytes() as u64, &[]))
        .build();
}

/// The instruments of finds that may be answered here.
#[derive(Clone, Debug)]
pub(crate) struct ReadsMetrics {
    finds: Counter<u64>,
    lists: Counter<u64>,
    barriers: Counter<u64>,
    kept: Counter<u64>,
    kept_bytes: Gauge<u64>,
}

impl ReadsMetrics {
    /// Instruments that nobody reads.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build();
        Self::new(&opentelemetry::metrics::MeterProvider::meter(&provider, "none"))
    }

    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let metrics = Self {
            finds: meter
                .u64_counter("muster_edge_finds_total")
                .with_description("Finds of consumers, by the way in which they were answered")
                .build(),
            lists: meter
                .u64_counter("muster_edge_lists_total")
                .with_description("Lists of services, by the way in which they were answered")
                .build(),
            barriers: meter
                .u64_counter("muster_edge_barriers_total")
                .with_description(
                    "Finds that asked whether nothing has changed, by whether a replica could tell",
                )
                .build(),
            kept: meter
                .u64_counter("muster_edge_state_writes_total")
                .with_description("Writes of the state to its file, and readings of it that failed")
                .build(),
            kept_bytes: meter
                .u64_gauge("muster_edge_state_bytes")
                .with_description("Size of the file of the state")
                .build(),
        };
        // A series that exists only after its first event cannot show that there was none.
        for answered in Answered::ALL {
            metrics.finds.add(0, &[KeyValue::new("answered", answered.label())]);
        }
        for answered in [Answered::Here, Answered::Forwarded, Answered::Stale] {
            metrics.lists.add(0, &[KeyValue::new("answered", answered.label())]);
        }
        for outcome in ["ok", "failed"] {
            metrics.barriers.add(0, &[KeyValue::new("outcome", outcome)]);
            metrics.kept.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        metrics
    }

    /// A find was answered.
    pub(crate) fn answered(&self, answered: Answered) {
        self.finds.add(1, &[KeyValue::new("answered", answered.label())]);
    }

    /// A list of services was answered: from the one that is kept here, by a control plane that sent it, or
    /// without one that answers.
    pub(crate) fn listed(&self, answered: Answered) {
        self.lists.add(1, &[KeyValue::new("answered", answered.label())]);
    }

    /// The state was written to its file, which has so many bytes, or could not be written or read.
    pub(crate) fn kept(&self, outcome: Result<usize, ()>) {
        self.kept.add(1, &[KeyValue::new("outcome", if outcome.is_ok() { "ok" } else { "failed" })]);
        if let Ok(bytes) = outcome {
            self.kept_bytes.record(bytes as u64, &[]);
        }
    }

    /// A find has waited for the barrier.
    pub(crate) fn barrier(&self, passed: bool) {
        self.barriers.add(1, &[KeyValue::new("outcome", if passed { "ok" } else { "failed" })]);
    }
}
