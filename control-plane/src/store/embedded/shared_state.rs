//! The state of the last durable revision and the log, shared by the writer with readers and watchers.
//!
//! Both are under one lock, so that they always belong together. Readers hold it for a copy of a few pointers
//! and the writer for one batch, never over a wait.

use parking_lot::RwLock;

use super::file::WriteBatch;
use super::leases::Deadlines;
use super::log::CommitLog;
use super::state::StoreState;

/// The durable state, the log, and the deadlines of leases.
pub(super) struct SharedState {
    inner: RwLock<(StoreState, CommitLog)>,
    pub(super) deadlines: Deadlines,
}

impl SharedState {
    /// The contents of a file. Each lease has its full time again.
    pub(super) fn new(state: StoreState, log: CommitLog) -> Self {
        let deadlines = Deadlines::default();
        for (id, lease) in state.leases.iter() {
            deadlines.start(*id, lease.ttl);
        }
        Self { inner: RwLock::new((state, log)), deadlines }
    }

    /// A copy of the state.
    pub(super) fn state(&self) -> StoreState {
        self.inner.read().0.clone()
    }

    /// Calls `look` with the state and the log of one moment. It runs under the lock and must be short.
    pub(super) fn read<T>(&self, look: impl FnOnce(&StoreState, &CommitLog) -> T) -> T {
        let inner = self.inner.read();
        look(&inner.0, &inner.1)
    }

    /// Replaces the state by the one after a batch, and moves the batch's commits to the log.
    pub(super) fn advance(&self, state: StoreState, batch: &mut WriteBatch) {
        let mut inner = self.inner.write();
        inner.0 = state;
        for commit in batch.commits.drain(..) {
            inner.1.push(commit);
        }
        if let Some(upto) = batch.forget {
            inner.1.forget(upto);
        }
    }

    /// Replaces everything by the contents of a file.
    pub(super) fn replace(&self, state: StoreState, log: CommitLog) {
        *self.inner.write() = (state, log);
    }
}
