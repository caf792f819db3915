//! The revisions of the writes that this gateway has passed on, and of the reads that it has passed back, by tenant.
//! Reads of the tenant require them.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};

use shared::model::{Incarnation, Revision, ServiceRef, Tenant};

/// Tenants with the same remainder share a place. They then wait for each other's writes, which costs a few
/// milliseconds on a replica that is behind; a map of tenants would grow with every name that a client makes
/// up.
const PLACES: usize = 256;
/// The same for services.
const SERVICE_PLACES: usize = 1024;

/// The highest revision of an answered write and of an answered read for each tenant.
#[derive(Debug, Default)]
pub(super) struct Written {
    all: Places<PLACES>,
    /// Writes that are not only about instances of one service.
    records: Places<PLACES>,
    /// Writes of instances, by service.
    instances: Places<SERVICE_PLACES>,
    /// What reads have shown.
    shown: Places<PLACES>,
    /// The number of the store's incarnation that counts all these revisions.
    incarnation: AtomicU64,
}

#[derive(Debug)]
struct Places<const COUNT: usize>([AtomicU64; COUNT]);

impl<const COUNT: usize> Default for Places<COUNT> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const COUNT: usize> Places<COUNT> {
    // Relaxed, here and below: the answer itself orders the write before the client's next read.
    fn note(&self, key: &impl Hash, rev: Revision) {
        self.place(key).fetch_max(rev.get(), Ordering::Relaxed);
    }

    fn of(&self, key: &impl Hash) -> Revision {
        Revision::new(self.place(key).load(Ordering::Relaxed))
    }

    fn forget(&self) {
        self.0.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }

    fn place(&self, key: &impl Hash) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        // The remainder is smaller than the number of places.
        &self.0[(hasher.finish() % COUNT as u64) as usize]
    }
}

impl Written {
    /// A write of the tenant was answered at this revision. `instances_of` names the one service whose
    /// instances it is about.
    pub(super) fn note(&self, tenant: &Tenant, instances_of: Option<&ServiceRef>, rev: Revision) {
        self.all.note(tenant, rev);
        match instances_of {
            Some(service) => self.instances.note(service, rev),
            None => self.records.note(tenant, rev),
        }
    }

    /// An answer is of this incarnation of the store. Revisions of another one do not count any more.
    pub(super) fn belong_to(&self, incarnation: Incarnation) {
        // The load comes first, because an answer hardly ever is of another one.
        if self.incarnation.load(Ordering::Relaxed) != incarnation.get()
            && self.incarnation.swap(incarnation.get(), Ordering::Relaxed) != incarnation.get()
        {
            self.forget();
        }
    }

    /// A read of the tenant was answered with nothing that is later than this revision.
    pub(super) fn note_shown(&self, tenant: &Tenant, rev: Revision) {
        self.shown.note(tenant, rev);
    }

    /// The revision that contains everything that a read of the tenant has shown.
    pub(super) fn shown_to(&self, tenant: &Tenant) -> Revision {
        self.shown.of(tenant)
    }

    /// The revision that contains every write of the tenant that was answered here.
    pub(super) fn of(&self, tenant: &Tenant) -> Revision {
        self.all.of(tenant)
    }

    /// The revision that contains every such write that is not only about instances of one service.
    pub(super) fn records_of(&self, tenant: &Tenant) -> Revision {
        self.records.of(tenant)
    }

    /// The revision that contains every such write about instances of this service.
    pub(super) fn instances_of(&self, service: &ServiceRef) -> Revision {
        self.instances.of(service)
    }

    /// The store was restored from a backup, and no revision from before counts.
    pub(super) fn forget(&self) {
        self.all.forget();
        self.records.forget();
        self.instances.forget();
        self.shown.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_of_each_tenant_counts_until_a_restore() {
        let written = Written::default();
        let [a, b] = [Tenant::new("a", "p"), Tenant::new("b", "p")];
        written.note(&a, None, Revision::new(7));
        written.note(&a, None, Revision::new(5));
        assert_eq!([written.of(&a), written.of(&b)], [7, 0].map(Revision::new));
        let [s, t] = ["s", "t"].map(|id| ServiceRef::new(a.clone(), id));
        written.note(&a, Some(&s), Revision::new(9));
        assert_eq!([written.of(&a), written.records_of(&a)], [9, 7].map(Revision::new));
        assert_eq!([written.instances_of(&s), written.instances_of(&t)], [9, 0].map(Revision::new));
        written.note_shown(&a, Revision::new(12));
        written.note_shown(&a, Revision::new(11));
        assert_eq!([written.shown_to(&a), written.shown_to(&b)], [12, 0].map(Revision::new));
        assert_eq!(written.of(&a), Revision::new(9), "a read is no write");
        written.belong_to(Incarnation::FIRST);
        assert_eq!(written.shown_to(&a), Revision::new(12), "the store is the same");
        written.belong_to(Incarnation::new(7));
        assert_eq!([written.shown_to(&a), written.of(&a)], [Revision::ZERO; 2], "it was restored");
        written.note(&a, None, Revision::new(3));
        written.forget();
        let all = [written.of(&a), written.records_of(&a), written.instances_of(&s)];
        assert_eq!(all, [Revision::ZERO; 3]);
    }
}
