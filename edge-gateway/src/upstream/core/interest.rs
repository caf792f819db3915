//! Who hears of whom: the answers about a group's interest, and its changes.
//!
//! In: what a replica or the bus says of a consumer. Out: topics that are joined and left, each from the
//! position at which the interest began.

use std::collections::{BTreeSet, HashMap};

use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::providers::join_live;
use super::{
    Core, Effect, Group, Interest, InterestChange, KEPT, Leaving, SETTLED_AFTER, Slot, Unsettled, Want,
};
use crate::close::Reason;
use crate::watch::GroupId;
use crate::watch::Selector;

impl Group {
    /// How far its interest has been heard.
    pub(super) fn known(&self) -> Position {
        self.changed.max(Position::end_of(self.confirmed))
    }
}

impl Core {
    /// A consumer's interest was told.
    pub(crate) fn on_interest(&mut self, id: GroupId, answer: Interest) {
        self.seen = self.seen.max(answer.rev);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(kept) = group.asking.take() else { return };
        let first = group.confirmed == 0;
        if first {
            self.unsettled.push_back((self.bookmarks + SETTLED_AFTER, Unsettled::Group(id)));
        }
        let providers: BTreeSet<ServiceRef> = match &group.selector {
            Selector::Consumer(_) if !answer.exists => return self.end_group(id, Reason::NoService),
            Selector::Consumer(_) | Selector::Scope(_) => answer.providers.into_iter().collect(),
            // For these the answer only tells the revision.
            Selector::Providers(providers) => providers.iter().cloned().collect(),
        };
        // When the interest grew while we did not hear of it, what happened since we last knew is told. A later
        // change that was heard says nothing of those before it.
        let base = Position::end_of(if first { answer.rev } else { group.confirmed.max(self.told) });
        group.confirmed = answer.rev.max(1);
        group.covered = group.covered.max(answer.rev);
        if first {
            self.effects.push(Effect::Opened(id));
        }
        let is_new = |it: &&ServiceRef| !group.providers.contains(*it) || group.leaving.contains_key(*it);
        let removed: Vec<_> = group.providers.difference(&providers).cloned().collect();
        let added: Vec<_> = providers.iter().filter(is_new).cloned().collect();
        self.change_interest(id, (&removed, answer.rev), added, base);
        for change in kept {
            if change.at.rev > answer.rev {
                self.on_interest_change(id, change);
            }
        }
        if let Some(group) = self.groups.get_mut(&id)
            && std::mem::take(&mut group.again)
            // A gap among the kept changes has asked already; of two answers the older one would undo the other.
            && group.asking.is_none()
        {
            self.effects.push(group.ask(id));
        }
    }

    /// A consumer's interest changed.
    pub(crate) fn on_interest_change(&mut self, id: GroupId, change: InterestChange) {
        self.seen = self.seen.max(change.at.rev);
        let Some(group) = self.groups.get_mut(&id) else { return };
        if change.deleted {
            return self.end_group(id, Reason::NoService);
        }
        if let Some(kept) = &mut group.asking {
            if kept.len() == KEPT {
                kept.remove(0);
            }
            return kept.push(change);
        }
        if change.at <= group.known() || matches!(group.selector, Selector::Providers(_)) {
            return;
        }
        if change.prev > group.known().max(Position::end_of(group.covered)) {
            // The one before it was lost. The answer says what came of both.
            group.asking = Some(vec![change]);
            return self.effects.push(Effect::AskInterest(id, group.selector.clone()));
        }
        group.changed = change.at;
        let rev = change.at.rev;
        // What was committed together with the new interest belongs to it.
        let base = Position::end_of(rev.saturating_sub(1));
        self.change_interest(id, (&change.removed, rev), change.added, base);
    }

