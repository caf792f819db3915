//! Instances: register, change, unregister.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::Grant;
use bytes::Bytes;
use serde_json::{Map, Value};
use shared::model::{HealthCheck, Instance, Revision, ServiceRef};
use tracing::debug;
use uuid::Uuid;

use super::quota::{Permit, Resource};
use super::service::existing;
use super::{Caller, Registry, RegistryConfig, RegistryError, validate};
use crate::carriage::LARGEST_INSTANCE;
use crate::keys;
use crate::record;
use crate::store::{Compare, LeaseId, Op, RangeRequest, StoreError, Txn};
use crate::trail;
use crate::view::protection::ServiceSize;
use crate::view::{InstanceView, ServiceView, Snapshot};

/// Seconds between heartbeats of an instance that names no health check.
const DEFAULT_INTERVAL: i32 = 30;
/// Heartbeats that an instance may miss when it names no health check.
const DEFAULT_TIMES: i32 = 3;
/// Seconds that an instance without a health check lives.
const TTL_WITHOUT_CHECK: i64 = 120;

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
                && self.renewed(existing).await?
            {
                if is_registered_alike(&existing.instance, instance) {
                    return Ok(Some(()));
                }
                // An operator's status outlives a restart of the instance.
                let moved = Instance { status: existing.instance.status.clone(), ..instance.clone() };
                return self.register_again(service, existing, moved).await;
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
    async fn renewed(&self, existing: &InstanceView) -> Result<bool, RegistryError> {
        let Some(lease) = existing.lease else { return Ok(true) };
        match self.store.keep_alive(lease).await {
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
        let mut instance = instance.clone();
        instance.service_id = service.id.clone();
        instance.version = view.service.as_ref().map(|record| record.version.clone()).unwrap_or_default();
        instance.timestamp = self.seconds();
        instance.mod_timestamp = instance.timestamp.clone();
        let shown = view.instances.contains_key(&instance.instance_id);
        let size = view.instances.size() + usize::from(!shown);
        let value = stored(&instance, None)?;
        let lease = self.store.grant(self.ttl(&instance)).await.map_err(RegistryError::GrantLease)?;
        let key = keys::instance(service, &instance.instance_id);
        let arrival = self.arrivals.begin(service);
        // The service may be deleted meanwhile, and no instance may outlive it.
        let txn = Txn {
            compare: vec![
                Compare::Exists(keys::service(service)),
                Compare::ModRev(key.clone(), existing.map_or(Revision::ZERO, |existing| existing.mod_rev)),
            ],
            then: vec![
                Op::Put { key, value: value.clone(), lease: Some(lease) },
                put_lease(service, &instance.instance_id, lease),
                put_shared_size(service, size),
                // The instance may have been held; from now on it is alive.
                Op::Delete(keys::held(service, &instance.instance_id)),
            ],
            ..Txn::default()
        };
        let reply = self.commit(txn).await;
        if !reply.as_ref().is_ok_and(|reply| reply.succeeded) {
            // Usually no key lives on the lease. If the write did happen and only its reply was lost, the
            // instance goes with the lease, which is right: its registrant gets an error.
            let _ = self.store.revoke(lease).await;
        } else {
            trail::changed(None, Some(&value));
        }
        if arrival.end() {
            self.correct_size(service).await;
        }
        Ok(reply?.succeeded.then_some(()))
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

    /// Stores a living instance as it has registered again, on a new lease if its health check asks for
    /// another time. `None` when the instance changed or ended meanwhile.
    async fn register_again(
        &self,
        service: &ServiceRef,
        existing: &InstanceView,
        instance: Instance,
    ) -> Result<Option<()>, RegistryError> {
        let ttl = self.ttl(&instance);
        let old_lease = match existing.lease {
            Some(lease) if ttl != self.ttl(&existing.instance) => lease,
            _ => return self.rewrite(service, existing, instance).await,
        };
        // Checked before a lease is granted, because a refused request should leave none behind.
        stored(&instance, existing.unknown.as_deref())?;
        let lease = self.store.grant(ttl).await.map_err(RegistryError::GrantLease)?;
        let outcome = self.rewrite_on(service, existing, instance, Some(lease)).await;
        // The keys live on one of the two leases. After a failure it is unknown on which, so both stay: the
        // one without keys ends by itself.
        match &outcome {
            Ok(Some(())) => {
                let _ = self.store.revoke(old_lease).await;
            }
            Ok(None) => {
                let _ = self.store.revoke(lease).await;
            }
            Err(_) => {}
        }
        outcome
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
    fn ttl(&self, instance: &Instance) -> i64 {
        if self.config.instance_ttl > 0 {
            return self.config.instance_ttl;
        }
        instance.health_check.as_ref().map_or(TTL_WITHOUT_CHECK, seconds_to_expiry)
    }

    pub(crate) async fn update_instance_properties(
        &self,
        service: &ServiceRef,
        id: &str,
        properties: BTreeMap<String, String>,
    ) -> Result<(), RegistryError> {
        self.update_instance(service, id, |instance| instance.properties = properties.clone()).await
    }

    pub(crate) async fn update_instance_status(
        &self,
        service: &ServiceRef,
        id: &str,
        status: &str,
    ) -> Result<(), RegistryError> {
        validate::instance_status(status)?;
        self.update_instance(service, id, |instance| status.clone_into(&mut instance.status)).await
    }

    /// Sets the status of every instance of the caller's tenant whose properties contain all `pairs`.
    pub(crate) async fn update_status_of_matching(
        &self,
        caller: &Caller,
        pairs: &BTreeMap<String, String>,
        status: &str,
    ) -> Result<(), RegistryError> {
        validate::instance_status(status)?;
        if pairs.is_empty() {
            return Err(RegistryError::invalid("Required matches"));
        }
        let snapshot = self.read(caller).await?;
        for (service, id) in matching(&snapshot, caller, pairs, status) {
            match self.update_instance_status(&service, &id, status).await {
                // The instance ended meanwhile and needs no status any more.
                Err(RegistryError::InstanceNotFound) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    async fn update_instance(
        &self,
        service: &ServiceRef,
        id: &str,
        change: impl Fn(&mut Instance),
    ) -> Result<(), RegistryError> {
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| living(snapshot, service, id).map(drop)).await?;
        self.until_won(keys::instance(service, id), |snapshot| {
            let change = &change;
            async move {
                let existing = living(&snapshot, service, id)?;
                let mut instance = (*existing.instance).clone();
                change(&mut instance);
                self.rewrite(service, &existing, instance).await
            }
        })
        .await
    }

    /// Stores an instance again on the lease that it has. `None` when the instance changed or ended
    /// meanwhile.
    async fn rewrite(
        &self,
        service: &ServiceRef,
        existing: &InstanceView,
        instance: Instance,
    ) -> Result<Option<()>, RegistryError> {
        self.rewrite_on(service, existing, instance, existing.lease).await
    }

    /// Stores an instance again, on its own lease or on a new one. `None` when the instance changed or ended
    /// meanwhile.
    async fn rewrite_on(
        &self,
        service: &ServiceRef,
        existing: &InstanceView,
        mut instance: Instance,
        lease: Option<LeaseId>,
    ) -> Result<Option<()>, RegistryError> {
        instance.service_id = service.id.clone();
        // Clients cannot change these: they are facts of the registration.
        instance.timestamp = existing.instance.timestamp.clone();
        instance.version = existing.instance.version.clone();
        instance.mod_timestamp = self.seconds();
        let key = keys::instance(service, &instance.instance_id);
        let value = stored(&instance, existing.unknown.as_deref())?;
        let mut txn = Txn {
            compare: vec![
                Compare::Exists(keys::service(service)),
                Compare::ModRev(key.clone(), existing.mod_rev),
            ],
            then: vec![Op::Put { key: key.clone(), value, lease }],
            ..Txn::default()
        };
        if let Some(lease) = lease
            && existing.lease != Some(lease)
        {
            // In the same transaction: a Service-Center node that renews the old lease would lose the
            // instance.
            txn.then.push(put_lease(service, &instance.instance_id, lease));
        }
        match self.commit_noting(txn, &[key]).await {
            Ok(reply) => Ok(reply.succeeded.then_some(())),
            Err(RegistryError::Commit(StoreError::LeaseNotFound)) => {
                // The instance expired after the view was read. On a confirmed view the next step sees that:
                // an update is refused, a registration creates the instance anew.
                self.confirmed().await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

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
            ],
            ..Txn::default()
        };
        let record = [keys::instance(service, id)];
        if !self.commit_noting(txn, &record).await?.succeeded {
            return Err(RegistryError::InstanceNotFound);
        }
        if let Some(lease) = existing.lease {
            // No key lives on the lease any more. If it stays, it ends by itself.
            let _ = self.store.revoke(lease).await;
        }
        Ok(())
    }

    /// The lease of an instance. The store is asked when the view does not show the instance (yet).
    ///
    /// `None` for an instance that another writer stored without a lease.
    pub(super) async fn lease_of(
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
    pub(super) async fn stored_lease(
        &self,
        service: &ServiceRef,
        id: &str,
    ) -> Result<Option<LeaseId>, RegistryError> {
        let request = RangeRequest::key(keys::instance(service, id));
        let reply = self.store.range(request).await.map_err(RegistryError::ReadInstance)?;
        reply.items.first().map(|stored| stored.lease).ok_or(RegistryError::InstanceNotFound)
    }
}

/// The record of an instance as it is stored. Every route that stores an instance comes here, so that none
/// of them can store one whose events do not fit on the bus or in a frame.
fn stored(instance: &Instance, unknown: Option<&Map<String, Value>>) -> Result<Bytes, RegistryError> {
    let value = record::render(instance, unknown);
    if value.len() > LARGEST_INSTANCE {
        let bytes = value.len();
        return Err(RegistryError::invalid(format!(
            "the instance is too large: its record has {bytes} bytes, and at most {LARGEST_INSTANCE} are allowed"
        )));
    }
    Ok(value)
}

/// The service's entry, or the refusal that registrations of instances have for a missing service.
fn registrable<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceRef,
) -> Result<&'a Arc<ServiceView>, RegistryError> {
    existing(snapshot, service)
        .map_err(|_| RegistryError::ServiceNotFound("Invalid 'serviceID' in request body.".into()))
}

/// The instances whose properties contain all pairs and that do not have the status yet.
fn matching(
    snapshot: &Snapshot,
    caller: &Caller,
    pairs: &BTreeMap<String, String>,
    status: &str,
) -> Vec<(ServiceRef, String)> {
    let mut found = Vec::new();
    let Some(tenant) = snapshot.tenant(&caller.tenant) else { return found };
    for (service, view) in tenant.services.iter() {
        // Instances without a service's record belong to nobody whom labels could admit.
        let is_seen = match &view.service {
            Some(record) => caller.sees(record),
            None => caller.grant == Grant::All,
        };
        if !is_seen {
            continue;
        }
        for (id, existing) in view.instances.iter() {
            let properties = &existing.instance.properties;
            let matches = pairs.iter().all(|(key, value)| properties.get(key) == Some(value));
            // A write that changes nothing would be an event for every watcher.
            if matches && existing.instance.status != status {
                found.push((caller.service(service), id.clone()));
            }
        }
    }
    found
}

fn living(snapshot: &Snapshot, service: &ServiceRef, id: &str) -> Result<Arc<InstanceView>, RegistryError> {
    let view = snapshot.service(service).and_then(|(view, _)| view.instance(id));
    view.cloned().ok_or(RegistryError::InstanceNotFound)
}

/// Records the lease of an instance. Service-Center nodes find it by this key when a heartbeat reaches them.
fn put_lease(service: &ServiceRef, id: &str, lease: LeaseId) -> Op {
    Op::Put { key: keys::lease(service, id), value: lease.to_string().into(), lease: Some(lease) }
}

/// Records a service's number of instances and the instance that was unregistered, empty for none.
fn put_size(service: &ServiceRef, size: usize, unregistered: &str) -> Op {
    let size = ServiceSize { usual: size, unregistered: unregistered.to_owned() };
    Op::put(keys::size(service), record::render(&size, None))
}

/// Records a service's number of instances, beside other registrations that do so.
fn put_shared_size(service: &ServiceRef, size: usize) -> Op {
    let value = record::render(&ServiceSize { usual: size, ..ServiceSize::default() }, None);
    Op::PutLast { key: keys::size(service), value, owner: keys::service(service) }
}

/// True when both registrations say the same.
fn is_registered_alike(a: &Instance, b: &Instance) -> bool {
    a.endpoints == b.endpoints
        && a.properties == b.properties
        && a.host_name == b.host_name
        && a.health_check == b.health_check
        && a.data_center_info == b.data_center_info
}

fn fill_defaults(instance: &mut Instance, config: &RegistryConfig) -> Result<(), RegistryError> {
    if instance.status.is_empty() {
        instance.status = "UP".into();
    }
    let check = instance.health_check.get_or_insert_with(|| HealthCheck {
        mode: "push".into(),
        interval: DEFAULT_INTERVAL,
        times: DEFAULT_TIMES,
        ..Default::default()
    });
    if check.mode == "pull" {
        // Nobody pulls: as with Service-Center, such an instance gets the default times whatever it asked
        // for.
        check.interval = DEFAULT_INTERVAL;
        check.times = DEFAULT_TIMES;
    } else {
        check.interval = check.interval.max(config.min_interval);
        check.times = check.times.max(config.min_times);
    }
    // Service-Center computes with 32 bits and would overflow; here such a request is refused.
    if !(1..=i64::from(i32::MAX)).contains(&seconds_to_expiry(check)) {
        return Err(RegistryError::invalid("Invalid 'healthCheck' settings in request body."));
    }
    Ok(())
}

fn seconds_to_expiry(check: &HealthCheck) -> i64 {
    i64::from(check.interval) * (i64::from(check.times) + 1)
}
