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
    decisions: Counter<u64>,
    failed: Counter<u64>,
    revision: Gauge<u64>,
    confirmed: Arc<Confirmed>,
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
pub(crate) const TRANSPORTS: [&str; 3] = ["rest", "websocket", "grpc"];

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
        let metrics = Self {
            decisions: meter
                .u64_counter("muster_edge_access_decisions_total")
                .with_description(
                    "Decisions of access control, by outcome and transport; none while it is off",
                )
                .build(),
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
        for decision in Decision::ALL {
            for transport in TRANSPORTS {
                metrics.count(decision, transport, 0);
            }
        }
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
        self.count(decision, transport, 1);
    }

    fn count(&self, decision: Decision, transport: &'static str, times: u64) {
        let labels = [KeyValue::new("outcome", decision.label()), KeyValue::new("transport", transport)];
        self.decisions.add(times, &labels);
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
