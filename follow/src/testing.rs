//! Helpers of the unit tests: facts with plain numbers for revisions.

use std::collections::HashMap;
use std::sync::Arc;

use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceRef, Tenant};

use crate::reply::{InterestReply, TopicReplay};
use crate::tracker::{Missing, Preface};
use crate::{GroupId, Tracker};

pub(crate) fn rev(number: u64) -> Revision {
    Revision::new(number)
}

pub(crate) fn first_of(number: u64) -> Position {
    Position::first_of(rev(number))
}

pub(crate) fn end_of(number: u64) -> Position {
    Position::end_of(rev(number))
}

pub(crate) fn service(id: &str) -> ServiceRef {
    ServiceRef::new(Tenant::default(), id)
}

pub(crate) fn interest(number: u64, providers: &[&str]) -> InterestReply {
    let providers = providers.iter().map(|id| service(id)).collect();
    InterestReply { exists: true, rev: rev(number), providers, ..InterestReply::default() }
}

/// A replay with all events up to the end of a revision.
pub(crate) fn events_until(number: u64, events: Vec<InstanceEvent>) -> TopicReplay {
    TopicReplay { continuous: true, events, at: end_of(number), ..TopicReplay::default() }
}

/// A replay that says that nothing happened up to the end of a revision.
pub(crate) fn nothing_until(number: u64) -> TopicReplay {
    events_until(number, Vec::new())
}

/// The event that creates an instance at `number`, after an event at `prev`.
pub(crate) fn event(provider: &str, prev: u64, number: u64) -> InstanceEvent {
    InstanceEvent {
        provider: service(provider),
        at: first_of(number),
        prev: first_of(prev),
        action: Action::Create,
        key: Arc::default(),
        instance: Arc::new(Instance { instance_id: number.to_string(), ..Instance::default() }),
        mod_rev: rev(number),
        committed_at: 1,
        via: Via::default(),
    }
}

impl Tracker {
    pub(crate) fn advance_to(&mut self, number: u64, since: u64) -> bool {
        self.advance(rev(number), rev(since))
    }

    pub(crate) fn preface_from(
        &self,
        id: GroupId,
        since: u64,
        replays: &HashMap<ServiceRef, TopicReplay>,
    ) -> Option<Result<Preface, Missing>> {
        let missed = |(provider, replay): (&ServiceRef, &TopicReplay)| {
            (provider.clone(), Arc::new(replay.clone().into()))
        };
        self.preface(id, rev(since), &replays.iter().map(missed).collect())
    }
}
