//! The registry in memory: one writer, and immutable snapshots for readers.
//!
//! ```text
//! store ──watch──▶ follow ──▶ ViewWriter ──┬─▶ Snapshot (swapped) ──▶ api, responder
//!                                          └─▶ History ──▶ publisher, responder
//! ```
//!
//! [`follow`] keeps one watch over the whole prefix; [`ViewWriter`] applies it in revision order. A snapshot
//! is a handful of persistent maps: taking one costs an `Arc` clone, and a change copies the path to the
//! changed entry. The order of a change is: history, snapshot, revision. A reader that sees a revision in the
//! snapshot finds its events in the history, and an event leaves only after the snapshot contains it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use shared::clock::Clock;
use shared::model::Revision;
use tokio::sync::watch;

pub mod access;
mod entry;
pub mod finds;
pub mod follow;
pub mod gauges;
pub mod history;
pub mod interest;
pub mod list;
pub mod overrides;
mod packed;
pub mod protection;
pub mod shifts;
mod snapshot;
pub mod timeline;
mod writer;

#[cfg(test)]
pub(crate) use entry::Reported;
pub use entry::{Held, InstanceView, RuleSet, RuleView, SchemaView, ServiceRule, ServiceView, VersionEntry};
pub use history::{Change, History};
pub use overrides::OverrideView;
pub use packed::PackedInstance;
pub use protection::Protection;
pub use shifts::ShiftView;
pub use snapshot::{Snapshot, TenantView, select};
pub use timeline::Timeline;
pub use writer::{ListedView, ViewWriter};

/// A reason why the view cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The first list has not been read yet.
    #[error("this replica is still reading the registry; try again")]
    NotListed,
    /// The view did not reach the requested revision in time.
    #[error("this replica has not reached the requested revision; try again")]
    Behind,
}

/// The readers' handle of the view. Cheap to clone.
#[derive(Clone)]
pub struct View {
    snapshot: Arc<ArcSwap<Snapshot>>,
    revision: watch::Receiver<Revision>,
    history: Arc<History>,
    timeline: Arc<Timeline>,
    skipped: Arc<AtomicU64>,
}

impl View {
    /// The view as of now. Never waits.
    ///
    /// # Errors
    /// [`ViewError::NotListed`] before the first list. An empty view would claim that the registry is empty.
    pub fn now(&self) -> Result<Arc<Snapshot>, ViewError> {
        let snapshot = self.snapshot.load_full();
        if snapshot.revision == Revision::ZERO { Err(ViewError::NotListed) } else { Ok(snapshot) }
    }

    /// The view once it has reached `revision`. Waits at most `patience`. Cancel-safe.
    ///
    /// # Errors
    /// [`ViewError::NotListed`] before the first list, [`ViewError::Behind`] when the time is over.
    pub async fn at(&self, revision: Revision, patience: Duration) -> Result<Arc<Snapshot>, ViewError> {
        let mut revisions = self.revision.clone();
        // At least 1, so that a request without a revision still waits for the first list.
        let reached = revisions.wait_for(|current| *current >= revision.max(Revision::new(1)));
        match tokio::time::timeout(patience, reached).await {
            Ok(Ok(_)) => self.now(),
            _ => self.now().and(Err(ViewError::Behind)),
        }
    }

    /// The view's revision, to be followed. It is 0 before the first list.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    /// The number of stored values so far that could not be decoded and were skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// The last changes of each service, for people.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// The recent changes.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }
}

/// An empty view, and the only handle that can change it.
pub fn empty(history: History, protection: Protection, clock: Clock) -> (ViewWriter, View) {
    let history = Arc::new(history);
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let (sender, revision) = watch::channel(Revision::ZERO);
    let skipped = Arc::new(AtomicU64::new(0));
    let writer =
        ViewWriter::new(snapshot.clone(), sender, history.clone(), clock, protection, skipped.clone());
    let timeline = writer.timeline().clone();
    (writer, View { snapshot, revision, history, timeline, skipped })
}

#[cfg(test)]
mod tests;
