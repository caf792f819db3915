//! The registry in memory: one writer, immutable snapshots for readers.
//!
//! ```text
//! store ──watch──▶ follow ──▶ Writer ──┬─▶ Snapshot (swapped) ──▶ api, responder
//!                                      └─▶ History ──▶ publisher, responder
//! ```
//!
//! [`follow`] keeps one watch over the whole prefix; [`Writer`] applies it in revision order. A snapshot is a
//! handful of persistent maps: taking one costs an `Arc` clone, a change copies the path to the changed entry.
//! The order of a change is: history, snapshot, revision. Whoever sees a revision in the snapshot finds its
//! events in the history, and an event leaves only after the snapshot has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use shared::model::Revision;
use tokio::sync::watch;

mod entry;
pub mod follow;
pub mod history;
pub mod interest;
pub mod protection;
mod snapshot;
mod writer;

pub use entry::{Held, InstanceView, RuleSet, SchemaView, ServiceRule, ServiceView, VersionEntry};
pub use history::{Change, History};
pub use protection::Protection;
pub use snapshot::{Snapshot, TenantView, select};
pub use writer::Writer;

/// How a reader got on with waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The first list is not in.
    #[error("the registry is still being read")]
    NotListed,
    /// The view did not reach the revision in time.
    #[error("this replica has not caught up")]
    Behind,
}

/// The readers' end of the view. Cheap to clone.
#[derive(Clone)]
pub struct View {
    snapshot: Arc<ArcSwap<Snapshot>>,
    revision: watch::Receiver<Revision>,
    history: Arc<History>,
    skipped: Arc<AtomicU64>,
}

impl View {
    /// The view as of now. Never waits.
    ///
    /// # Errors
    /// [`NotYet::NotListed`] until the first list is in: empty is a claim that needs proof.
    pub fn now(&self) -> Result<Arc<Snapshot>, NotYet> {
        let snapshot = self.snapshot.load_full();
        if snapshot.revision == 0 { Err(NotYet::NotListed) } else { Ok(snapshot) }
    }

    /// The view once it has reached `revision`, waiting at most `patience`. Cancel-safe.
    pub async fn at(&self, revision: Revision, patience: Duration) -> Result<Arc<Snapshot>, NotYet> {
        let mut seen = self.revision.clone();
        let reached = seen.wait_for(|at| *at >= revision.max(1));
        match tokio::time::timeout(patience, reached).await {
            Ok(Ok(_)) => self.now(),
            _ => self.now().and(Err(NotYet::Behind)),
        }
    }

    /// Follows the view's revision; 0 until the first list is in.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    /// Stored values that could not be read, and were passed over, so far.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// What happened lately.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }
}

/// An empty view, and the only handle that can change it.
pub fn view(history: History, protection: Protection, clock: shared::clock::Clock) -> (Writer, View) {
    let history = Arc::new(history);
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let (sender, revision) = watch::channel(0);
    let skipped = Arc::new(AtomicU64::new(0));
    let writer = Writer::new(snapshot.clone(), sender, history.clone(), clock, protection, skipped.clone());
    (writer, View { snapshot, revision, history, skipped })
}

#[cfg(test)]
mod tests;
