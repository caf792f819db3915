//! The registry at one revision. A snapshot never changes once readers have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use shared::model::{Incarnation, Revision, Service, ServiceKey, ServiceRef, Tenant};

use super::access::SharedServices;
use super::entry::{RuleSet, ServiceView, VersionEntry};
use super::list::{ListCell, ServiceList};
use super::shifts::ShiftView;
use crate::keys::Name;
use crate::version::{Version, VersionRule};

/// The registry at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The snapshot contains every change up to this revision. It is 0 before the first list.
    pub revision: Revision,
    /// The last revision that changed something under the registry's root. Every replica is sent it at once,
    /// while it learns of other revisions only when it asks for progress.
    pub changed: Revision,
    /// The incarnation of the store whose revisions these are.
    pub incarnation: Incarnation,
    /// The tenants with at least one service or dependency rule.
    pub tenants: HashTrieMapSync<Tenant, Arc<TenantView>>,
    /// For each wanted name of a tenant, the consumers that wait for it.
    pub wanted: HashTrieMapSync<(Tenant, Name), Arc<BTreeSet<ServiceRef>>>,
    /// Held instances that are not recorded in the store yet, with the revision at which they expired.
    pub unrecorded: HashTrieMapSync<(ServiceRef, String), Revision>,
    /// Services whose protection ended and which now have fewer instances than their stored usual size.
    pub shrunk: HashTrieMapSync<ServiceRef, ()>,
    /// The overrides that are to end, by the second since 1970 at which they do.
    pub ending: RedBlackTreeMapSync<(u64, ServiceRef, String), ()>,
    /// The shifts that run, by the second since 1970 at which their present step is over.
    pub shifting: RedBlackTreeMapSync<(u64, Tenant, String), ()>,
    /// Services of which another program has deleted an override that was in force. Replicas agree about
    /// their instances once an override of the whole service is written.
    pub torn: HashTrieMapSync<ServiceRef, ()>,
    /// The services that every tenant finds. They come from the settings, not from the store.
    pub shared: Arc<SharedServices>,
    /// The accounts, the roles, and everything else that decisions about access depend on.
    pub policy: Arc<access::Policy>,
    /// The recorded domains.
    pub domains: HashTrieMapSync<String, ()>,
    /// The recorded projects.
    pub projects: HashTrieMapSync<Tenant, ()>,
}

/// The wanted names of a consumer, each with the version rule that the consumer asked for.
pub(super) type WantedNames = BTreeMap<(Tenant, Name), String>;

/// One tenant's part of the registry.
#[derive(Clone, Debug, Default)]
pub struct TenantView {
    /// Services by id, including services without a record.
    pub services: HashTrieMapSync<String, Arc<ServiceView>>,
    /// Made at the first list after each change of a record.
    pub(super) listed: ListCell,
    /// The number of services with a record.
    pub service_count: usize,
    /// The number of instances of all services.
    pub instance_count: usize,
    /// The versions of a name, newest first.
    pub names: HashTrieMapSync<Name, Arc<Vec<VersionEntry>>>,
    /// The versions of an alias, newest first.
    pub aliases: HashTrieMapSync<Name, Arc<Vec<VersionEntry>>>,
    /// The providers of each consumer, by its name and version.
    pub consumer_rules: HashTrieMapSync<(Name, String), RuleSet>,
    /// The consumers of each provider name, by version rule.
    pub provider_rules: HashTrieMapSync<Name, Arc<BTreeMap<String, RuleSet>>>,
    /// The consumers that depend on every service of an environment.
    pub provider_rules_all: HashTrieMapSync<String, RuleSet>,
    /// The services of all overrides, by the override's id. Ended overrides are included.
    pub overrides: RedBlackTreeMapSync<String, String>,
    /// The bytes of these overrides in the store.
    pub override_bytes: usize,
    /// The shifts, by id. Undone ones are included.
    pub shifts: RedBlackTreeMapSync<String, Arc<ShiftView>>,
    /// The wanted names of each consumer, by its id.
    pub wanted: HashTrieMapSync<String, Arc<WantedNames>>,
}

impl TenantView {
    /// The services with a record, in the order of their ids: all replicas list them alike.
    pub fn records(&self) -> Vec<&Service> {
        let records = self.services.values().filter_map(|view| view.service.as_deref());
        let mut records: Vec<&Service> = records.collect();
        records.sort_unstable_by(|a, b| a.service_id.cmp(&b.service_id));
        records
    }

    /// The list of all services with a record.
    pub fn list(&self) -> Arc<ServiceList> {
        self.listed.list(|| self.records())
    }
}

impl Snapshot {
    /// A tenant's part, if the tenant has any service or rule.
    pub fn tenant(&self, tenant: &Tenant) -> Option<&Arc<TenantView>> {
        self.tenants.get(tenant)
    }

    /// A service that has a record, and the record.
    pub fn service(&self, service: &ServiceRef) -> Option<(&Arc<ServiceView>, &Arc<Service>)> {
        let view = self.any_service(service)?;
        Some((view, view.service.as_ref()?))
    }

    /// A service, with or without a record.
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

    /// The versions of a name or, when no service has the name, of the alias.
    pub fn by_name_or_alias(&self, tenant: &Tenant, name: &Name) -> &[VersionEntry] {
        match self.versions(tenant, name) {
            // A name has precedence: an alias cannot hide a service that has the name itself.
            [] => self.alias_versions(tenant, name),
            versions => versions,
        }
    }

    /// The service with this key, by name or else by alias.
    pub fn by_key(&self, key: &ServiceKey) -> Option<ServiceRef> {
        let tenant = Tenant::parse(&key.tenant)?;
        let name = Name::new(&key.environment, &key.app_id, &key.service_name);
        if let Some(found) = exact(self.versions(&tenant, &name), &key.version) {
            return Some(ServiceRef::new(tenant, &found.id));
        }
        // A rule may name a service by its alias.
        let alias = Name::new(&key.environment, &key.app_id, &key.alias);
        let found = exact(self.alias_versions(&tenant, &alias), &key.version)?;
        Some(ServiceRef::new(tenant, &found.id))
    }
}

fn exact<'a>(versions: &'a [VersionEntry], text: &str) -> Option<&'a VersionEntry> {
    versions.iter().find(|entry| entry.text == text)
}

/// The versions that a rule matches, newest first.
pub fn select<'a>(
    versions: &'a [VersionEntry],
    rule: &'a VersionRule,
) -> impl Iterator<Item = &'a VersionEntry> + 'a {
    let highest = versions.first().map_or(Version::default(), |v| v.version);
    // `latest` takes one version only, also where two texts (1.0, 1.0.0) stand for the same number.
    let most = if *rule == VersionRule::Latest { 1 } else { usize::MAX };
    versions.iter().filter(move |v| rule.takes(&v.text, v.version, highest)).take(most)
}
