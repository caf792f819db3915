//! Version, health, readiness.

use axum::extract::State;
use serde_json::json;
use shared::model::{ServiceRef, Tenant};

use super::Api;
use super::reply::{self, Answer};
use crate::failure::{Code, Failure};
use crate::registry::{Caller, own};

fn version(api_version: &str) -> Answer {
    reply::json(&version_body(api_version))
}

pub(super) fn version_body(api_version: &str) -> serde_json::Value {
    json!({
        "version": own::VERSION,
        "buildTag": option_env!("MUSTER_BUILD_TAG").unwrap_or("dev"),
        "os": std::env::consts::OS,
        "arch": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "apiVersion": api_version,
    })
}

pub(super) async fn version_v3() -> Answer {
    version("3.0.0")
}

pub(super) async fn version_v4() -> Answer {
    version("4.0.0")
}

/// The live nodes of this release.
pub(super) async fn cluster(State(api): State<Api>) -> Answer {
    let registry = api.registry();
    let own = ServiceRef::new(Tenant::default(), own::service_id(registry.config()));
    let found = match registry.list_instances(&Caller::default(), &own, &[], "").await {
        Err(failure) if failure.code == Code::NotReady => {
            return Err(Failure::new(Code::Unhealthy, failure.detail));
        }
        found => found?,
    };
    let mut response = reply::instances(&found)?;
    response.headers_mut().remove("x-resource-revision");
    Ok(response)
}

/// 200 once the registry has been read; probes of old clients take 200 or 404 for "go on".
pub(super) async fn readiness(State(api): State<Api>) -> Answer {
    api.registry().view().now()?;
    reply::empty()
}
