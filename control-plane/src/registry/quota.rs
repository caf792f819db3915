//! Quotas: the number of services and instances that a tenant may have.
//!
//! The view counts what exists. Registrations that are under way on this replica are counted here, so that
//! concurrent registrations cannot exceed the limit together. Existing things never count again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::model::Tenant;

use super::{RegistryConfig, RegistryError};

/// A limited thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// Versions of services.
    Service,
    /// Instances of all services.
    Instance,
}

impl Resource {
    /// Service-Center's word for it, which stands in refusals.
    fn word(self) -> &'static str {
        match self {
            Self::Service => "SERVICE",
            Self::Instance => "INSTANCE",
        }
    }
}

/// The limits in force. Cheap to clone; all clones see a change.
#[derive(Clone, Debug)]
pub struct Quotas(Arc<Mutex<Quota>>);

/// The limits at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) services: usize,
    pub(crate) instances: usize,
    pub(super) schemas: usize,
    pub(super) wanted: usize,
    pub(super) accounts: usize,
    pub(super) roles: usize,
}

impl Quotas {
    pub(super) fn new(config: &RegistryConfig) -> Self {
        Self(Arc::new(Mutex::new(Quota::of(config))))
    }

    /// Puts the quotas of `config` into force. Existing things beyond them stay.
    pub fn set(&self, config: &RegistryConfig) {
        *self.0.lock() = Quota::of(config);
    }

    pub(crate) fn now(&self) -> Quota {
        // A copy: nobody holds the lock while a request is worked on.
        *self.0.lock()
    }
}

impl Quota {
    fn of(config: &RegistryConfig) -> Self {
        Self {
            services: config.service_quota,
            instances: config.instance_quota,
            schemas: config.schema_quota,
            wanted: config.wanted_quota,
            accounts: config.account_quota,
            roles: config.role_quota,
        }
    }
}

/// Registrations under way. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Arc<Mutex<HashMap<(Tenant, Resource), usize>>>);

/// The right to register one more. It counts until it is dropped, which must not happen before the view shows
/// the registered thing: in between nobody would count it.
#[derive(Debug)]
pub(super) struct Permit {
    pending: Pending,
    key: (Tenant, Resource),
}

impl Pending {
    /// Permits one more if the sum of `used` and of the permits that are out is below `limit`.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub(super) fn permit(
        &self,
        tenant: &Tenant,
        resource: Resource,
        used: usize,
        limit: usize,
    ) -> Result<Permit, RegistryError> {
        let key = (tenant.clone(), resource);
        let mut pending = self.0.lock();
        let under_way = pending.get(&key).copied().unwrap_or(0);
        if used + under_way >= limit {
            return Err(RegistryError::QuotaExceeded { resource: resource.word(), limit, used });
        }
        pending.insert(key.clone(), under_way + 1);
        Ok(Permit { pending: self.clone(), key })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut pending = self.pending.0.lock();
        if let Some(under_way) = pending.get_mut(&self.key) {
            *under_way -= 1;
            // Tenants are named by clients, so an entry that counts nothing must not stay.
            if *under_way == 0 {
                pending.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_counts_until_its_permit_is_dropped() {
        let pending = Pending::default();
        let tenant = Tenant::default();
        let first = pending.permit(&tenant, Resource::Service, 8, 10).expect("8 of 10 exist");
        let second = pending.permit(&tenant, Resource::Service, 8, 10).expect("8 exist and 1 is under way");
        assert!(matches!(
            pending.permit(&tenant, Resource::Service, 8, 10),
            Err(RegistryError::QuotaExceeded { resource: "SERVICE", limit: 10, used: 8 })
        ));
        assert!(pending.permit(&tenant, Resource::Instance, 8, 10).is_ok(), "another resource");
        let other = Tenant::new("other", "p");
        assert!(pending.permit(&other, Resource::Service, 8, 10).is_ok(), "another tenant");
        drop((first, second));
        assert!(pending.permit(&tenant, Resource::Service, 9, 10).is_ok());
        assert!(pending.0.lock().is_empty(), "no entry stays behind");
    }
}
