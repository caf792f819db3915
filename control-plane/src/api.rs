//! The registry over HTTP: every route on one screen.
//!
//! A handler takes a [`Call`], asks the [`Registry`] and renders the answer. Paths, codes and shapes are
//! Service-Center's; [`guard`] holds what is common to all routes.

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post, put};

use crate::registry::Registry;

pub mod call;
mod dependencies;
mod discovery;
pub mod guard;
mod health;
mod instances;
mod reply;
mod services;

pub use call::Call;

/// What handlers share.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    registry: Registry,
    limits: BodyLimits,
}

/// Bytes that a request's body may have.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Registration of an instance (Service-Center: 5 KiB).
    pub instance: usize,
    /// Properties of a service or an instance (3 KiB).
    pub properties: usize,
    /// Everything else (`server.request.maxBodyBytes`, 2 MiB).
    pub other: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { instance: 5 << 10, properties: 3 << 10, other: 2 << 20 }
    }
}

impl Api {
    /// The API of a registry.
    pub fn new(registry: Registry, limits: BodyLimits) -> Self {
        Self(Arc::new(Inner { registry, limits }))
    }

    /// The registry behind the API.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(crate) fn limits(&self) -> &BodyLimits {
        &self.0.limits
    }

    /// All routes, without what is common to them; see [`guard::Guarded`].
    pub fn router(self) -> Router {
        Router::new()
            .nest("/v4/{project}/registry", registry_routes().merge(v4_only()))
            .nest("/registry/v3", registry_routes())
            .route("/version", get(health::version_v3))
            .route("/health", get(health::cluster))
            .fallback(guard::not_found)
            .method_not_allowed_fallback(guard::method_not_allowed)
            .with_state(self)
    }
}

fn registry_routes() -> Router<Api> {
    Router::new()
        .route("/existence", get(services::existence))
        .route("/microservices", post(services::register).get(services::list))
        .route("/microservices/{serviceId}", get(services::get).delete(services::delete))
        .route("/microservices/{serviceId}/properties", put(services::update))
        .route("/microservices/{serviceId}/providers", get(dependencies::providers))
        .route("/microservices/{serviceId}/consumers", get(dependencies::consumers))
        .route("/dependencies", post(dependencies::add).put(dependencies::overwrite))
        .route("/instances", get(discovery::find))
        .route("/microservices/{serviceId}/instances", post(instances::register).get(discovery::list))
        .route("/microservices/{serviceId}/instances/{instanceId}", delete(instances::unregister).get(discovery::one))
        .route("/microservices/{serviceId}/instances/{instanceId}/heartbeat", put(instances::heartbeat))
        .route("/microservices/{serviceId}/instances/{instanceId}/properties", put(instances::update_properties))
        .route("/microservices/{serviceId}/instances/{instanceId}/status", put(instances::update_status))
        .route("/heartbeats", put(instances::heartbeats))
}

fn v4_only() -> Router<Api> {
    Router::new()
        .route("/instances/action", post(discovery::batch))
        .route("/version", get(health::version_v4))
        .route("/health", get(health::cluster))
        .route("/health/readiness", get(health::readiness))
}
