//! When leases end. In memory only: a renewal writes nothing, and after a restart each lease has its full time.
//!
//! In: grants and ends from the writer, renewals from anyone. Out: which leases are due. A lease that was
//! taken as due cannot be renewed any more, so that nobody is told "renewed" about keys that are going away.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::{LeaseId, StoreError};

/// The longest time a lease is given, about 100 years: the clock's arithmetic has an end.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The deadlines of all leases. The lock is held for one map operation at a time.
#[derive(Debug, Default)]
pub(super) struct Deadlines(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    leases: HashMap<LeaseId, (Duration, Instant)>,
    /// At least one entry per lease, none later than the lease's deadline.
    order: BinaryHeap<Reverse<(Instant, LeaseId)>>,
}

impl Deadlines {
    /// Starts a lease with its full time.
    pub(super) fn start(&self, lease: LeaseId, ttl: i64) {
        let ttl = Duration::from_secs(ttl.max(1).unsigned_abs()).min(LONGEST);
        self.start_with(lease, ttl, Instant::now() + ttl);
    }

    /// Takes a due lease back, because its end could not be written: it is due again in a second.
    pub(super) fn retry(&self, lease: LeaseId, ttl: i64) {
        let ttl = Duration::from_secs(ttl.max(1).unsigned_abs()).min(LONGEST);
        self.start_with(lease, ttl, Instant::now() + Duration::from_secs(1));
    }

    fn start_with(&self, lease: LeaseId, ttl: Duration, at: Instant) {
        let mut inner = self.0.lock();
        inner.leases.insert(lease, (ttl, at));
        inner.order.push(Reverse((at, lease)));
    }

    /// Renews a lease to its full time.
    pub(super) fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let now = Instant::now();
        match self.0.lock().leases.get_mut(&lease) {
            Some((ttl, at)) if *at > now => {
                *at = now + *ttl;
                Ok(())
            }
            Some(_) | None => Err(StoreError::LeaseNotFound),
        }
    }

    /// The lease has a deadline.
    pub(super) fn knows(&self, lease: LeaseId) -> bool {
        self.0.lock().leases.contains_key(&lease)
    }

    /// Forgets a lease that was revoked.
    pub(super) fn end(&self, lease: LeaseId) {
        self.0.lock().leases.remove(&lease);
    }

    /// The time at which to look for due leases again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.lock().order.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes at most `most` leases whose time is over.
    pub(super) fn take_due(&self, most: usize) -> Vec<LeaseId> {
        let now = Instant::now();
        let mut inner = self.0.lock();
        let mut due = Vec::new();
        while due.len() < most
            && let Some(Reverse((at, lease))) = inner.order.peek().copied()
            && at <= now
        {
            inner.order.pop();
            match inner.leases.get(&lease) {
                Some((_, at)) if *at > now => {
                    let later = Reverse((*at, lease));
                    inner.order.push(later);
                }
                Some(_) => {
                    inner.leases.remove(&lease);
                    due.push(lease);
                }
                None => {}
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_is_due_only_after_its_full_time_again() {
        let deadlines = Deadlines::default();
        deadlines.start(1, 10);
        deadlines.start(2, 10);
        tokio::time::advance(Duration::from_secs(9)).await;
        deadlines.renew(1).expect("alive");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(deadlines.renew(2).is_err(), "its time is over, taken or not");
        assert_eq!(deadlines.take_due(10), [2]);
        assert!(deadlines.renew(1).is_ok());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(deadlines.take_due(10), [1]);
        assert_eq!(deadlines.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn absurd_times_are_taken_as_very_long() {
        let deadlines = Deadlines::default();
        deadlines.start(1, i64::MAX);
        deadlines.start(2, i64::MIN);
        tokio::time::advance(Duration::from_secs(3600)).await;
        deadlines.renew(1).expect("alive");
    }
}
