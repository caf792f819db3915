//! The revision up to which each group is known to have everything.
//!
//! In: bookmarks. Out: for each group the *confirmed revision*, from which its sessions may resume. A group is *in
//! step* when that is the last bookmark's revision. Most groups are, and they share one number, so a push is
//! encoded once for all of them. A group about which something is being requested, or whose subscriptions are not
//! verified yet, is *behind*: it has a number of its own, and holds back no other group.

use std::collections::{HashMap, HashSet};

use shared::event::Action;
use shared::model::{Revision, ServiceRef};

use super::{Effect, Group, Slot, Tracker, Waiting};
use crate::topic::{Member, Topic};
use crate::{GroupId, Push};

/// The confirmed revisions of all groups, as a bookmark tells them to sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// The confirmed revision of every group that is not in `behind`.
    pub rev: Revision,
    /// The groups with sessions that are behind, each with its own confirmed revision. Zero confirms nothing.
    pub behind: HashMap<GroupId, Revision>,
}

impl Group {
    /// The revision up to which no change of the interest is missing.
    pub(super) fn interest_known_to(&self, bookmark: Revision) -> Revision {
        match self.interest_rev {
            None => Revision::ZERO,
            Some(_) if self.verified && self.request.is_idle() => bookmark.max(self.interest_complete_to),
            Some(_) => self.interest_complete_to,
        }
    }

    /// The same, and up to which a consumer has been told of the providers that left.
    fn told_to(&self, bookmark: Revision) -> Revision {
        let known = self.interest_known_to(bookmark);
        let is_consumer = self.selector.consumer().is_some();
        let departures =
            self.leaving.values().filter(|_| is_consumer).map(|leaving| leaving.until.previous());
        departures.fold(known, Revision::min)
    }
}

impl Topic {
    /// The revision up to which no change of the provider is missing.
    pub(super) fn known_to(&self, bookmark: Revision) -> Revision {
        let known = self.complete_to().whole();
        if self.verified && self.is_settled() { known.max(bookmark) } else { known }
    }
}

impl Member {
    /// The revision up to which the group has been told everything of a topic that is known up to `known`.
    fn told_to(&self, known: Revision) -> Revision {
        let mut told = known;
        if self.catching_up {
            told = told.min(self.base.whole());
        }
        if let Some(shown) = self.shown_at {
            told = told.min(shown.previous());
        }
        told
    }
}

impl Waiting {
    fn told_to(&self) -> Revision {
        let base = self.base.whole();
        self.shown.map_or(base, |shown| base.min(shown.previous()))
    }
}

impl Slot {
    fn told_to(&self, id: GroupId, bookmark: Revision) -> Revision {
        match self {
            Self::Loading { members, .. } => members.get(&id).map_or(Revision::MAX, Waiting::told_to),
            Self::Live(topic) => {
                let member = topic.members.get(&id);
                member.map_or(Revision::MAX, |member| member.told_to(topic.known_to(bookmark)))
            }
        }
    }
}

impl Tracker {
    /// The confirmed revision of the whole gateway: everything up to it has been delivered to every group that it
    /// concerns. A group whose first reply has not come contains nothing yet, and does not count.
    pub fn confirmed(&self) -> Revision {
        let open = self.groups.iter().filter(|(_, group)| group.interest_rev.is_some());
        open.map(|(id, group)| self.told_to(*id, group)).fold(self.confirmed, Revision::min)
    }

    /// The confirmed revision of the groups that are in step.
    pub fn in_step(&self) -> Revision {
        self.confirmed
    }

    /// The confirmed revisions of all groups with sessions.
    pub fn confirmations(&self) -> Confirmed {
        let with_sessions = |id: &&GroupId| self.sessions(**id).iter().any(|count| *count > 0);
        let behind = self.behind.iter().filter(with_sessions);
        let own = |id: &GroupId| (*id, self.groups.get(id).map_or(Revision::ZERO, |group| group.confirmed));
        Confirmed { rev: self.confirmed, behind: behind.map(own).collect() }
    }

