//! Instruments of drains of instances.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

/// The end of a drain.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DrainEnd {
    /// Every watcher has acknowledged it.
    Proven,
    /// The deadline came first.
    Deadline,
    /// The client left, or the gateway ended.
    Broken,
}

impl DrainEnd {
    const ALL: [Self; 3] = [Self::Proven, Self::Deadline, Self::Broken];

    fn label(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Deadline => "deadline",
            Self::Broken => "broken",
        }
    }
}

/// The instruments of drains that this gateway runs.
#[derive(Clone, Debug)]
pub(crate) struct DrainMetrics {
    drains: Counter<u64>,
    running: UpDownCounter<i64>,
    seconds: Histogram<f64>,
}

impl DrainMetrics {
    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let metrics = Self {
            drains: meter
                .u64_counter("muster_edge_drains_total")
                .with_description("Drains of instances that this gateway has run, by their end")
                .build(),
            running: meter
                .i64_up_down_counter("muster_edge_drains_running")
                .with_description("Drains of instances that this gateway runs now")
                .build(),
            seconds: meter
                .f64_histogram("muster_edge_drain_proof_seconds")
                .with_description("Time from the change of the status to the proof that every reader knows")
                .with_boundaries(vec![0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0])
                .build(),
        };
        // A series that exists only after its first event cannot show that there was none.
        for end in DrainEnd::ALL {
            metrics.drains.add(0, &[KeyValue::new("end", end.label())]);
        }
        metrics.running.add(0, &[]);
        metrics
    }

    /// A drain begins.
    pub(crate) fn began(&self) {
        self.running.add(1, &[]);
    }

    /// A drain has ended, after so many seconds.
    pub(crate) fn ended(&self, end: DrainEnd, seconds: f64) {
        self.running.add(-1, &[]);
        self.drains.add(1, &[KeyValue::new("end", end.label())]);
        if matches!(end, DrainEnd::Proven) {
            self.seconds.record(seconds, &[]);
        }
    }
}
