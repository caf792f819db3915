//! Access control at the admin port of a gateway.

use access::decision::authorization;
use host::admin::access::{AccessControl, AccessReport, AccessState, Operator};
use host::inventory::Plane;
use http::{HeaderMap, Method};
use shared::model::Revision;

use super::{PolicyHandle, Standing};

impl AccessControl for PolicyHandle {
    fn operator(&self, method: &Method, headers: &HeaderMap) -> Option<Operator> {
        // A gateway that cannot decide has its admin token.
        let Standing::Guarded(policy) = self.standing() else { return None };
        let identity = self.authenticate(&policy, authorization(headers).ok()?).ok()?;
        Some(Operator {
            account: identity.account().to_owned(),
            token: identity.token_id().to_owned(),
            revision: policy.revision,
            is_permitted: policy.operate(&identity, method).is_ok(),
        })
    }

    fn report(&self) -> AccessReport {
        let (state, reason) = match self.standing() {
            Standing::Open => (AccessState::Open, ""),
            Standing::Guarded(_) => (AccessState::Guarded, ""),
            Standing::Closed(reason, _) => (AccessState::Closed, reason),
        };
        let held = self.0.held.load();
        let held = held.as_deref();
        let policy = held.map(|held| &*held.policy);
        let keys = policy.map(|policy| policy.keys.as_slice()).unwrap_or_default();
        let issuers = policy.map(|policy| policy.issuers.as_slice()).unwrap_or_default();
        AccessReport {
            plane: Plane::EdgeGateway,
            demanded: self.0.config.enable,
            state,
            reason: reason.to_owned(),
            revision: held.map_or(Revision::ZERO, |held| held.version.revision),
            digest: held.map(|held| format!("{:016x}", held.version.digest)).unwrap_or_default(),
            keys: keys.iter().map(|key| key.kid.clone()).collect(),
            issuers: issuers.iter().map(|issuer| issuer.issuer.clone()).collect(),
            accounts: policy.map_or(0, |policy| policy.accounts.len()),
            age_ms: held.map(|_| milliseconds(self.0.metrics.age())),
            stale_after_ms: Some(milliseconds(self.0.config.stale_for)),
        }
    }
}

fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
