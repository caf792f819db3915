//! Leases of instances: as long as the instance's time, or long ones whose instances a replica ends. Long
//! ones may be shared by instances that register in the same moment.

use std::sync::Arc;
use std::time::Duration;

use host::fairness;
use host::lane::in_usual;
use liveness::{Desk, Key};
use shared::model::{Instance, Revision, ServiceRef};

use super::Registry;
use super::cohort::Cohorts;
use crate::keys;
use crate::store::{Compare, LeaseId, Op, RangeRequest, StoreError, Txn};

/// A long lease is at least this many times as long as the time of its instance. A quarter of it is left when
/// its renewal is due and the instance has sent no heartbeat for its whole time.
const LONG_TIMES: u32 = 4;
/// Attempts to note a heartbeat of an instance that is changed in the same moment.
const NOTE_TRIES: usize = 8;

/// The parts of the mode in which heartbeats are reported.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    /// The reporter of this process.
    pub(crate) desk: Arc<Desk>,
    /// The time of a long lease.
    pub(crate) long: Duration,
    /// The leases that instances share. `None` where each has one of its own.
    pub(crate) cohorts: Option<Arc<Cohorts>>,
}

impl Registry {
    /// Grants the lease of an instance, or tells the one that it may share.
    pub(super) async fn grant_for(&self, instance: &Instance) -> Result<LeaseId, StoreError> {
        let ttl = self.ttl(instance);
        fairness::rest();
        match &self.reported {
            Some(reported) if Duration::from_secs(ttl.unsigned_abs()) * LONG_TIMES <= reported.long => {
                let long = i64::try_from(reported.long.as_secs()).unwrap_or(i64::MAX);
                match &reported.cohorts {
                    Some(cohorts) => {
                        // Others wait for it.
                        let (cohorts, store) = (cohorts.clone(), self.store.clone());
                        in_usual(async move { cohorts.join(|| store.grant_shared(long)).await }).await
                    }
                    None => self.store.grant_long(long).await,
                }
            }
            _ => self.store.grant(ttl).await,
        }
    }

    /// Ends a lease on which no key of the instance lives any more. A shared one goes on for the others, and
    /// any that cannot be revoked ends by itself.
    pub(super) async fn give_up(&self, lease: LeaseId) {
        if !lease.is_shared() {
            let _ = self.store.revoke(lease).await;
        }
    }

    /// Gives no further instance a shared lease that has ended.
    pub(super) fn forget_cohort(&self, lease: LeaseId) {
        if let Some(cohorts) = self.reported.as_ref().and_then(|reported| reported.cohorts.as_ref()) {
            cohorts.forget(lease);
        }
    }

    /// A revision at which all of these instances lived on long leases, if reports keep those alive: then a
    /// gateway may answer their heartbeats, too.
    pub(crate) fn reported_at<'a>(
        &self,
        instances: impl IntoIterator<Item = (&'a ServiceRef, &'a str)>,
    ) -> Option<Revision> {
        self.reported.as_ref()?;
        let snapshot = self.view.now().ok()?;
        let is_long = |(service, id): (&ServiceRef, &str)| {
            let view = snapshot.any_service(service).and_then(|view| view.instance(id));
            view.is_some_and(|view| view.lease.is_some_and(LeaseId::is_long))
        };
        instances.into_iter().all(is_long).then_some(snapshot.revision)
    }

    /// Renews a lease, or has a report tell of the heartbeat.
    pub(super) async fn beat_on(
        &self,
        service: &ServiceRef,
        id: &str,
        lease: LeaseId,
    ) -> Result<(), StoreError> {
        if lease.is_long()
            && let Some(reported) = &self.reported
        {
            let is_reported = reported.desk.beat(Key::of(service, id));
            if let Some(metrics) = &self.metrics {
                metrics.reported(is_reported);
            }
            if is_reported {
                return Ok(());
            }
        }
        self.renew_in_store(service, id, lease).await
    }

    /// Tells the store of a heartbeat. [`StoreError::LeaseNotFound`] if the instance does not live on this
    /// lease.
    ///
    /// The renewal of a shared lease does not say which instance lives, so the instance's lease key is written
    /// again, and the publisher sees that its revision has changed. Watchers are not told of lease keys.
    pub(super) async fn renew_in_store(
        &self,
        service: &ServiceRef,
        id: &str,
        lease: LeaseId,
    ) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await?;
        if !lease.is_shared() {
            return Ok(());
        }
        let key = keys::instance(service, id);
        let snapshot = self.view.now().ok();
        let shown = snapshot.as_ref().and_then(|snapshot| snapshot.any_service(service)?.instance(id));
        let mut at = shown.map_or(Revision::ZERO, |view| view.reported_rev);
        for _ in 0..NOTE_TRIES {
            // Without this comparison a heartbeat could leave the key behind on this lease although the
            // instance has ended, or lives on another one.
            let txn = Txn {
                compare: vec![Compare::ModRev(key.clone(), at)],
                then: vec![put_lease(service, id, lease)],
                ..Txn::default()
            };
            if at > Revision::ZERO && self.store.txn(txn).await?.succeeded {
                return Ok(());
            }
            let stored = self.store.range(RangeRequest::key(key.clone())).await?;
            match stored.items.first() {
                Some(stored) if stored.lease == Some(lease) => at = stored.mod_rev,
                _ => return Err(StoreError::LeaseNotFound),
            }
        }
        Err(StoreError::Busy)
    }
}

/// Records the lease of an instance. Service-Center nodes find it by this key when a heartbeat reaches them.
pub(super) fn put_lease(service: &ServiceRef, id: &str, lease: LeaseId) -> Op {
    Op::Put { key: keys::lease(service, id), value: lease.to_string().into(), lease: Some(lease) }
}
