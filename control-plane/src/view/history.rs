//! The recent changes: enough for a new publisher to continue after the previous one, and for a gateway to
//! catch up without the full state.
//!
//! The history is bounded by a number of changes. The oldest go first, and [`History::since`] reports when
//! some of the requested ones have gone.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::event::v1 as pb;
use shared::event::InstanceEvent;
use shared::model::Revision;

/// A change that is published to gateways.
///
/// Two variants carry the bus' own messages, because a conversion would copy the lists of each change once
/// more.
#[derive(Clone, Debug)]
pub enum Change {
    /// An instance changed.
    Instance(Arc<InstanceEvent>),
    /// A consumer's set of providers changed.
    Interest(Arc<pb::InterestChange>),
    /// A tenant's services changed.
    Services(Arc<pb::ServicesChange>),
}

impl Change {
    /// The revision of the change.
    pub fn rev(&self) -> Revision {
        match self {
            Self::Instance(event) => event.at.rev,
            Self::Interest(change) => Revision::new(change.rev),
            Self::Services(change) => Revision::new(change.rev),
        }
    }

    /// The time at which this replica received the commit, in unix microseconds.
    pub fn committed_at(&self) -> u64 {
        match self {
            Self::Instance(event) => event.committed_at,
            Self::Interest(change) => change.committed_at,
            Self::Services(change) => change.committed_at,
        }
    }
}

/// The recent changes, in order.
pub struct History {
    state: RwLock<HistoryState>,
    capacity: usize,
}

#[derive(Default)]
struct HistoryState {
    /// Every change after this revision is in `changes`.
    complete_since: Revision,
    changes: VecDeque<Change>,
}

/// The changes after a revision.
#[derive(Debug)]
pub struct Since {
    /// The changes, oldest first.
    pub changes: Vec<Change>,
    /// False when the history has dropped some of the changes in question.
    pub complete: bool,
}

impl History {
    /// A history of at most `capacity` changes, and of one at least.
    pub fn new(capacity: usize) -> Self {
        Self { state: RwLock::default(), capacity: capacity.max(1) }
    }

    /// A history for tests that is complete after `since`.
    #[cfg(test)]
    pub(crate) fn holding(since: Revision, changes: Vec<Change>) -> Self {
        let history = Self::new(changes.len());
        history.restart(since);
        history.extend(changes);
        history
    }

    /// Empties the history. From now on it is complete only after `rev`.
    pub(super) fn restart(&self, rev: Revision) {
        let mut state = self.state.write();
        state.changes.clear();
        state.complete_since = rev;
    }

    /// Adds the changes of one revision, and drops the oldest revisions when there are too many changes.
    pub(super) fn extend(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.state.write();
        state.changes.extend(changes);
        while state.changes.len() > self.capacity {
            // A revision goes as a whole. Half of one would look complete, since completeness is kept by
            // revision.
            let Some(rev) = state.changes.front().map(Change::rev) else { break };
            while state.changes.front().is_some_and(|change| change.rev() == rev) {
                state.changes.pop_front();
            }
            state.complete_since = rev;
        }
    }

    /// The changes in (`rev`, `until`] for which `wanted` is true. They are copied under the lock, so
    /// `wanted` must be cheap.
    pub fn since(&self, rev: Revision, until: Revision, wanted: impl Fn(&Change) -> bool) -> Since {
        let state = self.state.read();
        // Changes are in order of revision, so the start is found without a scan.
        let start = state.changes.partition_point(|change| change.rev() <= rev);
        let changes = state.changes.range(start..).take_while(|change| change.rev() <= until);
        Since {
            changes: changes.filter(|change| wanted(change)).cloned().collect(),
            complete: rev >= state.complete_since,
        }
    }

    /// True when there is a change after `rev`.
    pub fn has_after(&self, rev: Revision) -> bool {
        self.state.read().changes.back().is_some_and(|change| change.rev() > rev)
    }

    /// The revision after which no change is missing.
    pub fn complete_since(&self) -> Revision {
        self.state.read().complete_since
    }

    /// The number of changes in the history.
    pub fn len(&self) -> usize {
        self.state.read().changes.len()
    }

    /// True when the history has no change.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(rev: u64) -> Change {
        Change::Interest(Arc::new(pb::InterestChange { rev, ..Default::default() }))
    }

    #[test]
    fn a_revision_is_dropped_as_a_whole_and_reported_as_missing() {
        let history = History::new(4);
        history.restart(10.into());
        history.extend([change(11), change(11), change(12)]);
        assert!(history.since(10.into(), 99.into(), |_| true).complete);
        history.extend([change(13), change(14)]);
        let all = history.since(10.into(), 99.into(), |_| true);
        assert_eq!(all.changes.iter().map(|change| change.rev().get()).collect::<Vec<_>>(), [12, 13, 14]);
        assert!(!all.complete);
        assert!(history.since(11.into(), 99.into(), |_| true).complete);
    }

    #[test]
    fn the_changes_end_at_the_requested_revision() {
        let history = History::new(10);
        history.restart(1.into());
        history.extend((2..8).map(change));
        let some = history.since(3.into(), 5.into(), |change| change.rev() != 4.into());
        assert_eq!(some.changes.iter().map(|change| change.rev().get()).collect::<Vec<_>>(), [5]);
    }
}
