//! What a session that resumes is told before it goes on with its group.

use std::collections::HashMap;
use std::sync::Arc;

use shared::event::Position;
use shared::model::{Instance, Revision, ServiceKey, ServiceRef};

use super::departed::Known;
use super::repair::ask;
use super::{Core, Effect, Slot, Want};
use crate::push::Push;
use crate::upstream::topic::{Replayed, Topic};
use crate::watch::Cause;
use crate::watch::GroupId;

/// A provider and its instances.
type State = (Arc<ServiceKey>, Vec<Arc<Instance>>);

/// What a session is told before it goes on with its group.
#[derive(Debug, Default)]
pub(crate) struct Preface {
    /// Nothing that it knows counts any more: the states are all there is.
    pub void: bool,
    /// Complete states of providers.
    pub states: Vec<State>,
    /// What happened, in order.
    pub events: Vec<Arc<Push>>,
    /// The revision of the states, at least.
    pub rev: Revision,
    /// Up to here nothing is left out.
    pub told: Revision,
}

/// What a replica must be asked before a session can be told.
#[derive(Debug)]
pub(crate) enum Missing {
    /// Who has left the group.
    Departed,
    /// What happened to these.
    Events(Vec<Want>),
}

impl Core {
    /// Nothing is being asked, or has to be asked again, about anyone.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
            && self.topics.values().all(Slot::is_settled)
            && self.groups.values().all(|group| group.asking.is_none())
    }

    /// What is known as far as `known`, and of which a bookmark would have shown a loss if it is `settled`, can tell
    /// nothing any more of what was up to `rev`. Who was told by another gateway may know what was lost here, or is on
    /// its way: let in before, it would be told once more when that comes.
    fn has_reached(&self, rev: Revision, known: Revision, settled: bool) -> bool {
        known >= rev || (settled && self.bookmark.is_some_and(|heard| heard >= rev))
    }

    /// Asks at once for what a session that resumes from `since` waits for, where the bookmarks after next would: of what
    /// was opened, or was lost, a moment ago. Of the rest a bookmark that is on its way says that nothing is missing.
    pub(crate) fn hasten(&mut self, id: GroupId, since: Revision) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.confirmed > 0) else { return };
        if since > self.seen {
            // Nobody can be asked for it before it is known to have happened.
            return;
        }
        if !group.settled && group.asking.is_none() && group.covered < since {
            self.effects.push(group.ask(id));
        }
        let mut wanted = Vec::new();
        for provider in &group.providers {
            if let Some(Slot::Live(topic)) = self.topics.get_mut(provider)
                && !(topic.settled || topic.asking)
                && topic.at().whole() < since
            {
                wanted.push(ask(topic, provider.clone()));
            }
        }
        if !wanted.is_empty() {
            self.effects.push(Effect::Replay(Cause::Again, wanted));
        }
    }

    /// What a session of the group that has everything up to `since` must be told to be where the group is now;
    /// from 0, or when history does not reach back so far, the state. `None` while the group itself is not
    /// there yet.
    pub(crate) fn preface(
        &self,
        id: GroupId,
        since: Revision,
        known: &HashMap<ServiceRef, Replayed>,
    ) -> Option<Result<Preface, Missing>> {
        let group = self.groups.get(&id).filter(|group| group.confirmed > 0 && group.asking.is_none())?;
        if !group.leaving.is_empty() {
            // The next bookmark makes certain what was told of those that leave, and whether they come back.
            return None;
        }
        if !self.has_reached(since, group.covered, group.settled) {
            return None;
        }
        let mut topics = Vec::with_capacity(group.providers.len());
        for provider in &group.providers {
            let Some(Slot::Live(topic)) = self.topics.get(provider).filter(|slot| slot.is_settled()) else {
                return None;
            };
            if !self.has_reached(since, topic.at().whole(), topic.settled) {
                return None;
            }
            topics.push((provider, topic));
        }
        let rev = topics.iter().map(|(_, topic)| topic.at().whole().max(self.told)).min();
        let mut preface =
            Preface { rev: rev.unwrap_or(group.confirmed), told: self.told, ..Preface::default() };
        if since == 0 {
            preface.states = topics.iter().filter_map(|(_, topic)| state(topic)).collect();
            return Some(Ok(preface));
        }
        match group.departures(since) {
            Known::Unknown => return Some(Err(Missing::Departed)),
            Known::Forgotten => preface.void = true,
            Known::Events(events) => preface.events.extend(events.into_iter().cloned()),
        }
        let (base, mut wanted, mut nameless) = (Position::end_of(since), Vec::new(), false);
        for (provider, topic) in topics.iter().filter(|_| !preface.void) {
            match events_since(topic, base, known.get(*provider)) {
                Some(events) => preface.events.extend(events),
                None if !known.contains_key(*provider) => {
                    wanted.push(Want { provider: (*provider).clone(), since: base, snapshot: false });
                }
                None => match state(topic) {
                    Some(state) => preface.states.push(state),
                    // One that is gone has no name by which to say that nothing is left of it.
                    None => nameless = true,
                },
            }
        }
        if !wanted.is_empty() {
            return Some(Err(Missing::Events(wanted)));
        }
        preface.void |= nameless;
        if preface.void {
            preface.states = topics.iter().filter_map(|(_, topic)| state(topic)).collect();
            preface.events.clear();
        }
        preface.events.sort_by_key(|push| push.at);
        Some(Ok(preface))
    }
}

fn state(topic: &Topic) -> Option<State> {
    let instances = topic.instances().map(|(instance, _)| instance.clone()).collect();
    topic.key().map(|key| (key.clone(), instances))
}

impl Slot {
    /// Nothing is being asked about it.
    fn is_settled(&self) -> bool {
        match self {
            Self::Loading { .. } => false,
            Self::Live(topic) => !topic.asking && topic.members.values().all(|member| !member.closed),
        }
    }
}

/// What happened to a topic after `base`: from memory, or from what a replica told and memory after that.
fn events_since(topic: &Topic, base: Position, told: Option<&Replayed>) -> Option<Vec<Arc<Push>>> {
    if let Some(events) = topic.each_since(base) {
        return Some(events);
    }
    let told = told.filter(|told| told.continuous)?;
    let later = topic.each_since(told.at)?;
    let events = told.events.iter().filter(|event| event.at > base && event.at <= topic.at());
    Some(events.map(|event| Arc::new(Push::of(topic.id, event))).chain(later).collect())
}
