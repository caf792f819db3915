//! Cohorts: instances that register in the same moment and share a lease.
//!
//! In: registrations that need a lease, and the grant of one. Out: a lease that was granted a moment ago and
//! has room. One grant is under way at a time, and those who wait for it share its outcome.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::{LeaseId, StoreError};

/// The most registrations that are given one lease. Should it end, all of them end at one revision, which must
/// stay small enough for a watch.
pub(super) const MOST: usize = 256;
/// The time for which a lease is given to further registrations, so that it is nearly as fresh for the last
/// of them as for the first.
const OPEN: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Cohort {
    lease: LeaseId,
    members: usize,
    /// The time before its grant was requested: the store has counted from no earlier one.
    since: Instant,
}

/// The present cohort of this process. It is not kept over a restart: the next process begins another one.
#[derive(Debug, Default)]
pub(crate) struct Cohorts {
    present: Mutex<Option<Cohort>>,
    /// Held while a lease is granted, with the last failure and the time at which it came.
    granting: tokio::sync::Mutex<Option<(Instant, StoreError)>>,
}

impl Cohorts {
    /// The lease for one more registration. `grant` is called when there is none with room.
    ///
    /// # Errors
    /// Those of the grant, also for all who waited for it: one after the other they would each wait for a
    /// store that does not answer. A caller that leaves takes its grant along, and the next one tries.
    pub(super) async fn join<F>(&self, grant: impl FnOnce() -> F) -> Result<LeaseId, StoreError>
    where
        F: Future<Output = Result<LeaseId, StoreError>>,
    {
        if let Some(lease) = self.take() {
            return Ok(lease);
        }
        let asked = Instant::now();
        let mut failure = self.granting.lock().await;
        if let Some(lease) = self.take() {
            return Ok(lease);
        }
        if let Some((at, error)) = &*failure
            && *at > asked
        {
            return Err(error.clone());
        }
        let since = Instant::now();
        match grant().await {
            Ok(lease) => {
                *failure = None;
                *self.present.lock() = Some(Cohort { lease, members: 1, since });
                Ok(lease)
            }
            Err(error) => {
                *failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn take(&self) -> Option<LeaseId> {
        let mut present = self.present.lock();
        let cohort = present.as_mut()?;
        if cohort.members >= MOST || cohort.since.elapsed() >= OPEN {
            return None;
        }
        cohort.members += 1;
        Some(cohort.lease)
    }

    /// Gives a lease that has ended to nobody else.
    pub(super) fn forget(&self, lease: LeaseId) {
        let mut present = self.present.lock();
        if present.as_ref().is_some_and(|cohort| cohort.lease == lease) {
            *present = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn registrations_of_a_moment_share_a_lease_within_bounds() {
        let cohorts = Cohorts::default();
        let granted = Cell::new(0);
        let grant = || async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            granted.set(granted.get() + 1);
            Ok(LeaseId::shared(granted.get()))
        };
        let leases = join_all((0..MOST * 2 + 1).map(|_| cohorts.join(grant))).await;
        let mut counts = std::collections::BTreeMap::<LeaseId, usize>::new();
        leases.into_iter().for_each(|lease| *counts.entry(lease.expect("granted")).or_default() += 1);
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [MOST, MOST, 1]);
        tokio::time::advance(OPEN).await;
        assert_eq!(
            cohorts.join(grant).await.expect("granted"),
            LeaseId::shared(4),
            "the last one is too old"
        );
        cohorts.forget(LeaseId::shared(3));
        assert_eq!(
            cohorts.join(grant).await.expect("granted"),
            LeaseId::shared(4),
            "another one was forgotten"
        );
        cohorts.forget(LeaseId::shared(4));
        assert_eq!(cohorts.join(grant).await.expect("granted"), LeaseId::shared(5));
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_grant_share_its_failure() {
        let cohorts = Cohorts::default();
        let asked = Cell::new(0);
        let fails = || async {
            asked.set(asked.get() + 1);
            tokio::time::sleep(Duration::from_secs(5)).await;
            Err(StoreError::Busy)
        };
        let begun = Instant::now();
        let all = join_all((0..50).map(|_| cohorts.join(fails))).await;
        assert!(all.iter().all(|result| matches!(result, Err(StoreError::Busy))));
        assert_eq!((asked.get(), begun.elapsed()), (1, Duration::from_secs(5)));
        let lease = cohorts.join(|| async { Ok(LeaseId::shared(1)) }).await;
        assert_eq!(lease.expect("a later one is not refused for it"), LeaseId::shared(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_during_its_grant_holds_up_nobody() {
        let cohorts = Cohorts::default();
        let never = cohorts.join(std::future::pending);
        assert!(tokio::time::timeout(Duration::from_secs(1), never).await.is_err());
        let lease = cohorts.join(|| async { Ok(LeaseId::shared(1)) }).await;
        assert_eq!(lease.expect("granted"), LeaseId::shared(1));
    }
}
