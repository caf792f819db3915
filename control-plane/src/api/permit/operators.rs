//! Access control at the admin port of a control plane.

use access::Bundle;
use access::decision::authorization;
use host::admin::access::{AccessControl, AccessReport, AccessState, Operator};
use host::inventory::Plane;
use http::{HeaderMap, Method};

use super::Gate;

impl AccessControl for Gate {
    fn operator(&self, method: &Method, headers: &HeaderMap) -> Option<Operator> {
        if !self.is_closed {
            return None;
        }
        let policy = &self.view.now().ok()?.policy;
        let now = self.clock.micros() / 1_000_000;
        // Tokens alone: the admin port asks for no certificate, and believes no header that names an account.
        let identity = policy.authenticate(authorization(headers).ok()?, &self.verifier, now).ok()?;
        Some(Operator {
            account: identity.account().to_owned(),
            token: identity.token_id().to_owned(),
            revision: policy.revision,
            is_permitted: policy.operate(&identity, method).is_ok(),
        })
    }

    fn report(&self) -> AccessReport {
        let (policy, reason) = match self.view.now() {
            Ok(snapshot) => (snapshot.policy.clone(), String::new()),
            Err(error) => (Default::default(), error.to_string()),
        };
        let state = match self.is_closed {
            false => AccessState::Open,
            true if reason.is_empty() => AccessState::Guarded,
            true => AccessState::Closed,
        };
        AccessReport {
            plane: Plane::ControlPlane,
            demanded: self.is_closed,
            state,
            reason,
            revision: policy.revision,
            digest: format!("{:016x}", Bundle::of(&policy).version.digest),
            keys: policy.keys.iter().map(|key| key.kid.clone()).collect(),
            issuers: policy.issuers.iter().map(|issuer| issuer.issuer.clone()).collect(),
            accounts: policy.accounts.len(),
            // Its own view is all that a control plane decides by.
            age_ms: None,
            stale_after_ms: None,
        }
    }
}
