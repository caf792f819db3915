//! Heartbeats: a lease is renewed, nothing is written.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::model::{ServiceRef, Tenant, null_default};

use super::Registry;
use crate::failure::Failure;

/// Renewals of a batch that are in flight together; they share one stream to the store.
const BEATS_AT_ONCE: usize = 1024;

/// One instance of a batch; in the answer with what went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Beat {
    /// The instance's service.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    /// The instance.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// Empty when the instance lives on.
    #[serde(skip_deserializing, skip_serializing_if = "String::is_empty")]
    pub err_message: String,
}

impl Registry {
    /// Renews an instance's lease to its full time.
    ///
    /// # Errors
    /// `InstanceNotFound` only when it is really absent: clients register again when they hear it.
    pub async fn heartbeat(&self, service: &ServiceRef, id: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        let outcome = match self.lease_of(service, id).await {
            Ok(Some(lease)) => self.store.keep_alive(lease).await.map_err(Failure::from),
            Ok(None) => Ok(()), // an instance of a foreign writer that does not expire
            Err(failure) => Err(failure),
        };
        if let Some(metrics) = &self.metrics {
            metrics.beat(outcome.is_ok(), begun.elapsed());
        }
        outcome
    }

    /// Renews many; each answer stands at its instance's first place in the request.
    pub async fn heartbeats(&self, tenant: &Tenant, beats: Vec<Beat>) -> Result<Vec<Beat>, Failure> {
        if beats.is_empty() {
            return Err(Failure::invalid("Request format invalid."));
        }
        let mut places = BTreeMap::new();
        for beat in beats {
            let next = places.len();
            places.entry(beat).or_insert(next);
        }
        let mut unique: Vec<_> = places.into_iter().collect();
        unique.sort_by_key(|(_, place)| *place);
        let renewed = stream::iter(unique).map(|(mut beat, _)| async move {
            let service = ServiceRef::new(tenant.clone(), &beat.service_id);
            if let Err(failure) = self.heartbeat(&service, &beat.instance_id).await {
                beat.err_message = failure.to_string();
            }
            beat
        });
        Ok(renewed.buffered(BEATS_AT_ONCE).collect().await)
    }
}
