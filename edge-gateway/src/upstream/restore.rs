//! Noticing that the store was restored from a backup.
//!
//! A store's revisions only grow, so bookmarks that stay behind what was heard before are odd: the publisher may
//! lag, or the store may have been set back. Which of the two is asked: a control plane reads the store itself.
//! Its revision being lower than one that was known before the question is proof. Until then nothing is
//! forgotten, so a publisher that lags makes nobody step back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared::model::Revision;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::Upstream;
use super::effects::Done;
use super::requests::AskError;
use crate::fanout::ToShard;

/// How long bookmarks may be behind before the store is asked; a publisher that is slower than others' answers is
/// back sooner.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is suspected.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    since: Option<Instant>,
    asking: bool,
}

impl Upstream {
    /// A bookmark came: asks for the store's revision when bookmarks have been behind for a while.
    pub(super) fn suspect(&mut self, bookmark: Revision, now: Instant) {
        let seen = self.core.seen();
        if bookmark >= seen {
            self.suspicion.since = None;
            return;
        }
        let since = *self.suspicion.since.get_or_insert(now);
        if now >= since + PATIENCE && !self.suspicion.asking {
            self.suspicion = Suspicion { since: Some(now), asking: true };
            let asker = self.asker.clone();
            self.questions.spawn(async move { Done::Confirmed(asker.confirm().await, seen) });
        }
    }

    /// The store's revision was told; where it has gone back to, if it has.
    pub(super) fn judge(&mut self, told: Result<Revision, AskError>, seen: Revision) -> Option<Revision> {
        self.suspicion.asking = false;
        match told {
            Ok(rev) if rev < seen => Some(rev),
            Ok(rev) => {
                debug!(revision = rev, seen, "the publisher is behind; the store is not");
                None
            }
            Err(error) => {
                debug!(%error, "nobody tells the store's revision");
                None
            }
        }
    }

    /// Starts over in the order of the restored store.
    pub(super) async fn restore(&mut self, rev: Revision) {
        warn!(revision = rev, seen = self.core.seen(), "the store was restored from a backup; starting over");
        // Answers under way are of the old history, or make no difference any more.
        self.questions = JoinSet::new();
        self.asking.clear();
        self.departing.clear();
        self.comparing = false;
        self.suspicion = Suspicion::default();
        for resuming in self.resuming.values_mut() {
            resuming.start_over();
        }
        if self.bookmarks.is_none() {
            self.subscribe_to_bookmarks();
        }
        self.pushed.store(rev, Ordering::Relaxed);
        self.asker.seen.store(rev, Ordering::Relaxed);
        for shard in &self.shards {
            shard.send(ToShard::Restored).await;
        }
        self.core.restore(rev);
    }
}
