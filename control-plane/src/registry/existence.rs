//! Does a service or a schema exist?

use shared::model::{ServiceRef, Tenant};

use super::{Caller, Registry, validate};
use crate::failure::{Code, Failure};
use crate::keys::Name;
use crate::view::{Snapshot, VersionEntry, select};

/// What a service is looked up by.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// Application.
    pub app_id: String,
    /// Name, else alias.
    pub service_name: String,
    /// Version or version rule; the newest match counts.
    pub version: String,
    /// Environment.
    pub environment: String,
}

impl Registry {
    /// The id of the newest version that the lookup matches.
    pub async fn service_id(&self, caller: &Caller, lookup: &Lookup) -> Result<String, Failure> {
        validate::lookup(&lookup.app_id, &lookup.service_name, &lookup.environment)?;
        let rule = validate::version_rule(&lookup.version)?;
        let name = Name::new(&lookup.environment, &lookup.app_id, &lookup.service_name);
        self.answer(caller, |snapshot| {
            let versions = by_name_or_alias(snapshot, &caller.tenant, &name);
            let Name { environment, app_id, name } = &name;
            let what = format!("{environment}/{app_id}/{name}/{}", lookup.version);
            if versions.is_empty() {
                return Err(Failure::new(Code::ServiceNotFound, what + " does not exist."));
            }
            match select(versions, &rule).next() {
                Some(entry) => Ok(entry.id.clone()),
                None if matches!(rule, crate::version::VersionRule::Exact(_)) => {
                    Err(Failure::new(Code::ServiceNotFound, what + " does not exist."))
                }
                None => Err(Failure::new(Code::VersionNotFound, what + " version mismatch.")),
            }
        })
        .await
    }

    /// The summary of a schema that has a content.
    pub async fn schema_summary(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        id: &str,
    ) -> Result<String, Failure> {
        self.answer(caller, |snapshot| {
            let view = super::service::existing(snapshot, service)?;
            match view.schemas.get(id) {
                Some(schema) if schema.content => Ok(schema.summary.clone().unwrap_or_default()),
                _ => Err(Failure::new(Code::SchemaNotFound, "schema does not exist.")),
            }
        })
        .await
    }
}

/// The versions of a name; when nothing has the name, of the alias.
pub(super) fn by_name_or_alias<'a>(
    snapshot: &'a Snapshot,
    tenant: &Tenant,
    name: &Name,
) -> &'a [VersionEntry] {
    match snapshot.versions(tenant, name) {
        [] => snapshot.alias_versions(tenant, name),
        versions => versions,
    }
}
