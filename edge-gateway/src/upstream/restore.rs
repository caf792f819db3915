//! A store that was restored from a backup: the request that proves it, and the new beginning.
//!
//! The decisions are made by [`follow::suspicion`].

use std::sync::atomic::Ordering;

use follow::suspicion::Confirmation;
use shared::model::Revision;
use tracing::{debug, warn};

use super::Upstream;
use super::request::Request;
use super::requester::RequestError;
use crate::fanout::ToShard;

impl Upstream {
    /// Compares a confirmation with `seen`, which was known before the request. Returns the revision of the
    /// store if it was restored.
    pub(super) fn judge_restore(
        &mut self,
        confirmation: Result<Confirmation, RequestError>,
        seen: Revision,
    ) -> Option<Revision> {
        let confirmation = match confirmation {
            Ok(confirmation) => confirmation,
            Err(error) => {
                debug!(%error, "no replica could read the store's revision");
                self.suspicion.unanswered();
                return None;
            }
        };
        let restored = self.suspicion.judge(confirmation, seen);
        self.resources.requester.set_incarnation(self.suspicion.incarnation());
        if restored.is_none() {
            debug!(
                revision = confirmation.rev.get(),
                seen = seen.get(),
                "the publisher lags behind the store"
            );
        }
        restored
    }

    /// Asks for a confirmation that the store is the same.
    pub(super) fn suspect_restore(&mut self) {
        let seen = self.tracker.seen();
        self.start(Request::ConfirmRestore { seen });
    }

    /// Starts again in the order of the restored store.
    pub(super) async fn restore(&mut self, rev: Revision) {
        let seen = self.tracker.seen();
        warn!(
            revision = rev.get(),
            seen = seen.get(),
            "the store was restored from a backup; requesting everything again"
        );
        // Replies that are under way belong to the old history.
        self.requests.cancel_all();
        self.interest_requests.clear();
        self.resumes.restore(seen);
        if self.bookmarks.is_none() {
            // The request for the subscription has just been cancelled with the others.
            self.start(Request::Bookmarks);
        }
        self.pushed.store(rev.get(), Ordering::Relaxed);
        self.written.forget();
        self.policy.restored();
        self.beats.forget_all();
        // It is of the history that was undone, or of one that nobody can tell apart from it.
        self.holds.restored();
        self.resources.requester.seen.store(rev.get(), Ordering::Relaxed);
        for shard in &self.shards {
            shard.send(ToShard::Restored).await;
        }
        self.tracker.restore(rev);
    }
}
