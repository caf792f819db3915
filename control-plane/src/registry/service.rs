//! Services: register, change, delete.
//!
//! A service stands in the store under its id (the record), under its key (the index) and, if it has an
//! alias, under that too. They are written and deleted in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use sha1::{Digest, Sha1};
use shared::model::{Framework, Revision, Service, ServiceRef, Tenant};
use tokio::time::timeout;
use tracing::warn;

use super::quota::{Permit, Resource};
use super::{Caller, Registry, RegistryError, TIDYING, own, validate};
use crate::keys::{self, Key, Name};
use crate::record;
use crate::store::{Compare, Op, Txn};
use crate::trail;
use crate::view::{ServiceView, Snapshot};

/// Leases of a deleted service's instances that are revoked at the same time.
const REVOKES_AT_ONCE: usize = 64;

/// The id of a service whose registrant chose none. It is the same in every cluster, and again after a
/// delete.
pub fn derived_id(tenant: &Tenant, name: &Name, version: &str) -> String {
    let digest = Sha1::digest(keys::index(tenant, name, version));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn name_of(service: &Service) -> Name {
    Name::new(&service.environment, &service.app_id, &service.service_name)
}

fn alias_of(service: &Service) -> Option<Name> {
    (!service.alias.is_empty()).then(|| Name::new(&service.environment, &service.app_id, &service.alias))
}

impl Registry {
    /// Registers a service and returns its id. A version that is registered already keeps its record and its
    /// id.
    pub(crate) async fn register_service(
        &self,
        tenant: &Tenant,
        mut service: Service,
    ) -> Result<String, RegistryError> {
        fill_defaults(&mut service);
        validate::service(&service, self.quotas.now().schemas)?;
        let mut snapshot = self.view.now()?;
        let name = name_of(&service);
        let alias = alias_of(&service);
        let existing =
            |in_view: &Snapshot| existing_id(in_view, tenant, &name, &service.version, alias.as_ref());
        if existing(&snapshot).is_some() {
            snapshot = self.settled_if_possible().await?;
            if let Some(existing) = existing(&snapshot) {
                return same_id(existing, &service.service_id);
            }
        }
        let requested = service.service_id.clone();
        // Held until the view shows the service, because from then on the view counts it.
        let _permit = self.permit_for_service(&snapshot, tenant, &service)?;
        if service.service_id.is_empty() {
            service.service_id = derived_id(tenant, &name, &service.version);
        }
        // Our clock, whatever the client sent: timestamps of one registry should be comparable.
        service.timestamp = self.seconds();
        service.mod_timestamp = service.timestamp.clone();
        match self.create_service(&snapshot, tenant, &service, &name, alias.as_ref()).await? {
            Created::Now => Ok(service.service_id),
            // As for a registration that came a moment later, the owner of the name or alias is the answer.
            Created::Before(owner) => same_id(owner, &requested),
        }
    }

    async fn create_service(
        &self,
        snapshot: &Snapshot,
        tenant: &Tenant,
        service: &Service,
        name: &Name,
        alias: Option<&Name>,
    ) -> Result<Created, RegistryError> {
        let reference = ServiceRef::new(tenant.clone(), &service.service_id);
        let file = keys::service(&reference);
        let index = keys::index(tenant, name, &service.version);
        let alias = alias.map(|alias| keys::alias(tenant, alias, &service.version));
        let mut txn = Txn::default();
        for key in [&file, &index].into_iter().chain(&alias) {
            txn.compare.push(Compare::Absent(key.clone()));
        }
        let value = record::render(service, None);
        txn.then.push(Op::put(file, value.clone()));
        // Read in the losing case, because the id in the index tells whose registration was faster.
        for key in [&index].into_iter().chain(&alias) {
            txn.then.push(Op::put(key.clone(), service.service_id.clone()));
            txn.otherwise.push(Op::Get(key.clone()));
        }
        // Service-Center keeps a key for each domain and project that has services.
        if snapshot.domains.get(&tenant.domain).is_none() {
            txn.then.extend(Key::Domain(tenant.domain.clone()).render().map(|key| Op::put(key, "")));
        }
        if snapshot.projects.get(tenant).is_none() {
            txn.then.extend(Key::Project(tenant.clone()).render().map(|key| Op::put(key, "")));
        }
        let reply = self.commit(txn).await?;
        if reply.succeeded {
            trail::changed(None, Some(&value));
            return Ok(Created::Now);
        }
        // Another registration was faster. If it has neither our name nor our alias, it has our id.
        match reply.got.iter().flatten().next() {
            Some(index) => Ok(Created::Before(String::from_utf8_lossy(&index.value).into_owned())),
            None => Err(RegistryError::ServiceConflict),
        }
    }

    /// Permits one more service. `None` for shared services, which are exempt from the quota.
    fn permit_for_service(
        &self,
        snapshot: &Snapshot,
        tenant: &Tenant,
        service: &Service,
    ) -> Result<Option<Permit>, RegistryError> {
        // The registry must always be able to register itself.
        if self.is_shared(tenant, &service.app_id, &service.service_name) {
            return Ok(None);
        }
        let used = snapshot.tenant(tenant).map_or(0, |view| view.service_count);
        self.pending.permit(tenant, Resource::Service, used, self.quotas.now().services).map(Some)
    }

    /// Replaces a service's properties, and its framework if one is given.
    pub(crate) async fn update_service(
        &self,
        service: &ServiceRef,
        properties: BTreeMap<String, String>,
        framework: Option<Framework>,
    ) -> Result<(), RegistryError> {
        self.rewrite_service(service, |record| {
            record.properties = properties.clone();
            if let Some(framework) = &framework {
                record.framework = Some(framework.clone());
            }
        })
        .await
    }

    async fn rewrite_service(
        &self,
        service: &ServiceRef,
        change: impl Fn(&mut Service),
    ) -> Result<(), RegistryError> {
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        self.until_won(keys::service(service), |snapshot| {
            let change = &change;
            async move {
                let view = existing(&snapshot, service)?;
                let mut record = view.service.as_deref().cloned().unwrap_or_default();
                change(&mut record);
                record.mod_timestamp = self.seconds();
                let file = keys::service(service);
                let value = record::render(&record, view.unknown.as_deref());
                let txn = Txn {
                    compare: vec![Compare::ModRev(file.clone(), view.mod_rev)],
                    then: vec![Op::put(file.clone(), value)],
                    ..Txn::default()
                };
                Ok(self.commit_noting(txn, &[file]).await?.succeeded.then_some(()))
            }
        })
        .await
    }

    /// Deletes a service with everything that belongs to it, at one revision. With `force` even if other
    /// services depend on it or it has instances.
    pub(crate) async fn delete_service(
        &self,
        service: &ServiceRef,
        force: bool,
    ) -> Result<(), RegistryError> {
        // Without its own service the registry could not be found by its clients.
        if service.tenant == Tenant::default() && service.id == own::service_id(&self.config) {
            return Err(RegistryError::invalid("not allow to delete service center"));
        }
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        let deleted = self
            .until_won(keys::service(service), |snapshot| async move {
                let mut snapshot = snapshot;
                if !force && self.check_unused(&snapshot, service).is_err() {
                    // What uses it may have just gone, at another replica.
                    snapshot = self.settled_if_possible().await?;
                    self.check_unused(&snapshot, service)?;
                }
                let view = existing(&snapshot, service)?.clone();
                let mut txn = deletion(service, &view);
                if !force {
                    txn.compare.extend(still_unused(service, &view, snapshot.revision));
                }
                let record = [keys::service(service)];
                let reply = self.commit_noting(txn, &record).await?;
                Ok(reply.succeeded.then_some(view))
            })
            .await?;
        // The service is gone by now, so a failure to tidy up is not the client's concern.
        self.tidy_after(service, &deleted).await;
        Ok(())
    }

    fn check_unused(&self, snapshot: &Snapshot, service: &ServiceRef) -> Result<(), RegistryError> {
        let view = existing(snapshot, service)?;
        if self.consumers_of(snapshot, service).iter().any(|consumer| consumer != service) {
            return Err(RegistryError::HasConsumers);
        }
        if !view.instances.is_empty() {
            return Err(RegistryError::HasInstances);
        }
        Ok(())
    }

    /// Removes the remains of a deleted service: its rules, rules that have no provider any more, and its
    /// leases. All of it is harmless if it stays, so a failure is only logged.
    async fn tidy_after(&self, service: &ServiceRef, deleted: &Arc<ServiceView>) {
        if let Some(record) = &deleted.service {
            // A consumer's rules wait for its long declarations that are under way, and there may be many consumers.
            let removing = self.forget_dependencies(&service.tenant, record);
            match timeout(TIDYING, removing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = error.with_sources();
                    warn!(service.id = %service.id, error, "dependency rules of a deleted service could not be removed");
                }
                Err(_) => {
                    warn!(service.id = %service.id, "dependency rules of a deleted service stay, because they could not be removed in time");
                }
            }
        }
        let leases: Vec<_> = deleted.instances.values().filter_map(|view| view.lease).collect();
        stream::iter(leases)
            .for_each_concurrent(REVOKES_AT_ONCE, |lease| async move {
                // A lease that is not revoked ends by itself.
                self.give_up(lease).await;
            })
            .await;
    }
}

