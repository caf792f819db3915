//! What the writer shares with readers and watchers: the state of the last durable revision and the log.
//!
//! One lock, held for a copy of a few pointers by readers and for one batch by the writer, never over a wait.

use parking_lot::RwLock;

use super::file::Batch;
use super::leases::Deadlines;
use super::log::Log;
use super::state::State;

/// The shared state.
pub(super) struct Shared {
    inner: RwLock<(State, Log)>,
    pub(super) deadlines: Deadlines,
}

impl Shared {
    /// What a file held; each lease has its full time again.
    pub(super) fn new(state: State, log: Log) -> Self {
        let deadlines = Deadlines::default();
        state.leases.iter().for_each(|(id, lease)| deadlines.start(*id, lease.ttl));
        Self { inner: RwLock::new((state, log)), deadlines }
    }

    /// A copy of the state.
    pub(super) fn state(&self) -> State {
        self.inner.read().0.clone()
    }

    /// Looks at state and log of the same moment. `look` must be short.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State, &Log) -> T) -> T {
        let inner = self.inner.read();
        look(&inner.0, &inner.1)
    }

    /// Moves on to the state after a batch, whose commits go to the log.
    pub(super) fn advance(&self, state: State, batch: &mut Batch) {
        let mut inner = self.inner.write();
        inner.0 = state;
        batch.commits.drain(..).for_each(|commit| inner.1.push(commit));
        if let Some(upto) = batch.forget {
            inner.1.forget(upto);
        }
    }

    /// Takes over what a file holds.
    pub(super) fn replace(&self, state: State, log: Log) {
        *self.inner.write() = (state, log);
    }
}
