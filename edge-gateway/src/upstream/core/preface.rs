//! What a session that resumes is told before it goes on with its group.

use std::collections::HashMap;
use std::sync::Arc;

use shared::event::Position;
use shared::model::{Instance, Revision, ServiceKey, ServiceRef};

use super::{Core, Slot, Want};
use crate::hub::GroupId;
use crate::hub::push::Push;
use crate::upstream::topic::{Replayed, Topic};

/// What a session is told before it goes on with its group.
#[derive(Debug, Default)]
pub(crate) struct Preface {
    /// Complete states of providers.
    pub states: Vec<(Arc<ServiceKey>, Vec<Arc<Instance>>)>,
    /// What happened, in order.
    pub events: Vec<Arc<Push>>,
    /// The revision of the states, at least.
    pub rev: Revision,
    /// Up to here nothing is left out.
    pub told: Revision,
}

impl Core {
    /// Nothing is being asked, or has to be asked again, about anyone.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
            && self.topics.values().all(Slot::is_settled)
            && self.groups.values().all(|group| group.asking.is_none())
    }

    /// What a session of the group that has everything up to `since` must be told to be where the group is now;
    /// from 0, or when history does not reach back so far, the state. `None` while the group itself is not
    /// there yet.
    pub(crate) fn preface(
        &self,
        id: GroupId,
        since: Revision,
        known: &HashMap<ServiceRef, Replayed>,
    ) -> Option<Result<Preface, Vec<Want>>> {
        let group = self.groups.get(&id).filter(|group| group.confirmed > 0 && group.asking.is_none())?;
        if since > self.seen {
            // Another gateway is further than this one; soon this one is there too.
            return None;
        }
        let (mut preface, mut wanted) = (Preface::default(), Vec::new());
        let mut rev = Revision::MAX;
        let base = Position::end_of(since);
        for provider in &group.providers {
            let Some(Slot::Live(topic)) = self.topics.get(provider).filter(|slot| slot.is_settled()) else {
                return None;
            };
            rev = rev.min(topic.at().rev.max(self.told));
            match events_since(topic, base, known.get(provider)) {
                Some(events) if since > 0 => preface.events.extend(events),
                None if since > 0 && !known.contains_key(provider) => {
                    wanted.push(Want { provider: provider.clone(), since: base, snapshot: false });
                }
                Some(_) | None => preface.states.extend(topic.key().map(|key| {
                    (key.clone(), topic.instances().map(|(instance, _)| instance.clone()).collect())
                })),
            }
        }
        preface.rev = if rev == Revision::MAX { group.confirmed } else { rev };
        preface.told = self.told;
        preface.events.sort_by_key(|push| push.at);
        Some(if wanted.is_empty() { Ok(preface) } else { Err(wanted) })
    }
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
    if let Some(events) = topic.since(base) {
        return Some(events);
    }
    let told = told.filter(|told| told.continuous)?;
    let later = topic.since(told.at)?;
    let events = told.events.iter().filter(|event| event.at > base && event.at <= topic.at());
    Some(events.map(|event| Arc::new(Push::of(topic.id, event))).chain(later).collect())
}
