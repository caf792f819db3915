//! Operations on dependencies between consumers and providers.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use schemars::JsonSchema;
use serde::Deserialize;
use shared::model::{Service, ServiceKey, ServiceRef, null_default};

use super::call::Call;
use super::failure::Code::ServiceNotFound;
use super::failure::Failure;
use super::operation::{Operation, Parameter, get, object, post, put};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::RegistryError;
use crate::registry::dependency::{Declaration, Mode, PartnerFilter};
use crate::view::Snapshot;

const FILTERS: &[Parameter] = &[
    ("sameDomain", "`1`: leave out services of other tenants."),
    ("noSelf", "`1`: leave out the service itself."),
];
const DEPRECATION: &str = "Always `version=\"v4\"`.";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        post("/dependencies", add, "AddDependencies", "Add providers to those of consumers.")
            .takes(object! { "dependencies": Vec<Dependency> })
            .header("Deprecation", DEPRECATION)
            .fails_with(&[ServiceNotFound]),
        put("/dependencies", overwrite, "PutDependencies", "Replace the providers of consumers.")
            .takes(object! { "dependencies": Vec<Dependency> })
            .header("Deprecation", DEPRECATION)
            .fails_with(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/providers",
            providers,
            "ListProviders",
            "List the services that a consumer depends on.",
        )
        .query(FILTERS)
        .returns(object! { "providers": Vec<Service> })
        .fails_with(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/consumers",
            consumers,
            "ListConsumers",
            "List the services that depend on a provider.",
        )
        .query(FILTERS)
        .returns(object! { "consumers": Vec<Service> })
        .fails_with(&[ServiceNotFound]),
    ]
}

async fn add(State(api): State<Api>, call: Call) -> Response {
    declare(&api, &call, Mode::Add).await
}

async fn overwrite(State(api): State<Api>, call: Call) -> Response {
    declare(&api, &call, Mode::Overwrite).await
}

/// Declares dependencies. Service-Center marks these paths as deprecated by a header, on failures too.
async fn declare(api: &Api, call: &Call, mode: Mode) -> Response {
    let mut response = try_declare(api, call, mode).await.unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert("deprecation", HeaderValue::from_static("version=\"v4\""));
    response
}

/// A consumer and its providers.
#[derive(Deserialize, JsonSchema)]
struct Dependency {
    /// Application, name and exact version.
    consumer: Option<ServiceKey>,
    /// Their versions are rules; the name `*` means everything in the consumer's environment.
    #[serde(default, deserialize_with = "null_default")]
    providers: Vec<ServiceKey>,
}

async fn try_declare(api: &Api, call: &Call, mode: Mode) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        dependencies: Vec<Dependency>,
    }
    let body: Body = call.json()?;
    let mut declarations = Vec::with_capacity(body.dependencies.len());
    for Dependency { consumer, providers } in body.dependencies {
        let consumer = consumer.ok_or_else(|| Failure::invalid("Required consumer"))?;
        declarations.push(Declaration { consumer, providers });
    }
    api.registry().declare(&call.caller.tenant, declarations, mode).await?;
    reply::empty()
}

fn filter(call: &Call) -> PartnerFilter {
    // Only `1` counts here, as with Service-Center; other operations also take `true`.
    PartnerFilter { same_domain: call.query("sameDomain") == "1", no_self: call.query("noSelf") == "1" }
}

fn exists(snapshot: &Snapshot, service: &ServiceRef, refusal: &'static str) -> Result<(), RegistryError> {
    match snapshot.service(service) {
        Some(_) => Ok(()),
        None => Err(RegistryError::ServiceNotFound(refusal.into())),
    }
}

async fn providers(State(api): State<Api>, call: Call) -> Reply {
    let consumer = call.service()?;
    let registry = api.registry();
    let found = registry
        .answer(&call.caller, |snapshot| {
            // Inside the work, so that a refusal is worked out again on a confirmed view.
            exists(snapshot, &consumer, "Consumer does not exist")?;
            let found = registry.providers_of(snapshot, &consumer);
            Ok(registry.partners(snapshot, &call.caller, &consumer, found, filter(&call)))
        })
        .await?;
    reply::list("providers", &found)
}

async fn consumers(State(api): State<Api>, call: Call) -> Reply {
    let provider = call.service()?;
    let registry = api.registry();
    let found = registry
        .answer(&call.caller, |snapshot| {
            exists(snapshot, &provider, "Provider does not exist")?;
            let found = registry.consumers_of(snapshot, &provider);
            Ok(registry.partners(snapshot, &call.caller, &provider, found, filter(&call)))
        })
        .await?;
    reply::list("consumers", &found)
}
