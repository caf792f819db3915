//! Providers that come into the interest of a group, stay in it, and leave it.
//!
//! In: the providers, each with the position from which the group wants its changes, or until which. Out:
//! topics that the group joins and leaves.

use std::collections::{BTreeSet, HashMap};

use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::providers::join_topic;
use super::shown::{REMEMBER_FOR_BOOKMARKS, await_all, settle, tell_rest_gone};
use super::{Effect, Leaving, Slot, Tracker, Waiting};
use crate::GroupId;
use crate::reply::Want;
use crate::topic::Known;

/// Providers that leave an interest together.
pub(super) struct Removed<'a> {
    pub(super) providers: &'a [ServiceRef],
    /// The revision at which they leave.
    pub(super) until: Revision,
}

/// Providers that come into an interest together.
pub(super) struct Added {
    pub(super) providers: Vec<ServiceRef>,
    /// The providers with instances that the consumer does not know.
    pub(super) shown: BTreeSet<ServiceRef>,
    /// The position after which changes of the others are delivered.
    pub(super) base: Position,
    /// The revision at which they are in the interest.
    pub(super) at: Revision,
}

/// The arrival of one provider in an interest; the fields are those of [`Added`].
#[derive(Clone, Copy)]
struct Arrival {
    base: Position,
    at: Revision,
    shown: bool,
}

impl Tracker {
    /// Applies departures, and then arrivals.
    pub(super) fn change_interest(&mut self, id: GroupId, removed: Removed<'_>, added: Added) {
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
    pub(super) fn begin_to_leave(&mut self, id: GroupId, removed: Removed<'_>) {
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
            self.reads.touch(provider);
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
