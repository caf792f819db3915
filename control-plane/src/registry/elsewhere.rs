//! Writes elsewhere: other programs that change the same store, outside the registry's root.
//!
//! The newest revision of the store is cheap to read, and usually the view has reached it. A change elsewhere
//! raises the revision without reaching the view. While there are such changes, a confirmation asks for a
//! barrier at once instead of waiting for the view in vain.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The time for which a change elsewhere counts as recent.
const RECENT: Duration = Duration::from_secs(1);

/// The time of the last change elsewhere that was met. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Elsewhere(Arc<Mutex<Option<Instant>>>);

impl Elsewhere {
    pub(super) fn is_recent(&self) -> bool {
        self.0.lock().is_some_and(|met| met.elapsed() < RECENT)
    }

    pub(super) fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }
}
