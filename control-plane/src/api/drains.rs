//! Operations on the marks of drains. Gateways use them for `POST …/drain`, in the names of their clients.

use axum::extract::State;
use serde_json::json;

use super::call::Call;
use super::failure::Code::{InstanceNotFound, NotEnoughQuota};
use super::failure::Failure;
use super::operation::{Operation, delete, object, put};
use super::overrides::ANONYMOUS;
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::drains::DrainMark;

/// The seconds after which a drain ends if the request does not say it.
const USUAL: u64 = 60 * 60;
/// The reason of a drain without one.
const UNSAID: &str = "drain";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        put(
            "/microservices/{serviceId}/instances/{instanceId}/drain",
            mark,
            "MarkDrain",
            "Take an instance out of the traffic until it is given back or unregistered, or a time is over.",
        )
        .query(&[
            ("seconds", "The time after which it ends by itself: 1 to 604800, 3600 if it is not said."),
            ("reason", "The reason, for people; `drain` if it is not said."),
        ])
        .returns(object! { "overrideId": String })
        .fails_with(&[InstanceNotFound, NotEnoughQuota]),
        delete(
            "/microservices/{serviceId}/instances/{instanceId}/drain",
            give_back,
            "EndDrain",
            "Give an instance back that a drain keeps out of the traffic.",
        ),
    ]
}

async fn mark(State(api): State<Api>, call: Call) -> Reply {
    let seconds = match call.query("seconds") {
        "" => USUAL,
        text => text.parse().map_err(|_| Failure::invalid("parameter seconds is not a number"))?,
    };
    let reason = Some(call.query("reason")).filter(|reason| !reason.is_empty()).unwrap_or(UNSAID).to_owned();
    let owner = call.permit.account().unwrap_or(ANONYMOUS).to_owned();
    let mark = DrainMark { seconds, owner, reason };
    let id = api.registry().drain_instance(&call.service()?, call.instance_id()?, mark).await?;
    reply::json(&json!({ "overrideId": id }))
}

async fn give_back(State(api): State<Api>, call: Call) -> Reply {
    let by = call.permit.account().unwrap_or(ANONYMOUS);
    api.registry().give_back(&call.service()?, call.instance_id()?, by).await?;
    reply::empty()
}
