//! Providers that have left a group's interest, for sessions that resume from before their departure.
//!
//! A group follows only the providers that it has now. A session that was away also receives what happened to
//! the others until they left, as the sessions that stayed did. A replica is asked for it once for all
//! resuming sessions of a group; the answer holds until the interest changes.

use std::collections::HashSet;
use std::sync::Arc;

use shared::event::Position;
use shared::model::{Revision, ServiceKey, ServiceRef};

use super::{Group, Tracker};
use crate::reply::{DepartureList, TopicReplay};
use crate::{GroupId, Push, Selector};

/// The departures from a group's interest, with the events of the departed providers.
#[derive(Clone, Debug, Default)]
pub struct Departures {
    /// The revision after which departures were requested.
    pub since: Revision,
    /// The departures after this revision are complete.
    pub complete_after: Revision,
    /// The revision of the reply.
    pub rev: Revision,
    /// The events of each provider until it left, in the order of their positions.
    pub events: Vec<(ServiceRef, Arc<Push>)>,
    /// Providers that left a consumer's interest and whose instances did not go with them, each with the
    /// revision at which it left, and its name.
    pub emptied: Vec<(ServiceRef, Revision, Arc<ServiceKey>)>,
    /// Providers that came with instances which the consumer does not know, each with the revision of that.
    pub came: Vec<(ServiceRef, Revision)>,
}

/// The outcome of [`Departures::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// The events were added.
    Recorded,
    /// History does not reach back far enough, so no departure is known. The departures are complete as they
    /// are.
    HistoryTooShort,
    /// The replica lags behind the one that listed the departures. Everything must be requested again.
    ReplicaBehind,
}

impl Departures {
    /// Departures without events, for [`Departures::record`].
    pub fn begin(list: &DepartureList) -> Self {
        Self {
            since: list.since,
            complete_after: list.complete_after,
            rev: list.rev,
            came: list.came.clone(),
            ..Self::default()
        }
    }

    /// Adds the events of the provider that left at `until`. The replica that sent them may differ from the
    /// one that listed the departures.
    pub fn record(
        &mut self,
        selector: &Selector,
        provider: &ServiceRef,
        until: Revision,
        replay: &TopicReplay,
    ) -> RecordOutcome {
        if !replay.continuous {
            self.complete_after = self.rev;
            self.events.clear();
            return RecordOutcome::HistoryTooShort;
        }
        if replay.at < Position::end_of(until) {
            return RecordOutcome::ReplicaBehind;
        }
        if selector.consumer().is_some()
            && let Some(key) = name_of_remaining(until, replay)
        {
            self.emptied.push((provider.clone(), until, key));
            return RecordOutcome::Recorded;
        }
        for event in &replay.events {
            if event.at.rev <= until && selector.may_tell(&event.key) {
                // Number 0 belongs to no topic: these pushes go into a preface, where nothing is merged.
                self.events.push((provider.clone(), Arc::new(Push::from_event(0, event))));
            }
        }
        RecordOutcome::Recorded
    }

    /// Puts the events in order. Called once, after the last [`Departures::record`].
    pub fn finish(&mut self) {
        self.events.sort_by_key(|(_, push)| push.at);
    }
}

/// The name of a provider that was still registered after it left at `until`, or had instances then: one that
/// was deleted there has neither a record nor later events.
fn name_of_remaining(until: Revision, replay: &TopicReplay) -> Option<Arc<ServiceKey>> {
    let later = replay.events.iter().rfind(|event| event.at.rev > until);
    replay.key.as_ref().or(later.map(|event| &event.key)).cloned()
}

/// The events of departed providers for one resuming session.
pub(super) enum DepartureEvents<'a> {
    /// A replica must be asked.
    Unknown,
    /// History does not reach back to the session's revision.
    HistoryTooShort,
    Known {
        /// The events after the session's revision.
        events: Vec<&'a Arc<Push>>,
        /// The names of providers of which nothing is left for the client.
        emptied: Vec<&'a Arc<ServiceKey>>,
    },
}

impl Group {
    /// The events after `since` of providers that have left.
    pub(super) fn departures_since(&self, since: Revision) -> DepartureEvents<'_> {
        let Some(departures) = &self.departures else { return DepartureEvents::Unknown };
        if departures.since > since || departures.rev < self.interest_position().rev {
            return DepartureEvents::Unknown;
        }
        if since < departures.complete_after {
            return DepartureEvents::HistoryTooShort;
        }
        let mut events = Vec::new();
        for (provider, push) in &departures.events {
            // The replica may know later events than this gateway. The group, and with it the session, will
            // receive those as they arrive.
            let is_due = push.at.rev > since && push.at.rev <= self.interest_complete_to;
            // The topic of a provider that is still followed, or again, has all of its events.
            if is_due && !self.providers.contains(provider) {
                events.push(push);
            }
        }
        let emptied = departures.emptied.iter();
        let emptied = emptied.filter(|(provider, at, _)| *at > since && !self.providers.contains(provider));
        DepartureEvents::Known { events, emptied: emptied.map(|(_, _, key)| key).collect() }
    }

    /// The providers that came after `since` with instances which the consumer does not know.
    pub(super) fn came_since(&self, since: Revision) -> HashSet<&ServiceRef> {
        let came = self.departures.iter().flat_map(|departures| &departures.came);
        came.filter(|(_, at)| *at > since).map(|(provider, _)| provider).collect()
    }
}

impl Tracker {
    /// A replica has listed the departures from a group's interest, and their events have been recorded.
    pub fn on_departures(&mut self, id: GroupId, departures: Departures) {
        self.seen = self.seen.max(departures.rev);
        if let Some(group) = self.groups.get_mut(&id) {
            group.departures = Some(departures);
        }
    }

    /// Drops the departures of every group without a resuming session.
    pub fn forget_departures(&mut self, is_resuming: impl Fn(GroupId) -> bool) {
        for (id, group) in &mut self.groups {
            if !is_resuming(*id) {
                group.departures = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
