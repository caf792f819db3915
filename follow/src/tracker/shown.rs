//! Instances that a consumer gains or loses without an event, because other providers answer its finds now.
//!
//! A provider becomes visible to a consumer when a version, a rule or its access changes. Its instances were
//! there before, so no event tells of them: they are delivered as created, once the topic has reached the
//! revision of the change. When a provider stops being visible, everything up to that revision is delivered,
//! and then what is left is delivered as deleted. A provider that was deleted has nothing left.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::event::{Action, Position};
use shared::model::{Instance, Revision, ServiceRef};

use super::{Effect, Slot, Tracker};
use crate::topic::{Known, Member, Topic};
use crate::{GroupId, Push};

/// The number of bookmarks, parts included, for which a group remembers that a provider's instances were
/// delivered as deleted. A find that was answered before the client received the deletes is known here by then.
pub(super) const REMEMBER_FOR_BOOKMARKS: u64 = 16;

/// Delivers to every member of a topic what is due at the topic's position. `pushes` are the changes that have
/// just been applied; those beyond a departure were withheld.
pub(super) fn settle(topic: &mut Topic, pushes: &[Arc<Push>], effects: &mut Vec<Effect>) {
    let at = topic.at();
    let mut due = Vec::new();
    for (id, member) in &topic.members {
        match (member.known, member.until) {
            _ if member.catching_up => {}
            (Known::Leaving, Some(until)) if at >= until => due.push((*id, Some(until))),
            (Known::Awaited(rev), _) if at.rev >= rev => due.push((*id, None)),
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

/// Makes a group a member that is told of every instance once the topic has reached `rev`.
pub(super) fn join_shown(topic: &mut Topic, id: GroupId, rev: Revision, effects: &mut Vec<Effect>) {
    let known = Known::Awaited(rev);
    topic.members.insert(id, Member { base: topic.at(), until: None, catching_up: false, known });
    settle(topic, &[], effects);
}

fn tell_all(topic: &mut Topic, id: GroupId, at: Position, effects: &mut Vec<Effect>) {
    let base = topic.at();
    let mut present: Vec<Arc<Instance>> = topic.instances().map(|(instance, _)| instance.clone()).collect();
    present.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    tell(topic, id, at, Action::Create, present, effects);
    let known = Known::Followed;
    topic.members.insert(id, Member { base, until: None, catching_up: false, known });
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
        member.known = if left.is_empty() { Known::Nothing } else { Known::Gone };
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

/// Delivers to a group that leaves a topic for good everything that is left as deleted. Returns true when
/// there was anything, now or before.
pub(super) fn tell_rest_gone(topic: &Topic, id: GroupId, until: Revision, effects: &mut Vec<Effect>) -> bool {
    let Some(member) = topic.members.get(&id) else { return false };
    match member.known {
        Known::Gone => true,
        Known::Nothing | Known::Awaited(_) => false,
        Known::Followed | Known::Leaving => {
            let left = instances_at(topic, topic.at(), &[]);
            let has_any = !left.is_empty();
            tell(topic, id, topic.at().max(Position::end_of(until)), Action::Delete, left, effects);
            has_any
        }
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
            let is_awaited =
                topic.members.get(id).is_some_and(|member| member.known == Known::Awaited(*came_at));
            if is_awaited && *came_at <= rev && topic.request.is_idle() {
                let at = topic.at().max(Position::end_of(*came_at));
                tell_all(topic, *id, at, effects);
                return false;
            }
            is_awaited
        });
    }

    /// A session has begun that resumed from `since`. Its preface said of some providers, or of all if `void`,
    /// that nothing is left.
    pub(crate) fn note_begun(&mut self, id: GroupId, since: Revision, void: bool) {
        let bookmarks = self.bookmarks;
        let Some(group) = self.groups.get_mut(&id) else { return };
        if void {
            group.voided_at = Some(bookmarks);
        }
        let emptied = group.departures.iter().flat_map(|departures| &departures.emptied);
        for (provider, ..) in emptied.filter(|(_, at, _)| *at > since) {
            if !group.providers.contains(provider) {
                group.gone_lately.insert(provider.clone(), bookmarks);
            }
        }
    }

    /// The provider came into the group's interest with instances that the consumer does not know.
    pub(super) fn await_shown(&mut self, id: GroupId, provider: &ServiceRef, rev: Revision) {
        self.awaited.push((rev, id, provider.clone()));
    }
}

#[cfg(test)]
mod tests;