    pub(super) fn change_interest(
        &mut self,
        id: GroupId,
        (removed, until): (&[ServiceRef], Revision),
        added: Vec<ServiceRef>,
        base: Position,
    ) {
        self.begin_to_leave(id, removed, until);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let (mut left, confirmed) = (std::mem::take(&mut group.left), group.confirmed);
        let (mut new, mut back) = (Vec::new(), Vec::new());
        for provider in added {
            match group.leaving.remove(&provider) {
                Some(leaving) => back.push((provider, leaving)),
                None if group.providers.insert(provider.clone()) => new.push(provider),
                None => {}
            }
        }
        for (provider, leaving) in back {
            // While it loads, it is told from the position that it waited for.
            if let Some(Slot::Live(topic)) = self.topics.get_mut(&provider) {
                let until = Position::end_of(leaving.until);
                let complete = topic.at() >= until;
                match topic.members.get_mut(&id) {
                    // What it was not told of the time before is on its way to it.
                    Some(member) if member.closed || !complete || member.until.is_none() => {
                        member.until = None
                    }
                    _ => join_live(topic, provider, id, base.max(leaving.told).max(until), &mut self.effects),
                }
            }
        }
        let mut wanted = Vec::new();
        for provider in new {
            let base = left.remove(&provider).map_or(base, |told| told.max(base));
            match self.topics.get_mut(&provider) {
                None => {
                    self.next_topic += 1;
                    let members = HashMap::from([(id, base)]);
                    let slot = Slot::Loading { id: self.next_topic, since: base, members, again: false };
                    self.topics.insert(provider.clone(), slot);
                    wanted.push(Want { provider, since: base, snapshot: true });
                }
                Some(Slot::Loading { members, .. }) => {
                    members.insert(id, base);
                }
                Some(Slot::Live(topic)) => join_live(topic, provider, id, base, &mut self.effects),
            }
        }
        left.retain(|_, told| told.rev > confirmed);
        if let Some(group) = self.groups.get_mut(&id) {
            group.left = left;
        }
        if !wanted.is_empty() {
            self.effects.push(Effect::OpenTopics(wanted));
        }
    }

    /// Nothing after `until` of these is told any more. They are left when a bookmark has covered it: what was told
    /// last of a provider that is gone, its deletes, may be on its way or lost.
    fn begin_to_leave(&mut self, id: GroupId, removed: &[ServiceRef], until: Revision) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let stays = |it: &&ServiceRef| group.providers.contains(*it) && !group.leaving.contains_key(*it);
        let removed: Vec<_> = removed.iter().filter(stays).collect();
        for provider in removed {
            // Events have channels of their own: some that came later may have been told already.
            let told = match self.topics.get_mut(provider) {
                Some(Slot::Live(topic)) => {
                    // Told of what came later, it is to be told how that ended: the news of it is on its way, too.
                    let known = topic.at().rev <= until;
                    if let Some(member) = topic.members.get_mut(&id).filter(|_| known) {
                        member.until = Some(Position::end_of(until));
                    }
                    topic.at()
                }
                Some(Slot::Loading { .. }) | None => Position::default(),
            };
            group.leaving.insert(provider.clone(), Leaving { until, told });
        }
    }

    pub(super) fn leave_topic(&mut self, id: GroupId, provider: &ServiceRef) {
        let unused = match self.topics.get_mut(provider) {
            None => return,
            Some(Slot::Loading { members, .. }) => {
                members.remove(&id);
                members.is_empty()
            }
            Some(Slot::Live(topic)) => {
                topic.members.remove(&id);
                topic.members.is_empty()
            }
        };
        if unused {
            self.topics.remove(provider);
            self.effects.push(Effect::CloseTopic(provider.clone()));
        }
    }

    /// Leaves the providers that are not of interest any more, now that everything up to then was told. One of which
    /// more was told is followed until the bookmarks have come as far: it may have come back, and with the topic it
    /// would be forgotten what of it was told.
    pub(super) fn leave(&mut self, rev: Revision) {
        let goes_on = |id: &GroupId, provider: &ServiceRef| match self.topics.get(provider) {
            Some(Slot::Live(topic)) if topic.asking => true,
            Some(Slot::Live(topic)) => topic
                .members
                .get(id)
                .is_some_and(|member| member.closed || (member.until.is_none() && topic.at().rev > rev)),
            Some(Slot::Loading { .. }) => true,
            None => false,
        };
        let mut left = Vec::new();
        for (id, group) in &mut self.groups {
            if group.asking.is_some() || !group.settled {
                // Who left may come back.
                continue;
            }
            group.covered = group.covered.max(rev);
            let ready = |provider: &ServiceRef, it: &Leaving| {
                it.until.max(it.told.rev) <= rev && !goes_on(id, provider)
            };
            let ready: Vec<_> = group.leaving.extract_if(|provider, it| ready(provider, it)).collect();
            for (provider, leaving) in ready {
                group.providers.remove(&provider);
                let told = match self.topics.get(&provider) {
                    Some(Slot::Live(it)) if it.members.get(id).is_some_and(|it| it.until.is_none()) => {
                        it.at()
                    }
                    _ => leaving.told.max(Position::end_of(leaving.until)),
                };
                group.left.insert(provider.clone(), told);
                left.push((*id, provider));
            }
        }
        for (id, provider) in left {
            self.leave_topic(id, &provider);
        }
    }

    /// A consumer does not exist any more.
    pub(crate) fn on_consumer_gone(&mut self, id: GroupId) {
        self.end_group(id, Reason::NoService);
    }
}
