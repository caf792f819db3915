//! One provider as the gateway knows it: how far, which instances, what happened lately.
//!
//! In: events of the bus and answers to replay requests, in any order, more than once or not at all. Out:
//! pushes, in the provider's order, each change once. A hole is never guessed over: what comes behind it is held
//! until the answer to a replay request has filled it. Pure; asks nobody itself.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use shared::event::{Action, InstanceEvent, Position, digest_of};
use shared::model::{Instance, Revision, ServiceKey};

use crate::push::Push;
use crate::watch::GroupId;

/// Recent changes that are kept for groups that join and for comparing with an older state.
const RECENT: usize = 256;
/// Events held behind a hole; of more the later ones are dropped and asked for.
const HELD: usize = 1024;

/// What a replica said about one provider.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replayed {
    /// The provider's name; `None` when the service does not exist.
    pub key: Option<Arc<ServiceKey>>,
    /// `events` are all since the position that was asked from.
    pub continuous: bool,
    /// Changes, in order.
    pub events: Vec<InstanceEvent>,
    /// The instances at `at`.
    pub snapshot: Option<Vec<(Arc<Instance>, Revision)>>,
    /// Everything up to here is contained.
    pub at: Position,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was next.
    Applied,
    /// It was known.
    Duplicate,
    /// Something before it is missing: a replay is needed.
    Gap,
}

/// From where on a group gets a topic's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// What is not after this was before the group's interest.
    pub base: Position,
    /// What is after this is of no interest to the group any more.
    pub until: Option<Position>,
    /// Closed while an older part of the order is being fetched for the group.
    pub closed: bool,
}

#[derive(Clone, Debug)]
struct Known {
    mod_rev: Revision,
    instance: Arc<Instance>,
}

/// The state of one provider.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: u32,
    pub(crate) members: HashMap<GroupId, Member>,
    /// A replay was asked for and has not come.
    pub(crate) asking: bool,
    /// Something was lost meanwhile, which the answer may be too old to know.
    pub(crate) again: bool,
    /// What was published before the subscription, or before a loss, has been asked for: of what is not being asked
    /// for now nothing is missing up to the last bookmark.
    pub(crate) settled: bool,
    key: Option<Arc<ServiceKey>>,
    at: Position,
    /// Nothing happened after `at` up to here, a bookmark said.
    quiet: Position,
    instances: HashMap<String, Known>,
    digest: u64,
    recent: VecDeque<Arc<Push>>,
    /// `recent` has everything after this, as far as it made a difference to what was known here,
    recent_after: Position,
    /// and each change after this: what happened on the way to a state is not known.
    exact_after: Position,
    held: BTreeMap<Position, InstanceEvent>,
    /// Something that should have been held was not.
    overflowed: bool,
    /// The store was restored: what is known here is of another history, until a state of this one has come.
    restored: bool,
}

impl Topic {
    /// A topic out of the first answer about it, asked for from `since`; what happened after that goes to `out`.
    pub(crate) fn load(id: u32, since: Position, replayed: Replayed, out: &mut Vec<Arc<Push>>) -> Self {
        let mut topic = Self {
            id,
            members: HashMap::new(),
            asking: false,
            again: false,
            settled: false,
            key: replayed.key,
            at: replayed.at.max(since),
            quiet: Position::default(),
            instances: HashMap::new(),
            digest: 0,
            recent: VecDeque::new(),
            recent_after: if replayed.continuous { since } else { replayed.at.max(since) },
            exact_after: Position::default(),
            held: BTreeMap::new(),
            overflowed: false,
            restored: false,
        };
        let snapshot = replayed.snapshot.unwrap_or_default();
        if replayed.continuous {
            for event in replayed.events.iter().filter(|event| event.at > since) {
                topic.note(Arc::new(Push::of(id, event)), out);
            }
        } else if let Some(key) = topic.key.clone() {
            for (instance, _) in snapshot.iter().filter(|(_, mod_rev)| *mod_rev > since.rev) {
                let found = Push::found(id, replayed.at, Action::Update, key.clone(), instance.clone());
                out.push(Arc::new(found));
            }
        }
        for (instance, mod_rev) in snapshot {
            topic.put(instance, mod_rev);
        }
        topic
    }

    /// How far it is complete.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// Up to where nothing is missing: further than it is complete when nothing happened since. A publisher that began
    /// a moment ago does not know what came last before its list, and a replica that did has no history of that time.
    pub(crate) fn certain(&self) -> Position {
        self.at.max(self.quiet)
    }

    /// The publisher has come as far as `rev`, and what it sent until then was heard.
    pub(crate) fn heard(&mut self, rev: Revision) {
        if self.settled && !self.asking {
            self.quiet = self.quiet.max(Position::end_of(rev));
        }
    }

