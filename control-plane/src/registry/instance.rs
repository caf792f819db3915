//! Instances: registered here, and changed and ended in the rooms below.

use std::sync::Arc;

use shared::model::{Instance, Revision, ServiceRef};
use tracing::debug;
use uuid::Uuid;

use super::lease::put_lease;
use super::quota::{Permit, Resource};
use super::service::existing;
use super::{Caller, Registry, RegistryError, validate};
use crate::keys;
use crate::record;
use crate::store::{Compare, Op, StoreError, Txn};
use crate::trail;
use crate::view::protection::ServiceSize;
use crate::view::{InstanceView, ServiceView, Snapshot};

mod change;
mod end;
mod stored;
mod time;

use change::{Living, is_registered_alike};
use stored::stored;
use time::{TTL_WITHOUT_CHECK, fill_defaults, seconds_to_expiry};

impl Registry {
    /// Registers an instance and returns its id.
    ///
    /// For an id that is alive already this is a heartbeat. If its endpoints, host, health check, data centre
    /// or properties differ, the new data are stored too, so that consumers receive them.
    pub(crate) async fn register_instance(
        &self,
        service: &ServiceRef,
        mut instance: Instance,
    ) -> Result<String, RegistryError> {
        validate::instance(&instance)?;
        fill_defaults(&mut instance, &self.config)?;
        // A missing service is refused here, on a confirmed view. The steps below see it again only when the
        // service is deleted meanwhile.
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| registrable(snapshot, service).map(drop)).await?;
        // Chosen once, before the first attempt: a repeated one must not register a second instance.
        if instance.instance_id.is_empty() {
            instance.instance_id = Uuid::new_v4().simple().to_string();
        }
        let instance = &instance;
        self.until_won(keys::instance(service, &instance.instance_id), |snapshot| async move {
            let view = registrable(&snapshot, service)?;
            let existing = view.instance(&instance.instance_id);
            if let Some(existing) = existing
                && self.renewed(service, &instance.instance_id, existing).await?
            {
                let seen = existing;
                let existing = Living::of(seen);
                if is_registered_alike(&existing.reported, instance)
                    && self.is_unchanged(service, &instance.instance_id, seen).await
                {
                    return Ok(Some(()));
                }
                // An operator's status outlives a restart of the instance.
                let moved = Instance { status: existing.reported.status.clone(), ..instance.clone() };
                return self.register_again(service, &existing, moved).await;
            }
            // The permit is held until the view shows the instance, because from then on the view counts it.
            let _permit = match existing {
                Some(_) => None,
                None => self.permit_for_instance(&snapshot, service, view)?,
            };
            self.create_instance(service, view, instance, existing.map(|existing| &**existing)).await
        })
        .await?;
        Ok(instance.instance_id.clone())
    }

    /// True when the instance is alive: its lease was renewed, or it has none.
    async fn renewed(
        &self,
        service: &ServiceRef,
        id: &str,
        existing: &InstanceView,
    ) -> Result<bool, RegistryError> {
        let Some(lease) = existing.lease else { return Ok(true) };
        match self.renew_in_store(service, id, lease).await {
            Ok(()) => Ok(true),
            Err(StoreError::LeaseNotFound) => Ok(false),
            Err(error) => Err(RegistryError::RenewLease(error)),
        }
    }

    /// Stores an instance on a new lease. `None` when the instance changed meanwhile.
    async fn create_instance(
        &self,
        service: &ServiceRef,
        view: &ServiceView,
        instance: &Instance,
        existing: Option<&InstanceView>,
    ) -> Result<Option<()>, RegistryError> {
        // It begins before the size is read: a registration that takes place from here on is one beside this
        // one, and the last of them corrects the size, even if it fails itself.
        let arrival = self.arrivals.begin(service);
        let outcome = self.store_new(service, view, instance, existing).await;
        if arrival.end() {
            self.correct_size(service).await;
        }
        outcome
    }

    /// Stores an instance as [`Registry::create_instance`] does, beside others that are not counted yet.
    async fn store_new(
        &self,
        service: &ServiceRef,
        view: &ServiceView,
        instance: &Instance,
        existing: Option<&InstanceView>,
    ) -> Result<Option<()>, RegistryError> {
        let mut instance = instance.clone();
        instance.service_id = service.id.clone();
        instance.version = view.service.as_ref().map(|record| record.version.clone()).unwrap_or_default();
        instance.timestamp = self.seconds();
        instance.mod_timestamp = instance.timestamp.clone();
        let value = stored(&instance, None)?;
        let size = self.size_with(service, view, &instance.instance_id);
        let lease = self.grant_for(&instance).await.map_err(RegistryError::GrantLease)?;
        let key = keys::instance(service, &instance.instance_id);
        // The service may be deleted meanwhile, and no instance may outlive it.
        let mut txn = Txn {
            compare: vec![
                Compare::Exists(keys::service(service)),
                Compare::ModRev(
                    key.clone(),
                    existing.map_or(Revision::ZERO, |existing| existing.reported_rev),
                ),
            ],
            then: vec![
                Op::Put { key, value: value.clone(), lease: Some(lease) },
                put_shared_size(service, size),
                // The instance may have been held; from now on it is alive.
                Op::Delete(keys::held(service, &instance.instance_id)),
            ],
            ..Txn::default()
        };
        // On a shared lease the key tells of heartbeats that no report has, and there has been none. An older
        // life may have left one on another lease.
        if !lease.is_shared() || existing.is_some() {
            txn.then.push(put_lease(service, &instance.instance_id, lease));
        }
        let reply = self.commit(txn).await;
        if !reply.as_ref().is_ok_and(|reply| reply.succeeded) {
            // Usually no key lives on the lease. If the write did happen and only its reply was lost, the
            // instance goes with the lease, which is right: its registrant gets an error. On a shared lease
            // it ends by its own time, because it sends no heartbeat.
            self.give_up(lease).await;
        } else {
            trail::changed(None, Some(&value));
        }
        if lease.is_shared() && matches!(reply, Err(RegistryError::Commit(StoreError::LeaseNotFound))) {
            // The lease ended, perhaps because the store was restored. The next step takes another one.
            self.forget_cohort(lease);
            return Ok(None);
        }
        Ok(reply?.succeeded.then_some(()))
    }

    /// The number of a service's instances with this one, in the newest view, or else in `view`.
    fn size_with(&self, service: &ServiceRef, view: &ServiceView, id: &str) -> usize {
        let newest = self.view.now().ok();
        let newest = newest.as_ref().and_then(|snapshot| snapshot.service(service));
        let view = newest.map_or(view, |(view, _)| view);
        view.instances.size() + usize::from(!view.instances.contains_key(id))
    }

    /// Records the number of a service's instances if the recorded one is too low, as it is after
    /// registrations that did not see each other. A failure costs the service some of its protection, until
    /// the next one.
    async fn correct_size(&self, service: &ServiceRef) {
        let Ok(snapshot) = self.view.now() else { return };
        let Some((view, _)) = snapshot.service(service) else { return };
        let size = view.instances.size();
        if view.usual_size >= size {
            return;
        }
        let txn = Txn {
            compare: vec![Compare::Exists(keys::service(service))],
            then: vec![put_shared_size(service, size)],
            ..Txn::default()
        };
        if let Err(error) = self.commit(txn).await {
            debug!(%error, service.id = %service.id, "the usual size of a service could not be corrected");
        }
    }

    /// Permits one more instance. `None` for shared services, which are exempt from the quota.
    fn permit_for_instance(
        &self,
        snapshot: &Snapshot,
        service: &ServiceRef,
        view: &ServiceView,
    ) -> Result<Option<Permit>, RegistryError> {
        if let Some(record) = &view.service
            && self.is_shared(&service.tenant, &record.app_id, &record.service_name)
        {
            return Ok(None);
        }
        // The view counts for each tenant as it goes, so this does not depend on the number of services.
        let used = snapshot.tenant(&service.tenant).map_or(0, |view| view.instance_count);
        let limit = self.quotas.now().instances;
        self.pending.permit(&service.tenant, Resource::Instance, used, limit).map(Some)
    }

    /// The seconds that an instance lives without a heartbeat.
    pub(crate) fn ttl(&self, instance: &Instance) -> i64 {
        if self.config.instance_ttl > 0 {
            return self.config.instance_ttl;
        }
        instance.health_check.as_ref().map_or(TTL_WITHOUT_CHECK, seconds_to_expiry)
    }
}

/// The service's entry, or the refusal that registrations of instances have for a missing service.
fn registrable<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceRef,
) -> Result<&'a Arc<ServiceView>, RegistryError> {
    existing(snapshot, service)
        .map_err(|_| RegistryError::ServiceNotFound("Invalid 'serviceID' in request body.".into()))
}

/// Records a service's number of instances, beside other registrations that do so.
fn put_shared_size(service: &ServiceRef, size: usize) -> Op {
    let value = record::render(&ServiceSize { usual: size, ..ServiceSize::default() }, None);
    Op::PutLast { key: keys::size(service), value, owner: keys::service(service) }
}
