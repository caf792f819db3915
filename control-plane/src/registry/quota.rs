//! How many services and instances a tenant may have.
//!
//! What exists is counted by the view; what this replica is about to add is counted here, so that concurrent
//! registrations cannot slip past the limit together. What exists already never counts again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::model::Tenant;

use super::RegistryConfig;
use crate::failure::{Code, Failure};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Versions of services.
    Service,
    /// Instances of all services.
    Instance,
}

impl Resource {
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

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) services: usize,
    pub(crate) instances: usize,
    pub(super) schemas: usize,
    pub(super) wanted: usize,
}

impl Quotas {
    pub(super) fn new(config: &RegistryConfig) -> Self {
        Self(Arc::new(Mutex::new(Quota::of(config))))
    }

    /// From now on the quotas of `config` count. What exists beyond them stays.
    pub fn set(&self, config: &RegistryConfig) {
        *self.0.lock() = Quota::of(config);
    }

    pub(crate) fn now(&self) -> Quota {
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
        }
    }
}

/// Registrations under way. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Pending(Arc<Mutex<HashMap<(Tenant, Resource), usize>>>);

/// A registration under way; it counts until it is dropped, which is to be when the view has it.
#[derive(Debug)]
pub struct Place {
    pending: Pending,
    of: (Tenant, Resource),
}

impl Pending {
    /// Takes a place for one more, if `used` and those under way leave one.
    ///
    /// # Errors
    /// `NotEnoughQuota`.
    pub fn take(
        &self,
        tenant: &Tenant,
        resource: Resource,
        used: usize,
        limit: usize,
    ) -> Result<Place, Failure> {
        let of = (tenant.clone(), resource);
        let mut pending = self.0.lock();
        let under_way = pending.entry(of.clone()).or_default();
        if used + *under_way >= limit {
            return Err(exceeded(resource.word(), limit, used));
        }
        *under_way += 1;
        Ok(Place { pending: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pending = self.pending.0.lock();
        if let Some(under_way) = pending.get_mut(&self.of) {
            *under_way -= 1;
            if *under_way == 0 {
                pending.remove(&self.of);
            }
        }
    }
}

/// The refusal.
pub fn exceeded(what: &str, limit: usize, used: usize) -> Failure {
    let detail = format!("no quota to create {what}, max num is {limit}, curNum is {used}, apply num is 1");
    Failure::new(Code::NotEnoughQuota, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_under_way_count_until_they_are_done() {
        let (pending, tenant) = (Pending::default(), Tenant::default());
        let first = pending.take(&tenant, Resource::Service, 8, 10).expect("two are left");
        let second = pending.take(&tenant, Resource::Service, 8, 10).expect("one is left");
        assert_eq!(
            pending.take(&tenant, Resource::Service, 8, 10).map(drop).map_err(|f| f.code),
            Err(Code::NotEnoughQuota)
        );
        assert!(pending.take(&tenant, Resource::Instance, 8, 10).is_ok(), "of something else");
        assert!(
            pending.take(&Tenant::new("other", "p"), Resource::Service, 8, 10).is_ok(),
            "of someone else"
        );
        drop((first, second));
        assert!(pending.take(&tenant, Resource::Service, 9, 10).is_ok());
        assert!(pending.0.lock().is_empty(), "nothing is left behind");
    }
}
