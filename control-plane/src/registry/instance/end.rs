//! The end of an instance, and its lease.

use shared::model::ServiceRef;

use crate::keys;
use crate::record;
use crate::registry::service::existing;
use crate::registry::{Caller, Registry, RegistryError};
use crate::store::{Compare, LeaseId, Op, RangeRequest, Txn};
use crate::view::overrides::OverrideTarget;
use crate::view::protection::ServiceSize;

impl Registry {
    /// Ends an instance and its lease.
    pub(crate) async fn unregister_instance(
        &self,
        service: &ServiceRef,
        id: &str,
    ) -> Result<(), RegistryError> {
        let caller = Caller::of_tenant(&service.tenant);
        let (existing, remaining) = self
            .answer(&caller, |snapshot| {
                // The contract reports a missing service as a missing instance here.
                let view = existing(snapshot, service).map_err(|_| RegistryError::InstanceNotFound)?;
                let existing = view.instances.get(id).cloned().ok_or(RegistryError::InstanceNotFound)?;
                Ok((existing, view.instances.size().saturating_sub(1)))
            })
            .await?;
        // The size record names the unregistered instance, which tells this delete from an expiry. A replica
        // can use that only if both change at one revision, so the keys go in this transaction, not with
        // their lease.
        let txn = Txn {
            compare: vec![Compare::Exists(keys::service(service))],
            // No compare with the instance's revision: it ends in whatever state it is by now.
            then: vec![
                put_size(service, remaining, id),
                Op::Delete(keys::instance(service, id)),
                Op::Delete(keys::lease(service, id)),
                Op::Delete(keys::held(service, id)),
                // A drain has reached its goal. Left in force, its mark would keep the next life of the
                // instance out of the traffic.
                Op::Delete(keys::override_of(service, &OverrideTarget::drain_of(id).id(service))),
            ],
            ..Txn::default()
        };
        let record = [keys::instance(service, id)];
        if !self.commit_noting(txn, &record).await?.succeeded {
            return Err(RegistryError::InstanceNotFound);
        }
        if let Some(lease) = existing.lease {
            // No key lives on the lease any more. If it stays, it ends by itself.
            self.give_up(lease).await;
        }
        Ok(())
    }

    /// The lease of an instance. The store is asked when the view does not show the instance (yet).
    ///
    /// `None` for an instance that another writer stored without a lease.
    pub(in crate::registry) async fn lease_of(
        &self,
        service: &ServiceRef,
        id: &str,
    ) -> Result<Option<LeaseId>, RegistryError> {
        let snapshot = self.view.now()?;
        if let Some(view) = snapshot.any_service(service) {
            if let Some(existing) = view.instance(id) {
                return Ok(existing.lease);
            }
            if view.held.contains_key(id) {
                // The instance has expired and is only shown. Its owner has to register again.
                return Err(RegistryError::InstanceNotFound);
            }
        }
        self.stored_lease(service, id).await
    }

    /// The lease of an instance as the store has it now; see [`Self::lease_of`].
    pub(in crate::registry) async fn stored_lease(
        &self,
        service: &ServiceRef,
        id: &str,
    ) -> Result<Option<LeaseId>, RegistryError> {
        let request = RangeRequest::key(keys::instance(service, id));
        let reply = self.store.range(request).await.map_err(RegistryError::ReadInstance)?;
        reply.items.first().map(|stored| stored.lease).ok_or(RegistryError::InstanceNotFound)
    }
}

/// Records a service's number of instances and the instance that was unregistered, empty for none.
fn put_size(service: &ServiceRef, size: usize, unregistered: &str) -> Op {
    let size = ServiceSize { usual: size, unregistered: unregistered.to_owned() };
    Op::put(keys::size(service), record::render(&size, None))
}
