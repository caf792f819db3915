//! Instruments of access control.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Meter};
use shared::model::Revision;
use tokio::time::Instant;

/// The value of [`Confirmed::at`] before the first policy.
const NEVER: u64 = u64::MAX;

/// The instruments of access control.
#[derive(Clone, Debug)]
pub(crate) struct PolicyMetrics {
    decisions: Arc<Decisions>,
    failed: Counter<u64>,
    revision: Gauge<u64>,
    confirmed: Arc<Confirmed>,
}

/// Decisions by outcome and transport. Every request is counted here, and a counter with labels would look up
/// its series each time, so these are plain numbers that are read when somebody asks for the metrics.
#[derive(Debug, Default)]
struct Decisions([[AtomicU64; TRANSPORTS.len()]; Decision::ALL.len()]);

impl Decisions {
    fn count(&self, decision: Decision, transport: &str) {
        let transport = TRANSPORTS.iter().position(|known| *known == transport);
        if let Some(number) = transport.and_then(|at| self.0[decision as usize].get(at)) {
            number.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn all(&self) -> impl Iterator<Item = (u64, [KeyValue; 2])> {
        Decision::ALL.into_iter().zip(&self.0).flat_map(|(decision, numbers)| {
            TRANSPORTS.into_iter().zip(numbers).map(move |(transport, number)| {
                let labels =
                    [KeyValue::new("outcome", decision.label()), KeyValue::new("transport", transport)];
                (number.load(Ordering::Relaxed), labels)
            })
        })
    }
}

/// The time at which the policy was last known to be the publisher's.
#[derive(Debug)]
struct Confirmed {
    began: Instant,
    /// Milliseconds since `began`.
    at: AtomicU64,
}

impl Confirmed {
    fn age(&self) -> Option<Duration> {
        let at = Some(self.at.load(Ordering::Relaxed)).filter(|at| *at != NEVER)?;
        Some(self.began.elapsed().saturating_sub(Duration::from_millis(at)))
    }
}

/// The outcome of a decision, as the label of the metric has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The request goes on.
    Allowed,
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden,
    /// 503: nobody can decide.
    Undecided,
    /// 404: no route has the path.
    NoRoute,
}

impl Decision {
    const ALL: [Self; 5] =
        [Self::Allowed, Self::Unauthenticated, Self::Forbidden, Self::Undecided, Self::NoRoute];

    fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Undecided => "undecided",
            Self::NoRoute => "no_route",
        }
    }
}

/// The values of the label `transport`.
pub(crate) const TRANSPORTS: [&str; 4] = ["rest", "websocket", "sse", "grpc"];

impl PolicyMetrics {
    pub(super) fn new(meter: &Meter) -> Self {
        let confirmed = Arc::new(Confirmed { began: Instant::now(), at: AtomicU64::new(NEVER) });
        let observed = confirmed.clone();
        meter
            .f64_observable_gauge("muster_edge_policy_age_seconds")
            .with_description("Time since the access policy was last known to be the publisher's; absent before the first one")
            .with_callback(move |gauge| {
                if let Some(age) = observed.age() {
                    gauge.observe(age.as_secs_f64(), &[]);
                }
            })
            .build();
        let decisions: Arc<Decisions> = Arc::default();
        let counted = decisions.clone();
        meter
            .u64_observable_counter("muster_edge_access_decisions_total")
            .with_description("Decisions of access control, by outcome and transport; none while it is off")
            .with_callback(move |counter| {
                for (number, labels) in counted.all() {
                    counter.observe(number, &labels);
                }
            })
            .build();
        let metrics = Self {
            decisions,
            failed: meter
                .u64_counter("muster_edge_policy_requests_failed_total")
                .with_description("Requests for the access policy that gave none and were repeated")
                .build(),
            revision: meter
                .u64_gauge("muster_edge_policy_revision")
                .with_description("Revision of the access policy")
                .build(),
            confirmed,
        };
        metrics.failed.add(0, &[]);
        metrics.revision.record(0, &[]);
        metrics
    }

    /// Instruments that nobody reads.
    #[cfg(any(test, feature = "micro"))]
    pub(crate) fn none() -> Self {
        Self::new(&opentelemetry::global::meter("none"))
    }

    /// A request was decided. `transport` is one of [`TRANSPORTS`].
    pub(crate) fn decided(&self, decision: Decision, transport: &'static str) {
        self.decisions.count(decision, transport);
    }

    /// A request for the policy failed.
    pub(crate) fn failed(&self) {
        self.failed.add(1, &[]);
    }

    /// A policy of this revision was taken.
    pub(crate) fn took(&self, revision: Revision) {
        self.revision.record(revision.get(), &[]);
        self.confirmed();
    }

    /// The policy is the publisher's at this moment.
    pub(crate) fn confirmed(&self) {
        let at = self.confirmed.began.elapsed().as_millis() as u64;
        self.confirmed.at.store(at, Ordering::Relaxed);
    }

    /// The time since the policy was last known to be the publisher's; zero before the first one.
    pub(crate) fn age(&self) -> Duration {
        self.confirmed.age().unwrap_or_default()
    }
}
