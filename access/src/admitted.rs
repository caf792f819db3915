//! What a policy has decided about an account, kept for the next request that shows its token.
//!
//! In: a verified token or certificate, and the policy by which it counts. Out: its identity, its tenants and its grants,
//! for as long as the same policy decides and the token's time is not over. Whatever takes a right away (a
//! revocation, an account, a role, a key) makes another policy, so nothing that is kept outlives it.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use shared::model::Tenant;

use crate::decision::{Grant, Identity};
use crate::denial::Denial;
use crate::policy::Policy;
use crate::role::Need;

/// An account that a policy lets in by its token or certificate.
#[derive(Debug)]
pub struct Admitted {
    identity: Identity,
    /// Weak, so that a token that nobody shows any more does not keep an old policy in memory. While this is
    /// here, no other policy has the same address.
    policy: Weak<Policy>,
    /// The account is bound to some tenants.
    is_bound: bool,
    /// The grants that requests have needed so far: one or two for most clients, and never more than there
    /// are needs.
    grants: Mutex<Vec<(Need, Grant)>>,
}

impl Admitted {
    /// An account whose token or certificate was verified, if it counts by this policy at `now` (seconds
    /// since 1970).
    ///
    /// # Errors
    /// The refusal.
    pub fn of(identity: Identity, policy: &Arc<Policy>, now: u64) -> Result<Arc<Self>, Denial> {
        policy.still_counts(&identity, now)?;
        let is_bound = policy.enter_all(&identity).is_err();
        Ok(Arc::new(Self { identity, policy: Arc::downgrade(policy), is_bound, grants: Mutex::default() }))
    }

    /// True while this policy decides and the token's time is not over at `now` (seconds since 1970): nothing
    /// has to be decided again.
    pub fn holds(&self, policy: &Arc<Policy>, now: u64) -> bool {
        self.policy.as_ptr() == Arc::as_ptr(policy) && self.identity.ends() > now
    }

    /// The account.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// False for an account that may enter every tenant.
    pub fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Decides whether the account may enter a tenant; `policy` is the one that this holds for.
    ///
    /// # Errors
    /// The refusal.
    pub fn enter(&self, policy: &Policy, tenant: &Tenant) -> Result<(), Denial> {
        if self.is_bound { policy.enter(&self.identity, tenant) } else { Ok(()) }
    }

    /// The part of the needed resource to which the account may do the needed; `policy` is the one that this
    /// holds for.
    ///
    /// # Errors
    /// The refusal, when no role permits any of it.
    pub fn grant(&self, policy: &Policy, need: Need) -> Result<Grant, Denial> {
        if let Some((_, grant)) = self.grants.lock().iter().find(|(known, _)| *known == need) {
            return Ok(grant.clone());
        }
        let grant = policy.grant(&self.identity, need)?;
        let mut grants = self.grants.lock();
        // Another request of the same account may have been quicker.
        if grants.iter().all(|(known, _)| *known != need) {
            grants.push((need, grant.clone()));
        }
        Ok(grant)
    }
}
