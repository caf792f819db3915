//! Existence: looks up the id of a service and the summary of a schema.

use shared::model::{ServiceRef, Tenant};

use super::service::existing;
use super::{Caller, Registry, RegistryError, validate};
use crate::keys::Name;
use crate::version::VersionRule;
use crate::view::{Snapshot, select};

/// The key and version rule by which a service is looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookup {
    pub(crate) app_id: String,
    /// Name of the service, or its alias.
    pub(crate) service_name: String,
    /// Version or version rule; the newest match counts.
    pub(crate) version: String,
    pub(crate) environment: String,
}

impl Registry {
    /// The id of the newest version that the lookup matches.
    pub(crate) async fn service_id(&self, caller: &Caller, lookup: &Lookup) -> Result<String, RegistryError> {
        validate::lookup(&lookup.app_id, &lookup.service_name, &lookup.environment)?;
        let rule = validate::version_rule(&lookup.version)?;
        self.answer(caller, |snapshot| newest_match(snapshot, &caller.tenant, lookup, &rule)).await
    }

    /// The summary of a schema that has a content.
    pub(crate) async fn schema_summary(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        id: &str,
    ) -> Result<String, RegistryError> {
        self.answer(caller, |snapshot| {
            let view = existing(snapshot, service)?;
            match view.schemas.get(id) {
                Some(schema) if schema.content => Ok(schema.summary.clone().unwrap_or_default()),
                _ => Err(RegistryError::SchemaNotFound),
            }
        })
        .await
    }
}

fn newest_match(
    snapshot: &Snapshot,
    tenant: &Tenant,
    lookup: &Lookup,
    rule: &VersionRule,
) -> Result<String, RegistryError> {
    let Lookup { app_id, service_name, version, environment } = lookup;
    let name = Name::new(environment, app_id, service_name);
    let versions = snapshot.by_name_or_alias(tenant, &name);
    if let Some(entry) = select(versions, rule).next() {
        return Ok(entry.id.clone());
    }
    let key = format!("{environment}/{app_id}/{service_name}/{version}");
    // The contract has a code of its own for a range that matches no version, but not for an exact version.
    if versions.is_empty() || matches!(rule, VersionRule::Exact(_)) {
        Err(RegistryError::ServiceNotFound(format!("{key} does not exist.").into()))
    } else {
        Err(RegistryError::VersionNotFound(format!("{key} version mismatch.").into()))
    }
}
