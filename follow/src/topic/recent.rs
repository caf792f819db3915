//! The recent changes of a topic.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::event::Position;

use crate::Push;
use crate::bytes::text_bytes;

/// The number of recent changes that are kept, for groups that join and for comparing with an older snapshot.
const MOST_RECENT: usize = 256;

/// The bytes of the instances in recent changes. Usual instances have some hundred bytes each, so that the
/// number above counts; of large ones fewer are kept. Each change holds its instance, and its frames beside
/// it.
const MOST_RECENT_BYTES: usize = 256 * 1024;

/// Recent changes in order, and how far back they can be relied on.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pushes: VecDeque<Arc<Push>>,
    /// The bytes of their instances.
    bytes: usize,
    /// Every change after this position that altered the known state is among the pushes.
    complete_after: Position,
    /// Every change after this position is among them, even changes that cancelled each other. It is later
    /// than `complete_after` when a snapshot was applied: the changes on the way to a snapshot are not known.
    exact_after: Position,
}

impl Recent {
    /// No change is known up to and including `position`, and every one after it will be added.
    pub(super) fn starting_after(position: Position) -> Self {
        Self { pushes: VecDeque::new(), bytes: 0, complete_after: position, exact_after: Position::default() }
    }

    /// Adds the newest change. The oldest ones are dropped when there are too many, or too many bytes of
    /// them.
    pub(super) fn add(&mut self, push: Arc<Push>) {
        self.bytes += text_bytes(&push.instance);
        self.pushes.push_back(push);
        while (self.pushes.len() > MOST_RECENT || self.bytes > MOST_RECENT_BYTES)
            && let Some(dropped) = self.pushes.pop_front()
        {
            self.bytes -= text_bytes(&dropped.instance);
            self.complete_after = self.complete_after.max(dropped.at);
        }
    }

    /// Adds the changes after `base` that come before those which are known, if there is room for all of
    /// them.
    pub(super) fn add_older(&mut self, base: Position, older: &[Arc<Push>]) {
        let older = || older.iter().filter(|push| push.at > base && push.at <= self.complete_after);
        let bytes: usize = older().map(|push| text_bytes(&push.instance)).sum();
        let count = older().count();
        if base >= self.complete_after
            || self.pushes.len() + count > MOST_RECENT
            || self.bytes + bytes > MOST_RECENT_BYTES
        {
            return;
        }
        let older: Vec<Arc<Push>> = older().cloned().collect();
        older.into_iter().rev().for_each(|push| self.pushes.push_front(push));
        self.bytes += bytes;
        self.complete_after = base;
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

#[cfg(test)]
mod tests {
    use crate::testing::{event, first_of};

    use super::*;

    fn large(number: u64) -> Arc<Push> {
        let mut event = event("p", number - 1, number);
        let instance = Arc::make_mut(&mut event.instance);
        instance.properties.insert("large".into(), "x".repeat(60_000));
        Arc::new(Push::from_event(1, &event))
    }

    #[test]
    fn older_changes_join_those_that_are_known() {
        let small = |number: u64| Arc::new(Push::from_event(1, &event("p", number - 1, number)));
        let mut recent = Recent::starting_after(first_of(5));
        recent.add(small(6));
        recent.add_older(first_of(2), &[2, 3, 5, 6].map(small));
        let known = |recent: &Recent| -> Vec<u64> {
            recent.after(Position::default()).map(|push| push.at.rev.get()).collect()
        };
        assert_eq!(known(&recent), [3, 5, 6]);
        assert!(recent.is_complete_after(first_of(2)) && !recent.is_complete_after(first_of(1)));
        recent.add_older(first_of(3), &[small(3)]);
        assert_eq!(known(&recent), [3, 5, 6], "all of them are known");
        let mut full = Recent::starting_after(first_of(9));
        full.add_older(first_of(1), &[2, 3, 4, 5, 6].map(large));
        assert!(!full.is_complete_after(first_of(1)) && full.bytes == 0, "there is no room for them");
    }

    #[test]
    fn large_changes_are_bounded_by_their_bytes() {
        let mut recent = Recent::default();
        for number in 1..=100 {
            recent.add(large(number));
        }
        assert_eq!(recent.after(Position::default()).count(), MOST_RECENT_BYTES / 60_100);
        assert!(recent.is_complete_after(first_of(96)));
        assert!(!recent.is_complete_after(first_of(95)), "a dropped change is missing");
        for number in 101..=400 {
            recent.add(Arc::new(Push::from_event(1, &event("p", number - 1, number))));
        }
        assert_eq!(recent.after(Position::default()).count(), MOST_RECENT, "usual ones by their number");
        assert!(recent.bytes < 10_000, "the bytes of dropped changes do not count: {}", recent.bytes);
    }
}
