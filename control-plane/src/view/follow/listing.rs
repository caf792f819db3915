//! Reads the whole store into a view, page by page at one revision.
//!
//! The next page is on its way while one is taken in. So two pages are in memory, beside the view that grows.

use std::collections::VecDeque;

use shared::model::Revision;

use super::Writing;
use crate::keys::{Key, ROOT};
use crate::store::{KeyValue, RangeReply, RangeRequest, Store, StoreError, prefix_end};
use crate::view::{ListedView, ViewWriter};

/// The most keys of a page. To fill a page, etcd counts all keys from there to the end of the range: small
/// pages of a large registry would cost it the square of their number.
pub(super) const MOST_KEYS: usize = 32 << 10;
/// The keys of the first page. Each further one has at most twice as many as the one before.
pub(super) const FIRST_KEYS: usize = 512;
/// The bytes that a page is to have, if its keys are as large as those of the page before.
const PAGE_BYTES: usize = 16 << 20;
/// The bytes of a key beside its text and value.
const KEY_OVERHEAD: usize = 48;
/// The keys that are taken in before other work of the process has its turn.
const TURN: usize = 256;

/// The prefixes of which the view needs less than keys and values, in the order of keys.
const SPARED: &[(&str, Need)] = &[
    // The lease of an instance also stands beside its record. Its text is for Service-Center nodes.
    ("/cse-sr/inst/leases/", Need::Nothing),
    ("/cse-sr/ms/schema-content/", Need::Keys),
    ("/cse-sr/ms/schemas/", Need::Keys),
];

/// The part of these keys that the view needs.
#[derive(PartialEq, Eq)]
enum Need {
    Keys,
    Nothing,
}

/// A list that was read to its end.
pub(super) struct Listed {
    pub(super) view: ListedView,
    /// The number of keys that were read.
    pub(super) keys: usize,
    /// The newest key, which is the best witness: an older one is more likely to be part of both histories.
    pub(super) newest: Option<(String, Writing)>,
}

/// Reads every key under the root at revision `at`, in pages of at most `most` keys.
///
/// # Errors
/// That of the page which could not be read. It is [`StoreError::Compacted`] if the store has dropped the
/// revision meanwhile.
pub(super) async fn read(
    store: &dyn Store,
    writer: &ViewWriter,
    at: Revision,
    most: usize,
) -> Result<Listed, StoreError> {
    let mut pages = Pages::of_root(at, most);
    let mut listed = Listed { view: writer.list_at(at), keys: 0, newest: None };
    let mut items = Vec::new();
    while let Some(request) = pages.next() {
        // The store works on this page while the one before is taken in.
        let (page, ()) = tokio::join!(store.range(request), listed.take_in(items));
        let page = page?;
        pages.advance(&page)?;
        items = page.items;
    }
    listed.take_in(items).await;
    Ok(listed)
}

/// The newest revision of the store.
pub(super) async fn newest_revision(store: &dyn Store) -> Result<Revision, StoreError> {
    // Any read reports it, so the cheapest one does.
    let first = RangeRequest { limit: 1, keys_only: true, ..RangeRequest::prefix(ROOT) };
    Ok(store.range(first).await?.revision)
}

impl Listed {
    async fn take_in(&mut self, items: Vec<KeyValue>) {
        self.keys += items.len();
        self.note_newest(&items);
        for (n, kv) in items.into_iter().enumerate() {
            if n % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            self.view.add(kv);
        }
    }

    fn note_newest(&mut self, items: &[KeyValue]) {
        let rank = |writing: &Writing| (writing.mod_rev, writing.weight());
        let seen = self.newest.as_ref().map_or((Revision::ZERO, 0), |(_, writing)| rank(writing));
        let newer = items.iter().map(|kv| (kv, Writing::of(kv))).filter(|(_, writing)| rank(writing) > seen);
        // Foreign systems may keep keys under the root. Their histories do not concern the view.
        let ours = newer.filter(|(kv, _)| Key::parse(&kv.key) != Key::Other);
        if let Some((newest, writing)) = ours.max_by_key(|(_, writing)| rank(writing)) {
            self.newest = Some((newest.key.clone(), writing));
        }
    }
}

/// The pages of the root that are left.
pub(super) struct Pages {
    /// The stretches that are left, the present one first.
    stretches: VecDeque<Stretch>,
    /// The revision of the list.
    at: Revision,
    /// The newest revision that the store has told.
    newest: Revision,
    /// The keys to ask for next.
    keys: usize,
    /// The most keys to ask for.
    most: usize,
}

/// The keys in [`start`, `end`).
struct Stretch {
    start: String,
    end: String,
    keys_only: bool,
}

impl Pages {
    pub(super) fn of_root(at: Revision, most: usize) -> Self {
        let mut stretches = VecDeque::new();
        let mut start = ROOT.to_owned();
        for (prefix, need) in SPARED {
            let end = prefix_end(prefix);
            stretches.push_back(Stretch { start, end: (*prefix).to_owned(), keys_only: false });
            if *need == Need::Keys {
                let start = (*prefix).to_owned();
                stretches.push_back(Stretch { start, end: end.clone(), keys_only: true });
            }
            start = end;
        }
        stretches.push_back(Stretch { start, end: prefix_end(ROOT), keys_only: false });
        Self { stretches, at, newest: at, keys: FIRST_KEYS.min(most), most }
    }

    /// The request for the next page; `None` after the last one.
    pub(super) fn next(&self) -> Option<RangeRequest> {
        let stretch = self.stretches.front()?;
        Some(RangeRequest {
            start: stretch.start.clone(),
            end: Some(stretch.end.clone()),
            limit: self.keys,
            revision: Some(self.at),
            keys_only: stretch.keys_only,
        })
    }

    /// Goes on to the page after `page`.
    pub(super) fn advance(&mut self, page: &RangeReply) -> Result<(), StoreError> {
        // Reads are linearizable and revisions only grow, as long as the store is the same.
        if page.revision < self.newest {
            return Err(StoreError::Unavailable("the store went back to an earlier state".into()));
        }
        self.newest = page.revision;
        let bytes: usize = page.items.iter().map(|kv| kv.key.len() + kv.value.len() + KEY_OVERHEAD).sum();
        if let Some(mean) = bytes.checked_div(page.items.len()) {
            self.keys = (PAGE_BYTES / mean).clamp(1, self.keys.saturating_mul(2)).min(self.most);
        }
        match (page.items.last(), self.stretches.front_mut()) {
            // The first key after the last one of the page.
            (Some(last), Some(stretch)) if page.more => stretch.start = format!("{}\0", last.key),
            _ => drop(self.stretches.pop_front()),
        }
        Ok(())
    }
}
