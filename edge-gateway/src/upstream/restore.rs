//! Noticing that the store was restored from a backup.
//!
//! A store's revisions only grow. Bookmarks that stay behind the highest revision seen so far mean that the
//! publisher lags, or that the store was set back. To tell the two apart, a replica reads the store's own
//! revision: if that is lower than a revision which was known before the request, the store was restored.
//! Until this is proven nothing is forgotten, so a lagging publisher costs no watcher anything.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared::model::Revision;
use tracing::{debug, warn};

use super::Upstream;
use super::request::Request;
use super::requester::RequestError;
use crate::fanout::ToShard;

/// The time for which bookmarks must stay behind before the store's revision is requested. A publisher that
/// is merely slower than another replica's reply catches up sooner.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);

/// The suspicion that the store was restored.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// The time since which bookmarks have been behind, or at which the store was last asked.
    since: Option<Instant>,
    /// The store's revision is being requested.
    requested: bool,
}

impl Suspicion {
    /// The request for the store's revision has ended, with or without a reply.
    pub(super) fn request_ended(&mut self) {
        self.requested = false;
    }
}

impl Upstream {
    /// Requests the store's revision when bookmarks have stayed behind for a while.
    pub(super) fn suspect_restore(&mut self, bookmark: Revision, now: Instant) {
        let seen = self.tracker.seen();
        if bookmark >= seen {
            self.suspicion.since = None;
            return;
        }
        let since = *self.suspicion.since.get_or_insert(now);
        if now >= since + SUSPECT_AFTER && !self.suspicion.requested {
            self.suspicion = Suspicion { since: Some(now), requested: true };
            self.start(Request::ConfirmRestore { seen });
        }
    }

    /// Compares the store's revision with `seen`, which was known before the request. Returns the revision to
    /// which the store has gone back, if it has.
    pub(super) fn judge_restore(
        &mut self,
        store: Result<Revision, RequestError>,
        seen: Revision,
    ) -> Option<Revision> {
        self.suspicion.request_ended();
        match store {
            Ok(rev) if rev < seen => Some(rev),
            Ok(rev) => {
                debug!(revision = rev.get(), seen = seen.get(), "the publisher lags behind the store");
                None
            }
            Err(error) => {
                debug!(%error, "no replica could read the store's revision");
                None
            }
        }
    }

    /// Starts again in the order of the restored store.
    pub(super) async fn restore(&mut self, rev: Revision) {
        warn!(
            revision = rev.get(),
            seen = self.tracker.seen().get(),
            "the store was restored from a backup; requesting everything again"
        );
        // Replies that are under way belong to the old history.
        self.requests.cancel_all();
        self.interest_requests.clear();
        self.suspicion = Suspicion::default();
        self.resumes.restore();
        if self.bookmarks.is_none() {
            // The request for the subscription has just been cancelled with the others.
            self.start(Request::Bookmarks);
        }
        self.pushed.store(rev.get(), Ordering::Relaxed);
        self.written.forget();
        self.policy.restored();
        self.resources.requester.seen.store(rev.get(), Ordering::Relaxed);
        for shard in &self.shards {
            shard.send(ToShard::Restored).await;
        }
        self.tracker.restore(rev);
    }
}
