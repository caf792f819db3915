//! Replies about a group's interest, and changes of the interest.
//!
//! In: a replica's reply, or a change from the bus. Out: topics that the group joins and leaves, each from
//! the position at which the provider came into the interest.

use std::collections::{BTreeSet, HashMap};

use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::providers::join_topic;
use super::shown::{REMEMBER_FOR_BOOKMARKS, await_all, settle, tell_rest_gone};
use super::{
    Effect, Group, InterestRequest, Leaving, MOST_KEPT_CHANGES, MOST_KEPT_SERVICES, Slot, Subscription,
    Tracker, VERIFY_AFTER_BOOKMARKS, Waiting,
};
use crate::message::InterestChange;
use crate::reply::{InterestReply, Want};
use crate::topic::Known;
use crate::{GroupId, Selector};

/// Providers that leave an interest together.
struct Removed<'a> {
    providers: &'a [ServiceRef],
    /// The revision at which they leave.
    until: Revision,
}

/// Providers that come into an interest together.
struct Added {
    providers: Vec<ServiceRef>,
    /// Those with instances that the consumer does not know.
    shown: BTreeSet<ServiceRef>,
    /// The position after which changes of the others are delivered.
    base: Position,
    /// The revision at which they are in the interest.
    at: Revision,
}

/// The arrival of one provider in an interest; the fields are those of [`Added`].
#[derive(Clone, Copy)]
struct Arrival {
    base: Position,
    at: Revision,
    shown: bool,
}

impl Group {
    /// The position up to which the interest is known.
    pub(super) fn interest_position(&self) -> Position {
        self.last_change.max(Position::end_of(self.interest_rev.unwrap_or_default()))
    }

    /// True when no change is missing between what is known of the interest and this newer change.
    fn is_joined_by(&self, change: &InterestChange) -> bool {
        let position = self.interest_position();
        change.at > position && change.prev <= position.max(Position::end_of(self.interest_complete_to))
    }

    /// Marks the interest as being requested. Returns the effect that requests it.
    pub(super) fn request_interest(&mut self, id: GroupId) -> Effect {
        self.request = InterestRequest::begin();
        Effect::RequestInterest(id, self.selector.clone())
    }
}

impl Tracker {
    /// A replica has replied about a group's interest. A reply that nobody awaits is ignored.
    pub fn on_interest(&mut self, id: GroupId, reply: InterestReply) {
        self.seen = self.seen.max(reply.rev);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let InterestRequest::Pending { mut kept, repeat } =
            std::mem::replace(&mut group.request, InterestRequest::Idle)
        else {
            return;
        };
        kept.make_contiguous().sort_by_key(|change| change.at);
        let is_first = group.interest_rev.is_none();
        if is_first {
            self.unverified.push_back((self.bookmarks + VERIFY_AFTER_BOOKMARKS, Subscription::Group(id)));
        }
        let mut providers: BTreeSet<ServiceRef> = match &group.selector {
            Selector::Consumer(_) if !reply.exists => return self.end_group(id),
            // A replica of an older version names every service of the tenant.
            selector => reply.providers.into_iter().filter(|service| selector.may_ask_for(service)).collect(),
        };
        let applied_to = group.last_change;
        let (contained, newer): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|change| change.at.rev <= reply.rev);
        let (applied, newer): (Vec<_>, Vec<_>) =
            newer.into_iter().partition(|change| change.at <= applied_to);
        // The reply shows the interest as it was before these changes, which have been applied already.
        for change in applied {
            providers.retain(|provider| !change.removed.contains(provider));
            providers.extend(change.added);
        }
        // A provider that came into the interest while changes were lost is delivered from the last revision
        // at which the interest was known. A later change that did arrive proves nothing about the lost ones
        // before it.
        let base = match group.interest_rev {
            None => Position::end_of(reply.rev),
            Some(rev) => Position::end_of(rev.max(self.confirmed)),
        };
        if !is_first {
            // The reply does not mention a provider that came and left before it, but its events happened.
            self.apply_contained(id, contained, base);
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.interest_rev = Some(reply.rev);
        group.interest_complete_to = group.interest_complete_to.max(reply.rev);
        if is_first {
            self.effects.push(Effect::GroupOpened(id));
        }
        let removed: Vec<ServiceRef> = group.providers.difference(&providers).cloned().collect();
        let mut added = Vec::new();
        for provider in &providers {
            if !group.providers.contains(provider) || group.leaving.contains_key(provider) {
                added.push(provider.clone());
            }
        }
        // A find may have shown a provider that left again, and nothing was heard of either.
        let unseen: Vec<(ServiceRef, Revision)> = match &group.selector {
            Selector::Consumer(_) if !is_first => {
                // One that left later than was heard had come back.
                let is_unseen = |provider: &ServiceRef, at: Revision| match group.leaving.get(provider) {
                    Some(leaving) => leaving.until < at,
                    None => !group.providers.contains(provider),
                };
                let left = reply.left.into_iter();
                left.filter(|(provider, at)| {
                    *at > base.rev && !providers.contains(provider) && is_unseen(provider, *at)
                })
                .collect()
            }
            _ => Vec::new(),
        };
        let shown = if is_first { BTreeSet::new() } else { reply.shown };
        let added = Added { providers: added, shown, base, at: reply.rev };
        self.change_interest(id, Removed { providers: &removed, until: reply.rev }, added);
        for (provider, until) in unseen {
            let providers = vec![provider.clone()];
            let added = Added { providers, shown: BTreeSet::new(), base, at: until };
            self.change_interest(id, Removed { providers: &[], until }, added);
            self.begin_to_leave(id, Removed { providers: &[provider], until });
        }
        for change in newer {
            self.on_interest_change(id, change);
        }
        if let Some(group) = self.groups.get_mut(&id)
            && repeat
            // A gap among the kept changes has requested the interest already. Of two replies, the older one
            // would undo the newer one.
            && group.request.is_idle()
        {
            self.effects.push(group.request_interest(id));
        }
    }

