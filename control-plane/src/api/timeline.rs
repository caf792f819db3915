//! Operations that show the last changes of a service or an instance.

use axum::extract::State;
use serde_json::json;

use super::call::Call;
use super::failure::Code::ServiceNotFound;
use super::operation::{Operation, get, object};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::timeline::ShownTimeline;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        get(
            "/microservices/{serviceId}/timeline",
            of_service,
            "ServiceTimeline",
            "Show the last changes of a service's instances and their causes, as far as this node knows them.",
        )
        .returns(object! { "timeline": ShownTimeline })
        .fails_with(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/instances/{instanceId}/timeline",
            of_instance,
            "InstanceTimeline",
            "Show the last changes of an instance and their causes, as far as this node knows them.",
        )
        .returns(object! { "timeline": ShownTimeline })
        .fails_with(&[ServiceNotFound]),
    ]
}

async fn of_service(State(api): State<Api>, call: Call) -> Reply {
    let timeline = api.registry().timeline(&call.caller, &call.service()?, None).await?;
    reply::json(&json!({ "timeline": timeline }))
}

async fn of_instance(State(api): State<Api>, call: Call) -> Reply {
    let id = Some(call.instance_id()?);
    let timeline = api.registry().timeline(&call.caller, &call.service()?, id).await?;
    reply::json(&json!({ "timeline": timeline }))
}
