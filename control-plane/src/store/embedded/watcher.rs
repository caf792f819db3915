//! A watch: a cursor over the log. It has no queue that could overflow. A slow watch finds its events in the
//! log, or ends with the error that they were compacted.

use std::sync::Arc;

use futures_util::stream;
use shared::model::Revision;
use tokio::sync::watch;

use super::log::LoggedCommit;
use super::shared_state::SharedState;
use crate::store::{KvEvent, StoreError, WatchItem, WatchStream};

/// The most commits in one step. It bounds the copy under the lock, and the size of an item.
const MAX_COMMITS: usize = 256;

struct LogCursor {
    shared: Arc<SharedState>,
    head: watch::Receiver<Revision>,
    prefix: String,
    /// The next revision to read.
    next: Revision,
    /// The last revision that was reported to the reader as complete.
    reported: Revision,
}

/// Watches `prefix` from revision `from` on. `head` wakes the watch when there are new commits.
pub(super) fn watch(
    shared: Arc<SharedState>,
    head: watch::Receiver<Revision>,
    prefix: &str,
    from: Revision,
) -> WatchStream {
    let cursor = LogCursor {
        shared,
        head,
        prefix: prefix.to_owned(),
        next: from.max(Revision::new(1)),
        reported: Revision::ZERO,
    };
    WatchStream::new(stream::unfold(Some(cursor), |cursor| async move {
        let mut cursor = cursor?;
        let item = cursor.step().await;
        let rest = item.is_ok().then_some(cursor);
        Some((item, rest))
    }))
}

impl LogCursor {
    async fn step(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            // Marked as seen before the log is read, so that a commit in between wakes the wait below.
            self.head.borrow_and_update();
            let (found, head) = self.shared.read(|state, log| (log.since(self.next, MAX_COMMITS), state.rev));
            let commits = found.map_err(StoreError::Compacted)?;
            // A full step may have left commits behind. Otherwise everything up to the head has been read.
            self.next = match commits.last() {
                Some(last) if commits.len() == MAX_COMMITS => last.rev.next(),
                Some(_) | None => self.next.max(head.next()),
            };
            let events = self.events(&commits);
            if let Some(last) = events.last() {
                self.reported = last.rev();
                return Ok(WatchItem::Events(events));
            }
            let done = self.next.previous();
            if done > self.reported && done <= head {
                self.reported = done;
                return Ok(WatchItem::Progress(done));
            }
            if done >= head && self.head.changed().await.is_err() {
                return Err(StoreError::Unavailable("the store was closed".into()));
            }
        }
    }

    fn events(&self, commits: &[Arc<LoggedCommit>]) -> Vec<KvEvent> {
        let mut events = Vec::new();
        for commit in commits {
            for change in commit.changes.iter().filter(|change| change.key.starts_with(&self.prefix)) {
                events.push(match &change.after {
                    Some(kv) => KvEvent::Put((**kv).clone()),
                    None => KvEvent::Delete { key: change.key.to_string(), rev: commit.rev },
                });
            }
        }
        events
    }
}
