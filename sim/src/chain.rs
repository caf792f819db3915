//! The changes of simulated providers in order, and what a replica answers from them.
//!
//! A provider is a number, which is its name and its id. Its instances change by dice.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use follow::Tracker;
use follow::reply::{TopicReplay, Want};
use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceKey, ServiceRef, Tenant};

use crate::subscription::Topics;

/// The instances of each provider, of which each may be there or not.
const INSTANCES: u8 = 2;

/// The replies to wants, each with its want.
pub(crate) type Replays = Vec<(Want, TopicReplay)>;

/// Every change of each provider, by the provider's number.
pub(crate) struct Chains(Vec<Vec<InstanceEvent>>);

pub(crate) fn provider(number: usize) -> ServiceRef {
    ServiceRef::new(Tenant::default(), number.to_string())
}

pub(crate) fn number(provider: &ServiceRef) -> usize {
    provider.id.parse().expect("the id is a number")
}

fn key(which: usize) -> Arc<ServiceKey> {
    Arc::new(ServiceKey { service_name: which.to_string(), ..ServiceKey::default() })
}

impl Chains {
    pub(crate) fn new(providers: usize) -> Self {
        Self(vec![Vec::new(); providers])
    }

    /// The number of each provider with its changes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[InstanceEvent])> {
        self.0.iter().map(Vec::as_slice).enumerate()
    }

    /// The changes of a provider.
    pub(crate) fn of(&self, which: usize) -> &[InstanceEvent] {
        &self.0[which]
    }

    /// Changes an instance of a provider at `rev`: both are chosen by dice.
    pub(crate) fn change(&mut self, rev: Revision, dice: &mut Rng) -> InstanceEvent {
        let which = dice.usize(0..self.0.len());
        let id = format!("{which}-{}", dice.u8(0..INSTANCES));
        let chain = &mut self.0[which];
        let is_present = state(chain, rev).contains_key(&id);
        let action = match (is_present, dice.u8(0..3)) {
            (false, _) => Action::Create,
            (true, 0) => Action::Delete,
            (true, _) => Action::Update,
        };
        // The host name tells the states of an instance apart.
        let instance = Instance { instance_id: id, host_name: rev.to_string(), ..Instance::default() };
        let event = InstanceEvent {
            provider: provider(which),
            at: Position::first_of(rev),
            prev: chain.last().map_or(Position::default(), |event| event.at),
            action,
            key: key(which),
            instance: Arc::new(instance),
            mod_rev: rev,
            committed_at: 1,
            via: Via::default(),
        };
        chain.push(event.clone());
        event
    }

    /// The reply of a replica at `rev`: every event since, and the state if it was requested.
    pub(crate) fn replay(&self, want: &Want, rev: Revision) -> TopicReplay {
        let which = number(&want.provider);
        let chain = &self.0[which];
        let at = Position::end_of(rev);
        TopicReplay {
            key: Some(key(which)),
            continuous: true,
            events: chain.iter().filter(|event| event.at > want.since && event.at <= at).cloned().collect(),
            snapshot: want.snapshot.then(|| state(chain, rev).into_values().collect()),
            at,
            shortened: false,
        }
    }

    /// The replies of a replica at `rev`.
    pub(crate) fn replays(&self, wants: Vec<Want>, rev: Revision) -> Replays {
        let mut replays = Vec::with_capacity(wants.len());
        for want in wants {
            let replay = self.replay(&want, rev);
            replays.push((want, replay));
        }
        replays
    }
}

/// The instances after the changes up to `rev`, each with the revision that wrote it.
pub(crate) fn state(chain: &[InstanceEvent], rev: Revision) -> BTreeMap<String, (Arc<Instance>, Revision)> {
    let mut state = BTreeMap::new();
    for event in chain.iter().take_while(|event| event.at.rev <= rev) {
        let id = event.instance.instance_id.clone();
        match event.action {
            Action::Delete => _ = state.remove(&id),
            Action::Create | Action::Update => _ = state.insert(id, (event.instance.clone(), event.mod_rev)),
        }
    }
    state
}

/// Gives the first replies about providers to the gateway, which takes their events from then on.
pub(crate) fn load(tracker: &mut Tracker, topics: &mut Topics, replays: Replays) {
    for (want, replay) in replays {
        if tracker.on_loaded(&want.provider, want.since, replay)
            && let Some(topic) = topics.get_mut(&want.provider.id)
        {
            topic.is_read = true;
        }
    }
}
