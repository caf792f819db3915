//! Interest: the providers whose changes concern a consumer.
//!
//! A consumer's interest contains the providers that its dependency rules match, and the services of its
//! wanted names. A provider's black and white rules may exclude a consumer.

use std::collections::BTreeSet;

use shared::model::{Scope, Service, ServiceKey, ServiceRef, Tenant};

use super::access;
use super::snapshot::{Snapshot, select};
use crate::keys::Name;
use crate::version::VersionRule;

/// The interest of a consumer, or `None` when the consumer does not exist.
pub fn providers(snapshot: &Snapshot, consumer: &ServiceRef) -> Option<BTreeSet<ServiceRef>> {
    let (view, service) = snapshot.service(consumer)?;
    let tenant = snapshot.tenant(&consumer.tenant)?;
    let name = Name::new(&service.environment, &service.app_id, &service.service_name);
    let mut found = BTreeSet::new();
    if let Some(rules) = tenant.consumer_rules.get(&(name, service.version.clone())) {
        for rule in rules.keys.iter() {
            add_matching(snapshot, &consumer.tenant, service, rule, &mut found);
        }
    }
    // A wanted name may turn out to be the alias of a service, so both are looked up.
    for (tenant, name) in tenant.wanted.get(&consumer.id).into_iter().flat_map(|wanted| wanted.iter()) {
        let versions = snapshot.versions(tenant, name).iter().chain(snapshot.alias_versions(tenant, name));
        found.extend(versions.map(|v| ServiceRef::new(tenant.clone(), &v.id)));
    }
    found.retain(|provider| {
        let provider = snapshot.service(provider);
        provider.is_some_and(|(provider, _)| access::rules_allow(&provider.rules, service, &view.tags))
    });
    Some(found)
}

/// The services of a scope.
pub fn scoped(snapshot: &Snapshot, scope: &Scope) -> BTreeSet<ServiceRef> {
    let services = snapshot.tenant(&scope.tenant).into_iter().flat_map(|tenant| tenant.services.iter());
    services
        .filter(|(_, view)| view.service.is_some() && scope.matches(&view.key))
        .map(|(id, _)| ServiceRef::new(scope.tenant.clone(), id))
        .collect()
}

/// Those of some services of a tenant that are registered.
pub fn listed(snapshot: &Snapshot, tenant: &Tenant, ids: &BTreeSet<String>) -> BTreeSet<ServiceRef> {
    let services = ids.iter().map(|id| ServiceRef::new(tenant.clone(), id));
    services.filter(|service| snapshot.service(service).is_some()).collect()
}

/// The services that a dependency rule of `consumer` matches. `own` is the consumer's tenant.
pub fn matching(snapshot: &Snapshot, own: &Tenant, consumer: &Service, rule: &ServiceKey) -> Vec<ServiceRef> {
    let mut found = BTreeSet::new();
    add_matching(snapshot, own, consumer, rule, &mut found);
    found.into_iter().collect()
}

fn add_matching(
    snapshot: &Snapshot,
    own: &Tenant,
    consumer: &Service,
    rule: &ServiceKey,
    found: &mut BTreeSet<ServiceRef>,
) {
    let tenant = Tenant::parse(&rule.tenant).unwrap_or_else(|| own.clone());
    if rule.service_name == "*" {
        let Some(view) = snapshot.tenant(&tenant) else { return };
        for (name, versions) in view.names.iter() {
            // A rule for all services means those of the consumer's own environment.
            if name.environment == consumer.environment {
                found.extend(versions.iter().map(|v| ServiceRef::new(tenant.clone(), &v.id)));
            }
        }
        return;
    }
    let name = Name::new(&rule.environment, &rule.app_id, &rule.service_name);
    // Newer Service-Center nodes leave the version out of a rule for all versions.
    let version = VersionRule::parse(&rule.version).unwrap_or(VersionRule::ALL);
    let versions = snapshot.versions(&tenant, &name);
    found.extend(select(versions, &version).map(|v| ServiceRef::new(tenant.clone(), &v.id)));
}

/// The consumers that a change of the versions of `name` may concern.
pub fn concerned(snapshot: &Snapshot, tenant: &Tenant, name: &Name) -> BTreeSet<ServiceRef> {
    let mut found = BTreeSet::new();
    // Regardless of versions: a consumer too many costs one comparison, one too few would miss a change.
    if let Some(view) = snapshot.tenant(tenant) {
        let by_name = view.provider_rules.get(name).into_iter().flat_map(|rules| rules.values());
        let by_all = view.provider_rules_all.get(&name.environment);
        for set in by_name.chain(by_all) {
            found.extend(set.keys.iter().filter_map(|consumer| snapshot.by_key(consumer)));
        }
    }
    if let Some(wanting) = snapshot.wanted.get(&(tenant.clone(), name.clone())) {
        found.extend(wanting.iter().cloned());
    }
    found
}
