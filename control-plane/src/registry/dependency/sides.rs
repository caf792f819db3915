//! Both sides of a rule: the set that a consumer is to have, and the transaction that changes the keys of
//! consumers and of their providers to it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use shared::model::{ServiceKey, Tenant};

use super::Mode;
use super::changes::RuleChange;
use super::way::CHANGES_PER_TXN;
use crate::keys::{self, Key, Name};
use crate::record::{self, DependencySet};
use crate::store::{Compare, Op, Txn};
use crate::version::VersionRule;
use crate::view::{RuleSet, Snapshot};

/// Keys that one transaction compares and writes.
const SETS_PER_TXN: usize = 100;
/// Bytes that one transaction of several changes writes, about; etcd takes 1.5 MiB.
const BYTES_PER_TXN: usize = 512 << 10;
/// Bytes of a service key in JSON beside its texts.
const KEY_BYTES: usize = 90;

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
fn target(snapshot: &Snapshot, own: &Tenant, current: &[ServiceKey], change: &RuleChange) -> Vec<ServiceKey> {
    let RuleChange { providers, mode, .. } = change;
    if *mode == Mode::Prune {
        let pruned: HashSet<&ServiceKey> = providers.iter().collect();
        let stays = |rule: &&ServiceKey| !pruned.contains(rule) || has_provider(snapshot, own, rule);
        return current.iter().filter(stays).cloned().collect();
    }
    if let Some(all) = providers.iter().find(|provider| provider.service_name == "*") {
        return vec![all.clone()];
    }
    if *mode == Mode::Overwrite {
        return providers.clone();
    }
    if current.iter().any(|rule| rule.service_name == "*") {
        return current.to_vec();
    }
    let mut rules = current.to_vec();
    // A client may name a thousand providers to a consumer that has as many, so each is looked up and not searched.
    let mut places = HashMap::new();
    for (place, rule) in current.iter().enumerate() {
        places.entry(name_of(rule)).or_insert(place);
    }
    for provider in providers {
        match places.entry(name_of(provider)) {
            Entry::Occupied(place) => rules[*place.get()].clone_from(provider),
            Entry::Vacant(place) => {
                place.insert(rules.len());
                rules.push(provider.clone());
            }
        }
    }
    rules
}

/// The parts of a key that only one rule of a consumer may have: everything but the version.
fn name_of(key: &ServiceKey) -> [&str; 4] {
    [&key.tenant, &key.environment, &key.app_id, &key.service_name].map(String::as_str)
}

/// Those of the first keys that are not among the second ones, in their order.
fn without<'a>(keys: &'a [ServiceKey], others: &[ServiceKey]) -> Vec<&'a ServiceKey> {
    let others: HashSet<&ServiceKey> = others.iter().collect();
    keys.iter().filter(|key| !others.contains(key)).collect()
}

/// The rules that a change still has to take away or to add.
pub(super) fn left_of(snapshot: &Snapshot, change: &RuleChange) -> usize {
    let Some(own) = Tenant::parse(&change.consumer.tenant) else { return 0 };
    let current = rules_of(snapshot, &change.consumer).keys;
    let target = target(snapshot, &own, &current, change);
    without(&current, &target).len() + without(&target, &current).len()
}

/// The next set on the way from `current` to `target`, and the rules that are left to be changed after it.
pub(super) fn step(current: &[ServiceKey], target: &[ServiceKey]) -> (Vec<ServiceKey>, usize) {
    let removed = without(current, target);
    let added = without(target, current);
    let changes = removed.len() + added.len();
    if changes <= CHANGES_PER_TXN {
        return (target.to_vec(), 0);
    }
    // Half of the changes for each side, so that the consumer neither loses everything first nor holds both
    // sets. What one side does not need is the other's.
    let half = CHANGES_PER_TXN / 2;
    let most = |others: usize| CHANGES_PER_TXN - half.min(others);
    let (most_dropped, most_added) = (most(added.len()), most(removed.len()));
    let dropped: HashSet<_> = removed.into_iter().take(most_dropped).collect();
    let added: Vec<_> = added.into_iter().take(most_added).cloned().collect();
    let left = changes - dropped.len() - added.len();
    let mut next: Vec<_> = current.iter().filter(|rule| !dropped.contains(rule)).cloned().collect();
    next.extend(added);
    (next, left)
}

/// The extent to which a change became part of a transaction.
pub(super) enum Added {
    /// With this transaction the change is complete.
    Whole,
    /// A step of it. Further transactions have to follow, for the rules that are left.
    Partly {
        /// The number of these rules.
        left: usize,
    },
    /// Not at all.
    NoRoom,
}

