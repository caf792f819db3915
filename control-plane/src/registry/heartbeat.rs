//! Heartbeats: the store renews a lease. Nothing is written, so heartbeats cause no events.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::{StreamExt, stream};
use shared::model::{ServiceRef, Tenant};

use super::{Registry, RegistryError};
use crate::store::{LeaseId, StoreError};

/// Renewals of one request that are in flight together; they share one stream to the store.
const RENEWALS_AT_ONCE: usize = 1024;

/// The ids of one instance in a batch of heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Beat {
    pub(crate) service_id: String,
    pub(crate) instance_id: String,
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
        match self.store.keep_alive(lease).await {
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
            Some(lease) => match self.store.keep_alive(lease).await {
                Ok(()) => Ok(()),
                Err(StoreError::LeaseNotFound) => Err(RegistryError::InstanceNotFound),
                Err(error) => Err(RegistryError::RenewLease(error)),
            },
        }
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
        let renewed = stream::iter(unique).map(|beat| async move {
            let service = ServiceRef::new(tenant.clone(), &beat.service_id);
            let outcome = self.heartbeat(&service, &beat.instance_id).await;
            (beat, outcome)
        });
        // Buffered in order: the reply has the order of the request.
        Ok(renewed.buffered(RENEWALS_AT_ONCE).collect().await)
    }
}
