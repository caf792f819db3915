//! Leases of instances: as long as the instance's time, or long ones whose instances a replica ends.

use std::sync::Arc;
use std::time::Duration;

use liveness::{Desk, Key};
use shared::model::{Instance, Revision, ServiceRef};

use super::Registry;
use crate::store::{LeaseId, StoreError};

/// A long lease is at least this many times as long as the time of its instance. A quarter of it is left when
/// its renewal is due and the instance has sent no heartbeat for its whole time.
const LONG_TIMES: u32 = 4;

/// The parts of the mode in which heartbeats are reported.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    /// The reporter of this process.
    pub(crate) desk: Arc<Desk>,
    /// The time of a long lease.
    pub(crate) long: Duration,
}

impl Registry {
    /// Grants the lease of an instance.
    pub(super) async fn grant_for(&self, instance: &Instance) -> Result<LeaseId, StoreError> {
        let ttl = self.ttl(instance);
        match &self.reported {
            Some(reported) if Duration::from_secs(ttl.unsigned_abs()) * LONG_TIMES <= reported.long => {
                let long = i64::try_from(reported.long.as_secs()).unwrap_or(i64::MAX);
                self.store.grant_long(long).await
            }
            _ => self.store.grant(ttl).await,
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
        self.store.keep_alive(lease).await
    }
}
