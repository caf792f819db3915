//! The operation that makes many finds in one request.

use std::collections::HashMap;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::{ServiceKey, null_default};

use super::call::{Call, at_most};
use super::failure::{Code, Failure};
use super::operation::{Operation, object, of, post};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::find::FindQuery;
use crate::registry::{Caller, validate};
use crate::view::PackedInstance;

/// Characters of an unknown action that the refusal shows. A hostile value is not echoed whole.
const SHOWN: usize = 64;
/// Elements of one list of a request.
const ELEMENTS: usize = 10_000;
/// Bytes of all instances in one reply, about. A body of some kilobytes can name a large service many times.
const REPLY_BYTES: usize = 32 << 20;

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

/// The reply, with a section for each list of the request.
#[derive(Default, Serialize)]
struct Sections {
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<Section>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<Section>,
}

/// The outcome of one element.
#[derive(Clone)]
enum Outcome {
    NotModified,
    Updated { rev: String, instances: Vec<PackedInstance> },
    Failed(Failure),
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
    instances: Vec<PackedInstance>,
}

impl Section {
    /// Adds an outcome, and takes its size from the room that the reply has left.
    fn add(&mut self, index: usize, outcome: Outcome, room: &mut usize) -> Result<(), Failure> {
        match outcome {
            Outcome::NotModified => self.not_modified.push(index),
            Outcome::Failed(failure) => self.add_failure(index, failure),
            Outcome::Updated { rev, instances } => {
                let bytes = instances.iter().map(|instance| instance.json().len()).sum();
                *room = room.checked_sub(bytes).ok_or_else(|| {
                    Failure::invalid("the reply would be larger than 32 MiB; ask for fewer services at once")
                })?;
                self.updated.push(Updated { index, rev, instances });
            }
        }
        Ok(())
    }

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
    at_most(ELEMENTS, body.services.len(), "services")?;
    at_most(ELEMENTS, body.instances.len(), "instances")?;
    // All elements are checked before the first is worked on: a malformed one refuses the whole request.
    let queries = body.services.into_iter().map(service_query).collect::<Result<Vec<_>, _>>()?;
    let ids = body.instances.into_iter().map(checked_ids).collect::<Result<Vec<_>, _>>()?;
    let mut room = REPLY_BYTES;
    let mut sections = Sections::default();
    if !queries.is_empty() {
        sections.services = Some(find_each(&api, &call.caller, queries, &mut room).await?);
    }
    if !ids.is_empty() {
        sections.instances = Some(get_each(&api, &call.caller, ids, &mut room).await?);
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

async fn find_each(
    api: &Api,
    caller: &Caller,
    queries: Vec<FindQuery>,
    room: &mut usize,
) -> Result<Section, Failure> {
    let mut section = Section::default();
    // One after the other: each may write a dependency rule of the same consumer, and such writes would only
    // make each other lose.
    // An element that is repeated has the outcome of the first, without the work.
    let mut known: HashMap<[String; 5], Outcome> = HashMap::new();
    for (index, query) in queries.into_iter().enumerate() {
        let FindQuery { app_id, service_name, version, environment, rev, .. } = query.clone();
        let element = [app_id, service_name, version, environment, rev];
        let outcome = match known.get(&element) {
            Some(outcome) => outcome.clone(),
            None => {
                let outcome = find_one(api, caller, &query).await;
                known.insert(element, outcome.clone());
                outcome
            }
        };
        section.add(index, outcome, room)?;
    }
    Ok(section)
}

async fn find_one(api: &Api, caller: &Caller, query: &FindQuery) -> Outcome {
    match api.registry().find(caller, query).await {
        Ok(found) if found.not_modified => Outcome::NotModified,
        Ok(found) => {
            let views = found.services.iter().flat_map(|view| view.instances.values());
            let instances = views.map(|view| view.instance.clone()).collect();
            Outcome::Updated { rev: found.rev, instances }
        }
        Err(error) => Outcome::Failed(error.into()),
    }
}

async fn get_each(
    api: &Api,
    caller: &Caller,
    ids: Vec<(InstanceId, String)>,
    room: &mut usize,
) -> Result<Section, Failure> {
    let mut section = Section::default();
    for (index, (ids, rev)) in ids.into_iter().enumerate() {
        let service = caller.service(&ids.service_id);
        let outcome = match api.registry().get_instance(caller, &service, &ids.instance_id, &[], &rev).await {
            Ok(found) if found.not_modified => Outcome::NotModified,
            Ok(found) => Outcome::Updated { rev: found.rev, instances: vec![found.instance] },
            Err(error) => Outcome::Failed(error.into()),
        };
        section.add(index, outcome, room)?;
    }
    Ok(section)
}
