//! Heartbeats: the store renews a lease, or a report tells of them. Nothing is written, so heartbeats cause
//! no events.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use shared::model::{ServiceRef, Tenant};

use super::{Registry, RegistryError};
use crate::store::{LeaseId, StoreError};
use crate::view::Snapshot;

/// Renewals of one request that are in flight together; they share one stream to the store.
const RENEWALS_AT_ONCE: usize = 1024;

/// The ids of one instance in a batch of heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Beat {
    pub(crate) service_id: String,
    pub(crate) instance_id: String,
}

/// The knowledge about an instance that the view does not have.
#[derive(Clone, Copy, Debug)]
enum Absence {
    /// It does not exist.
    Certain,
    /// The store could not be asked.
    Unconfirmed,
}

fn has_instance(snapshot: &Snapshot, tenant: &Tenant, beat: &Beat) -> bool {
    let service = ServiceRef::new(tenant.clone(), &beat.service_id);
    // A held instance counts: a heartbeat for it is answered from the view.
    snapshot.any_service(&service).is_some_and(|view| {
        view.instance(&beat.instance_id).is_some() || view.held.contains_key(&beat.instance_id)
    })
}

impl Registry {
    /// Renews an instance's lease to its full time.
    ///
    /// # Errors
    /// `InstanceNotFound` only when the instance is certainly absent, because clients then register again.
    pub(crate) async fn heartbeat(&self, service: &ServiceRef, id: &str) -> Result<(), RegistryError> {
        let begun = Instant::now();
        let outcome = self.renew(service, id).await;
        if let Some(metrics) = &self.metrics {
            metrics.beat(outcome.is_ok(), begun.elapsed());
        }
        outcome
    }

    async fn renew(&self, service: &ServiceRef, id: &str) -> Result<(), RegistryError> {
        // Other writers may store an instance without a lease. It does not expire, so there is nothing to
        // renew.
        let Some(lease) = self.lease_of(service, id).await? else { return Ok(()) };
        match self.beat_on(service, id, lease).await {
            Ok(()) => Ok(()),
            Err(StoreError::LeaseNotFound) => self.renew_replaced(service, id, lease).await,
            Err(error) => Err(RegistryError::RenewLease(error)),
        }
    }

    /// Renews the lease that has replaced `ended`. Registering again with another health check replaces it,
    /// and this view may not have received that yet.
    async fn renew_replaced(
        &self,
        service: &ServiceRef,
        id: &str,
        ended: LeaseId,
    ) -> Result<(), RegistryError> {
        match self.stored_lease(service, id).await? {
            None => Ok(()),
            Some(lease) if lease == ended => Err(RegistryError::InstanceNotFound),
            Some(lease) => match self.renew_in_store(service, id, lease).await {
                Ok(()) => Ok(()),
                Err(StoreError::LeaseNotFound) => Err(RegistryError::InstanceNotFound),
                Err(error) => Err(RegistryError::RenewLease(error)),
            },
        }
    }

    /// The instances of a batch that this view does not have, with what is known of them.
    ///
    /// One question to the store is enough for all of them. With one for each, a batch of made-up instances
    /// would keep the store from the heartbeats of others.
    async fn absent(&self, tenant: &Tenant, beats: &[Beat]) -> HashMap<Beat, Absence> {
        let unknown = |snapshot: &Snapshot| -> Vec<Beat> {
            beats.iter().filter(|beat| !has_instance(snapshot, tenant, beat)).cloned().collect()
        };
        // Before there is a view, each heartbeat says so by itself.
        let Ok(snapshot) = self.view.now() else { return HashMap::new() };
        let candidates = unknown(&snapshot);
        if candidates.is_empty() {
            return HashMap::new();
        }
        let (absent, absence) = match self.confirmed().await {
            Ok(Some(confirmed)) => (unknown(&confirmed), Absence::Certain),
            Ok(None) | Err(_) => (candidates, Absence::Unconfirmed),
        };
        absent.into_iter().map(|beat| (beat, absence)).collect()
    }

    fn refuse(&self, absence: Absence) -> Result<(), RegistryError> {
        if let Some(metrics) = &self.metrics {
            metrics.beat(false, Duration::ZERO);
        }
        Err(match absence {
            Absence::Certain => RegistryError::InstanceNotFound,
            Absence::Unconfirmed => {
                RegistryError::ReadInstance(StoreError::Unavailable("the view is not confirmed".to_owned()))
            }
        })
    }

    /// Renews many leases. An instance that was sent several times is renewed once and reported once, at its
    /// first position in the request.
    pub(crate) async fn heartbeats(
        &self,
        tenant: &Tenant,
        beats: Vec<Beat>,
    ) -> Result<Vec<(Beat, Result<(), RegistryError>)>, RegistryError> {
        if beats.is_empty() {
            return Err(RegistryError::invalid("Request format invalid."));
        }
        let mut seen = BTreeSet::new();
        let unique: Vec<Beat> = beats.into_iter().filter(|beat| seen.insert(beat.clone())).collect();
        let absent = self.absent(tenant, &unique).await;
        let absent = &absent;
        let renewed = stream::iter(unique).map(|beat| async move {
            let service = ServiceRef::new(tenant.clone(), &beat.service_id);
            let outcome = match absent.get(&beat) {
                None => self.heartbeat(&service, &beat.instance_id).await,
                Some(outcome) => self.refuse(*outcome),
            };
            (beat, outcome)
        });
        // Buffered in order: the reply has the order of the request.
        Ok(renewed.buffered(RENEWALS_AT_ONCE).collect().await)
    }
}
