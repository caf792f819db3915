//! The registry at one revision. Immutable once handed out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rpds::HashTrieMapSync;
use shared::model::{Revision, Service, ServiceKey, ServiceRef, Tenant};

use super::entry::{RuleSet, ServiceView, VersionEntry};
use crate::keys::Name;
use crate::version::{Version, VersionRule};

/// Everything, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The revision up to which everything is contained; 0 before the first list.
    pub revision: Revision,
    /// The tenants that have anything.
    pub tenants: HashTrieMapSync<Tenant, Arc<TenantView>>,
    /// Who wants to hear of a name (of a tenant) although no dependency rule says so.
    pub wanted: HashTrieMapSync<(Tenant, Name), Arc<BTreeSet<ServiceRef>>>,
    /// Held instances of which the store does not know yet.
    pub unrecorded: HashTrieMapSync<(ServiceRef, String), Revision>,
    /// Services whose size in the store is larger than what the end of a protection left of them.
    pub shrunk: HashTrieMapSync<ServiceRef, ()>,
    /// The recorded domains.
    pub domains: HashTrieMapSync<String, ()>,
    /// The recorded projects.
    pub projects: HashTrieMapSync<Tenant, ()>,
}

/// One tenant's part.
#[derive(Clone, Debug, Default)]
pub struct TenantView {
    /// Services by id; also ids of which only belongings are known.
    pub services: HashTrieMapSync<String, Arc<ServiceView>>,
    /// Services with a record.
    pub service_count: usize,
    /// Instances of all services.
    pub instance_count: usize,
    /// The versions of a name, newest first.
    pub names: HashTrieMapSync<Name, Arc<Vec<VersionEntry>>>,
    /// The versions of an alias, newest first.
    pub aliases: HashTrieMapSync<Name, Arc<Vec<VersionEntry>>>,
    /// Whom a version of a name depends on.
    pub consumer_rules: HashTrieMapSync<(Name, String), RuleSet>,
    /// Who depends on a name, by version rule.
    pub provider_rules: HashTrieMapSync<Name, Arc<BTreeMap<String, RuleSet>>>,
    /// Who depends on everything, by environment.
    pub provider_rules_all: HashTrieMapSync<String, RuleSet>,
    /// What a consumer (by id) wants to hear of.
    pub wanted: HashTrieMapSync<String, Arc<BTreeSet<(Tenant, Name)>>>,
}

impl Snapshot {
    /// A tenant's part, if it has any.
    pub fn tenant(&self, tenant: &Tenant) -> Option<&Arc<TenantView>> {
        self.tenants.get(tenant)
    }

    /// A service with a record.
    pub fn service(&self, service: &ServiceRef) -> Option<(&Arc<ServiceView>, &Arc<Service>)> {
        let view = self.any_service(service)?;
        Some((view, view.service.as_ref()?))
    }

    /// A service, or what is known of one without a record.
    pub fn any_service(&self, service: &ServiceRef) -> Option<&Arc<ServiceView>> {
        self.tenant(&service.tenant)?.services.get(&service.id)
    }

    /// The versions of a name, newest first.
    pub fn versions(&self, tenant: &Tenant, name: &Name) -> &[VersionEntry] {
        self.tenant(tenant).and_then(|t| t.names.get(name)).map_or(&[], |versions| versions)
    }

    /// The versions of an alias, newest first.
    pub fn alias_versions(&self, tenant: &Tenant, alias: &Name) -> &[VersionEntry] {
        self.tenant(tenant).and_then(|t| t.aliases.get(alias)).map_or(&[], |versions| versions)
    }

    /// The service that a full key names, by name or else by alias.
    pub fn by_key(&self, key: &ServiceKey) -> Option<ServiceRef> {
        let tenant = Tenant::parse(&key.tenant)?;
        let name = Name::new(&key.environment, &key.app_id, &key.service_name);
        let exact = |versions: &[VersionEntry]| versions.iter().find(|v| v.text == key.version).cloned();
        let found = exact(self.versions(&tenant, &name)).or_else(|| {
            exact(self.alias_versions(&tenant, &Name::new(&key.environment, &key.app_id, &key.alias)))
        })?;
        Some(ServiceRef::new(tenant, found.id))
    }
}

/// The versions that a rule takes, newest first.
pub fn select<'a>(
    versions: &'a [VersionEntry],
    rule: &'a VersionRule,
) -> impl Iterator<Item = &'a VersionEntry> + 'a {
    let highest = versions.first().map_or(Version::default(), |v| v.version);
    // `latest` takes one version only, also where two texts (1.0, 1.0.0) stand for the same number.
    let most = if *rule == VersionRule::Latest { 1 } else { usize::MAX };
    versions.iter().filter(move |v| rule.takes(&v.text, v.version, highest)).take(most)
}
