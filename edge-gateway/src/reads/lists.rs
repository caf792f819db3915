//! Lists of services as control planes have answered them, for clients that ask again.
//!
//! In: the answer of a control plane, with its tag. Out: the same answer for all requests of about the
//! same time, after a control plane has confirmed that the tag is still right. One question serves all
//! requests that arrived before it was asked, as with the [barrier](super::barrier), so each gets an answer
//! that a control plane has given after the request.
//!
//! A request whose turn it is asks by itself, so there is no task that could fail: when its client leaves, the
//! next request asks. Nobody waits for long behind a question that has no answer, and no second time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use answer::gzip;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body::Body;
use lru::LruCache;
use parking_lot::Mutex;
use shared::model::Tenant;
use tokio::sync::{Mutex as Turns, MutexGuard, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::question::{CONSUMER, consumer, registry_path};

/// The longest time that a request waits for the question of another. A question takes about a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);
/// The bytes of a list beside its body, about.
const OVERHEAD: usize = 512;
/// The time after which a list that could not be kept is tried again.
const APART: Duration = Duration::from_secs(60);
/// The logarithm of the bytes that are counted as one while a body is being read.
const KIB: u32 = 10;

/// The list of a tenant's services, in the form for clients that take gzip or in the other one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListKey {
    pub(crate) tenant: Tenant,
    pub(crate) gzip: bool,
}

impl ListKey {
    /// The list that a request of this tenant asks for. `None` if it asks for something else, or has parts that only
    /// a control plane judges.
    pub(crate) fn read<B: Body>(request: &Request<B>, tenant: &Tenant) -> Option<Self> {
        let (uri, headers) = (request.uri(), request.headers());
        let is_list = request.method() == Method::GET
            && uri.query().is_none()
            && registry_path(uri.path()) == Some("microservices");
        let is_plain = request.body().is_end_stream()
            && (!headers.contains_key(CONSUMER) || consumer(headers).is_some());
        (is_list && is_plain).then(|| Self { tenant: tenant.clone(), gzip: gzip::is_accepted(headers) })
    }
}

/// The answer of a control plane.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) tag: HeaderValue,
    pub(crate) body: Bytes,
    /// The body is compressed.
    pub(crate) gzip: bool,
    /// A control plane gave this answer, or confirmed it, then.
    pub(crate) confirmed: Instant,
    /// Its store did not confirm it.
    pub(crate) is_stale: bool,
}

/// A list, and the requests that wait for it.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// The content as it was last confirmed; `None` before the first answer.
    last: ArcSwapOption<Content>,
    /// Questions that have begun. Each has the number that it made here.
    begun: AtomicU64,
    /// Questions that brought no answer for others.
    failed: AtomicU64,
    /// The last question that brought one. A request may ask while it holds the lock.
    answered: Turns<Answered>,
    /// The time until which each request asks for itself, because the list cannot be kept.
    apart_until: Mutex<Option<Instant>>,
}

/// The last question that was answered for all, and its answer.
#[derive(Debug, Default)]
struct Answered {
    number: u64,
    content: Option<Arc<Content>>,
}

/// The turn of a request.
pub(crate) enum Turn<'a> {
    /// Another request's question has brought the answer.
    Answered(Arc<Content>),
    /// This request asks.
    Ask(Question<'a>),
    /// This request asks for itself alone: the question of another one has failed or takes long, or the list
    /// cannot be kept.
    Alone,
}

/// A question that others wait for. Dropped, it leaves the turn to the next one.
pub(crate) struct Question<'a> {
    list: &'a List,
    number: u64,
    answered: MutexGuard<'a, Answered>,
}

impl Question<'_> {
    /// A control plane has answered with this content.
    pub(crate) fn answered(mut self, content: Arc<Content>) {
        // The only writer: it holds the turn.
        self.list.last.store(Some(content.clone()));
        *self.answered = Answered { number: self.number, content: Some(content) };
    }

    /// There is no answer that others could have.
    pub(crate) fn failed(self) {
        self.list.failed.fetch_add(1, Ordering::SeqCst);
    }

    /// A control plane has answered with another list, which others cannot have. So the one that is kept is over, and
    /// what it shows may have been told as gone.
    pub(crate) fn superseded(self) {
        self.list.last.store(None);
        self.failed();
    }

    /// The answer cannot be kept, and the next one could not be either.
    pub(crate) fn unkeepable(self) {
        *self.list.apart_until.lock() = Some(Instant::now() + APART);
        self.superseded();
    }
}

