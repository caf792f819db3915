//! A provider's changes in order, and what a replica answers from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use follow::reply::{TopicReplay, Want};
use shared::event::{Action, InstanceEvent, Position};
use shared::model::{Instance, Revision, ServiceKey};

/// The instances after the changes up to `at`, each with the revision that wrote it.
pub(super) fn state(chain: &[InstanceEvent], at: Position) -> BTreeMap<String, (Arc<Instance>, Revision)> {
    let mut state = BTreeMap::new();
    for event in chain.iter().take_while(|event| event.at <= at) {
        let id = event.instance.instance_id.clone();
        match event.action {
            Action::Delete => _ = state.remove(&id),
            Action::Create | Action::Update => _ = state.insert(id, (event.instance.clone(), event.mod_rev)),
        }
    }
    state
}

/// The reply of a replica at `rev`: every event since, and the state if it was requested.
pub(super) fn replay(chain: &[InstanceEvent], want: &Want, rev: Revision) -> TopicReplay {
    let at = Position::end_of(rev);
    TopicReplay {
        key: Some(Arc::new(ServiceKey::default())),
        continuous: true,
        events: chain.iter().filter(|event| event.at > want.since && event.at <= at).cloned().collect(),
        snapshot: want.snapshot.then(|| state(chain, at).into_values().collect()),
        at,
        shortened: false,
    }
}
