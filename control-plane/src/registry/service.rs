//! Services: register, change, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use sha1::{Digest, Sha1};
use shared::model::{Framework, Service, ServiceRef, Tenant};
use tracing::warn;

use super::quota::{Place, Resource};
use super::{Caller, Registry, own, validate};
use crate::failure::{Code, Failure};
use crate::keys::{self, Key, Name};
use crate::record;
use crate::store::{Compare, Op, Txn};
use crate::view::{ServiceView, Snapshot};

/// Leases that are given back at once after their service was deleted.
const REVOKES_AT_ONCE: usize = 64;

/// What was asked to be deleted, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteOptions {
    /// Also when others depend on it or it has instances.
    pub force: bool,
}

/// The id that a version of a name has unless its registrant chose one: the same in every cluster, and again
/// after a delete.
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
    /// Registers a service and returns its id. A version that is registered already keeps its record; the id
    /// that it has is returned.
    pub async fn register_service(&self, tenant: &Tenant, mut service: Service) -> Result<String, Failure> {
        fill_defaults(&mut service);
        validate::service(&service, self.quotas.now().schemas)?;
        let snapshot = self.view.now()?;
        let (name, alias) = (name_of(&service), alias_of(&service));
        if let Some(known) = known_id(&snapshot, tenant, &name, &service.version, alias.as_ref()) {
            return same_id(known, &service.service_id);
        }
        let _place = self.place_for_service(&snapshot, tenant, &service)?;
        if service.service_id.is_empty() {
            service.service_id = derived_id(tenant, &name, &service.version);
        }
        service.timestamp = self.seconds();
        service.mod_timestamp = service.timestamp.clone();
        self.create_service(&snapshot, tenant, &service, &name, alias.as_ref()).await
    }

    async fn create_service(
        &self,
        snapshot: &Snapshot,
        tenant: &Tenant,
        service: &Service,
        name: &Name,
        alias: Option<&Name>,
    ) -> Result<String, Failure> {
        let reference = ServiceRef::new(tenant.clone(), &service.service_id);
        let file = keys::service(&reference);
        let index = keys::index(tenant, name, &service.version);
        let alias = alias.map(|alias| keys::alias(tenant, alias, &service.version));
        let mut txn = Txn::default();
        for key in [&file, &index].into_iter().chain(&alias) {
            txn.compare.push(Compare::Absent(key.clone()));
        }
        txn.then.push(Op::put(file, record::render(service, None)));
        for key in [&index].into_iter().chain(&alias) {
            txn.then.push(Op::put(key.clone(), service.service_id.clone()));
            txn.otherwise.push(Op::Get(key.clone()));
        }
        if snapshot.domains.get(&tenant.domain).is_none() {
            txn.then.extend(Key::Domain(tenant.domain.clone()).render().map(|key| Op::put(key, "")));
        }
        if snapshot.projects.get(tenant).is_none() {
            txn.then.extend(Key::Project(tenant.clone()).render().map(|key| Op::put(key, "")));
        }
        let reply = self.commit(txn).await?;
        if reply.succeeded {
            return Ok(service.service_id.clone());
        }
        match reply.got.iter().flatten().next() {
            Some(kv) => same_id(String::from_utf8_lossy(&kv.value).into_owned(), &service.service_id),
            None => Err(conflict()),
        }
    }

    fn place_for_service(
        &self,
        snapshot: &Snapshot,
        tenant: &Tenant,
        service: &Service,
    ) -> Result<Option<Place>, Failure> {
        if self.is_shared(tenant, &service.app_id, &service.service_name) {
            return Ok(None);
        }
        let used = snapshot.tenant(tenant).map_or(0, |view| view.service_count);
        self.pending.take(tenant, Resource::Service, used, self.quotas.now().services).map(Some)
    }

    /// Replaces a service's properties, and its framework where one is given.
    pub async fn update_service(
        &self,
        service: &ServiceRef,
        properties: BTreeMap<String, String>,
        framework: Option<Framework>,
    ) -> Result<(), Failure> {
        self.rewrite_service(service, |record| {
            record.properties = properties.clone();
            if let Some(framework) = &framework {
                record.framework = Some(framework.clone());
            }
        })
        .await
    }

    /// Rewrites a service's record, compare-and-swap.
    pub(super) async fn rewrite_service(
        &self,
        service: &ServiceRef,
        change: impl Fn(&mut Service),
    ) -> Result<(), Failure> {
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        self.until_won(|snapshot| {
            let change = &change;
            async move {
                let view = existing(&snapshot, service)?;
                let mut record = view.service.as_deref().cloned().unwrap_or_default();
                change(&mut record);
                record.mod_timestamp = self.seconds();
                let file = keys::service(service);
                let txn = Txn {
                    compare: vec![Compare::ModRev(file.clone(), view.mod_rev)],
                    then: vec![Op::put(file, record::render(&record, view.unknown.as_deref()))],
                    ..Txn::default()
                };
                Ok(self.commit(txn).await?.succeeded.then_some(()))
            }
        })
        .await
    }

    /// Deletes a service with everything that belongs to it, at one revision. Its watchers and those of its
    /// instances are told.
    pub async fn delete_service(&self, service: &ServiceRef, options: DeleteOptions) -> Result<(), Failure> {
        if service.tenant == Tenant::default() && service.id == own::service_id(&self.config) {
            return Err(Failure::invalid("not allow to delete service center"));
        }
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        let gone = self
            .until_won(|snapshot| async move {
                let view = existing(&snapshot, service)?;
                if !options.force {
                    self.may_go(&snapshot, service, view)?;
                }
                let view = view.clone();
                let reply = self.commit(deletion(service, &view)).await?;
                Ok(reply.succeeded.then_some(view))
            })
            .await?;
        self.tidy_after(service, &gone).await;
        Ok(())
    }

    fn may_go(&self, snapshot: &Snapshot, service: &ServiceRef, view: &ServiceView) -> Result<(), Failure> {
        if self.consumers_of(snapshot, service).iter().any(|consumer| consumer != service) {
            return Err(Failure::new(
                Code::HasConsumers,
                "Can not delete this service, other service rely it.",
            ));
        }
        if !view.instances.is_empty() {
            return Err(Failure::new(Code::HasInstances, "Can not delete the service deployed instance(s)."));
        }
        Ok(())
    }

    /// What is left to do when a service is gone: its rules, the rules that now point to nothing, its leases.
    /// All of it is harmless when it stays undone, so failures are only told.
    async fn tidy_after(&self, service: &ServiceRef, gone: &Arc<ServiceView>) {
        if let Some(record) = &gone.service
            && let Err(failure) = self.forget_dependencies(&service.tenant, record).await
        {
            warn!(service.id = %service.id, %failure, "rules of a deleted service are left behind");
        }
        let leases = gone.instances.values().filter_map(|view| view.lease).collect::<Vec<_>>();
        stream::iter(leases)
            .for_each_concurrent(REVOKES_AT_ONCE, |lease| async move {
                let _ = self.store.revoke(lease).await; // it ends by itself otherwise
            })
            .await;
    }
}

