//! Operations on services.

use std::collections::{BTreeMap, BTreeSet};

use access::Grant;
use axum::extract::State;
use futures_util::{StreamExt as _, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::{Framework, Instance, Service, null_default, null_texts};

use super::call::{Call, at_most};
use super::failure::Code::{
    HasConsumers, HasInstances, NotEnoughQuota, SchemaNotFound, ServiceConflict, ServiceNotFound,
    VersionNotFound,
};
use super::failure::Failure;
use super::operation::{Operation, delete, get, object, post, put};
use super::reply::{self, Reply};
use super::schemas::SUMMARY;
use super::state::Api;
use crate::registry::existence::Lookup;
use crate::registry::service::existing;
use crate::registry::{Caller, Registry, validate};
use crate::trail::{self, About};
use crate::view::ServiceRule;

/// Deletions of one request that run at the same time. They share the question to the store by which an
/// absent service is proven to be absent.
const DELETES_AT_ONCE: usize = 64;
/// Services that one request may delete.
const DELETES: usize = 10_000;
/// Instances that may be registered together with their service. Each is written on its own.
const INSTANCES: usize = 100;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        get(
            "/existence",
            existence,
            "ResourceExist",
            "Check that a service or a schema exists, and get its id.",
        )
        .query(&[
            ("type", "`microservice` or `schema`."),
            ("appId", "Application of the service."),
            ("serviceName", "Name of the service, or its alias."),
            ("version", "Version or version rule; of several matches the newest counts."),
            ("env", "Environment of the service; may be empty."),
            ("serviceId", "For a schema: id of its service."),
            ("schemaId", "For a schema: its id."),
        ])
        .returns(object! { "serviceId": String, "schemaId": String })
        .header(SUMMARY, "For a schema: its summary.")
        .fails_with(&[ServiceNotFound, SchemaNotFound, VersionNotFound]),
        post("/microservices", register, "RegisterService", "Register a version of a service.")
            .takes(object! {
                "service": Service,
                "rules": Vec<ServiceRule>,
                "tags": BTreeMap<String, String>,
                "instances": Vec<Instance>,
            })
            .returns(object! { "serviceId": String })
            .fails_with(&[ServiceConflict, NotEnoughQuota]),
        get("/microservices", list, "ListService", "List the services of the tenant.")
            .returns(object! { "services": Vec<Service> }),
        delete(
            "/microservices",
            delete_many,
            "UnregisterManyService",
            "Delete many services. Each has its own outcome.",
        )
        .takes(object! { "serviceIds": Vec<String>, "force": bool })
        .returns(object! { "services": Vec<DeletedService> }),
        get("/microservices/{serviceId}", get_one, "GetService", "Get a service.")
            .returns(object! { "service": Service })
            .fails_with(&[ServiceNotFound]),
        delete("/microservices/{serviceId}", delete_one, "UnregisterService", "Delete a service.")
            .query(&[(
                "force",
                "`1` or `true`: delete it even if other services depend on it or it has instances.",
            )])
            .fails_with(&[ServiceNotFound, HasInstances, HasConsumers]),
        put(
            "/microservices/{serviceId}/properties",
            update,
            "PutServiceProperties",
            "Replace the properties of a service.",
        )
        .takes(object! { "properties": BTreeMap<String, String>, "framework": Framework })
        .fails_with(&[ServiceNotFound]),
    ]
}

#[derive(Deserialize)]
struct RegisterBody {
    service: Option<Service>,
    #[serde(default, deserialize_with = "null_default")]
    rules: Vec<ServiceRule>,
    #[serde(default, deserialize_with = "null_texts")]
    tags: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_default")]
    instances: Vec<Instance>,
}

