//! Dependencies: who consumes whom.
//!
//! A rule stands twice in the store, under the consumer and under each provider; both sides change in one
//! compare-and-swap transaction, so that no lock is needed and no rule is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use shared::model::{Service, ServiceKey, ServiceRef, Tenant, null_default};

use super::{Registry, validate};
use crate::failure::{Code, Failure};
use crate::keys::{self, Key, Name};
use crate::store::{Compare, Op, Txn};
use crate::version::{Version, VersionRule};
use crate::view::{Snapshot, interest};

mod sides;

use sides::{change, has_provider, rule_name, rules_of, step, target};

/// Wait for a Service-Center node that holds the lock of the rules.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Whether new providers join the old ones or replace them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Join.
    Add,
    /// Replace.
    Overwrite,
}

/// A consumer and the providers it declares.
#[derive(Clone, Debug, Default)]
pub struct Declaration {
    /// Full key; an empty tenant means the caller's.
    pub consumer: ServiceKey,
    /// Keys whose versions are rules; `*` as name means everything in the consumer's environment.
    pub providers: Vec<ServiceKey>,
}

/// The value of a queued dependency.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct QueuedDependency {
    consumer: Option<ServiceKey>,
    #[serde(deserialize_with = "null_default")]
    providers: Vec<ServiceKey>,
    #[serde(rename = "override", deserialize_with = "null_default")]
    overrides: bool,
}

/// What partners to leave out of a list.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartnerFilter {
    /// Those of other tenants.
    pub same_domain: bool,
    /// The service itself.
    pub no_self: bool,
}

impl Registry {
    /// Declares dependencies, in order, up to the first that is refused.
    pub async fn declare(
        &self,
        tenant: &Tenant,
        declarations: Vec<Declaration>,
        mode: Mode,
    ) -> Result<(), Failure> {
        if declarations.is_empty() || declarations.len() > 100 {
            return Err(Failure::invalid("field 'dependencies' must have 1 to 100 items"));
        }
        let mut checked = Vec::with_capacity(declarations.len());
        for declaration in declarations {
            checked.push(self.checked(tenant, declaration, mode).await?);
        }
        for (consumer, providers) in checked {
            self.set_rules(&consumer, providers, mode).await?;
        }
        if mode == Mode::Overwrite {
            self.drop_dangling(tenant).await?;
        }
        Ok(())
    }

    async fn checked(
        &self,
        tenant: &Tenant,
        declaration: Declaration,
        mode: Mode,
    ) -> Result<(ServiceKey, Vec<ServiceKey>), Failure> {
        let Declaration { mut consumer, mut providers } = declaration;
        validate::dependency_consumer(&consumer)?;
        if mode == Mode::Add && providers.is_empty() {
            return Err(Failure::invalid("Required providers"));
        }
        if consumer.tenant.is_empty() {
            consumer.tenant = tenant.to_string();
        }
        consumer.alias.clear();
        let mut seen = BTreeSet::new();
        if let Some(all) = providers.iter().position(|provider| provider.service_name == "*") {
            providers.truncate(all + 1); // what comes after it is not looked at
        }
        for provider in &mut providers {
            validate::dependency_provider(provider)?;
            provider.alias.clear();
            if provider.tenant.is_empty() {
                provider.tenant = tenant.to_string();
            }
            if provider.app_id.is_empty() && provider.service_name != "*" {
                provider.app_id.clone_from(&consumer.app_id);
            }
            if !seen.insert((provider.tenant.clone(), rule_name(provider))) {
                return Err(Failure::invalid(
                    "Invalid request body for provider info.Duplicate provider or (serviceName and appId is same).",
                ));
            }
        }
        let caller = super::Caller { tenant: tenant.clone(), ..Default::default() };
        self.answer(&caller, |snapshot| {
            let exists = snapshot.by_key(&consumer).is_some();
            let ServiceKey { environment, app_id, service_name, version, .. } = &consumer;
            let detail =
                || format!("Consumer {environment}/{app_id}/{service_name}/{version} does not exist.");
            exists.then_some(()).ok_or_else(|| Failure::new(Code::ServiceNotFound, detail()))
        })
        .await?;
        Ok((consumer, providers))
    }

