//! The preface of a session that resumes: what it is sent before it joins its group.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shared::event::Position;
use shared::model::{Instance, Revision, ServiceKey, ServiceRef};

use super::departures::DepartureEvents;
use super::missed::MissedEvents;
use super::repair::request_replay;
use super::{Group, Slot, Tracker};
use crate::reply::Want;
use crate::topic::{Member, Topic};
use crate::{Cause, GroupId, Push};

/// A provider's name and instances.
type ProviderState = (Arc<ServiceKey>, Vec<Arc<Instance>>);

/// The point from which a session resumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResumePoint {
    /// The client has everything up to here; zero when it has nothing.
    pub since: Revision,
    /// What the client has is not what it may know now, because its rights have changed after `since`. Nothing that it
    /// knows counts any more, and it is sent states.
    pub anew: bool,
}

impl From<Revision> for ResumePoint {
    fn from(since: Revision) -> Self {
        Self { since, anew: false }
    }
}

/// The messages for a session before it joins its group.
#[derive(Debug, Default)]
pub struct Preface {
    /// Nothing that the client knows counts any more; `states` holds everything.
    pub void: bool,
    /// Complete states of providers.
    pub states: Vec<ProviderState>,
    /// Changes, in the order of their positions.
    pub events: Vec<Arc<Push>>,
    /// A lower bound of the revision of the states.
    pub rev: Revision,
    /// After the preface the client has everything up to this revision.
    pub confirmed: Revision,
}

/// Something that a replica must be asked before a preface can be made.
#[derive(Debug)]
pub enum Missing {
    /// The providers that have left the group's interest.
    Departures,
    /// The events of these providers.
    Events(Vec<Want>),
}

impl Tracker {
    /// True when no change at or before `rev` can still arrive: either everything up to `rev` is known, or
    /// the subscription is verified and a bookmark has passed `rev`. Another gateway may have delivered a
    /// change that was lost here, or is still on its way. A session that was admitted before it arrives would
    /// receive it again.
    fn nothing_pending_up_to(&self, rev: Revision, known: Revision, verified: bool) -> bool {
        known >= rev || (verified && self.bookmark.is_some_and(|bookmark| bookmark >= rev))
    }

    /// Requests immediately, instead of two bookmarks later, whatever a session that resumes from `since`
    /// waits for: subscriptions that were opened or invalidated a moment ago. Everything else is confirmed by
    /// the next bookmark.
    pub fn verify_now(&mut self, id: GroupId, since: Revision) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.interest_rev.is_none() || since > self.seen {
            // No replica is known to have reached `since`, so a reply could not be required to contain it.
            return;
        }
        if !group.verified && group.request.is_idle() && group.interest_complete_to < since {
            self.reads.touch_group(id);
            self.effects.push(group.request_interest(id));
        }
        let mut wants = Vec::new();
        for provider in &group.providers {
            if let Some(Slot::Live(topic)) = self.topics.get_mut(provider)
                && !topic.verified
                && topic.request.is_idle()
                && (topic.at().whole() < since || topic.at() < topic.base_of(id))
            {
                self.reads.touch(provider);
                wants.push(request_replay(topic, provider.clone()));
            }
        }
        self.push_replay(Cause::Again, wants);
    }

    /// The preface for a session of the group that resumes from a point. Where history does not reach back that far, the
    /// preface holds states instead of events. `replays` are the replies to an earlier [`Missing::Events`] for the same
    /// revision.
    ///
    /// `None` while the group itself does not know everything up to the point.
    pub fn preface(
        &self,
        id: GroupId,
        point: impl Into<ResumePoint>,
        replays: &HashMap<ServiceRef, Arc<MissedEvents>>,
    ) -> Option<Result<Preface, Missing>> {
        let ResumePoint { since, anew } = point.into();
        let group = self.groups.get(&id).filter(|group| group.request.is_idle())?;
        let interest_rev = group.interest_rev?;
        let topics = self.topics_ready_for(id, group, since)?;
        let confirmed = self.told_to(id, group).max(since);
        let rev = topics.iter().map(|(_, topic)| topic.at().whole().max(confirmed)).min();
        let mut preface = Preface { rev: rev.unwrap_or(interest_rev), confirmed, ..Preface::default() };
        if since == Revision::ZERO {
            preface.states = topics.iter().filter_map(|(_, topic)| state_of(topic)).collect();
            return Some(Ok(preface));
        }
        match group.departures_since(since) {
            _ if anew => preface.void = true,
            DepartureEvents::Unknown => return Some(Err(Missing::Departures)),
            DepartureEvents::HistoryTooShort => preface.void = true,
            DepartureEvents::Known { events, emptied } => {
                preface.events.extend(events.into_iter().cloned());
                preface.states.extend(emptied.into_iter().map(|key| (key.clone(), Vec::new())));
            }
        }
        let came = group.came_since(since);
        if !preface.void
            && let Err(missing) = add_missed(&mut preface, &topics, &came, since, replays)
        {
            return Some(Err(missing));
        }
        if preface.void {
            preface.states = topics.iter().filter_map(|(_, topic)| state_of(topic)).collect();
            preface.events.clear();
        }
        // A service that is of interest now may have been another one in between.
        preface.events.retain(|push| group.selector.may_tell(&push.key));
        preface.events.sort_by_key(|push| push.at);
        Some(Ok(preface))
    }

    /// The group's topics, if each of them and the interest itself know everything up to `since`.
    fn topics_ready_for<'a>(
        &'a self,
        id: GroupId,
        group: &'a Group,
        since: Revision,
    ) -> Option<Vec<(&'a ServiceRef, &'a Topic)>> {
        if !group.leaving.is_empty() {
            // The next bookmark decides whether these providers are gone, and what has been delivered of
            // them.
            return None;
        }
        if !self.nothing_pending_up_to(since, group.interest_complete_to, group.verified) {
            return None;
        }
        let mut topics = Vec::with_capacity(group.providers.len());
        for provider in &group.providers {
            let Some(Slot::Live(topic)) = self.topics.get(provider).filter(|slot| slot.is_idle_for(id))
            else {
                return None;
            };
            if !self.nothing_pending_up_to(since, topic.at().whole(), topic.verified) {
                return None;
            }
            // A change from before the group that is missing will not be delivered to the group.
            let base = topic.base_of(id);
            if topic.at() < base && !self.nothing_pending_up_to(base.rev, Revision::ZERO, topic.verified) {
                return None;
            }
            topics.push((provider, topic));
        }
        Some(topics)
    }
}

