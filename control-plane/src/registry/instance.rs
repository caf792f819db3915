//! Instances: register, change, unregister.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::model::{HealthCheck, Instance, ServiceRef};
use uuid::Uuid;

use super::quota::{Place, Resource};
use super::service::existing;
use super::{Caller, Registry, RegistryConfig, validate};
use crate::failure::{Code, Failure};
use crate::keys;
use crate::record;
use crate::store::{Compare, LeaseId, Op, StoreError, Txn};
use crate::view::protection::ServiceSize;
use crate::view::{InstanceView, Snapshot};

/// The health check of an instance that names none: a heartbeat each 30 s, three may be missed.
const DEFAULT_INTERVAL: i32 = 30;
const DEFAULT_TIMES: i32 = 3;

impl Registry {
    /// Registers an instance and returns its id.
    ///
    /// An id that is alive already is a heartbeat; where the instance has moved (its endpoints, host, health
    /// check or data centre differ) the new data are stored too, so that consumers hear of it.
    pub async fn register_instance(
        &self,
        service: &ServiceRef,
        mut instance: Instance,
    ) -> Result<String, Failure> {
        validate::instance(&instance)?;
        fill_defaults(&mut instance, &self.config)?;
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        let absent = || Failure::new(Code::ServiceNotFound, "Invalid 'serviceID' in request body.");
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop).map_err(|_| absent())).await?;
        if instance.instance_id.is_empty() {
            instance.instance_id = Uuid::new_v4().simple().to_string();
        }
        let instance = &instance;
        self.until_won(|snapshot| async move {
            let record = existing(&snapshot, service).map_err(|_| absent())?;
            let known = record.instance(&instance.instance_id);
            if let Some(known) = known
                && self.renewed(known).await?
            {
                if same_place(&known.instance, instance) {
                    return Ok(Some(()));
                }
                let moved = Instance { status: known.instance.status.clone(), ..instance.clone() };
                return self.rewrite(service, known, moved).await;
            }
            let _place = match known {
                Some(_) => None,
                None => self.place_for_instance(&snapshot, service)?,
            };
            let version = record.service.as_ref().map(|s| s.version.clone()).unwrap_or_default();
            let shown = record.instances.contains_key(&instance.instance_id);
            let size = record.instances.size() + usize::from(!shown);
            self.create_instance(service, Instance { version, ..instance.clone() }, known.map(|k| &**k), size)
                .await
        })
        .await?;
        Ok(instance.instance_id.clone())
    }

    async fn renewed(&self, known: &InstanceView) -> Result<bool, Failure> {
        let Some(lease) = known.lease else { return Ok(true) };
        match self.store.keep_alive(lease).await {
            Ok(()) => Ok(true),
            Err(StoreError::LeaseNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn create_instance(
        &self,
        service: &ServiceRef,
        mut instance: Instance,
        known: Option<&InstanceView>,
        size: usize,
    ) -> Result<Option<()>, Failure> {
        instance.service_id = service.id.clone();
        instance.timestamp = self.seconds();
        instance.mod_timestamp = instance.timestamp.clone();
        let lease = self.store.grant(self.ttl(&instance)).await?;
        let key = keys::instance(service, &instance.instance_id);
        let txn = Txn {
            compare: vec![
                Compare::Exists(keys::service(service)),
                Compare::ModRev(key.clone(), known.map_or(0, |known| known.mod_rev)),
            ],
            then: vec![
                Op::Put { key, value: record::render(&instance, None), lease: Some(lease) },
                Op::Put {
                    key: keys::lease(service, &instance.instance_id),
                    value: lease.to_string().into(),
                    lease: Some(lease),
                },
                put_size(service, size, ""),
                // It may have been held until now.
                Op::Delete(keys::held(service, &instance.instance_id)),
            ],
            ..Txn::default()
        };
        let reply = self.commit(txn).await;
        if !reply.as_ref().is_ok_and(|reply| reply.succeeded) {
            // Nothing lives on it (or, unknown to us, the instance whose registrant was told it failed).
            let _ = self.store.revoke(lease).await;
        }
        Ok(reply?.succeeded.then_some(()))
    }

    fn place_for_instance(
        &self,
        snapshot: &Snapshot,
        service: &ServiceRef,
    ) -> Result<Option<Place>, Failure> {
        let own = existing(snapshot, service).is_ok_and(|view| {
            let record = view.service.as_ref();
            record.is_some_and(|s| self.is_shared(&service.tenant, &s.app_id, &s.service_name))
        });
        if own {
            return Ok(None);
        }
        let used = snapshot.tenant(&service.tenant).map_or(0, |view| view.instance_count);
        self.pending.take(&service.tenant, Resource::Instance, used, self.quotas.now().instances).map(Some)
    }

    /// The seconds that an instance lives without a heartbeat.
    fn ttl(&self, instance: &Instance) -> i64 {
        if self.config.instance_ttl > 0 {
            return self.config.instance_ttl;
        }
        instance
            .health_check
            .as_ref()
            .map_or(120, |check| i64::from(check.interval) * (i64::from(check.times) + 1))
    }

    /// Replaces an instance's properties.
    pub async fn update_instance_properties(
        &self,
        service: &ServiceRef,
        id: &str,
        properties: BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        self.update_instance(service, id, |instance| instance.properties = properties.clone()).await
    }

    /// Puts an instance into a state.
    pub async fn update_instance_status(
        &self,
        service: &ServiceRef,
        id: &str,
        status: &str,
    ) -> Result<(), Failure> {
        validate::instance_status(status)?;
        self.update_instance(service, id, |instance| status.clone_into(&mut instance.status)).await
    }

    /// Puts every instance of the caller's tenant whose properties contain all `pairs` into a state.
    pub async fn update_status_of_matching(
        &self,
        caller: &Caller,
        pairs: &BTreeMap<String, String>,
        status: &str,
    ) -> Result<(), Failure> {
        validate::instance_status(status)?;
        if pairs.is_empty() {
            return Err(Failure::invalid("Required matches"));
        }
        let snapshot = self.read(caller).await?;
        for (service, id) in matching(&snapshot, caller, pairs, status) {
            match self.update_instance_status(&service, &id, status).await {
                // Gone meanwhile: nothing to be put into a state.
                Err(failure) if failure.code == Code::InstanceNotFound => {}
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
    ) -> Result<(), Failure> {
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.answer(&caller, |snapshot| living(snapshot, service, id).map(drop)).await?;
        self.until_won(|snapshot| {
            let change = &change;
            async move {
                let known = living(&snapshot, service, id)?;
                let mut instance = (*known.instance).clone();
                change(&mut instance);
                self.rewrite(service, &known, instance).await
            }
        })
        .await
    }

    /// Stores an instance anew on the lease that it has. `None` when someone else was faster.
    async fn rewrite(
        &self,
        service: &ServiceRef,
        known: &InstanceView,
        mut instance: Instance,
    ) -> Result<Option<()>, Failure> {
        instance.service_id = service.id.clone();
        instance.timestamp = known.instance.timestamp.clone();
        instance.version = known.instance.version.clone();
        instance.mod_timestamp = self.seconds();
        let key = keys::instance(service, &instance.instance_id);
        let txn = Txn {
            compare: vec![
                Compare::Exists(keys::service(service)),
                Compare::ModRev(key.clone(), known.mod_rev),
            ],
            then: vec![Op::Put {
                key,
                value: record::render(&instance, known.unknown.as_deref()),
                lease: known.lease,
            }],
            ..Txn::default()
        };
        let reply = self.commit(txn).await?;
        Ok(reply.succeeded.then_some(()))
    }

    /// Ends an instance. Its lease is revoked, so that every node sees the same deletes.
    pub async fn unregister_instance(&self, service: &ServiceRef, id: &str) -> Result<(), Failure> {
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        let known = self
            .answer(&caller, |snapshot| {
                let view = existing(snapshot, service).map_err(|_| Failure::no_instance())?;
                let known = view.instances.get(id).cloned().ok_or_else(Failure::no_instance)?;
                Ok((known, view.instances.size().saturating_sub(1)))
            })
            .await?;
        let (known, left) = known;
        // The size tells that it left, as opposed to expired; so the keys go in this transaction, not with their
        // lease.
        let txn = Txn {
            compare: vec![Compare::Exists(keys::service(service))],
            then: vec![
                put_size(service, left, id),
                Op::Delete(keys::instance(service, id)),
                Op::Delete(keys::lease(service, id)),
                Op::Delete(keys::held(service, id)),
            ],
            ..Txn::default()
        };
        if !self.commit(txn).await?.succeeded {
            return Err(Failure::no_instance());
        }
        if let Some(lease) = known.lease {
            let _ = self.store.revoke(lease).await; // nothing lives on it any more
        }
        Ok(())
    }

    /// The lease of an instance, looked for in the store when the view does not know it (yet).
    pub(super) async fn lease_of(&self, service: &ServiceRef, id: &str) -> Result<Option<LeaseId>, Failure> {
        let snapshot = self.view.now()?;
        if let Some(view) = snapshot.any_service(service) {
            if let Some(known) = view.instance(id) {
                return Ok(known.lease);
            }
            if view.held.contains_key(id) {
                // It lives only in our memory; its owner is to register it again.
                return Err(Failure::no_instance());
            }
        }
        let reply = self.store.range(crate::store::RangeRequest::key(keys::instance(service, id))).await?;
        match reply.items.first() {
            Some(kv) => Ok(kv.lease),
            None => Err(Failure::no_instance()),
        }
    }
}

/// The instances whose properties contain all pairs and that are not in the state yet.
fn matching(
    snapshot: &Snapshot,
    caller: &Caller,
    pairs: &BTreeMap<String, String>,
    status: &str,
) -> Vec<(ServiceRef, String)> {
    let mut found = Vec::new();
    let Some(tenant) = snapshot.tenant(&caller.tenant) else { return found };
    for (service, view) in tenant.services.iter() {
        for (id, known) in view.instances.iter() {
            let has = |(key, value): (&String, &String)| known.instance.properties.get(key) == Some(value);
            if pairs.iter().all(has) && known.instance.status != status {
                found.push((caller.service(service), id.clone()));
            }
        }
    }
    found
}

fn living(snapshot: &Snapshot, service: &ServiceRef, id: &str) -> Result<Arc<InstanceView>, Failure> {
    let view = snapshot.service(service).and_then(|(view, _)| view.instance(id));
    view.cloned().ok_or_else(Failure::no_instance)
}

fn put_size(service: &ServiceRef, size: usize, left: &str) -> Op {
    let size = ServiceSize { usual: size, unregistered: left.to_owned() };
    Op::put(keys::size(service), record::render(&size, None))
}

/// Whether consumers would reach the instance as before.
fn same_place(a: &Instance, b: &Instance) -> bool {
    a.endpoints == b.endpoints
        && a.host_name == b.host_name
        && a.health_check == b.health_check
        && a.data_center_info == b.data_center_info
}

fn fill_defaults(instance: &mut Instance, config: &RegistryConfig) -> Result<(), Failure> {
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
        (check.interval, check.times) = (DEFAULT_INTERVAL, DEFAULT_TIMES);
    } else {
        check.interval = check.interval.max(config.min_interval);
        check.times = check.times.max(config.min_times);
    }
    // The old arithmetic has 32 bits; what overflows there is refused here.
    let ttl = i64::from(check.interval) * (i64::from(check.times) + 1);
    if !(1..=i64::from(i32::MAX)).contains(&ttl) {
        return Err(Failure::invalid("Invalid 'healthCheck' settings in request body."));
    }
    Ok(())
}
