//! Services and instances in the form that clients and the store use.
//!
//! Field names, order and "empty means absent" are Service-Center's contract: every empty string, zero,
//! empty list and empty map is left out, and `null` is read as absent (Java clients send it for every
//! unset field).

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

mod incarnation;
mod policy;
mod proto_codec;
mod revision;
mod scope;
mod service;
mod traffic;

pub use incarnation::Incarnation;
pub use policy::PolicyVersion;
pub use revision::Revision;
pub use scope::Scope;
pub use service::{Framework, Service, ServicePath};
pub use traffic::{FULL_WEIGHT, UP, WEIGHT, is_up};

/// The most characters of a domain or a project. The registry's limit, to which every plane keeps.
pub const MAX_TENANT_NAME: usize = 128;
/// The most characters of the id of a service or an instance. The registry's limit, to which every plane
/// keeps.
pub const MAX_ID: usize = 64;

/// True for a text that the registry takes as a domain or a project: 1 to [`MAX_TENANT_NAME`] characters, no slash,
/// which would shift the parts of keys, and no control characters. Every plane refuses others.
pub fn is_tenant_name(text: &str) -> bool {
    let is_character = |c: char| c != '/' && !c.is_control();
    !text.is_empty() && text.chars().count() <= MAX_TENANT_NAME && text.chars().all(is_character)
}

/// True for a text that the registry takes as the id of a service: 1 to [`MAX_ID`] characters, no blanks, no slash
/// and no control characters. Every plane refuses others.
pub fn is_service_id(text: &str) -> bool {
    let is_character = |c: char| c != '/' && c != ' ' && !c.is_control();
    !text.is_empty() && text.chars().count() <= MAX_ID && text.chars().all(is_character)
}

/// A tenant: domain and project. `default/default` unless a client says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant {
    /// Domain, from the header `X-Domain-Name`.
    pub domain: String,
    /// Project, from the path.
    pub project: String,
}

impl Tenant {
    /// A tenant of the given domain and project.
    pub fn new(domain: impl Into<String>, project: impl Into<String>) -> Self {
        Self { domain: domain.into(), project: project.into() }
    }

    /// Parses `{domain}/{project}`, the form in which keys carry a tenant.
    pub fn parse(text: &str) -> Option<Self> {
        let (domain, project) = text.split_once('/')?;
        // Keys of the store separate their parts by slashes, so a third segment could not be told from the
        // rest of a key.
        (!domain.is_empty() && !project.is_empty() && !project.contains('/'))
            .then(|| Self::new(domain, project))
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self::new("default", "default")
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.project)
    }
}

/// A service in its tenant; the id alone is unique only there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// The tenant that owns the service.
    pub tenant: Tenant,
    /// The service's id.
    pub id: String,
}

impl ServiceRef {
    /// A reference to the service `id` of `tenant`.
    pub fn new(tenant: Tenant, id: impl Into<String>) -> Self {
        Self { tenant, id: id.into() }
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

/// The name under which clients know a version of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceKey {
    /// `{domain}/{project}`; empty in a request means the caller's.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// Environment; the default one is empty.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// Application.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub app_id: String,
    /// Name.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// Second name, often `{appId}:{serviceName}`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Version, or a version rule where a rule is meant.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// The heartbeats that an instance promises to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HealthCheck {
    /// `push` (heartbeats) or `pull`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Port to be checked; unused by the registry.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub port: i32,
    /// Seconds between heartbeats.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub interval: i32,
    /// Heartbeats that may be missed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub times: i32,
    /// Address to be checked; unused by the registry.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// The place of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct DataCenter {
    /// Name of the data centre.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its region.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// The zone in the region.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub available_zone: String,
}

/// One running copy of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Instance {
    /// The instance's id, unique in its service.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// The id of its service.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    /// Addresses such as `rest://10.2.3.4:8080?sslEnabled=false`, passed through untouched.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Name of the host.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub host_name: String,
    /// `UP`, `DOWN`, `STARTING`, `TESTING` or `OUTOFSERVICE`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Free key-value pairs.
    #[serde(deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// The heartbeats that the instance promises to send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Registration, unix seconds as decimal text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub timestamp: String,
    /// The place of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_center_info: Option<DataCenter>,
    /// Last change, unix seconds as decimal text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mod_timestamp: String,
    /// The service's version, copied at registration.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// Reads `null` as the type's default: Java clients send it for every unset field.
pub fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads `null` as an empty map, and a `null` in it as an empty text: Java clients send both.
pub fn null_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let texts: Option<BTreeMap<String, Option<String>>> = Option::deserialize(deserializer)?;
    let filled = texts.unwrap_or_default().into_iter().map(|(key, text)| (key, text.unwrap_or_default()));
    Ok(filled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_in_a_map_is_an_empty_text() {
        let instance: Instance =
            serde_json::from_str(r#"{"properties":{"a":null,"b":"x"}}"#).expect("a body");
        let expected = [("a", ""), ("b", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(instance.properties, expected.into());
    }

    #[test]
    fn nulls_and_unknown_fields_are_read_as_absent() {
        let body = r#"{"instanceId":null,"serviceId":"s","hostName":"node-1","endpoints":["rest://10.0.0.9:9090"],
            "properties":null,"healthCheck":{"mode":"push","port":0,"interval":15,"times":3,"ttl":null,"url":null},
            "dataCenterInfo":null,"stage":{"deep":[1]}}"#;
        let instance: Instance = serde_json::from_str(body).expect("a body as Java sends it");
        assert_eq!(
            serde_json::to_string(&instance).expect("serialises"),
            r#"{"serviceId":"s","endpoints":["rest://10.0.0.9:9090"],"hostName":"node-1","healthCheck":{"mode":"push","interval":15,"times":3}}"#
        );
    }

    #[test]
    fn an_empty_model_is_an_empty_object() {
        for text in [
            serde_json::to_string(&Instance::default()),
            serde_json::to_string(&Service::default()),
            serde_json::to_string(&ServiceKey::default()),
        ] {
            assert_eq!(text.expect("serialises"), "{}");
        }
    }

    #[test]
    fn a_tenant_has_exactly_two_parts() {
        assert_eq!(Tenant::parse("a/b"), Some(Tenant::new("a", "b")));
        for bad in ["", "a", "a/", "/b", "a/b/c"] {
            assert_eq!(Tenant::parse(bad), None, "{bad}");
        }
    }
}