    /// Records that a consumer depends on a provider. Cheap when it is recorded already. True when it was not.
    pub(super) async fn depend(&self, consumer: &ServiceRef, provider: &ServiceKey) -> Result<bool, Failure> {
        let snapshot = self.view.now()?;
        let Some((view, _)) = snapshot.service(consumer) else { return Ok(false) };
        let key = ServiceKey { alias: String::new(), ..(*view.key).clone() };
        let known = rules_of(&snapshot, &key);
        if known.keys.iter().any(|k| k == provider || k.service_name == "*") {
            return Ok(false);
        }
        self.set_rules(&key, vec![provider.clone()], Mode::Add).await?;
        self.unwant(consumer, provider).await;
        Ok(true)
    }

    /// Notes that a consumer waits for a name. Cheap when it is noted already. True when it was not.
    pub(super) async fn want(
        &self,
        consumer: &ServiceRef,
        tenant: &Tenant,
        name: &Name,
    ) -> Result<bool, Failure> {
        let snapshot = self.view.now()?;
        if snapshot.service(consumer).is_none() {
            return Ok(false);
        }
        let wanted = snapshot.tenant(&consumer.tenant).and_then(|t| t.wanted.get(&consumer.id));
        if wanted.is_some_and(|names| {
            names.contains(&(tenant.clone(), name.clone())) || names.len() >= self.quotas.now().wanted
        }) {
            return Ok(false);
        }
        let Some(key) = Key::Wanted(consumer.clone(), tenant.clone(), name.clone()).render() else {
            return Ok(false);
        };
        let txn = Txn {
            compare: vec![Compare::Exists(keys::service(consumer))],
            then: vec![Op::put(key, "")],
            ..Txn::default()
        };
        Ok(self.commit(txn).await?.succeeded)
    }

    /// A recorded rule says more than the note that a name is wanted. A note that stays does no harm.
    async fn unwant(&self, consumer: &ServiceRef, provider: &ServiceKey) {
        let Some(tenant) = Tenant::parse(&provider.tenant) else { return };
        let name = rule_name(provider);
        let noted = self.view.now().is_ok_and(|snapshot| {
            let wanted = snapshot.tenant(&consumer.tenant).and_then(|t| t.wanted.get(&consumer.id).cloned());
            wanted.is_some_and(|names| names.contains(&(tenant.clone(), name.clone())))
        });
        if let (true, Some(key)) = (noted, Key::Wanted(consumer.clone(), tenant, name).render()) {
            let _ = self.store.txn(Txn { then: vec![Op::Delete(key)], ..Txn::default() }).await;
        }
    }

