//! Dependencies: who consumes whom.
//!
//! A rule stands twice in the store, under the consumer and under each provider; both sides change in one
//! compare-and-swap transaction, so that no lock is needed and no rule is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use shared::model::{Service, ServiceKey, ServiceRef, Tenant, null_default};

use super::{Registry, validate};
use crate::failure::{Code, Failure};
use crate::keys::{self, Key, Name};
use crate::record::{self, DependencySet};
use crate::store::{Compare, Op, Txn};
use crate::version::{Version, VersionRule};
use crate::view::{RuleSet, Snapshot, interest};

/// Providers whose rules change in one transaction; etcd takes 128 steps.
const CHANGES_PER_TXN: usize = 50;

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

fn rule_name(key: &ServiceKey) -> Name {
    Name::new(&key.environment, &key.app_id, &key.service_name)
}

fn has_provider(snapshot: &Snapshot, own: &Tenant, rule: &ServiceKey) -> bool {
    let tenant = Tenant::parse(&rule.tenant).unwrap_or_else(|| own.clone());
    let versions = snapshot.versions(&tenant, &rule_name(rule));
    match VersionRule::parse(&rule.version) {
        _ if rule.service_name == "*" => true,
        Some(VersionRule::Exact(text)) => versions.iter().any(|v| v.text == text),
        _ => !versions.is_empty(),
    }
}

fn rules_of(snapshot: &Snapshot, consumer: &ServiceKey) -> RuleSet {
    let place = (rule_name(consumer), consumer.version.clone());
    Tenant::parse(&consumer.tenant)
        .and_then(|tenant| snapshot.tenant(&tenant)?.consumer_rules.get(&place).cloned())
        .unwrap_or_default()
}

/// The rules that a consumer is to have: one per provider name, and only `*` where that is among them.
fn target(current: &[ServiceKey], providers: &[ServiceKey], mode: Mode) -> Vec<ServiceKey> {
    if let Some(all) = providers.iter().find(|provider| provider.service_name == "*") {
        return vec![all.clone()];
    }
    if mode == Mode::Overwrite {
        return providers.to_vec();
    }
    if current.iter().any(|rule| rule.service_name == "*") {
        return current.to_vec();
    }
    let same = |a: &ServiceKey, b: &ServiceKey| a.tenant == b.tenant && rule_name(a) == rule_name(b);
    let mut rules = current.to_vec();
    for provider in providers {
        match rules.iter_mut().find(|rule| same(rule, provider)) {
            Some(rule) => rule.clone_from(provider),
            None => rules.push(provider.clone()),
        }
    }
    rules
}

/// The next set on the way from `current` to `target`, and whether it is the target.
fn step(current: &[ServiceKey], target: &[ServiceKey]) -> (Vec<ServiceKey>, bool) {
    let removed: Vec<_> = current.iter().filter(|rule| !target.contains(rule)).collect();
    let added: Vec<_> = target.iter().filter(|rule| !current.contains(rule)).collect();
    if removed.len() + added.len() <= CHANGES_PER_TXN {
        return (target.to_vec(), true);
    }
    let drop: BTreeSet<_> = removed.into_iter().take(CHANGES_PER_TXN / 2).collect();
    let mut next: Vec<_> = current.iter().filter(|rule| !drop.contains(rule)).cloned().collect();
    next.extend(added.into_iter().take(CHANGES_PER_TXN / 2).cloned());
    (next, false)
}

/// The transaction that takes a consumer's rules from `current` to `next`. `None` when a tenant cannot be read.
fn change(snapshot: &Snapshot, consumer: &ServiceKey, current: &RuleSet, next: &[ServiceKey]) -> Option<Txn> {
    let own = Tenant::parse(&consumer.tenant)?;
    let mut sides: BTreeMap<String, (RuleSet, bool)> = BTreeMap::new();
    for rule in current.keys.iter().filter(|rule| !next.contains(rule)) {
        let (key, set) = provider_side(snapshot, &own, consumer, rule)?;
        sides.insert(key, (set, false));
    }
    for rule in next.iter().filter(|rule| !current.keys.contains(rule)) {
        let (key, set) = provider_side(snapshot, &own, consumer, rule)?;
        sides.insert(key, (set, true));
    }
    let consumer_key = Key::ConsumerRule(own, rule_name(consumer), consumer.version.clone()).render()?;
    let mut txn = Txn {
        compare: keys::DEPENDENCY_LOCKS.map(|lock| Compare::Absent(lock.into())).to_vec(),
        otherwise: keys::DEPENDENCY_LOCKS.map(|lock| Op::Get(lock.into())).to_vec(),
        ..Txn::default()
    };
    txn.compare.push(Compare::ModRev(consumer_key.clone(), current.mod_rev));
    txn.then.push(write_set(consumer_key, next.to_vec()));
    for (key, (set, joins)) in sides {
        let mut consumers: Vec<_> =
            set.keys.iter().filter(|key| !same_service(key, consumer)).cloned().collect();
        if joins {
            consumers.push(consumer.clone());
        }
        txn.compare.push(Compare::ModRev(key.clone(), set.mod_rev));
        txn.then.push(write_set(key, consumers));
    }
    Some(txn)
}

fn same_service(a: &ServiceKey, b: &ServiceKey) -> bool {
    a.tenant == b.tenant && rule_name(a) == rule_name(b) && a.version == b.version
}

/// Where a rule stands under its provider, and what stands there now.
fn provider_side(
    snapshot: &Snapshot,
    own: &Tenant,
    consumer: &ServiceKey,
    rule: &ServiceKey,
) -> Option<(String, RuleSet)> {
    let tenant = if rule.tenant.is_empty() { own.clone() } else { Tenant::parse(&rule.tenant)? };
    let view = snapshot.tenant(&tenant);
    if rule.service_name == "*" {
        let set = view.and_then(|view| view.provider_rules_all.get(&consumer.environment).cloned());
        let key = Key::ProviderRuleAll(tenant, consumer.environment.clone()).render()?;
        return Some((key, set.unwrap_or_default()));
    }
    let name = rule_name(rule);
    let set = view.and_then(|view| view.provider_rules.get(&name)?.get(&rule.version).cloned());
    Some((Key::ProviderRule(tenant, name, rule.version.clone()).render()?, set.unwrap_or_default()))
}

fn write_set(key: String, keys: Vec<ServiceKey>) -> Op {
    if keys.is_empty() {
        Op::Delete(key)
    } else {
        Op::put(key, record::render(&DependencySet { keys }, None))
    }
}
