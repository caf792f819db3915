//! What happened lately: enough for a new publisher to go on where the old one stopped, and for a gateway to
//! catch up without the full state.
//!
//! Bounded by count; the oldest changes go first, and [`History::since`] says when an answer would have a hole.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::event::v1 as pb;
use shared::event::InstanceEvent;
use shared::model::Revision;

/// Something a gateway is to hear of.
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
            Self::Interest(change) => change.rev,
            Self::Services(change) => change.rev,
        }
    }

    /// When this replica learnt of it, unix microseconds.
    pub fn committed_at(&self) -> u64 {
        match self {
            Self::Instance(event) => event.committed_at,
            Self::Interest(change) => change.committed_at,
            Self::Services(change) => change.committed_at,
        }
    }
}

/// The changes after some revision, in order.
pub struct History {
    inner: RwLock<Inner>,
    most: usize,
}

#[derive(Default)]
struct Inner {
    /// Every change after this revision is in `changes`.
    complete_since: Revision,
    changes: VecDeque<Change>,
}

/// The answer to "what happened since": the changes, or only that too much did.
#[derive(Debug)]
pub struct Since {
    /// The changes, oldest first.
    pub changes: Vec<Change>,
    /// They are all there are; false when older ones have been forgotten.
    pub complete: bool,
}

impl History {
    /// A history of at most `most` changes.
    pub fn new(most: usize) -> Self {
        Self { inner: RwLock::default(), most: most.max(1) }
    }

    /// Starts over: nothing is known of what was at or before `rev`.
    pub(super) fn restart(&self, rev: Revision) {
        let mut inner = self.inner.write();
        inner.changes.clear();
        inner.complete_since = rev;
    }

    /// Adds the changes of one revision; the oldest revisions go when there are too many.
    pub(super) fn extend(&self, changes: impl IntoIterator<Item = Change>) {
        let mut inner = self.inner.write();
        inner.changes.extend(changes);
        while inner.changes.len() > self.most {
            // A revision goes as a whole: half of one would look like all of it.
            let Some(rev) = inner.changes.front().map(Change::rev) else { break };
            while inner.changes.front().is_some_and(|change| change.rev() == rev) {
                inner.changes.pop_front();
            }
            inner.complete_since = rev;
        }
    }

    /// The changes after `rev` up to and including `until` that `wanted` picks.
    pub fn since(&self, rev: Revision, until: Revision, wanted: impl Fn(&Change) -> bool) -> Since {
        let inner = self.inner.read();
        let start = inner.changes.partition_point(|change| change.rev() <= rev);
        let changes = inner.changes.range(start..).take_while(|change| change.rev() <= until);
        Since {
            changes: changes.filter(|change| wanted(change)).cloned().collect(),
            complete: rev >= inner.complete_since,
        }
    }

    /// Every change after this revision is known.
    pub fn complete_since(&self) -> Revision {
        self.inner.read().complete_since
    }

    /// Number of changes held.
    pub fn len(&self) -> usize {
        self.inner.read().changes.len()
    }

    /// No change is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(rev: Revision) -> Change {
        Change::Interest(Arc::new(pb::InterestChange { rev, ..Default::default() }))
    }

    #[test]
    fn a_revision_is_forgotten_as_a_whole_and_the_hole_is_admitted() {
        let history = History::new(4);
        history.restart(10);
        history.extend([change(11), change(11), change(12)]);
        assert!(history.since(10, 99, |_| true).complete);
        history.extend([change(13), change(14)]);
        let all = history.since(10, 99, |_| true);
        assert_eq!(all.changes.iter().map(Change::rev).collect::<Vec<_>>(), [12, 13, 14]);
        assert!(!all.complete);
        assert!(history.since(11, 99, |_| true).complete);
    }

    #[test]
    fn an_answer_ends_at_the_revision_asked_for() {
        let history = History::new(10);
        history.restart(1);
        history.extend((2..8).map(change));
        let some = history.since(3, 5, |change| change.rev() != 4);
        assert_eq!(some.changes.iter().map(Change::rev).collect::<Vec<_>>(), [5]);
    }
}
