//! The recent changes of a topic.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::event::Position;

use crate::Push;

/// The number of recent changes that are kept, for groups that join and for comparing with an older snapshot.
const MOST_RECENT: usize = 256;

/// Recent changes in order, and how far back they can be relied on.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pushes: VecDeque<Arc<Push>>,
    /// Every change after this position that altered the known state is among the pushes.
    complete_after: Position,
    /// Every change after this position is among them, even changes that cancelled each other. It is later
    /// than `complete_after` when a snapshot was applied: the changes on the way to a snapshot are not known.
    exact_after: Position,
}

impl Recent {
    /// No change is known up to and including `position`, and every one after it will be added.
    pub(super) fn starting_after(position: Position) -> Self {
        Self { pushes: VecDeque::new(), complete_after: position, exact_after: Position::default() }
    }

    /// Adds the newest change. The oldest one is dropped when there are too many.
    pub(super) fn add(&mut self, push: Arc<Push>) {
        self.pushes.push_back(push);
        if self.pushes.len() > MOST_RECENT
            && let Some(dropped) = self.pushes.pop_front()
        {
            self.complete_after = self.complete_after.max(dropped.at);
        }
    }

    /// A snapshot was applied whose changes are not all known.
    pub(super) fn applied_snapshot_at(&mut self, position: Position) {
        self.exact_after = position;
    }

    /// True when every change after `position` that altered the known state is known.
    pub(super) fn is_complete_after(&self, position: Position) -> bool {
        position >= self.complete_after
    }

    /// True when every change after `position` is known, with its own position.
    pub(super) fn is_exact_after(&self, position: Position) -> bool {
        position >= self.exact_after
    }

    /// The changes after `position`, in order.
    pub(super) fn after(&self, position: Position) -> impl Iterator<Item = &Arc<Push>> {
        let first = self.pushes.partition_point(|push| push.at <= position);
        self.pushes.range(first..)
    }
}
