//! The way of every dialect to the services of a tenant: the caller's right to the tenant, then the
//! catalogue.

use std::time::{Duration, Instant};

use axum::body::Body;
use host::fairness::{self, Wait};
use http::{HeaderMap, Response};
use shared::model::Tenant;

use super::gate::Caller;
use super::proxy::no_place;
use super::{GatewayParts, refusal};
use crate::catalogue::{Followed, NotKnown, Services};
use crate::metrics::{Dialect, Outcome};

impl GatewayParts {
    /// The services of a tenant for a caller. What its labels hide is for the dialect to leave out.
    ///
    /// # Errors
    /// The refusal, when the account may not enter the tenant, or the services are not known.
    pub(super) async fn open_catalogue(
        &self,
        tenant: &Tenant,
        caller: &Caller,
        dialect: Dialect,
    ) -> Result<Followed, Response<Body>> {
        // The request names the tenant in its own way, so the gate could not decide about it.
        if let Some((identity, policy)) = &caller.account {
            policy.enter(identity, tenant).map_err(|denial| refusal::denied(&denial))?;
        }
        let opened = fairness::waiting(Wait::News, self.catalogue.open(tenant)).await.map_err(no_place)?;
        opened.map_err(|reason| {
            if let NotKnown::Full(full) = reason {
                self.metrics.refused(full);
            }
            self.dialects.answered(dialect, Outcome::Unknown);
            refusal::unavailable(&reason.to_string())
        })
    }

    /// Counts an answer, and marks it as stale when the gateway has heard no bookmark for longer than an
    /// answer may be old.
    pub(super) fn answered(&self, dialect: Dialect, services: &Services, headers: &mut HeaderMap) {
        let fresh = self.upstream.reads().config.fresh;
        let is_stale = |age: &Duration| *age > fresh || services.is_remembered();
        match services.age(Instant::now()).filter(is_stale) {
            None => self.dialects.answered(dialect, Outcome::Answered),
            Some(age) => {
                answer::stale::mark(headers, age);
                self.dialects.answered(dialect, Outcome::Stale);
            }
        }
    }
}