    /// Events alone do not tell what became of what it knows.
    pub(crate) fn needs_state(&self) -> bool {
        self.restored
    }

    /// The sum over its instances that both sides compare.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The provider's name, once known.
    pub(crate) fn key(&self) -> Option<&Arc<ServiceKey>> {
        self.key.as_ref()
    }

    /// Its instances now, with the revision that wrote each.
    pub(crate) fn instances(&self) -> impl Iterator<Item = (&Arc<Instance>, Revision)> {
        self.instances.values().map(|known| (&known.instance, known.mod_rev))
    }

    /// Takes an event of the bus.
    pub(crate) fn on_event(&mut self, event: InstanceEvent, out: &mut Vec<Arc<Push>>) -> Fate {
        if event.at <= self.at {
            return Fate::Duplicate;
        }
        if !self.continues(event.prev) {
            self.hold(event);
            return Fate::Gap;
        }
        self.apply(&event, out);
        self.release(out);
        Fate::Applied
    }

    /// The store was restored from a backup. What is known stays known to watchers, but has no place in the
    /// order any more; a state of the new history is to be asked for, and the difference will be told.
    pub(crate) fn restore(&mut self) {
        (self.at, self.quiet) = (Position::default(), Position::default());
        (self.asking, self.again, self.settled) = (true, false, false);
        self.recent.clear();
        (self.recent_after, self.exact_after) = (Position::default(), Position::default());
        self.held.clear();
        self.overflowed = false;
        self.restored = true;
        for member in self.members.values_mut() {
            *member = Member { base: Position::default(), until: None, closed: false };
        }
    }

    /// Takes the answer to a replay asked for from a position that this topic had reached.
    pub(crate) fn on_replayed(&mut self, replayed: Replayed, out: &mut Vec<Arc<Push>>) -> Again {
        self.asking = false;
        let mut again =
            std::mem::take(&mut self.overflowed) || !(replayed.continuous || replayed.snapshot.is_some());
        again |= self.restored && replayed.snapshot.is_none();
        if replayed.key.is_some() {
            self.key = replayed.key;
        }
        if replayed.continuous && !self.restored {
            for event in replayed.events {
                if event.at > self.at {
                    self.apply(&event, out);
                }
            }
            self.at = self.at.max(replayed.at);
        }
        let mut differences = 0;
        if let Some(snapshot) = replayed.snapshot {
            if self.at > replayed.at && self.recent_after > replayed.at {
                // Too much happened since the snapshot to know what it does not know.
                again = true;
            } else {
                if !replayed.continuous && replayed.at > self.at {
                    self.exact_after = replayed.at;
                }
                differences = self.compare(snapshot, replayed.at, out);
                self.restored = false;
                self.at = self.at.max(replayed.at);
            }
        }
        self.release(out);
        again |= !self.held.is_empty();
        Again { needed: again, differences }
    }

    /// What happened after `base`, if that is still known.
    pub(crate) fn since(&self, base: Position) -> Option<Vec<Arc<Push>>> {
        if base >= self.at {
            return Some(Vec::new());
        }
        let from = self.recent.partition_point(|push| push.at <= base);
        (base >= self.recent_after).then(|| self.recent.range(from..).cloned().collect())
    }

    /// Each change after `base`, if all of them are still known: for who was told elsewhere until there. A difference that
    /// a comparison showed has no place of its own; it may have been told at its own.
    pub(crate) fn each_since(&self, base: Position) -> Option<Vec<Arc<Push>>> {
        let each = |pushes: &Vec<Arc<Push>>| !pushes.iter().any(|it| it.is_found());
        self.since(base).filter(|pushes| base >= self.exact_after && each(pushes))
    }

    /// Instances written after `rev`, as updates: for who is so far behind that events are not known any more.
    pub(crate) fn written_after(&self, rev: Revision) -> Vec<Arc<Push>> {
        let Some(key) = &self.key else { return Vec::new() };
        let mut newer: Vec<_> = self.instances.values().filter(|known| known.mod_rev > rev).collect();
        newer.sort_by_key(|known| known.mod_rev);
        let push = |known: &Known| {
            let (instance, key) = (known.instance.clone(), key.clone());
            Arc::new(Push::found(self.id, self.at, Action::Update, key, instance))
        };
        newer.into_iter().map(push).collect()
    }

    fn hold(&mut self, event: InstanceEvent) {
        self.held.insert(event.at, event);
        if self.held.len() > HELD {
            self.held.pop_last();
            self.overflowed = true;
        }
    }

    /// What comes after `prev` is next. A whole revision is what a publisher says that does not know what came last.
    fn continues(&self, prev: Position) -> bool {
        prev <= self.at || (prev == Position::end_of(prev.rev) && prev <= self.quiet)
    }