impl List {
    /// The content as it was last confirmed.
    pub(crate) fn last(&self) -> Option<Arc<Content>> {
        self.last.load_full()
    }

    fn bytes(&self) -> usize {
        OVERHEAD + self.last.load().as_ref().map_or(0, |content| content.body.len())
    }

    /// True while each request asks for itself.
    fn is_apart(&self) -> bool {
        self.apart_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Waits for the turn of a request that has just arrived. Cancel-safe.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        if self.is_apart() {
            return Turn::Alone;
        }
        let begun = self.begun.load(Ordering::SeqCst);
        let failed = self.failed.load(Ordering::SeqCst);
        let Ok(answered) = timeout(PATIENCE, self.answered.lock()).await else { return Turn::Alone };
        // A question that had begun before may have been answered from before.
        if answered.number > begun
            && let Some(content) = &answered.content
        {
            return Turn::Answered(content.clone());
        }
        if self.failed.load(Ordering::SeqCst) > failed {
            return Turn::Alone;
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        Turn::Ask(Question { list: self, number, answered })
    }
}

/// The lists of all tenants: at most so many bytes are kept, and as many are being read.
#[derive(Debug)]
pub(crate) struct Lists {
    kept: Mutex<Kept>,
    /// Bytes of all lists; 0 is no limit.
    most: usize,
    idle: Duration,
    /// For each KiB of a body that is being read.
    reading: Semaphore,
}

#[derive(Debug)]
struct Kept {
    lists: LruCache<ListKey, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    list: Arc<List>,
    bytes: usize,
    used: Instant,
}

impl Lists {
    /// Keeps at most `most` bytes (0 is no limit). A list that nobody has asked for in `idle` goes when somebody asks
    /// for another one.
    pub(crate) fn new(most: usize, idle: Duration) -> Self {
        let reading = if most == 0 { Semaphore::MAX_PERMITS } else { most >> KIB };
        let kept = Mutex::new(Kept { lists: LruCache::unbounded(), bytes: 0 });
        Self { kept, most, idle, reading: Semaphore::new(reading.min(Semaphore::MAX_PERMITS)) }
    }

    /// True if a body of this length can be kept.
    pub(crate) fn can_keep(&self, body: u64) -> bool {
        self.most == 0 || body <= self.most.saturating_sub(OVERHEAD) as u64
    }

    /// Room for reading a body of this length. `None` if there is none now.
    pub(crate) fn room_for(&self, body: u64) -> Option<SemaphorePermit<'_>> {
        let permits = u32::try_from((body >> KIB) + 1).ok()?;
        self.reading.try_acquire_many(permits).ok()
    }

    /// The list for a request at `now`, which may be one without content.
    pub(crate) fn find(&self, key: &ListKey, now: Instant) -> Arc<List> {
        let mut kept = self.kept.lock();
        if let Some(entry) = kept.lists.get_mut(key) {
            entry.used = now;
            let list = entry.list.clone();
            kept.drop_idle(now, self.idle);
            return list;
        }
        let list = Arc::new(List::default());
        let bytes = list.bytes();
        kept.bytes += bytes;
        kept.lists.push(key.clone(), Entry { list: list.clone(), bytes, used: now });
        kept.drop_idle(now, self.idle);
        kept.make_room(self.most);
        list
    }

    /// A question about this list has ended. Its content is kept, and others make room. Without content it is not
    /// kept, unless that is what has to be remembered about it.
    pub(crate) fn settle(&self, key: &ListKey, list: &Arc<List>) {
        let mut kept = self.kept.lock();
        // It may have made room for others, and may have been asked for anew since.
        let Some(entry) = kept.lists.peek_mut(key).filter(|entry| Arc::ptr_eq(&entry.list, list)) else {
            return;
        };
        let (before, bytes) = (entry.bytes, list.bytes());
        entry.bytes = bytes;
        kept.bytes = kept.bytes + bytes - before;
        if list.last.load().is_none()
            && !list.is_apart()
            && let Some(entry) = kept.lists.pop(key)
        {
            kept.bytes -= entry.bytes;
        }
        kept.make_room(self.most);
    }

    /// Bytes of all lists that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }
}

impl Kept {
    fn drop_idle(&mut self, now: Instant, idle: Duration) {
        let is_idle = |entry: &Entry| now.saturating_duration_since(entry.used) > idle;
        while self.lists.peek_lru().is_some_and(|(_, entry)| is_idle(entry)) {
            self.drop_oldest();
        }
    }

    fn make_room(&mut self, most: usize) {
        while most > 0 && self.bytes > most {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, entry)) = self.lists.pop_lru() {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests;
