//! The pending pushes of a slow watcher, merged: one per instance, the newest.
//!
//! They are bounded by the number of distinct instances, whatever happens while the watcher does not read.
//! They keep the order of each instance's last change, so within a provider the order of revisions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shared::event::Action;

use crate::push::Push;

/// The merged pushes of one watcher.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// The key in `order` of the pending push, by topic and instance.
    positions: HashMap<(u32, String), u64>,
    order: BTreeMap<u64, (Arc<Push>, Action)>,
    next: u64,
}

impl Merged {
    /// Adds a push; true if it was merged into one that was pending.
    pub(crate) fn add(&mut self, push: &Arc<Push>) -> bool {
        // The topic belongs to the key, because two providers may use the same instance id.
        let id = (push.topic, push.instance.instance_id.clone());
        let pending = self.positions.get(&id).and_then(|position| self.order.remove(position));
        let action = match &pending {
            None => Some(push.action),
            Some((_, before)) => merge(*before, push.action),
        };
        match action {
            Some(action) => {
                // The newest change moves to the end, as its revision demands: watchers receive revisions in
                // order.
                self.order.insert(self.next, (push.clone(), action));
                self.positions.insert(id, self.next);
                self.next += 1;
            }
            None => {
                self.positions.remove(&id);
            }
        }
        pending.is_some()
    }

    /// Takes the oldest pending push, and the action to send it with.
    pub(crate) fn pop(&mut self) -> Option<(Arc<Push>, Action)> {
        let (_, (push, action)) = self.order.pop_first()?;
        self.positions.remove(&(push.topic, push.instance.instance_id.clone()));
        Some((push, action))
    }

    /// The number of pending pushes.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

/// The sum of two changes of one instance; `None` when the watcher need not know of either.
fn merge(before: Action, after: Action) -> Option<Action> {
    match (before, after) {
        // The watcher was never sent the create, so it must not be sent the delete.
        (Action::Create, Action::Delete) => None,
        (Action::Create, Action::Create | Action::Update) => Some(Action::Create),
        // The delete was never sent: for the watcher the instance is still there, and has changed.
        (Action::Update | Action::Delete, Action::Create | Action::Update) => Some(Action::Update),
        (Action::Update | Action::Delete, Action::Delete) => Some(Action::Delete),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use shared::event::Position;
    use shared::model::Instance;

    use super::*;
    use shared::model::Revision;

    fn push(rev: u64, action: Action, topic: u32, id: u8) -> Arc<Push> {
        let instance = Arc::new(Instance { instance_id: id.to_string(), ..Instance::default() });
        Arc::new(Push::difference(
            topic,
            Position::first_of(Revision::new(rev)),
            action,
            Arc::default(),
            instance,
        ))
    }

    /// A possible history: an instance is created when it is not there, else changed or deleted.
    fn history() -> impl Strategy<Value = Vec<(u32, u8, bool)>> {
        prop::collection::vec((0..2_u32, 0..3_u8, any::<bool>()), 0..40)
    }

    proptest! {
        #[test]
        fn merged_pushes_lead_to_the_same_state(
            history in history(),
            start in prop::collection::btree_set((0..2_u32, 0..3_u8), 0..4),
            read_at in 0..40_usize,
        ) {
            let mut truth: BTreeSet<(u32, u8)> = start.clone();
            let mut received = start;
            let mut last_received = BTreeMap::new();
            let mut last_true = BTreeMap::new();
            let mut merged = Merged::default();
            for (step, (topic, id, delete)) in history.into_iter().enumerate() {
                let there = truth.contains(&(topic, id));
                let action = match (there, delete) {
                    (false, _) => Action::Create,
                    (true, true) => Action::Delete,
                    (true, false) => Action::Update,
                };
                if action == Action::Delete {
                    truth.remove(&(topic, id));
                } else {
                    truth.insert((topic, id));
                }
                let push = push(step as u64 + 1, action, topic, id);
                last_true.insert((topic, id), push.at);
                merged.add(&push);
                prop_assert!(merged.len() <= 6, "bounded by distinct instances");
                if step == read_at {
                    receive(&mut merged, &mut received, &mut last_received)?;
                }
            }
            receive(&mut merged, &mut received, &mut last_received)?;
            prop_assert_eq!(&received, &truth);
            for (id, at) in last_received.iter().filter(|(id, _)| truth.contains(*id)) {
                prop_assert_eq!(Some(at), last_true.get(id), "the newest state was received");
            }
        }
    }

    /// Takes all pending pushes as a watcher receives them; every one must be possible for it.
    fn receive(
        merged: &mut Merged,
        received: &mut BTreeSet<(u32, u8)>,
        last: &mut BTreeMap<(u32, u8), Position>,
    ) -> Result<(), TestCaseError> {
        let mut before = Position::default();
        while let Some((push, action)) = merged.pop() {
            prop_assert!(push.at > before, "in order");
            before = push.at;
            let id = (push.topic, push.instance.instance_id.parse().expect("a number"));
            last.insert(id, push.at);
            match action {
                Action::Create => prop_assert!(received.insert(id), "created once"),
                Action::Update => prop_assert!(received.contains(&id), "only what is there is updated"),
                Action::Delete => prop_assert!(received.remove(&id), "only what is there is deleted"),
            }
        }
        prop_assert_eq!(merged.len(), 0);
        prop_assert!(merged.positions.is_empty());
        Ok(())
    }
}
