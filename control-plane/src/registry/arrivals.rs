//! Arrivals: the instances that this replica is registering at the moment, counted by service.
//!
//! Each registration writes the usual size of its service from a view that does not show those beside it yet.
//! The last one to arrive sees all of them, and corrects the size if it came out too low.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::model::ServiceRef;

/// The registrations under way. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<HashMap<ServiceRef, Arriving>>>);

#[derive(Debug, Default)]
struct Arriving {
    under_way: usize,
    /// Several have been under way at a time.
    together: bool,
}

/// A registration under way, until it ends or is dropped.
#[derive(Debug)]
pub(super) struct Arrival {
    arrivals: Arrivals,
    service: ServiceRef,
    ended: bool,
}

impl Arrivals {
    /// Counts a registration.
    pub(super) fn begin(&self, service: &ServiceRef) -> Arrival {
        let mut all = self.0.lock();
        let arriving = all.entry(service.clone()).or_default();
        arriving.under_way += 1;
        arriving.together |= arriving.under_way > 1;
        Arrival { arrivals: self.clone(), service: service.clone(), ended: false }
    }

    /// True if the registration was the last one of several that were under way together.
    fn end(&self, service: &ServiceRef) -> bool {
        let mut all = self.0.lock();
        let Some(arriving) = all.get_mut(service) else { return false };
        arriving.under_way -= 1;
        if arriving.under_way > 0 {
            return false;
        }
        let together = arriving.together;
        // Services are named by clients, so an entry that counts nothing must not stay.
        all.remove(service);
        together
    }
}

impl Arrival {
    /// Ends a registration that the view shows. True for the last one of several that were under way
    /// together.
    pub(super) fn end(mut self) -> bool {
        self.ended = true;
        self.arrivals.end(&self.service)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.ended {
            self.arrivals.end(&self.service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::Tenant;

    #[test]
    fn only_the_last_of_several_arrivals_is_told_so() {
        let arrivals = Arrivals::default();
        let service = ServiceRef::new(Tenant::default(), "s");
        assert!(!arrivals.begin(&service).end(), "nobody was beside it");
        let first = arrivals.begin(&service);
        let second = arrivals.begin(&service);
        assert!(!second.end(), "the first is under way");
        let third = arrivals.begin(&service);
        drop(first);
        assert!(third.end());
        assert!(arrivals.0.lock().is_empty(), "no entry stays behind");
    }
}
