//! Shapes that exist only in the document: their JSON is put together where it is sent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use shared::model::ServiceKey;

use super::Text;
use crate::api::govern;

/// A deleted service; with what went wrong, if it could not be.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct DeletedService {
    service_id: String,
    #[serde(default)]
    err_message: String,
}

/// An instance that was kept alive; with what went wrong, if it could not be.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct KeptInstance {
    #[serde(default)]
    service_id: String,
    #[serde(default)]
    instance_id: String,
    #[serde(default)]
    err_message: String,
}

/// A consumer and its providers.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct Dependency {
    /// Application, name and exact version.
    consumer: ServiceKey,
    /// Their versions are rules; the name `*` means everything in the consumer's environment.
    providers: Vec<ServiceKey>,
}

/// What an instance must have.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct Matches {
    properties: Text,
}

/// Numbers of a tenant; zeros are left out.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct Statistics {
    services: BTreeMap<String, u64>,
    instances: BTreeMap<String, u64>,
    apps: BTreeMap<String, u64>,
}

/// A dependency in the graph.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct Line {
    from: govern::Node,
    to: govern::Node,
    r#type: String,
    color: String,
    descriptor: String,
}

/// A key of the store with its value.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct DumpEntry {
    key: String,
    rev: u64,
    cluster: String,
    value: serde_json::Value,
}

/// What went wrong, and whether it is over.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its form counts")]
pub(in crate::api::routes) struct AlarmEntry {
    status: String,
    id: String,
    fields: BTreeMap<String, String>,
}
