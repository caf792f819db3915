//! The revisions of the writes that this gateway has passed on, by tenant. Reads of the tenant require them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};

use shared::model::{Revision, Tenant};

/// Tenants with the same remainder share a place. They then wait for each other's writes, which costs a few
/// milliseconds on a replica that is behind; a map of tenants would grow with every name that a client makes
/// up.
const PLACES: usize = 256;

/// The highest revision of an answered write for each tenant.
#[derive(Debug)]
pub(super) struct Written([AtomicU64; PLACES]);

impl Default for Written {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Written {
    /// A write of the tenant was answered at this revision.
    // Relaxed, here and below: the answer itself orders the write before the client's next read.
    pub(super) fn note(&self, tenant: &Tenant, rev: Revision) {
        self.place(tenant).fetch_max(rev.get(), Ordering::Relaxed);
    }

    /// The revision that contains every write of the tenant that was answered here.
    pub(super) fn of(&self, tenant: &Tenant) -> Revision {
        Revision::new(self.place(tenant).load(Ordering::Relaxed))
    }

    /// The store was restored from a backup, and no revision from before counts.
    pub(super) fn forget(&self) {
        self.0.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }

    fn place(&self, tenant: &Tenant) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        (&tenant.domain, &tenant.project).hash(&mut hasher);
        // The remainder is smaller than the number of places.
        &self.0[(hasher.finish() % PLACES as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_of_each_tenant_counts_until_a_restore() {
        let written = Written::default();
        let [a, b] = [Tenant::new("a", "p"), Tenant::new("b", "p")];
        written.note(&a, Revision::new(7));
        written.note(&a, Revision::new(5));
        assert_eq!([written.of(&a), written.of(&b)], [7, 0].map(Revision::new));
        written.forget();
        assert_eq!(written.of(&a), Revision::ZERO);
    }
}
