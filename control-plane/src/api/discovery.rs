//! Routes that find instances.

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::{Instance, ServiceKey, null_default};

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::failure::{Code, Failure};
use crate::registry::find::FindQuery;
use crate::registry::{Caller, validate};

pub(super) async fn find(State(api): State<Api>, call: Call) -> Answer {
    let query = FindQuery {
        app_id: call.query("appId").into(),
        service_name: call.query("serviceName").into(),
        version: call.query("version").into(),
        environment: call.query("env").into(),
        tags: call.list("tags"),
        rev: call.rev().into(),
        by_alias: true,
    };
    reply::instances(&api.registry().find(&call.caller, &query).await?)
}

pub(super) async fn list(State(api): State<Api>, call: Call) -> Answer {
    let tags = checked_tags(&call)?;
    reply::instances(&api.registry().list_instances(&call.caller, &call.service()?, &tags, call.rev()).await?)
}

pub(super) async fn one(State(api): State<Api>, call: Call) -> Answer {
    let (service, id, tags) = (call.service()?, call.instance_id()?, checked_tags(&call)?);
    let (instance, rev, same) =
        api.registry().get_instance(&call.caller, &service, id, &tags, call.rev()).await?;
    let response = if same { reply::not_modified() } else { reply::json(&json!({ "instance": instance }))? };
    Ok(reply::with_revision(response, &rev))
}

fn checked_tags(call: &Call) -> Result<Vec<String>, Failure> {
    let tags = call.list("tags");
    tags.iter().try_for_each(|tag| validate::tag(tag))?;
    Ok(tags)
}

/// What to find: services by key, instances by id.
#[derive(Deserialize, JsonSchema)]
pub(super) struct BatchBody {
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

/// One section of the answer. Every element of the request's section stands in exactly one of the lists.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Section {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<FailedGroup>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_modified: Vec<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    updated: Vec<Updated>,
}

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
    fn add(&mut self, index: usize, outcome: Result<(String, bool, Vec<Arc<Instance>>), Failure>) {
        match outcome {
            Ok((_, true, _)) => self.not_modified.push(index),
            Ok((rev, false, instances)) => self.updated.push(Updated { index, rev, instances }),
            Err(failure) => match self.failed.iter_mut().find(|group| group.code == failure.code) {
                Some(group) => group.indexes.push(index),
                None => self.failed.push(FailedGroup {
                    indexes: vec![index],
                    error: json!({
                        "errorCode": failure.code.number(),
                        "errorMessage": failure.code.message(),
                        "detail": failure.detail,
                    }),
                    code: failure.code,
                }),
            },
        }
    }
}

pub(super) async fn batch(State(api): State<Api>, call: Call) -> Answer {
    let action = call.query("type");
    if action != "query" {
        let shown: String = action.chars().take(64).collect();
        return Err(Failure::invalid(format!("Invalid action: {shown}")));
    }
    let body: BatchBody = call.json()?;
    if body.services.is_empty() && body.instances.is_empty() {
        return Err(Failure::invalid("Required services or instances"));
    }
    let queries = body.services.into_iter().map(service_query).collect::<Result<Vec<_>, _>>()?;
    let ids = body.instances.into_iter().map(checked_ids).collect::<Result<Vec<_>, _>>()?;
    let mut answer = serde_json::Map::new();
    if !queries.is_empty() {
        answer.insert("services".into(), json!(find_each(&api, &call.caller, queries).await));
    }
    if !ids.is_empty() {
        answer.insert("instances".into(), json!(get_each(&api, &call.caller, ids).await));
    }
    reply::json(&answer)
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
    for (index, query) in queries.into_iter().enumerate() {
        let found = api.registry().find(caller, &query).await.map(|found| {
            let views = found.services.iter().flat_map(|view| view.instances.values());
            let instances = views.map(|view| view.instance.clone()).collect();
            (found.rev, found.not_modified, instances)
        });
        section.add(index, found);
    }
    section
}

async fn get_each(api: &Api, caller: &Caller, ids: Vec<(InstanceId, String)>) -> Section {
    let mut section = Section::default();
    for (index, (ids, rev)) in ids.into_iter().enumerate() {
        let service = caller.service(&ids.service_id);
        let found = api.registry().get_instance(caller, &service, &ids.instance_id, &[], &rev).await;
        section.add(index, found.map(|(instance, rev, same)| (rev, same, vec![instance])));
    }
    section
}