async fn register(State(api): State<Api>, call: Call) -> Reply {
    let body: RegisterBody = call.json()?;
    let Some(service) = body.service else { return Err(Failure::invalid("Request body is empty")) };
    let registry = api.registry();
    at_most(INSTANCES, body.instances.len(), "instances")?;
    let id = registry.register_service(&call.caller.tenant, service).await?;
    trail::about(|| About::New(id.clone()));
    let reference = call.caller.service(&id);
    // Rules and tags come before instances, so that no consumer sees an instance that they hide.
    let mut outcomes = Vec::new();
    if !body.rules.is_empty() {
        outcomes.push(registry.add_rules(&reference, body.rules).await.map(drop));
    }
    if !body.tags.is_empty() {
        outcomes.push(registry.replace_tags(&reference, body.tags).await);
    }
    for instance in body.instances {
        outcomes.push(registry.register_instance(&reference, instance).await.map(drop));
    }
    let failed: Vec<String> =
        outcomes.into_iter().filter_map(Result::err).map(|error| Failure::from(error).to_string()).collect();
    if !failed.is_empty() {
        // The service stays registered, as with Service-Center.
        return Err(Failure::invalid(format!("errMessages: {failed:?}")));
    }
    reply::json(&json!({ "serviceId": id }))
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    let snapshot = api.registry().read(&call.caller).await?;
    if call.caller.grant == Grant::All
        && let Some(tenant) = snapshot.tenant(&call.caller.tenant)
    {
        return Ok(reply::services(tenant.list()));
    }
    let records = snapshot.tenant(&call.caller.tenant).into_iter().flat_map(|tenant| tenant.records());
    let services: Vec<&Service> = records.filter(|service| call.caller.sees(service)).collect();
    reply::list("services", &services)
}

async fn get_one(State(api): State<Api>, call: Call) -> Reply {
    let service = call.service()?;
    let found = api.registry().answer(&call.caller, |snapshot| existing(snapshot, &service).cloned()).await?;
    reply::json(&json!({ "service": &found.service }))
}

async fn update(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_texts")]
        properties: BTreeMap<String, String>,
        framework: Option<Framework>,
    }
    let service = call.service()?;
    let body: Body = call.json()?;
    api.registry().update_service(&service, body.properties, body.framework).await?;
    reply::empty()
}

async fn delete_one(State(api): State<Api>, call: Call) -> Reply {
    // Unlike other flags this one is strict: a deletion must not guess.
    let force = match call.query("force") {
        "" | "false" | "0" => false,
        "true" | "1" => true,
        _ => return Err(Failure::invalid("parameter force must be false or true")),
    };
    api.registry().delete_service(&call.service()?, force).await?;
    reply::empty()
}

/// The id of a service and, if it could not be deleted, the reason.
#[derive(Default, Serialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct DeletedService {
    service_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    err_message: Option<String>,
}

async fn delete_many(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        service_ids: Vec<String>,
        #[serde(default, deserialize_with = "null_default")]
        force: bool,
    }
    let Body { service_ids, force } = call.json()?;
    if service_ids.is_empty() {
        return Err(Failure::invalid("'serviceIDs' is empty"));
    }
    at_most(DELETES, service_ids.len(), "serviceIds")?;
    service_ids.iter().try_for_each(|id| validate::service_id(id))?;
    // A set, because a service can be deleted only once: a second attempt would report it as absent.
    let ids: BTreeSet<_> = service_ids.into_iter().collect();
    let deletions = ids.into_iter().map(|id| delete_listed(api.registry(), &call.caller, id, force));
    let deleted: Vec<_> = stream::iter(deletions).buffered(DELETES_AT_ONCE).collect().await;
    reply::json(&json!({ "services": deleted }))
}

async fn delete_listed(registry: &Registry, caller: &Caller, id: String, force: bool) -> DeletedService {
    let outcome = registry.delete_service(&caller.service(&id), force).await;
    let err_message = outcome.err().map(|error| Failure::from(error).to_string());
    DeletedService { service_id: id, err_message }
}

async fn existence(State(api): State<Api>, call: Call) -> Reply {
    match call.query("type") {
        "microservice" => service_existence(&api, &call).await,
        "schema" => schema_existence(&api, &call).await,
        _ => Err(Failure::invalid("Only micro-service and schema can be used as type.")),
    }
}

async fn service_existence(api: &Api, call: &Call) -> Reply {
    let lookup = Lookup {
        app_id: call.query("appId").into(),
        service_name: call.query("serviceName").into(),
        version: call.query("version").into(),
        environment: call.query("env").into(),
    };
    let id = api.registry().service_id(&call.caller, &lookup).await?;
    reply::json(&json!({ "serviceId": id }))
}

async fn schema_existence(api: &Api, call: &Call) -> Reply {
    let schema = call.query("schemaId");
    validate::service_id(call.query("serviceId"))?;
    validate::schema_id(schema)?;
    let service = call.caller.service(call.query("serviceId"));
    let summary = api.registry().schema_summary(&call.caller, &service, schema).await?;
    let mut response = reply::json(&json!({ "schemaId": schema, "serviceId": service.id }))?;
    // Another writer may have stored a summary with characters that no header may have.
    if let Ok(value) = summary.parse() {
        response.headers_mut().insert("x-schema-summary", value);
    }
    Ok(response)
}
