//! The recent commits, oldest first. Watches replay them, and reads of an older revision undo them.
//!
//! In: each commit once it is in the file. Out: the commits from a revision on, or the error that they were
//! compacted. The log is bounded by count and by bytes. Commits that exceed the bounds are deleted from the
//! file in the same batch as the new ones are added.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::model::Revision;

use crate::store::KeyValue;

/// A key before and after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyChange {
    pub(super) key: Arc<str>,
    /// The key's value after the commit; `None` if the commit deleted it.
    pub(super) after: Option<Arc<KeyValue>>,
    /// The key's value before the commit; `None` if the key did not exist.
    pub(super) before: Option<Arc<KeyValue>>,
}

/// All changes of one revision, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoggedCommit {
    pub(super) rev: Revision,
    pub(super) changes: Vec<KeyChange>,
}

/// The approximate size of a change, a value or a commit beside its bytes.
const OVERHEAD: usize = 64;

fn bytes_of(kv: &Option<Arc<KeyValue>>) -> usize {
    kv.as_ref().map_or(0, |kv| OVERHEAD + kv.value.len())
}

impl LoggedCommit {
    /// The approximate size of the commit in memory.
    fn bytes(&self) -> u64 {
        let of_changes: usize = self
            .changes
            .iter()
            .map(|c| OVERHEAD + c.key.len() + bytes_of(&c.after) + bytes_of(&c.before))
            .sum();
        (of_changes + OVERHEAD) as u64
    }
}

/// The bounds of the history. The newest commit is kept in any case.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryBounds {
    pub(super) commits: usize,
    pub(super) bytes: u64,
}

/// All commits after `compacted`.
#[derive(Clone, Debug, Default)]
pub(super) struct CommitLog {
    commits: VecDeque<Arc<LoggedCommit>>,
    bytes: u64,
    compacted: Revision,
}

impl CommitLog {
    /// A log without commits, in which everything up to `compacted` has been dropped.
    pub(super) fn new(compacted: Revision) -> Self {
        Self { commits: VecDeque::new(), bytes: 0, compacted }
    }

    /// The last dropped revision; 0 if none was dropped.
    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The revision of the newest commit; 0 if there is none.
    pub(super) fn last(&self) -> Revision {
        self.commits.back().map_or(Revision::ZERO, |last| last.rev)
    }

    /// Adds the next commit. Its revision must be higher than all before.
    pub(super) fn push(&mut self, commit: Arc<LoggedCommit>) {
        debug_assert!(self.commits.back().is_none_or(|last| last.rev < commit.rev));
        self.bytes += commit.bytes();
        self.commits.push_back(commit);
    }

    /// The revision up to which commits must be dropped so that the bounds hold after `more` was pushed.
    /// `None` if nothing has to be dropped.
    pub(super) fn excess(&self, more: &[Arc<LoggedCommit>], bounds: HistoryBounds) -> Option<Revision> {
        let mut count = self.commits.len() + more.len();
        let mut bytes = self.bytes + more.iter().map(|commit| commit.bytes()).sum::<u64>();
        // Counted over old and new commits alike: one batch may exceed the bounds by itself.
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

    /// Drops every commit up to and including `rev`.
    pub(super) fn forget(&mut self, rev: Revision) {
        while let Some(first) = self.commits.front().filter(|first| first.rev <= rev) {
            self.bytes -= first.bytes();
            self.commits.pop_front();
        }
        self.compacted = self.compacted.max(rev);
    }

    /// At most `most` commits from `rev` on, or the compacted revision if some of them were dropped.
    pub(super) fn since(&self, rev: Revision, most: usize) -> Result<Vec<Arc<LoggedCommit>>, Revision> {
        if rev <= self.compacted && self.compacted > Revision::ZERO {
            return Err(self.compacted);
        }
        let start = self.commits.partition_point(|commit| commit.rev < rev);
        Ok(self.commits.range(start..).take(most).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(rev: Revision) -> Arc<LoggedCommit> {
        let change = KeyChange { key: "/k".into(), after: None, before: None };
        Arc::new(LoggedCommit { rev, changes: vec![change] })
    }

    #[test]
    fn commits_beyond_a_bound_are_dropped_oldest_first() {
        let mut log = CommitLog::new(0.into());
        (2..=5).for_each(|rev| log.push(commit(Revision::new(rev))));
        let few = HistoryBounds { commits: 3, bytes: u64::MAX };
        assert_eq!(log.excess(&[commit(6.into())], few), Some(3.into()));
        let one = commit(0.into()).bytes();
        assert_eq!(log.excess(&[], HistoryBounds { commits: 100, bytes: 2 * one }), Some(3.into()));
        assert_eq!(
            log.excess(&[], HistoryBounds { commits: 0, bytes: 0 }),
            Some(4.into()),
            "the newest stays"
        );
        assert_eq!(log.excess(&[], HistoryBounds { commits: 4, bytes: 4 * one }), None);
    }

    #[test]
    fn commits_can_be_read_only_after_the_dropped_ones() {
        let mut log = CommitLog::new(0.into());
        (2..=5).for_each(|rev| log.push(commit(Revision::new(rev))));
        assert_eq!(log.since(1.into(), 10).map(|found| found.len()), Ok(4));
        log.forget(3.into());
        assert_eq!(log.since(3.into(), 10), Err(3.into()));
        assert_eq!(log.since(4.into(), 1), Ok(vec![commit(4.into())]));
        assert_eq!(log.since(9.into(), 10), Ok(vec![]));
    }
}
