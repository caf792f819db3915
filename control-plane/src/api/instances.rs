//! Routes that change instances.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Deserialize;
use serde_json::json;
use shared::model::{Instance, null_default, null_texts};

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::failure::Failure;
use crate::registry::heartbeat::Beat;

pub(super) async fn register(State(api): State<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        instance: Option<Instance>,
    }
    let service = call.service()?;
    let Some(instance) = call.json::<Body>().map_err(unmarshal)?.instance else {
        return Err(Failure::invalid("Request body is empty"));
    };
    let id = api.registry().register_instance(&service, instance).await?;
    reply::json(&json!({ "instanceId": id }))
}

pub(super) async fn unregister(State(api): State<Api>, call: Call) -> Answer {
    api.registry().unregister_instance(&call.service()?, call.instance_id()?).await?;
    reply::empty()
}

pub(super) async fn heartbeat(State(api): State<Api>, call: Call) -> Answer {
    api.registry().heartbeat(&call.service()?, call.instance_id()?).await?;
    reply::empty()
}

pub(super) async fn heartbeats(State(api): State<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        instances: Vec<Beat>,
    }
    let body: Body = call.json().map_err(unmarshal)?;
    let beats = api.registry().heartbeats(&call.caller.tenant, body.instances).await?;
    reply::json(&json!({ "instances": beats }))
}

pub(super) async fn update_properties(State(api): State<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_texts")]
        properties: BTreeMap<String, String>,
    }
    let body: Body = call.json().map_err(unmarshal)?;
    api.registry().update_instance_properties(&call.service()?, call.instance_id()?, body.properties).await?;
    reply::empty()
}

pub(super) async fn update_status(State(api): State<Api>, call: Call) -> Answer {
    api.registry().update_instance_status(&call.service()?, call.instance_id()?, call.query("value")).await?;
    reply::empty()
}

/// Puts every instance whose properties contain all given pairs into a state; an operator's tool.
pub(super) async fn update_status_of_many(State(api): State<Api>, call: Call) -> Answer {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Matches {
        #[serde(deserialize_with = "null_texts")]
        properties: BTreeMap<String, String>,
    }
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

/// The constant detail of the instance routes.
fn unmarshal(failure: Failure) -> Failure {
    Failure { detail: "Unmarshal error".into(), ..failure }
}
