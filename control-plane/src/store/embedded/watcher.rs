//! A watch: a cursor over the log. It holds no queue, so it cannot overflow; one that is slow finds its
//! events in the log, or is told that they were compacted.

use std::sync::Arc;

use futures_util::stream;
use shared::model::Revision;
use tokio::sync::watch;

use super::log::Commit;
use super::shared_state::Shared;
use crate::store::{KvEvent, StoreError, WatchItem, WatchStream};

/// Commits looked at in one step: bounds the copy made under the lock and the size of an item.
const STEP: usize = 256;

struct Cursor {
    shared: Arc<Shared>,
    head: watch::Receiver<Revision>,
    prefix: String,
    /// The first revision not looked at.
    next: Revision,
    /// The last revision that the watcher knows to be complete.
    reported: Revision,
}

/// Watches `prefix` from revision `from` on; `head` says when there is more.
pub(super) fn watch(
    shared: Arc<Shared>,
    head: watch::Receiver<Revision>,
    prefix: &str,
    from: Revision,
) -> WatchStream {
    let cursor = Cursor { shared, head, prefix: prefix.to_owned(), next: from.max(1), reported: 0 };
    WatchStream::new(stream::unfold(Some(cursor), |cursor| async move {
        let mut cursor = cursor?;
        let item = cursor.step().await;
        let rest = item.is_ok().then_some(cursor);
        Some((item, rest))
    }))
}

impl Cursor {
    async fn step(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            // Marked as seen before the log is read: what comes in between wakes the wait below.
            self.head.borrow_and_update();
            let (found, head) = self.shared.read(|state, log| (log.since(self.next, STEP), state.rev));
            let commits = found.map_err(StoreError::Compacted)?;
            self.next = match commits.last() {
                Some(last) if commits.len() == STEP => last.rev + 1,
                Some(_) | None => self.next.max(head + 1),
            };
            let events = self.events(&commits);
            if let Some(last) = events.last() {
                self.reported = last.rev();
                return Ok(WatchItem::Events(events));
            }
            let done = self.next - 1;
            if done > self.reported && done <= head {
                self.reported = done;
                return Ok(WatchItem::Progress(done));
            }
            if done >= head {
                let closed = |_| StoreError::Unavailable("the store was closed".into());
                self.head.changed().await.map_err(closed)?;
            }
        }
    }

    fn events(&self, commits: &[Arc<Commit>]) -> Vec<KvEvent> {
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
