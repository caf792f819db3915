//! Bookmarks: received, applied, and passed on to watchers.

use std::sync::Arc;
use std::time::Instant;

use bus::Message;
use follow::message::Bookmark;
use follow::tracker::Confirmed;
use futures_util::{FutureExt as _, StreamExt as _};
use tracing::{info, warn};

use super::{MIN_BOOKMARK_PAUSE, Upstream};
use crate::fanout::ToShard;

impl Upstream {
    /// Applies the bookmarks that have arrived already. Called before a reply or a loss is applied, so that a
    /// bookmark which is applied later was also sent later.
    pub(super) async fn take_bookmarks(&mut self) {
        // Unconstrained: with the task's budget used up, a ready message would look as if it had not arrived.
        while let Some(messages) = &mut self.bookmarks
            && let Some(Some(message)) = tokio::task::unconstrained(messages.next()).now_or_never()
        {
            self.on_bookmark(&message).await;
        }
    }

    /// Applies a bookmark, and everything that arrived before it first. A publisher's messages arrive in
    /// order, but each subject has a channel of its own.
    pub(super) async fn on_bookmark(&mut self, message: &Message) {
        let bookmark = match Bookmark::decode(&message.payload) {
            Ok(bookmark) => bookmark,
            Err(error) => return self.malformed(&message.subject, &error),
        };
        self.take_messages(None).await;
        let now = Instant::now();
        self.metrics.heard(now);
        if bookmark.sent_at > 0 {
            let shortest = self.offset.note(bookmark.sent_at, self.clock.micros(), now);
            self.metrics.clock_offset(shortest);
        }
        let rev = bookmark.rev;
        let verdict = self.suspicion.hear(rev, bookmark.incarnation, self.tracker.seen(), now);
        self.resources.requester.set_incarnation(self.suspicion.incarnation());
        if self.holds.forget_other_incarnation(self.resources.requester.incarnation()) {
            warn!(
                "the state of the last process is of another store, or of before a restore; it is not used"
            );
        }
        if verdict.ask {
            self.suspect_restore();
        }
        if !verdict.believed {
            return;
        }
        self.holds.heard(now);
        self.policy.heard(bookmark.policy, rev);
        let outcome = self.tracker.on_bookmark(bookmark);
        if outcome.behind > 0 {
            info!(
                behind = outcome.behind,
                "events that the publisher has sent did not arrive; requesting them from a replica"
            );
        }
        if outcome.bookmarks_lost {
            info!(
                revision = rev.get(),
                "a bookmark of the publisher did not arrive; resynchronising everything"
            );
        }
        // Before the bookmark: it says that what has just become known was sent.
        self.act().await;
        if self.tracker.in_step() == rev {
            self.pass_on_bookmark(now).await;
        }
    }

    /// Sends a bookmark to clients that can resume: to all of them from time to time, and in between to those
    /// that have received events since the last one.
    async fn pass_on_bookmark(&mut self, now: Instant) {
        let everyone = now >= self.next_bookmark;
        if !everyone && now < self.next_active_bookmark {
            return;
        }
        self.next_active_bookmark = now + self.config.bookmark_interval.min(MIN_BOOKMARK_PAUSE);
        if everyone {
            self.next_bookmark = now + self.config.bookmark_interval;
        }
        let Confirmed { rev, behind } = self.tracker.confirmations();
        let behind = Arc::new(behind);
        for shard in &self.shards {
            shard.send(ToShard::Bookmark { rev, everyone, behind: behind.clone() }).await;
        }
    }
}
