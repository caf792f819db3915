//! The timeline of a service or an instance: its last changes, with their causes.

use schemars::JsonSchema;
use serde::Serialize;
use shared::model::{Revision, ServiceRef};

use super::service::existing;
use super::{Caller, Registry, RegistryError};
use crate::view::timeline::{Cause, Noted};

/// The changes as one replica knows them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownTimeline {
    /// The replica knows every change after this revision.
    since: Revision,
    /// The changes, oldest first.
    changes: Vec<ShownChange>,
}

/// A change of an instance.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownChange {
    /// Its revision.
    revision: Revision,
    /// The time at which the replica received it, in milliseconds since 1970.
    time: u64,
    /// The id of the instance.
    instance_id: String,
    /// The reason.
    cause: Cause,
    /// The status that clients saw after the change, or last.
    status: String,
    /// The id of the override behind the change.
    #[serde(skip_serializing_if = "String::is_empty")]
    override_id: String,
    /// The account that has set or ended the override.
    #[serde(skip_serializing_if = "String::is_empty")]
    by: String,
    /// The reason that the account has given.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl ShownChange {
    fn new(noted: &Noted) -> Self {
        let record = noted.by.as_ref().map(|by| &by.entry.record);
        let by = record.map(|record| if record.is_in_force() { &record.owner } else { &record.ended_by });
        Self {
            revision: noted.rev,
            time: noted.committed_at / 1_000,
            instance_id: noted.instance.instance_id.clone(),
            cause: noted.cause,
            status: noted.instance.status.clone(),
            override_id: noted.by.as_ref().map(|by| by.id.clone()).unwrap_or_default(),
            by: by.cloned().unwrap_or_default(),
            reason: record.map(|record| record.reason.clone()).unwrap_or_default(),
        }
    }
}

impl Registry {
    /// The last changes of a service, or of one of its instances, which may be gone.
    pub(crate) async fn timeline(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        instance: Option<&str>,
    ) -> Result<ShownTimeline, RegistryError> {
        self.answer(caller, |snapshot| existing(snapshot, service).map(drop)).await?;
        let known = self.view.timeline().of(service, instance);
        Ok(ShownTimeline {
            since: known.since,
            changes: known.changes.iter().map(ShownChange::new).collect(),
        })
    }
}
