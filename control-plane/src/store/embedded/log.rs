//! The recent commits, oldest first: what watches replay and what reads of an older revision undo.
//!
//! In: each commit once it is in the file. Out: commits from a revision on, or the fact that they were
//! compacted. Bounded by count and by bytes; what falls out here is deleted from the file with the same commit.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::model::Revision;

use crate::store::KeyValue;

/// A key before and after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Arc<str>,
    /// The key's value now; `None` when it was deleted.
    pub(super) after: Option<Arc<KeyValue>>,
    /// The key's value before; `None` when it did not exist.
    pub(super) before: Option<Arc<KeyValue>>,
}

/// All changes of one revision, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) rev: Revision,
    pub(super) changes: Vec<Change>,
}

impl Commit {
    /// What the commit costs in memory, about.
    fn bytes(&self) -> u64 {
        let value = |kv: &Option<Arc<KeyValue>>| kv.as_ref().map_or(0, |kv| 64 + kv.value.len());
        let change = |c: &Change| 64 + c.key.len() + value(&c.after) + value(&c.before);
        self.changes.iter().map(|c| change(c) as u64).sum::<u64>() + 64
    }
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) commits: usize,
    pub(super) bytes: u64,
}

/// The commits after `compacted`, without a hole.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    commits: VecDeque<Arc<Commit>>,
    bytes: u64,
    compacted: Revision,
}

impl Log {
    /// A log without commits, in which everything up to `compacted` is forgotten.
    pub(super) fn new(compacted: Revision) -> Self {
        Self { commits: VecDeque::new(), bytes: 0, compacted }
    }

    /// The last forgotten revision; 0 when nothing was forgotten.
    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Takes the next commit. Its revision is higher than that of all before.
    pub(super) fn push(&mut self, commit: Arc<Commit>) {
        debug_assert!(self.commits.back().is_none_or(|last| last.rev < commit.rev));
        self.bytes += commit.bytes();
        self.commits.push_back(commit);
    }

    /// The revision up to which must be forgotten so that the bounds hold once `more` was pushed, or `None`
    /// when they hold anyway. The newest commit is never forgotten.
    pub(super) fn excess(&self, more: &[Arc<Commit>], bounds: Bounds) -> Option<Revision> {
        let mut count = self.commits.len() + more.len();
        let mut bytes = self.bytes + more.iter().map(|commit| commit.bytes()).sum::<u64>();
        let mut upto = None;
        for commit in self.commits.iter().chain(more) {
            if count <= 1 || (count <= bounds.commits && bytes <= bounds.bytes) {
                break;
            }
            count -= 1;
            bytes -= commit.bytes();
            upto = Some(commit.rev);
        }
        upto
    }

    /// Forgets every commit up to `rev`.
    pub(super) fn forget(&mut self, rev: Revision) {
        while let Some(first) = self.commits.front().filter(|first| first.rev <= rev) {
            self.bytes -= first.bytes();
            self.commits.pop_front();
        }
        self.compacted = self.compacted.max(rev);
    }

    /// At most `most` commits from `rev` on, or the compacted revision when they are no longer all known.
    pub(super) fn since(&self, rev: Revision, most: usize) -> Result<Vec<Arc<Commit>>, Revision> {
        if rev <= self.compacted && self.compacted > 0 {
            return Err(self.compacted);
        }
        let start = self.commits.partition_point(|commit| commit.rev < rev);
        Ok(self.commits.range(start..).take(most).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(rev: Revision) -> Arc<Commit> {
        let change = Change { key: "/k".into(), after: None, before: None };
        Arc::new(Commit { rev, changes: vec![change] })
    }

    #[test]
    fn what_exceeds_a_bound_is_forgotten_oldest_first() {
        let mut log = Log::new(0);
        (2..=5).for_each(|rev| log.push(commit(rev)));
        let few = Bounds { commits: 3, bytes: u64::MAX };
        assert_eq!(log.excess(&[commit(6)], few), Some(3));
        let one = commit(0).bytes();
        assert_eq!(log.excess(&[], Bounds { commits: 100, bytes: 2 * one }), Some(3));
        assert_eq!(log.excess(&[], Bounds { commits: 0, bytes: 0 }), Some(4), "the newest stays");
        assert_eq!(log.excess(&[], Bounds { commits: 4, bytes: 4 * one }), None);
    }

    #[test]
    fn commits_are_known_only_after_the_forgotten_ones() {
        let mut log = Log::new(0);
        (2..=5).for_each(|rev| log.push(commit(rev)));
        assert_eq!(log.since(1, 10).map(|found| found.len()), Ok(4));
        log.forget(3);
        assert_eq!(log.since(3, 10), Err(3));
        assert_eq!(log.since(4, 1), Ok(vec![commit(4)]));
        assert_eq!(log.since(9, 10), Ok(vec![]));
    }
}
