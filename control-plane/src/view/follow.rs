//! Keeps the view at the store's heels: list, watch, resume, list again after compaction.
//!
//! ```text
//! Listing ──ok──▶ Watching(after rev) ──broken──▶ Watching(after the last revision seen)
//!    ▲                    │                          │
//!    └────compacted───────┴────another history───────┘
//! ```
//!
//! Only compaction leads back to a list, and a store that was restored from a backup: what it has at the last
//! revision seen is not what was seen then. A restore breaks every connection, so this is looked at whenever a
//! watch is opened again. The loop waits longer after each failure and says so once per step.

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
use crate::store::{KeyValue, KvEvent, LeaseId, RangeRequest, Store, StoreError, WatchItem, prefix_end};

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
    let mut witness = None;
    loop {
        let step = async {
            if listed && !is_same_history(&*store, writer.revision(), witness.as_ref()).await? {
                warn!(seen = writer.revision(), "the store was restored from a backup; listing again");
                listed = false;
            }
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
                let newest = items.iter().max_by_key(|kv| kv.mod_rev);
                witness = newest.map(|kv| Witness::Written(kv.key.clone(), Writing::of(kv)));
                writer.reset(items, at);
                listed = true;
            }
            watch(&*store, &mut writer, &mut witness, &mut backoff).await
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

/// The last change that was seen: a store that does not have it has another history.
enum Witness {
    /// A key, and how it was written.
    Written(String, Writing),
    /// A key that was deleted by this revision.
    Deleted(String, Revision),
}

/// How a key was written. Leases are random, so two histories do not agree on these by chance.
#[derive(PartialEq, Eq)]
struct Writing {
    create_rev: Revision,
    mod_rev: Revision,
    version: u64,
    lease: Option<LeaseId>,
}

impl Writing {
    fn of(kv: &KeyValue) -> Self {
        Self { create_rev: kv.create_rev, mod_rev: kv.mod_rev, version: kv.version, lease: kv.lease }
    }
}

impl Witness {
    fn of(event: &KvEvent) -> Self {
        match event {
            KvEvent::Put(kv) => Self::Written(kv.key.clone(), Writing::of(kv)),
            KvEvent::Delete { key, rev } => Self::Deleted(key.clone(), *rev),
        }
    }
}

/// Whether the store goes on from what was seen up to `seen`. A revision lower than that is proof that it does
/// not: reads are linearizable and revisions only grow. When it has passed `seen` since, the witness tells;
/// one that was compacted away does not matter, as that leads to a list of its own accord, or nothing else is
/// known.
async fn is_same_history(
    store: &dyn Store,
    seen: Revision,
    witness: Option<&Witness>,
) -> Result<bool, StoreError> {
    let first = RangeRequest { limit: 1, keys_only: true, ..RangeRequest::prefix(ROOT) };
    if store.range(first).await?.revision < seen {
        return Ok(false);
    }
    let at = |key: &str, revision| {
        let request = RangeRequest { revision: Some(revision), ..RangeRequest::key(key) };
        async move {
            match store.range(request).await {
                Ok(reply) => Ok(Some(reply.items.first().map(Writing::of))),
                Err(StoreError::Compacted(_)) => Ok(None),
                Err(error) => Err(error),
            }
        }
    };
    Ok(match witness {
        None => true,
        Some(Witness::Written(key, writing)) => {
            at(key, writing.mod_rev).await?.is_none_or(|there| there.as_ref() == Some(writing))
        }
        Some(Witness::Deleted(key, rev)) => {
            at(key, *rev).await?.is_none_or(|there| there.is_none())
                && at(key, (*rev - 1).max(1)).await?.is_none_or(|before| before.is_some())
        }
    })
}

async fn watch(
    store: &dyn Store,
    writer: &mut Writer,
    witness: &mut Option<Witness>,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    let mut stream = store.watch(ROOT, writer.revision() + 1).await?;
    while let Some(item) = stream.next().await {
        match item? {
            WatchItem::Events(events) => {
                *witness = events.last().map(Witness::of).or(witness.take());
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
