//! Consumers and tenants that are followed, for as long as somebody asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use answer::Resolution;
use follow::read::ReadView;
use parking_lot::RwLock;
use shared::model::{Revision, Tenant};

/// Resolutions of one consumer. A consumer with more finds has the further ones answered by a control plane.
pub(super) const MOST_RESOLUTIONS: usize = 512;

/// A consumer that is followed for its finds: their resolutions, and when it last asked.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Seconds since the process began reading.
    used: AtomicU64,
    pub(super) resolutions: RwLock<HashMap<Box<str>, Arc<Resolution>>>,
    bytes: AtomicUsize,
}

impl Lease {
    /// The resolution of a find.
    pub(crate) fn resolution(&self, key: &str) -> Option<Arc<Resolution>> {
        self.resolutions.read().get(key).cloned()
    }

    /// Keeps what a control plane has resolved, unless something later is known.
    pub(crate) fn keep(&self, key: Box<str>, resolution: Resolution) {
        let mut resolutions = self.resolutions.write();
        let bytes = size_of(&key, &resolution);
        match resolutions.get(&key) {
            Some(known) if known.rev > resolution.rev => return,
            Some(known) => _ = self.bytes.fetch_sub(size_of(&key, known), Ordering::Relaxed),
            None if resolutions.len() >= MOST_RESOLUTIONS => return,
            None => {}
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        resolutions.insert(key, Arc::new(resolution));
    }

    /// The consumer asks at this second.
    pub(crate) fn touch(&self, second: u64) {
        // Relaxed, and only when it changes: all requests of a consumer share this line of memory.
        if self.used.load(Ordering::Relaxed) != second {
            self.used.store(second, Ordering::Relaxed);
        }
    }

    /// The second at which the consumer last asked.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The bytes of the resolutions, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A tenant that is followed as a whole, and its readers.
#[derive(Debug, Default)]
pub(crate) struct TenantLease {
    /// Seconds since the process began reading.
    used: AtomicU64,
    readers: AtomicUsize,
    /// All of its services have been known at some moment.
    complete: AtomicBool,
    /// The states that the last process left contain everything up to here.
    pub(super) left: Revision,
}

impl TenantLease {
    /// The lease of a tenant as the last process has left it, which contains everything up to a revision.
    pub(crate) fn left(contained: Revision) -> Self {
        Self { left: contained, ..Self::default() }
    }

    /// True once all services of the tenant have been known; `view` is the latest. One that is registered
    /// later may still be missing for the moment in which its instances are requested.
    pub(crate) fn is_complete(&self, tenant: &Tenant, view: &ReadView) -> bool {
        // A look at every service costs too much for each request.
        if !self.complete.load(Ordering::Relaxed) && view.is_whole(tenant) {
            self.complete.store(true, Ordering::Relaxed);
        }
        self.complete.load(Ordering::Relaxed)
    }

    /// One more reader, until [`TenantLease::leave`].
    pub(crate) fn enter(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// One reader less; it has read until this second.
    pub(crate) fn leave(&self, second: u64) {
        self.used.fetch_max(second, Ordering::Relaxed);
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// The second at which somebody last read. `None` while somebody does.
    pub(crate) fn unused_since(&self) -> Option<u64> {
        (self.readers.load(Ordering::Relaxed) == 0).then(|| self.used.load(Ordering::Relaxed))
    }
}

fn size_of(key: &str, resolution: &Resolution) -> usize {
    200 + key.len() + resolution.services.len() * 200
}

#[cfg(test)]
mod tests {
    use shared::model::ServiceRef;

    use super::*;

    fn resolution(rev: u64, services: usize) -> Resolution {
        let services = (0..services).map(|n| ServiceRef::new(Tenant::default(), n.to_string())).collect();
        Resolution { rev: Revision::new(rev), services }
    }

    #[test]
    fn a_find_that_finds_more_than_before_counts_with_all_of_it() {
        let [grown, once] = [Lease::default(), Lease::default()];
        for (rev, services) in [(1, 0), (3, 100), (2, 1), (4, 40)] {
            grown.keep("find p".into(), resolution(rev, services));
        }
        once.keep("find p".into(), resolution(4, 40));
        assert_eq!(grown.bytes(), once.bytes());
        assert_eq!(grown.resolution("find p").map(|kept| kept.services.len()), Some(40));
    }
}
