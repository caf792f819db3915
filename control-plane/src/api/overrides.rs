//! Operations on overrides: what operators want of instances, beside what these report.

use axum::extract::State;
use serde::Deserialize;
use serde_json::json;
use shared::model::null_default;

use super::call::Call;
use super::failure::Code::{InstanceNotFound, NotEnoughQuota, ServiceNotFound};
use super::failure::Failure;
use super::operation::{Operation, delete, get, object, of, put};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::overrides::{Overridden, ShownOverride};
use crate::registry::validate;
use crate::trail::{self, About};
use crate::view::overrides::OverrideRecord;

/// The owner of an override or a shift where requests need no account.
pub(super) const ANONYMOUS: &str = "anonymous";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        put(
            "/overrides",
            set,
            "PutOverride",
            "Override status, weight or properties of instances, or hide a service from consumers, until it ends.",
        )
        .takes(of::<SetOverride>())
        .returns(object! { "overrideId": String })
        .fails_with(&[ServiceNotFound, InstanceNotFound, NotEnoughQuota]),
        get("/overrides", list, "ListOverride", "List the overrides in force.")
            .query(&[("serviceId", "Only those of this service.")])
            .returns(object! { "overrides": Vec<ShownOverride> })
            .fails_with(&[ServiceNotFound]),
        get("/overrides/{overrideId}", show, "GetOverride", "Show an override that is in force.")
            .returns(object! { "override": ShownOverride }),
        delete("/overrides/{overrideId}", end, "EndOverride", "End an override."),
        get(
            "/microservices/{serviceId}/instances/{instanceId}/overrides",
            of_instance,
            "InstanceOverrides",
            "Show an instance as it reports itself, as clients see it, and the overrides between the two.",
        )
        .returns(of::<Overridden>())
        .fails_with(&[ServiceNotFound, InstanceNotFound]),
    ]
}

/// The body that sets an override.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct SetOverride {
    /// The id of the service.
    #[serde(deserialize_with = "null_default")]
    service_id: String,
    /// The seconds after which it ends by itself.
    seconds: Option<u64>,
    /// Its target and its wishes. Owner, times and end are not the client's to say.
    #[serde(flatten)]
    record: OverrideRecord,
}

async fn set(State(api): State<Api>, call: Call) -> Reply {
    let SetOverride { service_id, seconds, record } = call.json()?;
    validate::service_id(&service_id)?;
    let owner = call.permit.account().unwrap_or(ANONYMOUS).to_owned();
    let wish =
        OverrideRecord { owner, since: 0, until: 0, ended_by: String::new(), shift: String::new(), ..record };
    let service = call.caller.service(&service_id);
    let id = api.registry().set_override(&service, wish, seconds).await?;
    trail::about(|| About::New(id.clone()));
    reply::json(&json!({ "overrideId": id }))
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    let service = call.queried_service()?;
    reply::list("overrides", &api.registry().overrides(&call.caller, service.as_ref()).await?)
}

async fn show(State(api): State<Api>, call: Call) -> Reply {
    let shown = api.registry().override_by_id(&call.caller, override_id(&call)?).await?;
    reply::json(&json!({ "override": shown }))
}

async fn end(State(api): State<Api>, call: Call) -> Reply {
    let by = call.permit.account().unwrap_or(ANONYMOUS);
    api.registry().end_override(&call.caller, override_id(&call)?, by).await?;
    reply::empty()
}

async fn of_instance(State(api): State<Api>, call: Call) -> Reply {
    let id = call.instance_id()?;
    reply::json(&api.registry().overridden(&call.caller, &call.service()?, id).await?)
}

fn override_id(call: &Call) -> Result<&str, Failure> {
    let id = call.param("overrideId");
    validate::instance_id(id)?;
    Ok(id)
}
