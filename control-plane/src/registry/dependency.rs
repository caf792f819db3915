//! Dependencies between consumers and providers.
//!
//! A rule stands twice in the store, under the consumer and under each provider. Both sides change in one
//! compare-and-swap transaction, so no lock is needed and no rule is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use shared::model::{Service, ServiceKey, ServiceRef, Tenant, null_default};
use tokio::time::timeout;

use super::{Caller, Registry, RegistryError, TIDYING, validate};
use crate::keys::Name;
use crate::trail;
use crate::version::{Version, VersionRule};
use crate::view::{RuleSet, Snapshot, interest};

mod changes;
mod dangling;
mod notes;
mod sides;
mod way;

use changes::RuleChange;
pub(super) use changes::RuleChanges;
use sides::{has_provider, rule_name, rules_of};

/// Pause while a Service-Center node holds the lock of the rules.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Declarations that one request may have.
const DECLARATIONS_PER_REQUEST: usize = 100;
/// Providers that one declaration may name. They are written fifty at a time. A consumer of more providers
/// declares `*`.
const PROVIDERS_PER_DECLARATION: usize = 1000;

/// The effect of new providers on the existing ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// New providers join the existing ones.
    Add,
    /// New providers replace the existing ones.
    Overwrite,
    /// Existing providers leave, those of them that are not registered.
    Prune,
}

/// A consumer and the providers it declares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declaration {
    /// Full key. Its tenant is not read: a consumer belongs to the caller's.
    pub(crate) consumer: ServiceKey,
    /// Keys whose versions are rules. Their tenant is read only for shared services. `*` as name means
    /// everything in the consumer's environment.
    pub(crate) providers: Vec<ServiceKey>,
}

/// A find that no dependency rule can stand for: of a name that nobody has registered, of versions that
/// nobody has or that are hidden from the consumer, of an alias, or of a shared service.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(super) tenant: Tenant,
    /// The name or alias that was asked for.
    pub(super) name: Name,
    /// The version rule.
    pub(super) versions: String,
}

/// The value of a dependency that a Service-Center node has queued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct QueuedDependency {
    consumer: Option<ServiceKey>,
    #[serde(deserialize_with = "null_default")]
    providers: Vec<ServiceKey>,
    #[serde(rename = "override", deserialize_with = "null_default")]
    overrides: bool,
}

/// The partners that a list leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PartnerFilter {
    /// Leave out services of other tenants.
    pub(crate) same_domain: bool,
    /// Leave out the service itself.
    pub(crate) no_self: bool,
}