    /// Applies changes of interests in the order of their positions.
    pub fn on_interest_changes(&mut self, mut changes: Vec<(GroupId, InterestChange)>) {
        changes.sort_by_key(|(_, change)| change.at);
        for (group, change) in changes {
            self.on_interest_change(group, change);
        }
    }

    /// Applies a change of a group's interest.
    pub fn on_interest_change(&mut self, id: GroupId, change: InterestChange) {
        self.seen = self.seen.max(change.at.rev);
        let Some(group) = self.groups.get_mut(&id) else { return };
        if change.deleted {
            return self.end_group(id);
        }
        if let InterestRequest::Pending { kept, .. } = &mut group.request {
            kept.push_back(change.clone());
            let mut named: usize = kept.iter().map(InterestChange::services).sum();
            while kept.len() > MOST_KEPT_CHANGES || named > MOST_KEPT_SERVICES {
                let Some(oldest) = kept.pop_front() else { break };
                named -= oldest.services();
            }
            return self.apply_joining(id, change);
        }
        if change.at <= group.interest_position() {
            return;
        }
        if !group.is_joined_by(&change) {
            // The previous change was lost. This one is kept for the reply, which may be older than it.
            group.request = InterestRequest::Pending { kept: [change].into(), repeat: false };
            return self.effects.push(Effect::RequestInterest(id, group.selector.clone()));
        }
        self.apply_change(id, change, None);
    }

    /// Applies a change that joins what is known of the interest, or comes after lost ones, before which the
    /// interest was known at `known`.
    fn apply_change(&mut self, id: GroupId, change: InterestChange, known: Option<Position>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.last_change = group.last_change.max(change.at);
        let rev = change.at.rev;
        // An instance that was committed together with the dependency belongs to the new interest. A provider
        // that comes after lost changes may have come in one of them, and been shown by a find.
        let base = match known {
            Some(known) if group.selector.consumer().is_some() => known,
            _ => Position::end_of(rev.previous()),
        };
        let shown = change.added.iter().take(change.shown).cloned().collect();
        let added = Added { providers: change.added, shown, base, at: rev };
        self.change_interest(id, Removed { providers: &change.removed, until: rev }, added);
    }

    /// Applies a change that has arrived while the interest is being requested again, and the kept changes
    /// that follow it, as far as nothing is missing before them. Watchers of a provider that has just come do
    /// not wait for the reply then.
    fn apply_joining(&mut self, id: GroupId, change: InterestChange) {
        let mut next = Some(change);
        while let Some(change) = next.take() {
            let Some(group) = self.groups.get_mut(&id) else { return };
            // Before the first reply nothing is known that a change could join.
            if group.interest_rev.is_none() || !group.is_joined_by(&change) {
                return;
            }
            self.apply_change(id, change, None);
            if let Some(group) = self.groups.get(&id)
                && let InterestRequest::Pending { kept, .. } = &group.request
            {
                let following = kept.iter().filter(|change| group.is_joined_by(change));
                next = following.min_by_key(|change| change.at).cloned();
            }
        }
    }