/// A transaction that changes the rules of consumers, on both sides.
pub(super) struct RuleTxn<'a> {
    snapshot: &'a Snapshot,
    sets: BTreeMap<String, ChangedSet>,
    obsolete: BTreeSet<String>,
    /// Bytes of all sets, about.
    bytes: usize,
    /// The tenant of all consumers. Their providers may be shared services of another one.
    by: Option<Tenant>,
}

/// A set as the view shows it, and as the transaction leaves it.
struct ChangedSet {
    before: RuleSet,
    after: Vec<ServiceKey>,
}

impl<'a> RuleTxn<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, sets: BTreeMap::new(), obsolete: BTreeSet::new(), bytes: 0, by: None }
    }

    /// Adds a change, after those that were added before. `None` when a tenant is malformed; nothing is added
    /// then.
    pub(super) fn add(&mut self, change: &RuleChange) -> Option<Added> {
        let RuleChange { consumer, obsolete, .. } = change;
        let own = Tenant::parse(&consumer.tenant)?;
        let consumer_key =
            Key::ConsumerRule(own.clone(), rule_name(consumer), consumer.version.clone()).render()?;
        let consumer_set = rules_of(self.snapshot, consumer);
        let current = match self.sets.get(&consumer_key) {
            Some(set) => set.after.clone(),
            None => consumer_set.keys.to_vec(),
        };
        let target = target(self.snapshot, &own, &current, change);
        let (next, left) = step(&current, &target);
        let mut sides = Vec::new();
        for rule in without(&current, &next) {
            let (key, set) = provider_side(self.snapshot, &own, consumer, rule)?;
            sides.push((key, set, false));
        }
        for rule in without(&next, &current) {
            let (key, set) = provider_side(self.snapshot, &own, consumer, rule)?;
            sides.push((key, set, true));
        }
        let touched = sides.iter().map(|(key, set, _)| (key, set)).chain([(&consumer_key, &consumer_set)]);
        let new: BTreeMap<_, _> = touched.filter(|(key, _)| !self.sets.contains_key(*key)).collect();
        let bytes: usize = new.values().map(|set| size_of(&set.keys)).sum::<usize>() + size_of(&next);
        let is_full = self.sets.len() + new.len() > SETS_PER_TXN
            || self.obsolete.len() >= SETS_PER_TXN
            || self.bytes + bytes > BYTES_PER_TXN;
        // The first change is taken whatever its size: a step is short, and nobody could write it otherwise.
        if is_full && !self.sets.is_empty() {
            return Some(Added::NoRoom);
        }
        self.bytes += bytes;
        self.by = Some(own);
        self.set(consumer_key, consumer_set).after = next;
        for (key, set, joins) in sides {
            let consumers = &mut self.set(key, set).after;
            consumers.retain(|key| !same_service(key, consumer));
            if joins {
                consumers.push(consumer.clone());
            }
        }
        if left > 0 {
            return Some(Added::Partly { left });
        }
        self.obsolete.extend(obsolete.clone());
        Some(Added::Whole)
    }

    fn set(&mut self, key: String, before: RuleSet) -> &mut ChangedSet {
        self.sets.entry(key).or_insert_with(|| ChangedSet { after: before.keys.to_vec(), before })
    }

    /// The transaction. Where everything is as it should be already, it only compares: that is a claim about now, and the
    /// view may not show a change that another replica has written.
    pub(super) fn finish(self) -> Txn {
        // A Service-Center node that changes rules holds one of these locks instead of comparing revisions,
        // so the transaction must lose while a lock exists. The reads on the losing side tell the caller
        // about it.
        let mut txn = Txn {
            compare: keys::DEPENDENCY_LOCKS.map(|lock| Compare::Absent(lock.into())).to_vec(),
            then: self.obsolete.into_iter().map(Op::Delete).collect(),
            otherwise: keys::DEPENDENCY_LOCKS.map(|lock| Op::Get(lock.into())).to_vec(),
            by: self.by,
        };
        for (key, set) in self.sets {
            txn.compare.push(Compare::ModRev(key.clone(), set.before.mod_rev));
            if *set.before.keys != set.after {
                txn.then.push(write_set(key, set.after));
            }
        }
        txn
    }
}

/// Bytes of a set in the store, about.
fn size_of(keys: &[ServiceKey]) -> usize {
    let bytes = |key: &ServiceKey| {
        let ServiceKey { tenant, environment, app_id, service_name, alias, version } = key;
        let texts = [tenant, environment, app_id, service_name, alias, version];
        KEY_BYTES + texts.into_iter().map(String::len).sum::<usize>()
    };
    keys.iter().map(bytes).sum()
}

fn same_service(a: &ServiceKey, b: &ServiceKey) -> bool {
    name_of(a) == name_of(b) && a.version == b.version
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