    /// The revision up to which a group has everything, by what is known now: it may be beyond what the last
    /// bookmark has confirmed.
    pub(super) fn told_to(&self, id: GroupId, group: &Group) -> Revision {
        let bookmark = self.bookmark.unwrap_or_default();
        let of_provider = |provider: &ServiceRef| {
            self.topics.get(provider).map_or(Revision::ZERO, |slot| slot.told_to(id, bookmark))
        };
        let told = group.providers.iter().map(of_provider).fold(group.told_to(bookmark), Revision::min);
        told.max(group.confirmed)
    }

    /// A bookmark of `rev` has been applied, and none before it was lost.
    pub(super) fn confirm(&mut self, rev: Revision) {
        self.confirmed = self.confirmed.max(rev);
        let told = self.told_short_of(rev);
        self.behind.clear();
        for (id, group) in &mut self.groups {
            match told.get(id) {
                None => group.confirmed = group.confirmed.max(rev),
                Some(told) => {
                    group.confirmed = group.confirmed.max(*told);
                    self.behind.insert(*id);
                }
            }
        }
    }

    /// The groups that do not have everything up to a bookmark of `rev`, each with how far they have it. Looks at
    /// topics and not at each group's providers: in the usual case nothing has to be looked up.
    fn told_short_of(&self, rev: Revision) -> HashMap<GroupId, Revision> {
        let mut short: HashMap<GroupId, Revision> = HashMap::new();
        let mut note = |id: GroupId, told: Revision| {
            if told < rev {
                short.entry(id).and_modify(|known| *known = told.min(*known)).or_insert(told);
            }
        };
        for slot in self.topics.values() {
            match slot {
                Slot::Loading { members, .. } => {
                    members.iter().for_each(|(id, waiting)| note(*id, waiting.told_to()));
                }
                Slot::Live(topic) => {
                    let known = topic.known_to(rev);
                    topic.members.iter().for_each(|(id, member)| note(*id, member.told_to(known)));
                }
            }
        }
        self.groups.iter().for_each(|(id, group)| note(*id, group.told_to(rev)));
        short
    }

    /// Takes the effects of everything so far, in the order in which they must be carried out.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        let taken = std::mem::take(&mut self.effects);
        let mut effects = Vec::with_capacity(taken.len());
        for effect in taken {
            match effect {
                Effect::Deliver(push, mut groups) => {
                    if !self.narrow.is_empty() {
                        groups.retain(|id| !self.narrow.contains(id) || self.may_tell(*id, &push));
                    }
                    let (behind, in_step) = divide(groups, &self.behind);
                    // Here and not where the push was made: what was confirmed since then spares a client that
                    // resumes some repetitions. A revision that would reach beyond the push itself is not given.
                    push.set_resume_point(self.confirmed);
                    if !behind.is_empty() {
                        effects.push(Effect::Deliver(push.without_resume_point(), behind));
                    }
                    if !in_step.is_empty() {
                        effects.push(Effect::Deliver(push, in_step));
                    }
                }
                other => effects.push(other),
            }
        }
        effects
    }
}

impl Tracker {
    /// False if an event has a name outside the group's scope. When a change of the interest was lost, all events of a
    /// provider since then are on their way to the group. The end of an instance that comparing states has shown has the
    /// provider's name of now, whatever the name was under which the instance was told.
    fn may_tell(&self, id: GroupId, push: &Push) -> bool {
        let is_end = push.is_difference() && push.action == Action::Delete;
        is_end || self.groups.get(&id).is_none_or(|group| group.selector.may_tell(&push.key))
    }
}

/// The groups that are behind, and the others.
fn divide(groups: Vec<GroupId>, behind: &HashSet<GroupId>) -> (Vec<GroupId>, Vec<GroupId>) {
    if behind.is_empty() {
        return (Vec::new(), groups);
    }
    groups.into_iter().partition(|id| behind.contains(id))
}

#[cfg(test)]
mod tests;
