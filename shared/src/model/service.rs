//! A registered service: one version of one name in one environment of an application.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ServiceKey, Tenant, null_default, null_texts};

/// One version of a service ("MicroService" in Service-Center's documents).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    /// The service's id, unique in its tenant.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    /// Application; `default` unless given.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub app_id: String,
    /// Name.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// Version of one to four numbers.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Free text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `FRONT`, `MIDDLE` or `BACK`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub level: String,
    /// Ids of the schemas, in the order of their declaration.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// Paths with their properties.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<ServicePath>,
    /// `UP` or `DOWN`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Free key-value pairs; `allowCrossApp` opens the service to other applications.
    #[serde(deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Registration, unix seconds as decimal text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub timestamp: String,
    /// Accepted and stored for Service-Center's clients. The registry does not use it.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ServiceKey>,
    /// Second name, often `{appId}:{serviceName}`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Load-balancing strategy.
    // The one key that is not in camel case, because Service-Center writes it so.
    #[serde(
        rename = "LBStrategy",
        deserialize_with = "null_texts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub lb_strategy: BTreeMap<String, String>,
    /// Last change, unix seconds as decimal text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mod_timestamp: String,
    /// Environment; the default one is empty.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// `SDK`, `SIDECAR` or `PLATFORM`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub register_by: String,
    /// The framework that registered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub framework: Option<Framework>,
}

impl Service {
    /// The name of this version, in `tenant`.
    pub fn key(&self, tenant: &Tenant) -> ServiceKey {
        ServiceKey {
            tenant: tenant.to_string(),
            environment: self.environment.clone(),
            app_id: self.app_id.clone(),
            service_name: self.service_name.clone(),
            alias: self.alias.clone(),
            version: self.version.clone(),
        }
    }
}

/// A path that a service serves, with free properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServicePath {
    /// The path.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Free key-value pairs.
    #[serde(deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub property: BTreeMap<String, String>,
}

/// A framework and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Framework {
    /// Name.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Version.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
}
