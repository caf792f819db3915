//! Both sides of a rule: the set that a consumer is to have, and the transaction that changes the consumer's
//! and its providers' keys to it.

use std::collections::{BTreeMap, BTreeSet};

use shared::model::{ServiceKey, Tenant};

use super::Mode;
use crate::keys::{self, Key, Name};
use crate::record::{self, DependencySet};
use crate::store::{Compare, Op, Txn};
use crate::version::VersionRule;
use crate::view::{RuleSet, Snapshot};

/// Providers whose rules change in one transaction. Each of them is also a condition of it.
const CHANGES_PER_TXN: usize = 50;

pub(super) fn rule_name(key: &ServiceKey) -> Name {
    Name::new(&key.environment, &key.app_id, &key.service_name)
}

/// True when a version is registered that the rule could ever take.
pub(super) fn has_provider(snapshot: &Snapshot, own: &Tenant, rule: &ServiceKey) -> bool {
    let tenant = Tenant::parse(&rule.tenant).unwrap_or_else(|| own.clone());
    let versions = snapshot.versions(&tenant, &rule_name(rule));
    match VersionRule::parse(&rule.version) {
        // Everything in an environment may be nothing at the moment; the rule stays.
        _ if rule.service_name == "*" => true,
        Some(VersionRule::Exact(text)) => versions.iter().any(|entry| entry.text == text),
        _ => !versions.is_empty(),
    }
}

pub(super) fn rules_of(snapshot: &Snapshot, consumer: &ServiceKey) -> RuleSet {
    let Some(tenant) = Tenant::parse(&consumer.tenant) else { return RuleSet::default() };
    let Some(view) = snapshot.tenant(&tenant) else { return RuleSet::default() };
    view.consumer_rules.get(&(rule_name(consumer), consumer.version.clone())).cloned().unwrap_or_default()
}

/// The rules that a consumer is to have: one per provider name, or only `*` if that is among them.
pub(super) fn target(current: &[ServiceKey], providers: &[ServiceKey], mode: Mode) -> Vec<ServiceKey> {
    if let Some(all) = providers.iter().find(|provider| provider.service_name == "*") {
        return vec![all.clone()];
    }
    if mode == Mode::Overwrite {
        return providers.to_vec();
    }
    if current.iter().any(|rule| rule.service_name == "*") {
        return current.to_vec();
    }
    let mut rules = current.to_vec();
    for provider in providers {
        let name = rule_name(provider);
        match rules.iter_mut().find(|rule| rule.tenant == provider.tenant && rule_name(rule) == name) {
            Some(rule) => rule.clone_from(provider),
            None => rules.push(provider.clone()),
        }
    }
    rules
}

/// The next set on the way from `current` to `target`. The flag is true when it is the target.
pub(super) fn step(current: &[ServiceKey], target: &[ServiceKey]) -> (Vec<ServiceKey>, bool) {
    let removed: Vec<_> = current.iter().filter(|rule| !target.contains(rule)).collect();
    let added: Vec<_> = target.iter().filter(|rule| !current.contains(rule)).collect();
    if removed.len() + added.len() <= CHANGES_PER_TXN {
        return (target.to_vec(), true);
    }
    // Half of the changes for each side, so that the consumer neither loses everything first nor holds both
    // sets.
    let dropped: BTreeSet<_> = removed.into_iter().take(CHANGES_PER_TXN / 2).collect();
    let mut next: Vec<_> = current.iter().filter(|rule| !dropped.contains(rule)).cloned().collect();
    next.extend(added.into_iter().take(CHANGES_PER_TXN / 2).cloned());
    (next, false)
}

/// The transaction that changes a consumer's rules from `current` to `next`. `None` when a tenant is
/// malformed.
pub(super) fn change(
    snapshot: &Snapshot,
    consumer: &ServiceKey,
    current: &RuleSet,
    next: &[ServiceKey],
) -> Option<Txn> {
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
    // A Service-Center node that changes rules holds one of these locks instead of comparing revisions, so
    // the transaction must lose while a lock exists. The reads on the losing side tell the caller about it.
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

/// The key of a rule under its provider, and the set that is there now.
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
    // An empty set and an absent key mean the same, and absent keys cost nothing.
    if keys.is_empty() {
        Op::Delete(key)
    } else {
        Op::put(key, record::render(&DependencySet { keys }, None))
    }
}