    /// Brings a consumer's rules to what they should be, a bounded number of providers per transaction.
    async fn set_rules(
        &self,
        consumer: &ServiceKey,
        providers: Vec<ServiceKey>,
        mode: Mode,
    ) -> Result<(), Failure> {
        let providers = &providers;
        self.until_won(|mut snapshot| async move {
            loop {
                let current = rules_of(&snapshot, consumer);
                let target = target(&current.keys, providers, mode);
                let (step, done) = step(&current.keys, &target);
                if step == *current.keys {
                    return Ok(Some(()));
                }
                let Some(txn) = change(&snapshot, consumer, &current, &step) else {
                    return Err(Failure::invalid("a tenant of the dependency is not {domain}/{project}"));
                };
                let reply = self.commit(txn).await?;
                if reply.succeeded {
                    if done {
                        return Ok(Some(()));
                    }
                    snapshot = self.view.now()?;
                    continue;
                }
                if reply.got.iter().any(Option::is_some) {
                    // A Service-Center node is at it; it takes milliseconds, or its lock ends with its lease.
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                return Ok(None);
            }
        })
        .await
    }

    /// The consumers of a service: those that depend on everything first.
    pub fn consumers_of(&self, snapshot: &Snapshot, provider: &ServiceRef) -> Vec<ServiceRef> {
        let Some((_, service)) = snapshot.service(provider) else { return Vec::new() };
        let Some(tenant) = snapshot.tenant(&provider.tenant) else { return Vec::new() };
        let name = Name::new(&service.environment, &service.app_id, &service.service_name);
        let highest =
            snapshot.versions(&provider.tenant, &name).first().map_or(Version::default(), |v| v.version);
        let version = Version::parse(&service.version).unwrap_or_default();
        let mut found: Vec<ServiceRef> = Vec::new();
        let all = tenant.provider_rules_all.get(&service.environment);
        let by_rule = tenant.provider_rules.get(&name).into_iter().flat_map(|rules| rules.iter());
        let matching = by_rule.filter(|(rule, _)| {
            VersionRule::parse(rule).unwrap_or(VersionRule::ALL).takes(&service.version, version, highest)
        });
        for set in all.into_iter().chain(matching.map(|(_, set)| set)) {
            for consumer in set.keys.iter().filter_map(|key| snapshot.by_key(key)) {
                if !found.contains(&consumer) {
                    found.push(consumer);
                }
            }
        }
        found
    }

    /// The providers of a service that exist now.
    pub fn providers_of(&self, snapshot: &Snapshot, consumer: &ServiceRef) -> Vec<ServiceRef> {
        let Some((view, service)) = snapshot.service(consumer) else { return Vec::new() };
        let rules = rules_of(snapshot, &view.key);
        let mut found: Vec<ServiceRef> = Vec::new();
        for provider in
            rules.keys.iter().flat_map(|rule| interest::matching(snapshot, &consumer.tenant, service, rule))
        {
            if !found.contains(&provider) {
                found.push(provider);
            }
        }
        found
    }

    /// The records of a service's partners.
    pub fn partners(
        &self,
        snapshot: &Snapshot,
        own: &ServiceRef,
        partners: Vec<ServiceRef>,
        filter: PartnerFilter,
    ) -> Vec<Arc<Service>> {
        let keep = |partner: &ServiceRef| {
            (!filter.same_domain || partner.tenant == own.tenant) && (!filter.no_self || partner != own)
        };
        partners.iter().filter(|p| keep(p)).filter_map(|p| Some(snapshot.service(p)?.1.clone())).collect()
    }

    /// Applies a dependency that a Service-Center node has queued. What it names need not exist any more.
    pub(crate) async fn apply_queued(&self, queued: QueuedDependency) -> Result<(), Failure> {
        let QueuedDependency { consumer, providers, overrides } = queued;
        let Some(consumer) = consumer else { return Ok(()) };
        let mode = if overrides { Mode::Overwrite } else { Mode::Add };
        self.set_rules(&ServiceKey { alias: String::new(), ..consumer }, providers, mode).await
    }

    /// Forgets the rules of a deleted service and those of others that it leaves without any provider.
    pub(super) async fn forget_dependencies(&self, tenant: &Tenant, gone: &Service) -> Result<(), Failure> {
        let key = ServiceKey { alias: String::new(), ..gone.key(tenant) };
        self.set_rules(&key, Vec::new(), Mode::Overwrite).await?;
        self.drop_dangling(tenant).await
    }

    /// Drops the rules of a tenant's consumers whose provider has no registered service any more. The consumers
    /// go on waiting for the names, so that nothing is missed when a provider is deleted and registered again.
    async fn drop_dangling(&self, tenant: &Tenant) -> Result<(), Failure> {
        let snapshot = self.view.now()?;
        let Some(view) = snapshot.tenant(tenant) else { return Ok(()) };
        for ((name, version), rules) in view.consumer_rules.iter() {
            let stays = |rule: &ServiceKey| has_provider(&snapshot, tenant, rule);
            if rules.keys.iter().all(stays) {
                continue;
            }
            let consumer = ServiceKey {
                tenant: tenant.to_string(),
                environment: name.environment.clone(),
                app_id: name.app_id.clone(),
                service_name: name.name.clone(),
                alias: String::new(),
                version: version.clone(),
            };
            if let Some(waiting) = snapshot.by_key(&consumer) {
                for rule in rules.keys.iter().filter(|rule| !stays(rule)) {
                    let of = Tenant::parse(&rule.tenant).unwrap_or_else(|| tenant.clone());
                    self.want(&waiting, &of, &rule_name(rule)).await?;
                }
            }
            let left = rules.keys.iter().filter(|rule| stays(rule)).cloned().collect();
            self.set_rules(&consumer, left, Mode::Overwrite).await?;
        }
        Ok(())
    }
}
