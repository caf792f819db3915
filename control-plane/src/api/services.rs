//! Routes of services.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::{Framework, Instance, Service, null_default, null_texts};

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::failure::Failure;
use crate::registry::existence::Lookup;
use crate::registry::service::{DeleteOptions, existing};
use crate::registry::validate;
use crate::view::ServiceRule;

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

pub(super) async fn register(State(api): State<Api>, call: Call) -> Answer {
    let body: RegisterBody = call.json()?;
    let Some(service) = body.service else { return Err(Failure::invalid("Request body is empty")) };
    let registry = api.registry();
    let id = registry.register_service(&call.caller.tenant, service).await?;
    let reference = call.caller.service(&id);
    let mut failed = Vec::new();
    let mut note = |outcome: Result<(), Failure>| failed.extend(outcome.err().map(|f| f.to_string()));
    if !body.rules.is_empty() {
        note(registry.add_rules(&reference, body.rules).await.map(drop));
    }
    if !body.tags.is_empty() {
        note(registry.replace_tags(&reference, body.tags).await);
    }
    for instance in body.instances {
        note(registry.register_instance(&reference, instance).await.map(drop));
    }
    if !failed.is_empty() {
        // The service is registered all the same, as upstream.
        return Err(Failure::invalid(format!("errMessages: {failed:?}")));
    }
    reply::json(&json!({ "serviceId": id }))
}

pub(super) async fn list(State(api): State<Api>, call: Call) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        services: Vec<&'a Service>,
    }
    let snapshot = api.registry().read(&call.caller).await?;
    let views = snapshot.tenant(&call.caller.tenant).into_iter().flat_map(|tenant| tenant.services.values());
    reply::json(&Body { services: views.filter_map(|view| view.service.as_deref()).collect() })
}

pub(super) async fn get(State(api): State<Api>, call: Call) -> Answer {
    let service = call.service()?;
    let found = api.registry().answer(&call.caller, |snapshot| existing(snapshot, &service).cloned()).await?;
    reply::json(&json!({ "service": &found.service }))
}

pub(super) async fn update(State(api): State<Api>, call: Call) -> Answer {
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

pub(super) async fn delete(State(api): State<Api>, call: Call) -> Answer {
    let force = match call.query("force") {
        "" | "false" | "0" => false,
        "true" | "1" => true,
        _ => return Err(Failure::invalid("parameter force must be false or true")),
    };
    api.registry().delete_service(&call.service()?, DeleteOptions { force }).await?;
    reply::empty()
}

/// Deletes of a batch that are under way at once: they share what the store is asked to prove absence.
const DELETES_AT_ONCE: usize = 64;

pub(super) async fn delete_many(State(api): State<Api>, call: Call) -> Answer {
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
    service_ids.iter().try_for_each(|id| validate::service_id(id))?;
    let (registry, caller) = (api.registry(), &call.caller);
    let delete = |id: String| async move {
        let mut answer = json!({ "serviceId": id });
        if let Err(failure) = registry.delete_service(&caller.service(&id), DeleteOptions { force }).await {
            answer["errMessage"] = failure.to_string().into();
        }
        answer
    };
    let ids: BTreeSet<_> = service_ids.into_iter().collect();
    let answers: Vec<_> = stream::iter(ids).map(delete).buffered(DELETES_AT_ONCE).collect().await;
    reply::json(&json!({ "services": answers }))
}

pub(super) async fn existence(State(api): State<Api>, call: Call) -> Answer {
    match call.query("type") {
        "microservice" => {
            let lookup = Lookup {
                app_id: call.query("appId").into(),
                service_name: call.query("serviceName").into(),
                version: call.query("version").into(),
                environment: call.query("env").into(),
            };
            let id = api.registry().service_id(&call.caller, &lookup).await?;
            reply::json(&json!({ "serviceId": id }))
        }
        "schema" => {
            let (service, schema) = (call.query("serviceId"), call.query("schemaId"));
            validate::service_id(service)?;
            validate::schema_id(schema)?;
            let service = call.caller.service(service);
            let summary = api.registry().schema_summary(&call.caller, &service, schema).await?;
            let mut response = reply::json(&json!({ "schemaId": schema, "serviceId": service.id }))?;
            if let Ok(value) = summary.parse() {
                response.headers_mut().insert("x-schema-summary", value);
            }
            Ok(response)
        }
        _ => Err(Failure::invalid("Only micro-service and schema can be used as type.")),
    }
}
