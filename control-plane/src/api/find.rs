//! Operations that find instances: by the provider's key, by service and by id.

use axum::extract::State;
use shared::model::Instance;

use super::call::Call;
use super::failure::Code::{InstanceNotFound, ServiceNotFound};
use super::failure::Failure;
use super::operation::{Operation, Parameter, get, object};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::find::FindQuery;
use crate::registry::validate;

const TAGS: Parameter = ("tags", "Comma list of tag keys that the provider must have.");
const NO_CACHE: Parameter =
    ("noCache", "`1` or `true`: reply in full, with everything that was committed before the request.");

pub(super) fn operations() -> Vec<Operation> {
    vec![
        get(
            "/instances",
            find,
            "FindInstances",
            "Find the instances of a provider. With a consumer this also records a dependency.",
        )
        .query(&[
            ("appId", "Application of the provider."),
            ("serviceName", "Name of the provider, or its alias."),
            ("version", "Version rule; if it is absent every version matches."),
            ("env", "Environment of the provider; that of the consumer has precedence."),
            TAGS,
            NO_CACHE,
        ])
        .for_consumer()
        .with_revision()
        .returns(object! { "instances": Vec<Instance> })
        .fails_with(&[ServiceNotFound]),
        get("/microservices/{serviceId}/instances", list, "ListInstance", "List the instances of a service.")
            .query(&[TAGS, NO_CACHE])
            .for_consumer()
            .with_revision()
            .returns(object! { "instances": Vec<Instance> })
            .fails_with(&[ServiceNotFound]),
        get("/microservices/{serviceId}/instances/{instanceId}", get_one, "GetInstance", "Get an instance.")
            .query(&[TAGS, NO_CACHE])
            .for_consumer()
            .with_revision()
            .returns(object! { "instance": Instance })
            .fails_with(&[ServiceNotFound, InstanceNotFound]),
    ]
}

async fn find(State(api): State<Api>, call: Call) -> Reply {
    let query = FindQuery {
        app_id: call.query("appId").into(),
        service_name: call.query("serviceName").into(),
        version: call.query("version").into(),
        environment: call.query("env").into(),
        tags: call.list("tags"),
        rev: call.rev().into(),
        // Only this operation looks for aliases; a batch does not.
        by_alias: true,
    };
    Ok(reply::instances(&api.registry().find(&call.caller, &query).await?))
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    let tags = checked_tags(&call)?;
    let service = call.service()?;
    let found = api.registry().list_instances(&call.caller, &service, &tags, call.rev()).await?;
    Ok(reply::instances(&found))
}

async fn get_one(State(api): State<Api>, call: Call) -> Reply {
    let service = call.service()?;
    let id = call.instance_id()?;
    let tags = checked_tags(&call)?;
    let found = api.registry().get_instance(&call.caller, &service, id, &tags, call.rev()).await?;
    let response = if found.not_modified {
        reply::not_modified()
    } else {
        reply::raw_json(answer::reply::body_of_text(found.instance.json()))
    };
    Ok(reply::with_revision(response, &found.rev))
}

fn checked_tags(call: &Call) -> Result<Vec<String>, Failure> {
    let tags = call.list("tags");
    tags.iter().try_for_each(|tag| validate::tag(tag))?;
    Ok(tags)
}