fn fill_defaults(service: &mut Service) {
    let fill = |field: &mut String, default: &str| {
        if field.is_empty() {
            default.clone_into(field);
        }
    };
    fill(&mut service.app_id, "default");
    fill(&mut service.version, "0.0.1");
    fill(&mut service.level, "BACK");
    fill(&mut service.status, "UP");
}

/// The service's entry, if it has a record.
pub fn existing<'a>(snapshot: &'a Snapshot, service: &ServiceRef) -> Result<&'a Arc<ServiceView>, Failure> {
    snapshot.service(service).map(|(view, _)| view).ok_or_else(Failure::no_service)
}

/// A transaction that happens only while the service's record is as the view has it.
pub(super) fn unchanged(service: &ServiceRef, view: &ServiceView) -> Txn {
    Txn { compare: vec![Compare::ModRev(keys::service(service), view.mod_rev)], ..Txn::default() }
}

/// Like [`unchanged`], and makes every other change that is bound to the record lose: the record is written again
/// as it is. For what belongs to a service in several keys that have to fit together.
pub(super) fn exclusive(service: &ServiceRef, view: &ServiceView) -> Txn {
    let mut txn = unchanged(service, view);
    if let Some(record) = &view.service {
        let again = record::render(&**record, view.unknown.as_deref());
        txn.then.push(Op::put(keys::service(service), again));
    }
    txn
}

fn known_id(
    snapshot: &Snapshot,
    tenant: &Tenant,
    name: &Name,
    version: &str,
    alias: Option<&Name>,
) -> Option<String> {
    let by_name = snapshot.versions(tenant, name).iter().find(|v| v.text == version);
    let by_alias =
        || alias.and_then(|alias| snapshot.alias_versions(tenant, alias).iter().find(|v| v.text == version));
    by_name.or_else(by_alias).map(|entry| entry.id.clone())
}

fn same_id(known: String, asked: &str) -> Result<String, Failure> {
    if asked.is_empty() || asked == known { Ok(known) } else { Err(conflict()) }
}

fn conflict() -> Failure {
    Failure::new(Code::ServiceConflict, "ServiceID conflict or found the same service with different id.")
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
    then.push(Op::DeletePrefix(keys::wanted_by(service)));
    then.push(Op::Delete(keys::size(service)));
    then.push(Op::DeletePrefix(keys::held_of(service)));
    Txn { compare: vec![Compare::ModRev(file, view.mod_rev)], then, ..Txn::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_contracts_vectors() {
        for (env, app, name, version, id) in [
            ("", "default", "demo-provider", "1.0.0", "abd2e34f75433ea906a632c6bec0ce0c64712d56"),
            ("production", "shop", "order", "2.1.0", "d8ff48ad2813eda0b0d8332a25b45000396fcfae"),
        ] {
            assert_eq!(derived_id(&Tenant::default(), &Name::new(env, app, name), version), id);
        }
    }
}