/// The outcome of an attempt to create a service.
enum Created {
    /// It was created.
    Now,
    /// Its name or alias belongs to the service with this id.
    Before(String),
}

fn fill_defaults(service: &mut Service) {
    for (field, default) in [
        (&mut service.app_id, "default"),
        (&mut service.version, "0.0.1"),
        (&mut service.level, "BACK"),
        (&mut service.status, "UP"),
    ] {
        if field.is_empty() {
            default.clone_into(field);
        }
    }
}

/// The service's entry, if it has a record.
pub(crate) fn existing<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceRef,
) -> Result<&'a Arc<ServiceView>, RegistryError> {
    snapshot.service(service).map(|(view, _)| view).ok_or_else(RegistryError::no_service)
}

/// A transaction that succeeds only while the service's record is as the view shows it.
pub(super) fn unchanged(service: &ServiceRef, view: &ServiceView) -> Txn {
    Txn { compare: vec![Compare::ModRev(keys::service(service), view.mod_rev)], ..Txn::default() }
}

/// Like [`unchanged`], and also lets every other transaction that compares the record lose, because it writes
/// the record again. It is for belongings of a service that stand in several keys and have to fit together.
pub(super) fn exclusive(service: &ServiceRef, view: &ServiceView) -> Txn {
    let mut txn = unchanged(service, view);
    if let Some(record) = &view.service {
        let again = record::render(&**record, view.unknown.as_deref());
        txn.then.push(Op::put(keys::service(service), again));
    }
    txn
}

