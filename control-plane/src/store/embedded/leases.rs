//! The deadlines of leases. They are in memory only: a renewal writes nothing, and after a restart each lease
//! has its full time again.
//!
//! In: grants and ends from the writer, renewals from any caller. Out: the leases that are due. A lease that
//! was taken as due cannot be renewed any more, so no renewal succeeds for keys that are about to be deleted.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::{LeaseId, StoreError};

/// The longest time of a lease, about 100 years. Longer ones would overflow the clock's arithmetic.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The deadlines of all leases. The lock is held for one map operation at a time.
#[derive(Debug, Default)]
pub(super) struct Deadlines(Mutex<DeadlineMap>);

#[derive(Debug, Default)]
struct DeadlineMap {
    leases: HashMap<LeaseId, (Duration, Instant)>,
    /// At least one entry per lease, none later than the lease's deadline.
    order: BinaryHeap<Reverse<(Instant, LeaseId)>>,
}

impl Deadlines {
    /// Starts a lease of `ttl` seconds.
    pub(super) fn start(&self, lease: LeaseId, ttl: i64) {
        let ttl = Duration::from_secs(ttl.max(1).unsigned_abs()).min(LONGEST);
        self.start_with(lease, ttl, Instant::now() + ttl);
    }

    /// Takes a due lease back because its end could not be written. It is due again in a second.
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
            // The time alone decides, not the moment at which the writer looks for due leases.
            Some((ttl, at)) if *at > now => {
                *at = now + *ttl;
                Ok(())
            }
            Some(_) | None => Err(StoreError::LeaseNotFound),
        }
    }

    /// True if the lease has a deadline.
    pub(super) fn knows(&self, lease: LeaseId) -> bool {
        self.0.lock().leases.contains_key(&lease)
    }

    /// Removes a lease that has ended.
    pub(super) fn end(&self, lease: LeaseId) {
        // Its entry in the order stays. It is skipped when its time has come.
        self.0.lock().leases.remove(&lease);
    }

    /// The next time at which a lease may be due.
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
                // A renewal moves the deadline only; the entry follows here, when its old time has come.
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

    fn lease(number: i64) -> LeaseId {
        LeaseId::new(number).expect("not zero")
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_is_due_only_after_its_full_time_again() {
        let deadlines = Deadlines::default();
        deadlines.start(lease(1), 10);
        deadlines.start(lease(2), 10);
        tokio::time::advance(Duration::from_secs(9)).await;
        deadlines.renew(lease(1)).expect("alive");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(deadlines.renew(lease(2)).is_err(), "the time is over, even before the lease was taken");
        assert_eq!(deadlines.take_due(10), [lease(2)]);
        assert!(deadlines.renew(lease(1)).is_ok());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(deadlines.take_due(10), [lease(1)]);
        assert_eq!(deadlines.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn absurd_times_become_very_long_or_very_short() {
        let deadlines = Deadlines::default();
        deadlines.start(lease(1), i64::MAX);
        deadlines.start(lease(2), i64::MIN);
        tokio::time::advance(Duration::from_secs(3600)).await;
        deadlines.renew(lease(1)).expect("alive");
    }
}
