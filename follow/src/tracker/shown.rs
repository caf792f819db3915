//! Instances that a consumer gains or loses without an event, because other providers answer its finds now.
//!
//! A provider becomes visible to a consumer when a version, a rule or its access changes. Its instances were
//! there before, so no event tells of them: they are delivered as created, once the topic has reached the
//! revision of the change. Events are delivered meanwhile as usual, because a find may have shown the
//! instances already; what they have told as created is not told once more. When a provider stops being
//! visible, everything up to that revision is delivered, and then what is left is delivered as deleted. A
//! provider that was deleted has nothing left.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use shared::event::{Action, Position};
use shared::model::{Instance, Revision, ServiceRef};

use super::{Effect, Slot, Tracker};
use crate::topic::{Known, Topic};
use crate::{GroupId, Push};

/// The number of bookmarks, parts included, for which a group remembers that a provider left and its
/// instances were delivered as deleted. A find that was answered before the client received the deletes is
/// known here by then.
pub(super) const REMEMBER_FOR_BOOKMARKS: u64 = 16;

/// Delivers to every member of a topic what is due at the topic's position. `pushes` are the changes that
/// have just been applied; those beyond a departure were withheld.
pub(super) fn settle(topic: &mut Topic, pushes: &[Arc<Push>], effects: &mut Vec<Effect>) {
    let at = topic.at();
    let mut due = Vec::new();
    for (id, member) in topic.members.iter().filter(|(_, member)| !member.catching_up) {
        match member.until {
            Some(until) if member.known == Known::Leaving && at >= until => due.push((*id, Some(until))),
            None if member.shown_at.is_some_and(|rev| at.rev >= rev) => due.push((*id, None)),
            _ => {}
        }
    }
    for (id, until) in due {
        match until {
            Some(until) => tell_gone(topic, id, until, pushes, effects),
            None => tell_all(topic, id, at, effects),
        }
    }
}

/// Has a member told of every instance once the topic has reached `rev`.
pub(super) fn await_all(topic: &mut Topic, id: GroupId, rev: Revision, effects: &mut Vec<Effect>) {
    if let Some(member) = topic.members.get_mut(&id) {
        member.shown_at = Some(rev);
    }
    settle(topic, &[], effects);
}

fn tell_all(topic: &mut Topic, id: GroupId, at: Position, effects: &mut Vec<Effect>) {
    let Some(member) = topic.members.get_mut(&id) else { return };
    member.shown_at = None;
    let followed_after = member.followed_after;
    // A provider that was deleted and registered again has only instances whose creation has been delivered.
    let told = told_after(topic, followed_after);
    let mut untold: Vec<Arc<Instance>> = topic
        .instances()
        .map(|(instance, _)| instance)
        .filter(|instance| !told.contains(&instance.instance_id))
        .cloned()
        .collect();
    untold.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    tell(topic, id, at, Action::Create, untold, effects);
}

/// The instances that were delivered after `base`, as created or as the difference that a snapshot has shown, to
/// all who follow the topic since then. Of a long time the topic knows the latest changes only.
fn told_after(topic: &Topic, base: Position) -> HashSet<String> {
    let mut told = HashSet::new();
    for push in topic.latest_after(base) {
        let id = push.instance.instance_id.clone();
        match push.action {
            Action::Delete => _ = told.remove(&id),
            // Of an instance that a snapshot has shown, the event is remembered and was not delivered; the
            // difference was.
            Action::Update if !push.is_difference() => {}
            Action::Create | Action::Update => _ = told.insert(id),
        }
    }
    told
}

/// Delivers the instances at `until`, which `pushes` have changed since, as deleted.
fn tell_gone(
    topic: &mut Topic,
    id: GroupId,
    until: Position,
    pushes: &[Arc<Push>],
    effects: &mut Vec<Effect>,
) {
    let left = instances_at(topic, until, pushes);
    if let Some(member) = topic.members.get_mut(&id) {
        member.known = Known::Gone;
    }
    tell(topic, id, until, Action::Delete, left, effects);
}

