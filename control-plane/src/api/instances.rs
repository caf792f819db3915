//! Operations that change instances. Those that find them are in `find`.

use std::collections::BTreeMap;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::{Instance, ServiceRef, null_default, null_texts};

use super::call::{Call, at_most};
use super::failure::Code::{InstanceNotFound, NotEnoughQuota, ServiceNotFound};
use super::failure::Failure;
use super::operation::{Operation, delete, object, post, put};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::heartbeat::Beat;
use crate::trail::{self, About};

/// Heartbeats in one request. Gateways send 256; agents of many instances send more.
const BEATS: usize = 10_000;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        post(
            "/microservices/{serviceId}/instances",
            register,
            "RegisterInstance",
            "Register an instance. If it is alive already its lease is renewed.",
        )
        .takes(object! { "instance": Instance })
        .returns(object! { "instanceId": String })
        .fails_with(&[ServiceNotFound, NotEnoughQuota]),
        delete(
            "/microservices/{serviceId}/instances/{instanceId}",
            unregister,
            "UnregisterInstance",
            "Unregister an instance.",
        )
        .fails_with(&[InstanceNotFound]),
        put(
            "/microservices/{serviceId}/instances/{instanceId}/heartbeat",
            heartbeat,
            "SendHeartbeat",
            "Renew the lease of an instance.",
        )
        .fails_with(&[InstanceNotFound]),
        put(
            "/microservices/{serviceId}/instances/{instanceId}/properties",
            update_properties,
            "PutInstanceProperties",
            "Replace the properties of an instance.",
        )
        .takes(object! { "properties": BTreeMap<String, String> })
        .fails_with(&[InstanceNotFound]),
        put(
            "/microservices/{serviceId}/instances/{instanceId}/status",
            update_status,
            "PutInstanceStatus",
            "Set the status of an instance.",
        )
        .query(&[("value", "`UP`, `DOWN`, `STARTING`, `TESTING` or `OUTOFSERVICE`.")])
        .fails_with(&[InstanceNotFound]),
        put(
            "/heartbeats",
            heartbeats,
            "SendManyHeartbeat",
            "Renew the leases of many instances. Each has its own outcome.",
        )
        .takes(object! { "instances": Vec<BeatRequest> })
        .returns(object! { "instances": Vec<BeatReply> }),
    ]
}

pub(super) fn operation_on_many() -> Operation {
    put(
        "/instances/status",
        update_status_of_many,
        "UpdateManyInstanceStatus",
        "Set the status of all instances that have certain properties.",
    )
    .takes(object! { "matches": Matches, "status": String })
}

async fn register(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        instance: Option<Instance>,
    }
    let service = call.service()?;
    let Some(instance) = call.json::<Body>().map_err(unmarshal)?.instance else {
        return Err(Failure::invalid("Request body is empty"));
    };
    let id = api.registry().register_instance(&service, instance).await?;
    trail::about(|| About::New(id.clone()));
    reply::json(&json!({ "instanceId": id }))
}

async fn unregister(State(api): State<Api>, call: Call) -> Reply {
    api.registry().unregister_instance(&call.service()?, call.instance_id()?).await?;
    reply::empty()
}

async fn heartbeat(State(api): State<Api>, call: Call) -> Reply {
    let (service, id) = (&call.service()?, call.instance_id()?);
    api.registry().heartbeat(service, id).await?;
    let rev = call.asks_for_beats().then(|| api.registry().reported_at([(service, id)])).flatten();
    Ok(reply::with_beats(reply::empty()?, rev))
}

/// The ids of an instance whose lease is to be renewed.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct BeatRequest {
    #[serde(deserialize_with = "null_default")]
    service_id: String,
    #[serde(deserialize_with = "null_default")]
    instance_id: String,
}

/// The ids of an instance and, if its lease could not be renewed, the reason.
#[derive(Default, Serialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct BeatReply {
    #[serde(skip_serializing_if = "String::is_empty")]
    service_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    instance_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    err_message: String,
}

async fn heartbeats(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        instances: Vec<BeatRequest>,
    }
    let body: Body = call.json().map_err(unmarshal)?;
    at_most(BEATS, body.instances.len(), "instances")?;
    let mut beats = Vec::with_capacity(body.instances.len());
    for BeatRequest { service_id, instance_id } in body.instances {
        beats.push(Beat { service_id, instance_id });
    }
    let outcomes = api.registry().heartbeats(&call.caller.tenant, beats).await?;
    let all_live = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    let rev = (all_live && call.asks_for_beats()).then(|| {
        let instances: Vec<(ServiceRef, &str)> = outcomes
            .iter()
            .map(|(beat, _)| (call.caller.service(&beat.service_id), &*beat.instance_id))
            .collect();
        api.registry().reported_at(instances.iter().map(|(service, id)| (service, *id)))
    });
    let mut replies = Vec::with_capacity(outcomes.len());
    for (Beat { service_id, instance_id }, outcome) in outcomes {
        let err_message = outcome.err().map(|error| Failure::from(error).to_string()).unwrap_or_default();
        replies.push(BeatReply { service_id, instance_id, err_message });
    }
    Ok(reply::with_beats(reply::json(&json!({ "instances": replies }))?, rev.flatten()))
}

async fn update_properties(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_texts")]
        properties: BTreeMap<String, String>,
    }
    let body: Body = call.json().map_err(unmarshal)?;
    api.registry().update_instance_properties(&call.service()?, call.instance_id()?, body.properties).await?;
    reply::empty()
}

async fn update_status(State(api): State<Api>, call: Call) -> Reply {
    api.registry().update_instance_status(&call.service()?, call.instance_id()?, call.query("value")).await?;
    reply::empty()
}

/// Properties that an instance must have.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Matches {
    #[serde(deserialize_with = "null_texts")]
    properties: BTreeMap<String, String>,
}

async fn update_status_of_many(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        matches: Matches,
        #[serde(default, deserialize_with = "null_default")]
        status: String,
    }
    let Body { matches, status } = call.json().map_err(unmarshal)?;
    api.registry().update_status_of_matching(&call.caller, &matches.properties, &status).await?;
    reply::empty()
}

/// The contract has one constant detail for bodies of these operations that cannot be read.
fn unmarshal(failure: Failure) -> Failure {
    Failure { detail: "Unmarshal error".into(), ..failure }
}
