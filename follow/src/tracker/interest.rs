//! Replies about a group's interest, and changes of the interest, put into one order.
//!
//! In: a replica's reply, or a change from the bus. Out: providers that come into the interest and leave it,
//! each from its position on.

use std::collections::BTreeSet;

use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::members::{Added, Removed};
use super::{
    Effect, Group, InterestRequest, MOST_KEPT_CHANGES, MOST_KEPT_SERVICES, Subscription, Tracker,
    VERIFY_AFTER_BOOKMARKS,
};
use crate::message::InterestChange;
use crate::reply::InterestReply;
use crate::{GroupId, Selector};

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
        self.reads.touch_group(id);
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
            Some(rev) => Position::end_of(rev.max(group.confirmed)),
        };
        if !is_first {
            // The reply does not mention a provider that came and left before it, but its events happened.
            self.apply_contained(id, contained, base);
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.interest_rev = Some(reply.rev);
        group.unchanged_since = reply.unchanged_since;
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
        let mut unseen: Vec<(ServiceRef, Revision, Position)> = Vec::new();
        if group.selector.consumer().is_some() && !is_first {
            for (provider, at) in reply.left {
                if at <= base.rev || providers.contains(&provider) {
                    continue;
                }
                let delivered = group.delivered_before_leaving.get(&provider).copied().unwrap_or_default();
                // One that left later than was heard had come back.
                let is_unseen = match group.leaving.get(&provider) {
                    Some(leaving) => leaving.until < at,
                    None => !group.providers.contains(&provider) && delivered < Position::end_of(at),
                };
                if is_unseen {
                    unseen.push((provider, at, base.max(delivered)));
                }
            }
        }
        let shown = if is_first { BTreeSet::new() } else { reply.shown };
        let added = Added { providers: added, shown, base, at: reply.rev };
        self.change_interest(id, Removed { providers: &removed, until: reply.rev }, added);
        // A find may have shown a provider that left again, and nothing was heard of either.
        for (provider, until, base) in unseen {
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
        self.reads.touch_group(id);
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

    /// The group's consumer is not registered any more.
    pub fn on_consumer_gone(&mut self, id: GroupId) {
        self.end_group(id);
    }
}
