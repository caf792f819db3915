//! The operation that makes many finds in one request.

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::{Instance, ServiceKey, null_default};

use super::call::Call;
use super::failure::{Code, Failure};
use super::operation::{Operation, object, of, post};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::find::FindQuery;
use crate::registry::{Caller, validate};

/// Characters of an unknown action that the refusal shows. A hostile value is not echoed whole.
const SHOWN: usize = 64;

pub(super) fn operation() -> Operation {
    post(
        "/instances/action",
        act,
        "InstancesAction",
        "Find the instances of many providers. Each has its own outcome.",
    )
    .query(&[("type", "`query`.")])
    .for_consumer()
    .takes(of::<BatchBody>())
    .returns(object! { "services": Section, "instances": Section })
}

/// Finds by the provider's key, and by the instance's id.
#[derive(Deserialize, JsonSchema)]
struct BatchBody {
    #[serde(default, deserialize_with = "null_default")]
    services: Vec<ServiceElement>,
    #[serde(default, deserialize_with = "null_default")]
    instances: Vec<InstanceElement>,
}

#[derive(Deserialize, JsonSchema)]
struct ServiceElement {
    service: Option<ServiceKey>,
    #[serde(default, deserialize_with = "null_default")]
    rev: String,
}

#[derive(Deserialize, JsonSchema)]
struct InstanceElement {
    instance: Option<InstanceId>,
    #[serde(default, deserialize_with = "null_default")]
    rev: String,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct InstanceId {
    #[serde(deserialize_with = "null_default")]
    service_id: String,
    #[serde(deserialize_with = "null_default")]
    instance_id: String,
}

/// The outcomes of one list of the request. The index of every element is in exactly one of these lists.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Section {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<FailedGroup>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_modified: Vec<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    updated: Vec<Updated>,
}

/// Elements that failed with the same code. The error is that of the first.
#[derive(Serialize, JsonSchema)]
struct FailedGroup {
    indexes: Vec<usize>,
    error: serde_json::Value,
    #[serde(skip)]
    code: Code,
}

#[derive(Serialize, JsonSchema)]
struct Updated {
    index: usize,
    rev: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instances: Vec<Arc<Instance>>,
}

impl Section {
    fn add_failure(&mut self, index: usize, failure: Failure) {
        // One group for each code, as in the contract.
        if let Some(group) = self.failed.iter_mut().find(|group| group.code == failure.code) {
            group.indexes.push(index);
            return;
        }
        let error = json!({
            "errorCode": failure.code.number(),
            "errorMessage": failure.code.message(),
            "detail": failure.detail,
        });
        self.failed.push(FailedGroup { indexes: vec![index], error, code: failure.code });
    }
}

async fn act(State(api): State<Api>, call: Call) -> Reply {
    let action = call.query("type");
    if action != "query" {
        let shown: String = action.chars().take(SHOWN).collect();
        return Err(Failure::invalid(format!("Invalid action: {shown}")));
    }
    let body: BatchBody = call.json()?;
    if body.services.is_empty() && body.instances.is_empty() {
        return Err(Failure::invalid("Required services or instances"));
    }
    // All elements are checked before the first is worked on: a malformed one refuses the whole request.
    let queries = body.services.into_iter().map(service_query).collect::<Result<Vec<_>, _>>()?;
    let ids = body.instances.into_iter().map(checked_ids).collect::<Result<Vec<_>, _>>()?;
    let mut sections = serde_json::Map::new();
    if !queries.is_empty() {
        sections.insert("services".into(), json!(find_each(&api, &call.caller, queries).await));
    }
    if !ids.is_empty() {
        sections.insert("instances".into(), json!(get_each(&api, &call.caller, ids).await));
    }
    reply::json(&sections)
}

fn service_query(element: ServiceElement) -> Result<FindQuery, Failure> {
    let Some(key) = element.service else { return Err(Failure::invalid("Required service")) };
    validate::lookup(&key.app_id, &key.service_name, &key.environment)?;
    Ok(FindQuery {
        app_id: key.app_id,
        service_name: key.service_name,
        version: key.version,
        environment: key.environment,
        rev: element.rev,
        ..FindQuery::default()
    })
}

fn checked_ids(element: InstanceElement) -> Result<(InstanceId, String), Failure> {
    let Some(ids) = element.instance else { return Err(Failure::invalid("Required instance")) };
    validate::service_id(&ids.service_id)?;
    validate::instance_id(&ids.instance_id)?;
    Ok((ids, element.rev))
}

async fn find_each(api: &Api, caller: &Caller, queries: Vec<FindQuery>) -> Section {
    let mut section = Section::default();
    // One after the other: each may write a dependency rule of the same consumer, and such writes would only
    // make each other lose.
    for (index, query) in queries.into_iter().enumerate() {
        match api.registry().find(caller, &query).await {
            Ok(found) if found.not_modified => section.not_modified.push(index),
            Ok(found) => {
                let views = found.services.iter().flat_map(|view| view.instances.values());
                let instances = views.map(|view| view.instance.clone()).collect();
                section.updated.push(Updated { index, rev: found.rev, instances });
            }
            Err(error) => section.add_failure(index, error.into()),
        }
    }
    section
}

async fn get_each(api: &Api, caller: &Caller, ids: Vec<(InstanceId, String)>) -> Section {
    let mut section = Section::default();
    for (index, (ids, rev)) in ids.into_iter().enumerate() {
        let service = caller.service(&ids.service_id);
        match api.registry().get_instance(caller, &service, &ids.instance_id, &[], &rev).await {
            Ok(found) if found.not_modified => section.not_modified.push(index),
            Ok(found) => {
                section.updated.push(Updated { index, rev: found.rev, instances: vec![found.instance] });
            }
            Err(error) => section.add_failure(index, error.into()),
        }
    }
    section
}