/// The id of the registered version of a name, or of the alias.
fn existing_id(
    snapshot: &Snapshot,
    tenant: &Tenant,
    name: &Name,
    version: &str,
    alias: Option<&Name>,
) -> Option<String> {
    let mut entry = snapshot.versions(tenant, name).iter().find(|entry| entry.text == version);
    if let (None, Some(alias)) = (entry, alias) {
        entry = snapshot.alias_versions(tenant, alias).iter().find(|entry| entry.text == version);
    }
    entry.map(|entry| entry.id.clone())
}

fn same_id(existing: String, requested: &str) -> Result<String, RegistryError> {
    if requested.is_empty() || requested == existing {
        Ok(existing)
    } else {
        Err(RegistryError::ServiceConflict)
    }
}

/// The conditions under which a service that had neither instances nor consumers at a revision has none still: it may be
/// given some at this moment, by another replica.
fn still_unused(service: &ServiceRef, view: &ServiceView, at: Revision) -> Vec<Compare> {
    let mut prefixes = vec![keys::instances_of(service)];
    if let Some(record) = &view.service {
        prefixes.extend(keys::consumers_of(&service.tenant, &name_of(record)));
    }
    prefixes.into_iter().map(|prefix| Compare::UnwrittenSince(prefix, at)).collect()
}

fn deletion(service: &ServiceRef, view: &ServiceView) -> Txn {
    let file = keys::service(service);
    let mut then = vec![Op::Delete(file.clone())];
    if let Some(record) = &view.service {
        then.push(Op::Delete(keys::index(&service.tenant, &name_of(record), &record.version)));
        if let Some(alias) = alias_of(record) {
            then.push(Op::Delete(keys::alias(&service.tenant, &alias, &record.version)));
        }
    }
    then.extend(keys::belongings(service).into_iter().map(Op::DeletePrefix));
    then.extend(Key::Tags(service.clone()).render().map(Op::Delete));
    // Keys that Service-Center does not have, and would not delete.
    then.push(Op::DeletePrefix(keys::wanted_by(service)));
    then.push(Op::Delete(keys::size(service)));
    then.push(Op::DeletePrefix(keys::held_of(service)));
    Txn { compare: vec![Compare::ModRev(file, view.mod_rev)], then, ..Txn::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_those_of_the_contract() {
        for (env, app, name, version, id) in [
            ("", "default", "demo-provider", "1.0.0", "abd2e34f75433ea906a632c6bec0ce0c64712d56"),
            ("production", "shop", "order", "2.1.0", "d8ff48ad2813eda0b0d8332a25b45000396fcfae"),
        ] {
            assert_eq!(derived_id(&Tenant::default(), &Name::new(env, app, name), version), id);
        }
    }
}
