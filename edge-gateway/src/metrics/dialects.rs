//! Instruments of the dialects beside the registry's own.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};

/// A dialect, the value of the label `dialect`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    /// Discovery for Prometheus.
    HttpSd,
    /// Eureka's REST interface.
    Eureka,
}

/// The way in which a question in a dialect ended, the value of the label `outcome`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// Answered with what holds.
    Answered,
    /// Answered with the last that is known, which nobody has confirmed for a while.
    Stale,
    /// Not answered, because the services are not known.
    Unknown,
}

impl Dialect {
    const ALL: [Self; 2] = [Self::HttpSd, Self::Eureka];

    fn label(self) -> &'static str {
        match self {
            Self::HttpSd => "http_sd",
            Self::Eureka => "eureka",
        }
    }
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Answered, Self::Stale, Self::Unknown];

    fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
        }
    }
}

/// The instruments of all dialects.
#[derive(Clone, Debug)]
pub(crate) struct DialectMetrics {
    answers: Counter<u64>,
}

impl DialectMetrics {
    /// Every instrument, at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let metrics = Self {
            answers: meter
                .u64_counter("muster_edge_dialect_answers_total")
                .with_description("Questions in other dialects than the registry's own, by how they ended")
                .build(),
        };
        for dialect in Dialect::ALL {
            for outcome in Outcome::ALL {
                metrics.add(dialect, outcome, 0);
            }
        }
        metrics
    }

    /// A question has ended.
    pub(crate) fn answered(&self, dialect: Dialect, outcome: Outcome) {
        self.add(dialect, outcome, 1);
    }

    fn add(&self, dialect: Dialect, outcome: Outcome, count: u64) {
        let labels = [KeyValue::new("dialect", dialect.label()), KeyValue::new("outcome", outcome.label())];
        self.answers.add(count, &labels);
    }
}