/// Adds to a preface what happened after `since` to the providers that the group follows now.
fn add_missed(
    preface: &mut Preface,
    topics: &[(&ServiceRef, &Topic)],
    came: &HashSet<&ServiceRef>,
    since: Revision,
    replays: &HashMap<ServiceRef, Arc<MissedEvents>>,
) -> Result<(), Missing> {
    let base = Position::end_of(since);
    let mut wants = Vec::new();
    for (provider, topic) in topics {
        if came.contains(provider) {
            // The client does not know the instances that were there when the provider came.
            match state_of(topic) {
                Some(state) => preface.states.push(state),
                None => preface.void = true,
            }
            continue;
        }
        let replay = replays.get(*provider).map(|replay| &**replay);
        match events_since(topic, base, replay) {
            Some(events) => preface.events.extend(events),
            None if replay.is_none() => {
                wants.push(Want { provider: (*provider).clone(), since: base, snapshot: false });
            }
            None => match state_of(topic) {
                Some(state) => preface.states.push(state),
                // A service that has been unregistered has no name under which to reset it.
                None => preface.void = true,
            },
        }
    }
    if wants.is_empty() { Ok(()) } else { Err(Missing::Events(wants)) }
}

fn state_of(topic: &Topic) -> Option<ProviderState> {
    let instances = topic.instances().map(|(instance, _)| instance.clone()).collect();
    topic.key().map(|key| (key.clone(), instances))
}

impl Slot {
    /// True when nothing is being requested about the topic, for all groups or for this one.
    fn is_idle_for(&self, id: GroupId) -> bool {
        match self {
            Self::Loading { .. } => false,
            Self::Live(topic) => {
                let is_served = |member: &Member| !member.catching_up && member.shown_at.is_none();
                topic.request.is_idle() && topic.members.get(&id).is_none_or(is_served)
            }
        }
    }
}

impl Topic {
    /// The position after which a group is delivered changes.
    fn base_of(&self, id: GroupId) -> Position {
        self.members.get(&id).map_or(Position::default(), |member| member.base)
    }
}

/// The changes of a topic after `base`: from its own memory, or from a replay and its own memory after that.
fn events_since(topic: &Topic, base: Position, replay: Option<&MissedEvents>) -> Option<Vec<Arc<Push>>> {
    if let Some(events) = topic.exact_since(base) {
        return Some(events);
    }
    let replay = replay?;
    let later = topic.exact_since(replay.complete_to()?)?;
    // Events beyond the topic's position will reach the group, and with it this session.
    let mut events = replay.between(topic.id, base, topic.at());
    events.extend(later);
    Some(events)
}
