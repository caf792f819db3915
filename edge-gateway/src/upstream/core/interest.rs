//! Who hears of whom: the answers about a group's interest, and its changes.
//!
//! In: what a replica or the bus says of a consumer. Out: topics that are joined and left, each from the
//! position at which the interest began.

use std::collections::{BTreeSet, HashMap};

use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::providers::join_live;
use super::{Core, Effect, Interest, InterestChange, KEPT, SETTLED_AFTER, Slot, Unsettled, Want};
use crate::hub::GroupId;
use crate::session::close::Reason;
use crate::upstream::Selector;

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
        // When the interest grew while we did not hear of it, what happened since we last knew is told.
        let base = Position::end_of(if first { answer.rev } else { group.confirmed.max(group.changed) });
        group.confirmed = answer.rev.max(1);
        if first {
            self.effects.push(Effect::Opened(id));
        }
        let removed: Vec<_> = group.providers.difference(&providers).cloned().collect();
        let added: Vec<_> = providers.difference(&group.providers).cloned().collect();
        group.leaving.retain(|provider, _| !providers.contains(provider));
        // The answer may be ahead of events that are on their way, such as the deletes of a provider that is gone.
        group.leaving.extend(removed.into_iter().map(|provider| (provider, answer.rev)));
        self.change_interest(id, &[], added, base);
        for change in kept {
            if change.rev > answer.rev {
                self.on_interest_change(id, change);
            }
        }
        if let Some(group) = self.groups.get_mut(&id)
            && std::mem::take(&mut group.again)
        {
            group.asking = Some(Vec::new());
            self.effects.push(Effect::AskInterest(id, group.selector.clone()));
        }
    }

    /// A consumer's interest changed.
    pub(crate) fn on_interest_change(&mut self, id: GroupId, change: InterestChange) {
        self.seen = self.seen.max(change.rev);
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
        let known = change.rev <= group.confirmed || change.rev < group.changed;
        if known || matches!(group.selector, Selector::Providers(_)) {
            return;
        }
        group.changed = change.rev;
        // What was committed together with the new interest belongs to it.
        let base = Position::end_of(change.rev.saturating_sub(1));
        self.change_interest(id, &change.removed, change.added, base);
    }

    pub(super) fn change_interest(
        &mut self,
        id: GroupId,
        removed: &[ServiceRef],
        added: Vec<ServiceRef>,
        base: Position,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        added.iter().chain(removed).for_each(|provider| _ = group.leaving.remove(provider));
        // What was told last of a provider that is gone, its deletes, may be among what is being asked for.
        let is_asked_for = |it: &ServiceRef| matches!(self.topics.get(it), Some(Slot::Live(t)) if t.asking);
        let (unsettled, removed): (Vec<_>, Vec<_>) = removed.iter().partition(|it| is_asked_for(it));
        group.leaving.extend(
            unsettled
                .into_iter()
                .filter(|provider| group.providers.contains(*provider))
                .map(|provider| (provider.clone(), group.changed)),
        );
        let added: Vec<_> =
            added.into_iter().filter(|provider| group.providers.insert(provider.clone())).collect();
        let removed: Vec<_> =
            removed.into_iter().filter(|provider| group.providers.remove(*provider)).collect();
        let (mut left, confirmed) = (std::mem::take(&mut group.left), group.confirmed);
        for provider in removed {
            // Events have channels of their own: some that came later may have been told already.
            let told = match self.topics.get(provider) {
                Some(Slot::Live(topic)) => Some(topic.at()),
                Some(Slot::Loading { members, .. }) => members.get(&id).copied(),
                None => None,
            };
            left.extend(told.map(|told| (provider.clone(), told)));
            self.leave_topic(id, provider);
        }
        let mut wanted = Vec::new();
        for provider in added {
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

    /// Leaves the providers that answers did not name any more, now that everything up to then was told.
    pub(super) fn leave(&mut self, rev: Revision) {
        let asking = |topics: &HashMap<ServiceRef, Slot>, provider: &ServiceRef| match topics.get(provider) {
            Some(Slot::Live(topic)) => topic.asking,
            Some(Slot::Loading { .. }) => true,
            None => false,
        };
        let mut left = Vec::new();
        for (id, group) in &mut self.groups {
            let ready = |provider: &ServiceRef, at: &Revision| *at <= rev && !asking(&self.topics, provider);
            let ready: Vec<_> = group.leaving.extract_if(|provider, at| ready(provider, at)).collect();
            for (provider, _) in ready {
                group.providers.remove(&provider);
                if let Some(Slot::Live(topic)) = self.topics.get(&provider) {
                    group.left.insert(provider.clone(), topic.at());
                }
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
