//! Changes of living instances: other data at a registration, properties, status.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::Grant;
use shared::model::{Instance, ServiceRef};

use super::stored::stored;
use crate::keys;
use crate::registry::lease::put_lease;
use crate::registry::{Caller, Registry, RegistryError, validate};
use crate::store::{Compare, LeaseId, Op, StoreError, Txn};
use crate::view::{InstanceView, Snapshot};

/// A living instance, with the fields of its record. They are read from their text once for each request.
pub(super) struct Living<'a> {
    view: &'a InstanceView,
    /// The instance as its record has it.
    pub(super) reported: Instance,
}

impl<'a> Living<'a> {
    pub(super) fn of(view: &'a InstanceView) -> Self {
        Self { view, reported: view.reported.unpack() }
    }
}

impl Registry {
    /// Stores a living instance as it has registered again, on a new lease if its health check asks for
    /// another time. `None` when the instance changed or ended meanwhile.
    pub(super) async fn register_again(
        &self,
        service: &ServiceRef,
        existing: &Living<'_>,
        instance: Instance,
    ) -> Result<Option<()>, RegistryError> {
        let ttl = self.ttl(&instance);
        let old_lease = match existing.view.lease {
            Some(lease) if ttl != self.ttl(&existing.reported) => lease,
            _ => return self.rewrite(service, existing, instance).await,
        };
        // Checked before a lease is granted, because a refused request should leave none behind.
        stored(&instance, existing.view.unknown.as_deref())?;
        let lease = self.grant_for(&instance).await.map_err(RegistryError::GrantLease)?;
        let outcome = self.rewrite_on(service, existing, instance, Some(lease)).await;
        // The keys live on one of the two leases. After a failure it is unknown on which, so both stay: the
        // one without keys ends by itself.
        match &outcome {
            Ok(Some(())) => {
                self.give_up(old_lease).await;
            }
            Ok(None) => {
                self.give_up(lease).await;
            }
            Err(_) => {}
        }
        outcome
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

    /// True if the store certainly has this record of an instance now. This view may lag behind other
    /// replicas, and then a change that seems to change nothing undoes a newer one.
    pub(super) async fn is_unchanged(&self, service: &ServiceRef, id: &str, seen: &InstanceView) -> bool {
        let Ok(Some(confirmed)) = self.confirmed().await else { return false };
        living(&confirmed, service, id).is_ok_and(|now| now.reported_rev == seen.reported_rev)
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
                let view = living(&snapshot, service, id)?;
                let existing = Living::of(&view);
                let mut instance = existing.reported.clone();
                change(&mut instance);
                // A write that changes nothing would be told to every watcher. A gateway sends a change to a
                // second replica when the answer of the first one is lost.
                if instance == existing.reported && self.is_unchanged(service, id, &view).await {
                    return Ok(Some(()));
                }
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
        existing: &Living<'_>,
        instance: Instance,
    ) -> Result<Option<()>, RegistryError> {
        self.rewrite_on(service, existing, instance, existing.view.lease).await
    }

    /// Stores an instance again, on its own lease or on a new one. `None` when the instance changed or ended
    /// meanwhile.
    async fn rewrite_on(
        &self,
        service: &ServiceRef,
        existing: &Living<'_>,
        mut instance: Instance,
        lease: Option<LeaseId>,
    ) -> Result<Option<()>, RegistryError> {
        instance.service_id = service.id.clone();
        // Clients cannot change these: they are facts of the registration.
        let Living { view, reported } = existing;
        instance.timestamp.clone_from(&reported.timestamp);
        instance.version.clone_from(&reported.version);
        instance.mod_timestamp = self.seconds();
        let key = keys::instance(service, &instance.instance_id);
        let value = stored(&instance, view.unknown.as_deref())?;
        let mut txn = Txn {
            compare: vec![
                Compare::Exists(keys::service(service)),
                Compare::ModRev(key.clone(), view.reported_rev),
            ],
            then: vec![Op::Put { key: key.clone(), value, lease }],
            ..Txn::default()
        };
        if let Some(lease) = lease
            && view.lease != Some(lease)
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
            let Instance { properties, status: reported, .. } = existing.reported.unpack();
            let matches = pairs.iter().all(|(key, value)| properties.get(key) == Some(value));
            // A write that changes nothing would be an event for every watcher.
            if matches && reported != status {
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

/// True when both registrations say the same.
pub(super) fn is_registered_alike(a: &Instance, b: &Instance) -> bool {
    a.endpoints == b.endpoints
        && a.properties == b.properties
        && a.host_name == b.host_name
        && a.health_check == b.health_check
        && a.data_center_info == b.data_center_info
}
