//! What a slow watcher still has to be told: per instance, the newest.
//!
//! Bounded by distinct instances, whatever happens while the watcher does not read. Order is that of the last
//! change of each instance, so per provider it stays the order of revisions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shared::event::Action;

use crate::push::Push;

/// Pending changes of one watcher.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// The pending change's place in `order`, by topic and instance.
    places: HashMap<(u32, String), u64>,
    order: BTreeMap<u64, (Arc<Push>, Action)>,
    next: u64,
}

impl Merged {
    /// Adds a change; true if it was merged into one that was pending.
    pub(crate) fn add(&mut self, push: &Arc<Push>) -> bool {
        let id = (push.topic, push.instance.instance_id.clone());
        let pending = self.places.get(&id).and_then(|place| self.order.remove(place));
        let action = match &pending {
            None => Some(push.action),
            Some((_, before)) => merge(*before, push.action),
        };
        match action {
            Some(action) => {
                self.order.insert(self.next, (push.clone(), action));
                self.places.insert(id, self.next);
                self.next += 1;
            }
            None => {
                self.places.remove(&id);
            }
        }
        pending.is_some()
    }

    /// Takes the oldest pending change, and as what it is to be told.
    pub(crate) fn pop(&mut self) -> Option<(Arc<Push>, Action)> {
        let (_, (push, action)) = self.order.pop_first()?;
        self.places.remove(&(push.topic, push.instance.instance_id.clone()));
        Some((push, action))
    }

    /// Changes pending.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

/// Two changes of one instance as one; `None` when the watcher need not know of either.
fn merge(before: Action, after: Action) -> Option<Action> {
    match (before, after) {
        (Action::Create, Action::Delete) => None,
        (Action::Create, Action::Create | Action::Update) => Some(Action::Create),
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

    fn push(rev: u64, action: Action, topic: u32, id: u8) -> Arc<Push> {
        let instance = Arc::new(Instance { instance_id: id.to_string(), ..Instance::default() });
        Arc::new(Push::found(topic, Position::first_of(rev), action, Arc::default(), instance))
    }

    /// A history that can happen: an instance is created when it is not there, else changed or deleted.
    fn history() -> impl Strategy<Value = Vec<(u32, u8, bool)>> {
        prop::collection::vec((0..2_u32, 0..3_u8, any::<bool>()), 0..40)
    }

    proptest! {
        #[test]
        fn a_merged_watcher_ends_up_where_an_unmerged_one_does(
            history in history(), start in prop::collection::btree_set((0..2_u32, 0..3_u8), 0..4), read_at in 0..40_usize,
        ) {
            let mut truth: BTreeSet<(u32, u8)> = start.clone();
            let mut told = start;
            let mut last_told = BTreeMap::new();
            let mut last_true = BTreeMap::new();
            let mut merged = Merged::default();
            for (step, (topic, id, delete)) in history.into_iter().enumerate() {
                let there = truth.contains(&(topic, id));
                let action = match (there, delete) {
                    (false, _) => Action::Create,
                    (true, true) => Action::Delete,
                    (true, false) => Action::Update,
                };
                if action == Action::Delete { truth.remove(&(topic, id)); } else { truth.insert((topic, id)); }
                let push = push(step as u64 + 1, action, topic, id);
                last_true.insert((topic, id), push.at);
                merged.add(&push);
                prop_assert!(merged.len() <= 6, "bounded by distinct instances");
                if step == read_at {
                    tell(&mut merged, &mut told, &mut last_told)?;
                }
            }
            tell(&mut merged, &mut told, &mut last_told)?;
            prop_assert_eq!(&told, &truth);
            for (id, at) in last_told.iter().filter(|(id, _)| truth.contains(*id)) {
                prop_assert_eq!(Some(at), last_true.get(id), "the newest state was told");
            }
        }
    }

    /// What a watcher makes of what it is told; every step must be possible for it.
    fn tell(
        merged: &mut Merged,
        told: &mut BTreeSet<(u32, u8)>,
        last: &mut BTreeMap<(u32, u8), Position>,
    ) -> Result<(), TestCaseError> {
        let mut before = Position::default();
        while let Some((push, action)) = merged.pop() {
            prop_assert!(push.at > before, "in order");
            before = push.at;
            let id = (push.topic, push.instance.instance_id.parse().expect("a number"));
            last.insert(id, push.at);
            match action {
                Action::Create => prop_assert!(told.insert(id), "created once"),
                Action::Update => prop_assert!(told.contains(&id), "only what is there is updated"),
                Action::Delete => prop_assert!(told.remove(&id), "only what is there is deleted"),
            }
        }
        prop_assert_eq!(merged.len(), 0);
        prop_assert!(merged.places.is_empty());
        Ok(())
    }
}