    /// Applies the changes, in order, that a reply contains and that have not been applied, because something
    /// before them is missing. The interest was known at `known`.
    fn apply_contained(&mut self, id: GroupId, contained: Vec<InterestChange>, known: Position) {
        for change in contained {
            if self.groups.get(&id).is_some_and(|group| change.at > group.interest_position()) {
                self.apply_change(id, change, Some(known));
            }
        }
    }

    fn change_interest(&mut self, id: GroupId, removed: Removed<'_>, added: Added) {
        let Added { providers: added, mut shown, base, at } = added;
        self.begin_to_leave(id, removed);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut delivered_before = std::mem::take(&mut group.delivered_before_leaving);
        let interest_rev = group.interest_rev.unwrap_or_default();
        let is_void = group.voided_at.is_some_and(|at| at + REMEMBER_FOR_BOOKMARKS >= self.bookmarks);
        let mut new = Vec::new();
        let mut returning = Vec::new();
        for provider in added {
            // Instances that a find had shown may have been delivered as deleted after it.
            if group.gone_lately.remove(&provider).is_some() || is_void {
                shown.insert(provider.clone());
            }
            match group.leaving.remove(&provider) {
                Some(leaving) => returning.push((provider, leaving)),
                None if group.providers.insert(provider.clone()) => new.push(provider),
                None => {}
            }
        }
        for (provider, leaving) in returning {
            let shown = shown.contains(&provider);
            self.stay(id, provider, leaving, Arrival { base, at, shown });
        }
        let mut wants = Vec::new();
        for provider in new {
            let base = delivered_before.remove(&provider).map_or(base, |delivered| delivered.max(base));
            let shown = shown.contains(&provider);
            wants.extend(self.follow(id, provider, Arrival { base, at, shown }));
        }
        delivered_before.retain(|_, delivered| delivered.rev > interest_rev);
        if let Some(group) = self.groups.get_mut(&id) {
            group.delivered_before_leaving = delivered_before;
        }
        if !wants.is_empty() {
            self.effects.push(Effect::OpenTopics(wants));
        }
    }

    /// A provider that was about to leave the group is of interest again.
    fn stay(&mut self, id: GroupId, provider: ServiceRef, leaving: Leaving, arrival: Arrival) {
        // A topic that is still loading has kept the position from which the group wants changes.
        let Some(Slot::Live(topic)) = self.topics.get_mut(&provider) else { return };
        let until = Position::end_of(leaving.until);
        let has_all_until = topic.at() >= until;
        let base = arrival.base.max(leaving.delivered).max(until);
        let mut shown = arrival.shown;
        match topic.members.get_mut(&id) {
            // Nothing was withheld yet, or what was withheld is still to come: the group just goes on.
            Some(member)
                if member.known == Known::Leaving
                    || (member.known == Known::Followed
                        && (member.catching_up || !has_all_until || member.until.is_none())) =>
            {
                member.until = None;
                member.known = Known::Followed;
            }
            Some(member) if member.known == Known::Gone => {
                // Instances that a find had shown may have been delivered as deleted after it.
                shown = true;
                join_topic(topic, provider.clone(), id, base, &mut self.effects);
            }
            // Changes after the departure may have been withheld. They are delivered from the new interest
            // on.
            _ => {
                join_topic(topic, provider.clone(), id, base, &mut self.effects);
            }
        }
        if shown {
            await_all(topic, id, arrival.at, &mut self.effects);
            self.await_shown(id, &provider, arrival.at);
        }
    }

    /// Adds a group to a provider's topic. Returns the want for a topic that is new.
    fn follow(&mut self, id: GroupId, provider: ServiceRef, arrival: Arrival) -> Option<Want> {
        let Arrival { base, at, shown } = arrival;
        let waiting = Waiting { base, shown: shown.then_some(at) };
        if shown {
            self.await_shown(id, &provider, at);
        }
        match self.topics.get_mut(&provider) {
            None => {
                self.next_topic += 1;
                let members = HashMap::from([(id, waiting)]);
                let slot = Slot::Loading { id: self.next_topic, since: base, members, repeat: false };
                self.topics.insert(provider.clone(), slot);
                return Some(Want { provider, since: base, snapshot: true });
            }
            Some(Slot::Loading { members, .. }) => {
                members.insert(id, waiting);
            }
            Some(Slot::Live(topic)) => {
                join_topic(topic, provider, id, base, &mut self.effects);
                if shown {
                    await_all(topic, id, at, &mut self.effects);
                }
            }
        }
        None
    }