    /// Applies what was held, as far as there is no hole before it.
    fn release(&mut self, out: &mut Vec<Arc<Push>>) {
        while let Some((at, next)) = self.held.first_key_value() {
            if *at > self.at && !self.continues(next.prev) {
                return;
            }
            let Some((_, event)) = self.held.pop_first() else { return };
            if event.at > self.at {
                self.apply(&event, out);
            }
        }
    }

    fn apply(&mut self, event: &InstanceEvent, out: &mut Vec<Arc<Push>>) {
        self.at = event.at;
        self.key = Some(event.key.clone());
        let known = self.instances.get(&event.instance.instance_id).map(|known| known.mod_rev);
        let mut push = Push::of(self.id, event);
        match (event.action, known) {
            (Action::Delete, Some(known)) if known <= event.mod_rev => {
                self.take(&event.instance.instance_id);
            }
            (Action::Create | Action::Update, Some(known)) if known < event.mod_rev => {
                // Told again as CREATE it would be there twice for clients that append.
                push.action = Action::Update;
                self.put(event.instance.clone(), event.mod_rev);
            }
            (Action::Create | Action::Update, None) => self.put(event.instance.clone(), event.mod_rev),
            // Known already, from a snapshot; remembered, because an older snapshot may say otherwise.
            (Action::Delete, _) | (Action::Create | Action::Update, Some(_)) => {
                return self.note(Arc::new(push), &mut Vec::new());
            }
        }
        self.note(Arc::new(push), out);
    }

    /// Makes `snapshot`, the state at `at`, true, except for instances that changed after it.
    fn compare(
        &mut self,
        snapshot: Vec<(Arc<Instance>, Revision)>,
        at: Position,
        out: &mut Vec<Arc<Push>>,
    ) -> u64 {
        let changed_since: HashSet<String> = self
            .recent
            .iter()
            .filter(|push| push.at > at)
            .map(|push| push.instance.instance_id.clone())
            .collect();
        let there: HashSet<&str> =
            snapshot.iter().map(|(instance, _)| instance.instance_id.as_str()).collect();
        let gone: Vec<String> = self
            .instances
            .keys()
            .filter(|id| !there.contains(id.as_str()) && !changed_since.contains(*id))
            .cloned()
            .collect();
        let place = self.at.max(at);
        let mut differences = 0;
        for id in gone {
            let (Some(known), Some(key)) = (self.take(&id), self.key.clone()) else { continue };
            self.note(Arc::new(Push::found(self.id, place, Action::Delete, key, known.instance)), out);
            differences += 1;
        }
        let mut newer: Vec<_> = snapshot
            .into_iter()
            .filter(|(instance, mod_rev)| {
                let known = self.instances.get(&instance.instance_id);
                // What did not change since is as the snapshot says. In another history a writing may be older, and
                // after a restore that was noticed of the same revision.
                let is_news = |known: &Known| {
                    known.mod_rev != *mod_rev || (self.restored && known.instance != *instance)
                };
                known.is_none_or(is_news) && !changed_since.contains(&instance.instance_id)
            })
            .collect();
        newer.sort_by_key(|(_, mod_rev)| *mod_rev);
        for (instance, mod_rev) in newer {
            self.put(instance.clone(), mod_rev);
            let Some(key) = self.key.clone() else { continue };
            self.note(Arc::new(Push::found(self.id, place, Action::Update, key, instance)), out);
            differences += 1;
        }
        differences
    }

    fn note(&mut self, push: Arc<Push>, out: &mut Vec<Arc<Push>>) {
        self.recent.push_back(push.clone());
        if self.recent.len() > RECENT
            && let Some(old) = self.recent.pop_front()
        {
            self.recent_after = self.recent_after.max(old.at);
        }
        out.push(push);
    }

    fn put(&mut self, instance: Arc<Instance>, mod_rev: Revision) {
        let id = instance.instance_id.clone();
        self.digest = self.digest.wrapping_add(digest_of(&id, mod_rev));
        if let Some(old) = self.instances.insert(id.clone(), Known { mod_rev, instance }) {
            self.digest = self.digest.wrapping_sub(digest_of(&id, old.mod_rev));
        }
    }

    fn take(&mut self, id: &str) -> Option<Known> {
        let known = self.instances.remove(id)?;
        self.digest = self.digest.wrapping_sub(digest_of(id, known.mod_rev));
        Some(known)
    }
}

/// What a replay left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    /// It must be asked for again.
    pub needed: bool,
    /// Differences that only the comparison showed.
    pub differences: u64,
}

#[cfg(test)]
#[path = "topic_tests.rs"]
mod tests;