fn instances_at(topic: &Topic, until: Position, pushes: &[Arc<Push>]) -> Vec<Arc<Instance>> {
    let present = topic.instances().map(|(instance, _)| (instance.instance_id.clone(), instance.clone()));
    let mut instances: BTreeMap<String, Arc<Instance>> = present.collect();
    for push in pushes.iter().rev().filter(|push| push.at > until) {
        let id = &push.instance.instance_id;
        match push.action {
            Action::Create => _ = instances.remove(id),
            Action::Delete => _ = instances.insert(id.clone(), push.instance.clone()),
            Action::Update => {}
        }
    }
    instances.into_values().collect()
}

fn tell(
    topic: &Topic,
    id: GroupId,
    at: Position,
    action: Action,
    instances: Vec<Arc<Instance>>,
    effects: &mut Vec<Effect>,
) {
    // Without a name nothing was ever delivered.
    let Some(key) = topic.key() else { return };
    for instance in instances {
        let push = Push::difference(topic.id, at, action, key.clone(), instance);
        effects.push(Effect::Deliver(Arc::new(push), vec![id]));
    }
}

/// Delivers to a group that leaves a topic for good everything that is left as deleted.
pub(super) fn tell_rest_gone(topic: &Topic, id: GroupId, until: Revision, effects: &mut Vec<Effect>) {
    if topic.members.get(&id).is_some_and(|member| member.known != Known::Gone) {
        let left = instances_at(topic, topic.at(), &[]);
        tell(topic, id, topic.at().max(Position::end_of(until)), Action::Delete, left, effects);
    }
}

impl Tracker {
    /// Delivers the instances of providers that came into interests up to `rev`, a bookmark: everything that
    /// happened to them until then is known, unless it is being requested.
    pub(super) fn tell_shown(&mut self, rev: Revision) {
        let Self { awaited, topics, effects, .. } = self;
        awaited.retain(|(came_at, id, provider)| {
            let topic = match topics.get_mut(provider) {
                Some(Slot::Live(topic)) => topic,
                Some(Slot::Loading { .. }) => return true,
                None => return false,
            };
            let member = topic.members.get(id).filter(|member| member.shown_at == Some(*came_at));
            let is_awaited = member.is_some();
            let may_tell = member.is_some_and(|member| member.until.is_none() && !member.catching_up);
            if may_tell && *came_at <= rev && topic.request.is_idle() {
                let at = topic.at().max(Position::end_of(*came_at));
                tell_all(topic, *id, at, effects);
                return false;
            }
            is_awaited
        });
    }

    /// A session has begun that resumed from `since`. Its preface had deletes of providers that left, or said
    /// of them, or of all if `void`, that nothing is left. Only finds show what no event tells of.
    pub(crate) fn note_begun(&mut self, id: GroupId, since: Revision, void: bool) {
        let bookmarks = self.bookmarks;
        let told = self.groups.get(&id).map_or(Revision::ZERO, |group| self.told_to(id, group));
        let Some(group) = self.groups.get_mut(&id) else { return };
        // The preface has told the client so, and no bookmark may tell it less.
        group.confirmed = group.confirmed.max(told);
        if group.selector.consumer().is_none() {
            return;
        }
        if void {
            group.voided_at = Some(bookmarks);
        }
        let departures = group.departures.iter();
        let departed = departures.flat_map(|departures| {
            let emptied = departures.emptied.iter().map(|(provider, at, _)| (provider, *at));
            emptied.chain(departures.events.iter().map(|(provider, push)| (provider, push.at.rev)))
        });
        for (provider, _) in departed.filter(|(_, at)| *at > since) {
            if !group.providers.contains(provider) {
                group.gone_lately.insert(provider.clone(), bookmarks);
            }
        }
    }

    /// The provider came into the group's interest with instances that clients may not know.
    pub(super) fn await_shown(&mut self, id: GroupId, provider: &ServiceRef, rev: Revision) {
        self.awaited.push((rev, id, provider.clone()));
    }
}

#[cfg(test)]
mod tests;