    /// Stops the delivery of later changes. The group leaves the topics only when a bookmark has covered the
    /// departure: a provider's last events, the deletes of its instances, may still be on their way, or lost.
    fn begin_to_leave(&mut self, id: GroupId, removed: Removed<'_>) {
        let until = removed.until;
        let Some(group) = self.groups.get_mut(&id) else { return };
        let is_consumer = group.selector.consumer().is_some();
        for provider in removed.providers {
            if !group.providers.contains(provider) || group.leaving.contains_key(provider) {
                continue;
            }
            let delivered = match self.topics.get_mut(provider) {
                Some(Slot::Live(topic)) => {
                    // Events and changes of interest have separate channels, so later events may have been
                    // delivered already. Such a group also receives the end of what it saw begin; that
                    // arrives as well.
                    let is_behind = topic.at().rev <= until;
                    if is_behind && let Some(member) = topic.members.get_mut(&id) {
                        member.until = Some(Position::end_of(until));
                        member.known = if is_consumer { Known::Leaving } else { Known::Followed };
                    }
                    let delivered = topic.at();
                    settle(topic, &[], &mut self.effects);
                    delivered
                }
                Some(Slot::Loading { .. }) | None => Position::default(),
            };
            group.leaving.insert(provider.clone(), Leaving { until, delivered });
        }
    }

    pub(super) fn leave_topic(&mut self, id: GroupId, provider: &ServiceRef) {
        let is_unused = match self.topics.get_mut(provider) {
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
        if is_unused {
            self.topics.remove(provider);
            self.effects.push(Effect::CloseTopic(provider.clone()));
        }
    }

    /// Drops providers that have left the interest, once a bookmark at `rev` covers everything that was
    /// delivered. A topic with later deliveries is kept until the bookmarks catch up: otherwise the tracker
    /// would forget what it delivered, and deliver it again if the provider came back.
    pub(super) fn finish_leaving(&mut self, rev: Revision) {
        let mut finished = Vec::new();
        let bookmarks = self.bookmarks;
        let effects = &mut self.effects;
        for (id, group) in &mut self.groups {
            group.gone_lately.retain(|_, at| *at + REMEMBER_FOR_BOOKMARKS >= bookmarks);
            if !group.request.is_idle() || !group.verified {
                // The reply may say that a provider has come back.
                continue;
            }
            group.interest_complete_to = group.interest_complete_to.max(rev);
            let topics = &self.topics;
            let departed = group.leaving.extract_if(|provider, leaving| {
                leaving.until.max(leaving.delivered.rev) <= rev && !must_keep(topics.get(provider), *id, rev)
            });
            for (provider, leaving) in departed {
                group.providers.remove(&provider);
                if let Some(Slot::Live(topic)) = topics.get(&provider)
                    && group.selector.consumer().is_some()
                {
                    tell_rest_gone(topic, *id, leaving.until, effects);
                    group.gone_lately.insert(provider.clone(), bookmarks);
                }
                let delivered = match topics.get(&provider) {
                    Some(Slot::Live(topic))
                        if topic.members.get(id).is_some_and(|member| member.until.is_none()) =>
                    {
                        topic.at()
                    }
                    _ => leaving.delivered.max(Position::end_of(leaving.until)),
                };
                group.delivered_before_leaving.insert(provider.clone(), delivered);
                finished.push((*id, provider));
            }
        }
        for (id, provider) in finished {
            self.leave_topic(id, &provider);
        }
    }

    /// The group's consumer is not registered any more.
    pub fn on_consumer_gone(&mut self, id: GroupId) {
        self.end_group(id);
    }
}

/// True while a topic has, or may get, something for a group that leaves it at a bookmark of `rev`.
fn must_keep(slot: Option<&Slot>, id: GroupId, rev: Revision) -> bool {
    match slot {
        None => false,
        Some(Slot::Loading { .. }) => true,
        Some(Slot::Live(topic)) if !topic.request.is_idle() => true,
        Some(Slot::Live(topic)) => topic
            .members
            .get(&id)
            .is_some_and(|member| member.catching_up || (member.until.is_none() && topic.at().rev > rev)),
    }
}