impl Registry {
    /// Declares dependencies in order, up to the first that is refused.
    pub(crate) async fn declare(
        &self,
        tenant: &Tenant,
        declarations: Vec<Declaration>,
        mode: Mode,
    ) -> Result<(), RegistryError> {
        if declarations.is_empty() || declarations.len() > DECLARATIONS_PER_REQUEST {
            return Err(RegistryError::invalid("field 'dependencies' must have 1 to 100 items"));
        }
        // All are checked before the first is written: a request with a mistake changes nothing.
        let mut checked = Vec::with_capacity(declarations.len());
        for declaration in declarations {
            let declaration = self.complete(declaration, tenant, mode)?;
            self.check_consumer(tenant, &declaration.consumer).await?;
            checked.push(declaration);
        }
        for Declaration { consumer, providers } in checked {
            let providers = match mode {
                Mode::Overwrite => self.note_absent(tenant, &consumer, providers).await?,
                Mode::Add | Mode::Prune => providers,
            };
            self.set_rules(&consumer, providers, mode).await?;
        }
        if mode == Mode::Overwrite {
            // Those that are left go with the next declaration.
            timeout(TIDYING, self.drop_all_dangling(tenant)).await.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    /// Notes the providers that are not registered, and returns the others. A rule for the former would be dropped at
    /// once, and declarations at the same time would drop and write each other's for ever.
    async fn note_absent(
        &self,
        tenant: &Tenant,
        consumer: &ServiceKey,
        providers: Vec<ServiceKey>,
    ) -> Result<Vec<ServiceKey>, RegistryError> {
        // A provider may have been registered a moment ago, at another replica.
        let snapshot = self.settled_if_possible().await?;
        let is_absent = |provider: &&ServiceKey| !has_provider(&snapshot, tenant, provider);
        let absent: Vec<ServiceKey> = providers.iter().filter(is_absent).cloned().collect();
        if absent.is_empty() {
            return Ok(providers);
        }
        self.want_providers(&snapshot, tenant, consumer, &absent).await?;
        // One that was registered meanwhile has a note and no rule yet.
        let snapshot = self.view.now()?;
        let is_present = |provider: &ServiceKey| has_provider(&snapshot, tenant, provider);
        Ok(providers.into_iter().filter(is_present).collect())
    }

    async fn check_consumer(&self, tenant: &Tenant, consumer: &ServiceKey) -> Result<(), RegistryError> {
        self.answer(&Caller::of_tenant(tenant), |snapshot| {
            if snapshot.by_key(consumer).is_some() {
                return Ok(());
            }
            let ServiceKey { environment, app_id, service_name, version, .. } = consumer;
            let detail = format!("Consumer {environment}/{app_id}/{service_name}/{version} does not exist.");
            Err(RegistryError::ServiceNotFound(detail.into()))
        })
        .await
    }

    /// Records that a consumer depends on a provider. True when that was new. Cheap when it is recorded
    /// already.
    pub(super) async fn depend(
        &self,
        consumer: &ServiceRef,
        provider: &ServiceKey,
    ) -> Result<bool, RegistryError> {
        let snapshot = self.view.now()?;
        // A consumer that is deleted meanwhile depends on nothing.
        let Some((view, _)) = snapshot.service(consumer) else { return Ok(false) };
        let key = ServiceKey { alias: String::new(), ..(*view.key).clone() };
        let rules = rules_of(&snapshot, &key);
        if rules.keys.iter().any(|rule| rule.service_name == "*") {
            return Ok(false);
        }
        // The rule replaces a note about the name, in the same transaction: the consumer is interested at
        // every revision. Beside a rule, a note therefore stands for a later find.
        let obsolete = self.note_of(&snapshot, consumer, provider);
        if obsolete.is_none() && rules.keys.contains(provider) {
            return Ok(false);
        }
        let providers = vec![provider.clone()];
        self.change_rules(RuleChange { consumer: key, providers, mode: Mode::Add, obsolete }).await?;
        Ok(true)
    }

    /// Changes a consumer's rules to the given ones, with a bounded number of providers per transaction.
    async fn set_rules(
        &self,
        consumer: &ServiceKey,
        providers: Vec<ServiceKey>,
        mode: Mode,
    ) -> Result<(), RegistryError> {
        let before = self.rules_for_audit(consumer);
        let change = RuleChange { consumer: consumer.clone(), providers, mode, obsolete: None };
        self.change_rules(change).await?;
        let after = self.rules_for_audit(consumer);
        trail::changed(before.as_deref(), after.as_deref());
        Ok(())
    }

    /// The rules of a consumer as JSON, if somebody collects notes for the audit log and there are rules. They
    /// come from the view, because one transaction writes the changes of many requests.
    fn rules_for_audit(&self, consumer: &ServiceKey) -> Option<Vec<u8>> {
        if !trail::is_kept() {
            return None;
        }
        let rules = rules_of(&*self.view.now().ok()?, consumer);
        if rules.keys.is_empty() { None } else { serde_json::to_vec(&rules.keys).ok() }
    }

    /// The consumers of a service. Those that depend on everything come first.
    pub(crate) fn consumers_of(&self, snapshot: &Snapshot, provider: &ServiceRef) -> Vec<ServiceRef> {
        let Some((_, service)) = snapshot.service(provider) else { return Vec::new() };
        let Some(tenant) = snapshot.tenant(&provider.tenant) else { return Vec::new() };
        let name = Name::new(&service.environment, &service.app_id, &service.service_name);
        let highest = snapshot.versions(&provider.tenant, &name).first();
        let highest = highest.map_or(Version::default(), |entry| entry.version);
        let version = Version::parse(&service.version).unwrap_or_default();
        let mut sets: Vec<&RuleSet> =
            tenant.provider_rules_all.get(&service.environment).into_iter().collect();
        for (rule, set) in tenant.provider_rules.get(&name).into_iter().flat_map(|rules| rules.iter()) {
            // Another writer's rule that cannot be read counts for every version, so no consumer is missed.
            let rule = VersionRule::parse(rule).unwrap_or(VersionRule::ALL);
            if rule.takes(&service.version, version, highest) {
                sets.push(set);
            }
        }
        // A consumer may match by several rules. The lists are short, and their order is part of the reply.
        let mut found: Vec<ServiceRef> = Vec::new();
        for consumer in sets.iter().flat_map(|set| set.keys.iter()).filter_map(|key| snapshot.by_key(key)) {
            if !found.contains(&consumer) {
                found.push(consumer);
            }
        }
        found
    }

    /// The registered providers of a service.
    pub(crate) fn providers_of(&self, snapshot: &Snapshot, consumer: &ServiceRef) -> Vec<ServiceRef> {
        let Some((view, service)) = snapshot.service(consumer) else { return Vec::new() };
        let rules = rules_of(snapshot, &view.key);
        let mut found: Vec<ServiceRef> = Vec::new();
        for rule in rules.keys.iter() {
            for provider in interest::matching(snapshot, &consumer.tenant, service, rule) {
                if !found.contains(&provider) {
                    found.push(provider);
                }
            }
        }
        found
    }

    /// The records of a service's partners.
    pub(crate) fn partners(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        own: &ServiceRef,
        partners: Vec<ServiceRef>,
        filter: PartnerFilter,
    ) -> Vec<Arc<Service>> {
        let mut records = Vec::new();
        for partner in &partners {
            let foreign = filter.same_domain && partner.tenant != own.tenant;
            let itself = filter.no_self && partner == own;
            if foreign || itself {
                continue;
            }
            let record = snapshot.service(partner).map(|(_, record)| record);
            records.extend(record.filter(|record| caller.sees(record)).cloned());
        }
        records
    }

    /// Applies a dependency that a Service-Center node has queued. Its services may be gone by now.
    ///
    /// `tenant` is that of the key in the queue. Such a node copies the keys from the body of a request, so
    /// the tenants in them may be anybody's.
    pub(crate) async fn apply_queued(
        &self,
        tenant: &Tenant,
        queued: QueuedDependency,
    ) -> Result<(), RegistryError> {
        let QueuedDependency { consumer, mut providers, overrides } = queued;
        let Some(consumer) = consumer else { return Ok(()) };
        let mode = if overrides { Mode::Overwrite } else { Mode::Add };
        for provider in &mut providers {
            self.claim(provider, tenant);
        }
        let consumer = ServiceKey { alias: String::new(), tenant: tenant.to_string(), ..consumer };
        self.set_rules(&consumer, providers, mode).await
    }

    /// Sets the tenant of a provider that a client named. A client may depend on the services of its own
    /// tenant and on shared ones. Were another tenant's accepted, its changes would be delivered to the
    /// client.
    fn claim(&self, provider: &mut ServiceKey, tenant: &Tenant) {
        let named = Tenant::parse(&provider.tenant);
        let is_shared =
            named.is_some_and(|named| self.is_shared(&named, &provider.app_id, &provider.service_name));
        if !is_shared {
            provider.tenant = tenant.to_string();
        }
    }
}

impl Registry {
    /// Checks a declaration, sets its tenants and fills in the applications that it leaves out.
    fn complete(
        &self,
        declaration: Declaration,
        tenant: &Tenant,
        mode: Mode,
    ) -> Result<Declaration, RegistryError> {
        let Declaration { mut consumer, mut providers } = declaration;
        validate::dependency_consumer(&consumer)?;
        if mode == Mode::Add && providers.is_empty() {
            return Err(RegistryError::invalid("Required providers"));
        }
        if providers.len() > PROVIDERS_PER_DECLARATION {
            return Err(RegistryError::invalid("field 'providers' must have at most 1000 items"));
        }
        // The body does not decide this: with another tenant's key, a client could read and erase that
        // tenant's rules.
        consumer.tenant = tenant.to_string();
        consumer.alias.clear();
        if let Some(all) = providers.iter().position(|provider| provider.service_name == "*") {
            // Service-Center does not look at the entries after a `*`, so mistakes in them are no reason to
            // refuse.
            providers.truncate(all + 1);
        }
        let mut seen = BTreeSet::new();
        for provider in &mut providers {
            validate::dependency_provider(provider)?;
            provider.alias.clear();
            if provider.app_id.is_empty() && provider.service_name != "*" {
                provider.app_id.clone_from(&consumer.app_id);
            }
            self.claim(provider, tenant);
            if !seen.insert((provider.tenant.clone(), rule_name(provider))) {
                return Err(RegistryError::invalid(
                    "Invalid request body for provider info.Duplicate provider or (serviceName and appId is same).",
                ));
            }
        }
        Ok(Declaration { consumer, providers })
    }
}
