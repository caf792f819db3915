//! Keeps the view at the store's heels: list, watch, resume, list again after compaction.
//!
//! ```text
//! Listing ──ok──▶ Watching(after rev) ──broken──▶ Watching(after the last revision seen)
//!    ▲                    │
//!    └────compacted───────┘
//! ```
//!
//! Only compaction leads back to a list. The loop waits longer after each failure and says so once per step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use shared::backoff::Backoff;
use shared::model::Revision;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Writer;
use crate::keys::{Key, ROOT};
use crate::metrics::view::Applied;
use crate::store::{KeyValue, RangeRequest, Store, StoreError, WatchItem, prefix_end};

/// Keys read in one page of a list: about 4 MB of instances of usual size.
const PAGE: usize = 4096;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Where contents lie that the view does not keep: only their keys are read.
const CONTENTS: &[&str] = &["/cse-sr/ms/schema-content/", "/cse-sr/ms/schemas/"];

/// Follows the store until `stop` is cancelled. Runs for ever otherwise; every failure is retried.
pub async fn follow(store: Arc<dyn Store>, mut writer: Writer, stop: CancellationToken) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut listed = false;
    loop {
        let step = async {
            if !listed {
                let (items, at) = list(&*store).await?;
                info!(
                    keys = items.len(),
                    revision = at,
                    again = writer.revision() != 0,
                    "the registry was listed"
                );
                let again = writer.revision() != 0;
                writer.report(|metrics| metrics.listed(again));
                writer.reset(items, at);
                listed = true;
            }
            watch(&*store, &mut writer, &mut backoff).await
        };
        let outcome = tokio::select! { biased; () = stop.cancelled() => return, outcome = step => outcome };
        match outcome {
            Err(StoreError::Compacted(oldest)) => {
                writer.report(|metrics| metrics.broke());
                warn!(oldest, seen = writer.revision(), "history was compacted past the view; listing again");
                listed = false;
            }
            Err(error) => {
                writer.report(|metrics| metrics.broke());
                let wait = backoff.next_wait();
                warn!(%error, attempt = backoff.failures(), wait_ms = wait.as_millis() as u64, "the store cannot be followed; trying again");
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
            }
            Ok(()) => {}
        }
    }
}

/// Reads every key under the root at one revision, page by page.
async fn list(store: &dyn Store) -> Result<(Vec<KeyValue>, Revision), StoreError> {
    let mut items = Vec::new();
    let mut at = None;
    let end = prefix_end(ROOT);
    let mut cursor = ROOT.to_owned();
    // The root is read in stretches: contents without values, everything between them with.
    let mut stretches: Vec<(String, bool)> =
        CONTENTS.iter().map(|prefix| (prefix_end(prefix), true)).collect();
    stretches.push((end, false));
    for (index, (stretch_end, is_content)) in stretches.into_iter().enumerate() {
        if is_content {
            let start = CONTENTS[index].to_owned();
            read_stretch(store, &mut items, &mut at, cursor, start.clone(), false).await?;
            read_stretch(store, &mut items, &mut at, start, stretch_end.clone(), true).await?;
        } else {
            read_stretch(store, &mut items, &mut at, cursor, stretch_end.clone(), false).await?;
        }
        cursor = stretch_end;
    }
    Ok((items, at.unwrap_or_default()))
}

async fn read_stretch(
    store: &dyn Store,
    items: &mut Vec<KeyValue>,
    at: &mut Option<Revision>,
    mut start: String,
    end: String,
    keys_only: bool,
) -> Result<(), StoreError> {
    loop {
        let request = RangeRequest { start, end: Some(end.clone()), limit: PAGE, revision: *at, keys_only };
        let reply = store.range(request).await?;
        at.get_or_insert(reply.revision);
        let last = reply.items.last().map(|kv| kv.key.clone());
        // What a foreign system keeps under the root is not ours to hold.
        items.extend(reply.items.into_iter().filter(|kv| Key::parse(&kv.key) != Key::Other));
        match last {
            Some(last) if reply.more => start = last + "\0",
            _ => return Ok(()),
        }
    }
}

async fn watch(store: &dyn Store, writer: &mut Writer, backoff: &mut Backoff) -> Result<(), StoreError> {
    let mut stream = store.watch(ROOT, writer.revision() + 1).await?;
    while let Some(item) = stream.next().await {
        match item? {
            WatchItem::Events(events) => {
                let (counts, begun) = (Applied::of(&events), Instant::now());
                writer.apply(events);
                writer.report(|metrics| metrics.applied(counts, begun.elapsed()));
            }
            WatchItem::Progress(rev) => writer.progress(rev),
        }
        backoff.reset();
    }
    Err(StoreError::Unavailable("the watch ended".into()))
}
