//! The end of a stream: by its right, or at a moment that is known already. And the pace of its client.

use std::time::Duration;

use http::HeaderMap;
use shared::model::Tenant;
use tokio::time::Instant;

use super::super::grpc::status_of;
use crate::policy::{PolicyHandle, Right, Verdict};

/// Requests that are read at once, and each second; further ones wait.
const REQUESTS: u32 = 200;

/// The end of a stream that is known already.
pub(super) struct End {
    pub(super) at: Instant,
    pub(super) status: HeaderMap,
}

impl End {
    pub(super) fn now(status: HeaderMap) -> Self {
        Self { at: Instant::now(), status }
    }
}

/// Judges the right of a stream, whenever the policy is another one or time says so.
pub(super) struct Judge {
    policy: PolicyHandle,
    tenant: Tenant,
    right: Option<Box<Right>>,
    /// The policy by which it was judged; `None` before the first time.
    generation: Option<u64>,
    pub(super) at: Option<Instant>,
    is_ending: bool,
}

impl Judge {
    pub(super) fn new(policy: PolicyHandle, tenant: Tenant, right: Option<Box<Right>>) -> Self {
        Self { policy, tenant, right, generation: None, at: None, is_ending: false }
    }

    /// The end of a stream that has lost its right.
    pub(super) fn judge(&mut self) -> Option<End> {
        let generation = self.policy.generation();
        let is_time = self.at.is_some_and(|at| at <= Instant::now());
        if self.generation == Some(generation) && !is_time {
            return None;
        }
        self.generation = Some(generation);
        let verdict = self.policy.judge(&mut self.right, &self.tenant);
        let after = self.policy.judge_after(self.right.as_deref());
        self.at = after.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        match verdict {
            Verdict::Stays => None,
            Verdict::Ends(reason) => Some(End::now(status_of(reason))),
            // One moment for each stream, however often the policy changes until then.
            Verdict::EndsInTurn(_) if std::mem::replace(&mut self.is_ending, true) => None,
            Verdict::EndsInTurn(reason) => {
                let pause = self.policy.end_over().mul_f64(fastrand::f64());
                Some(End { at: Instant::now() + pause, status: status_of(reason) })
            }
        }
    }
}

/// The pace of a client's requests.
pub(super) struct Pace {
    second: Instant,
    requests: u32,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { second: Instant::now(), requests: 0 }
    }

    pub(super) fn count(&mut self) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        self.requests += 1;
    }

    /// The moment before which no further request is read.
    pub(super) fn until(&self) -> Option<Instant> {
        (self.requests >= REQUESTS).then(|| self.second + Duration::from_secs(1))
    }
}
