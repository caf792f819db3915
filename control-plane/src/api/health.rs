//! Version, health and readiness of this node.

use axum::extract::State;
use axum::response::IntoResponse as _;
use http::HeaderValue;
use serde_json::{Value, json};
use shared::model::{Instance, ServiceRef, Tenant};

use super::failure::Code::{self, Internal, NotReady, ServiceNotFound, Unhealthy};
use super::failure::Failure;
use super::operation::{Operation, get, object};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::{Caller, RegistryError, own};

const HEALTH_FAILURES: &[Code] = &[Unhealthy, ServiceNotFound, Internal];

/// Version and health, which stand both at the root and below v4. They differ in the API's version only.
pub(super) fn operations(api_version: &'static str) -> [Operation; 2] {
    let version = move || std::future::ready(reply::json(&version_body(api_version)));
    [
        get("/version", version, "GetVersion", "Get the release of this node.").tenantless().returns(
            object! { "version": String, "buildTag": String, "goVersion": String, "os": String, "arch": String, "apiVersion": String },
        ),
        get("/health", health, "ClusterHealth", "List the living nodes of this release.")
            .tenantless()
            .returns(object! { "instances": Vec<Instance> })
            .fails_with(HEALTH_FAILURES),
    ]
}

pub(super) fn readiness_operations() -> [Operation; 1] {
    let summary = "Succeed when this node can take requests.";
    [get("/health/readiness", readiness, "Readiness", summary).tenantless().fails_with(&[NotReady])]
}

pub(super) fn version_body(api_version: &str) -> Value {
    // Service-Center reports the names that Go has for processors.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "version": own::VERSION,
        "buildTag": option_env!("MUSTER_BUILD_TAG").unwrap_or("dev"),
        // Its readers expect the member. There is no Go in here, so it has the name of the language that is.
        "goVersion": concat!("rust", env!("CARGO_PKG_RUST_VERSION")),
        "os": std::env::consts::OS,
        "arch": arch,
        "apiVersion": api_version,
    })
}

async fn health(State(api): State<Api>) -> Reply {
    let registry = api.registry();
    // The id contains the version, so only nodes of this release are listed.
    let own = ServiceRef::new(Tenant::default(), own::service_id(registry.config()));
    let found = match registry.list_instances(&Caller::default(), &own, &[], "").await {
        // The contract has a code of its own for a node that is not ready.
        Err(RegistryError::ReadView(reason)) => {
            return Err(Failure::new(Unhealthy, reason.to_string()));
        }
        found => found?,
    };
    let mut response = reply::instances(&found);
    // Service-Center sends no revision here, and without one clients cannot ask for changes only.
    response.headers_mut().remove("x-resource-revision");
    Ok(response)
}

/// Succeeds once the registry has been read, while the store answers, and until a drain. Old clients take 200
/// and 404 of this path as leave to go on, and gateways prefer the nodes that succeed.
///
/// Either reply tells about this node's link to the bus, for a gateway that has lost its own.
async fn readiness(State(api): State<Api>) -> Reply {
    let mut response = match check_ready(&api) {
        Ok(()) => reply::empty()?,
        Err(failure) => failure.into_response(),
    };
    response.headers_mut().insert(bus::LINK_HEADER, HeaderValue::from_static(api.bus().word()));
    Ok(response)
}

fn check_ready(api: &Api) -> Result<(), Failure> {
    api.registry().view().now().map_err(RegistryError::ReadView)?;
    match api.readiness() {
        Some(readiness) if !readiness.report().ready => {
            Err(Failure::new(NotReady, "this node is not ready; its admin port says why"))
        }
        _ => Ok(()),
    }
}
