//! The registry over HTTP: every route on one screen.
//!
//! A handler takes a [`Call`], asks the [`Registry`] and renders the answer. Paths, codes and shapes are
//! Service-Center's; [`guard`] holds what is common to all routes.

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use tower::util::MapResponseLayer;

use crate::registry::Registry;

mod admin;
pub mod call;
mod dependencies;
mod discovery;
mod govern;
pub mod guard;
mod health;
mod instances;
mod reply;
mod schemas;
mod services;
mod tags;

pub use call::Call;
use guard::ApiName;

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
            .nest("/v4/{project}/govern", govern_routes())
            .nest("/v4/{project}/admin", admin_routes())
            .nest("/registry/v3", registry_routes().merge(govern_routes_v3()))
            .route("/version", get(health::version_v3).layer(named("GetVersion")))
            .route("/health", get(health::cluster).layer(named("ClusterHealth")))
            .fallback(guard::not_found)
            .method_not_allowed_fallback(guard::method_not_allowed)
            .with_state(self)
    }
}

/// Gives a route the name that metrics call it by.
fn named(name: &'static str) -> MapResponseLayer<impl Fn(Response) -> Response + Clone> {
    MapResponseLayer::new(move |mut response: Response| {
        response.extensions_mut().insert(ApiName(name));
        response
    })
}

/// The routes that v4 and v3 share. Each line: path, method, handler, name in metrics.
fn registry_routes() -> Router<Api> {
    let service = "/microservices/{serviceId}";
    let instances = "/microservices/{serviceId}/instances";
    let instance = "/microservices/{serviceId}/instances/{instanceId}";
    let below = |base: &str, rest: &str| format!("{base}{rest}");
    Router::new()
        .route("/existence", get(services::existence).layer(named("ResourceExist")))
        .route("/microservices", post(services::register).layer(named("RegisterService")))
        .route("/microservices", get(services::list).layer(named("ListService")))
        .route(service, get(services::get).layer(named("GetService")))
        .route(service, delete(services::delete).layer(named("UnregisterService")))
        .route(&below(service, "/properties"), put(services::update).layer(named("PutServiceProperties")))
        .route(&below(service, "/providers"), get(dependencies::providers).layer(named("ListProviders")))
        .route(&below(service, "/consumers"), get(dependencies::consumers).layer(named("ListConsumers")))
        .route("/dependencies", post(dependencies::add).layer(named("AddDependencies")))
        .route("/dependencies", put(dependencies::overwrite).layer(named("PutDependencies")))
        .route("/instances", get(discovery::find).layer(named("FindInstances")))
        .route(instances, post(instances::register).layer(named("RegisterInstance")))
        .route(instances, get(discovery::list).layer(named("ListInstance")))
        .route(instance, get(discovery::one).layer(named("GetInstance")))
        .route(instance, delete(instances::unregister).layer(named("UnregisterInstance")))
        .route(&below(instance, "/heartbeat"), put(instances::heartbeat).layer(named("SendHeartbeat")))
        .route(
            &below(instance, "/properties"),
            put(instances::update_properties).layer(named("PutInstanceProperties")),
        )
        .route(&below(instance, "/status"), put(instances::update_status).layer(named("PutInstanceStatus")))
        .route("/heartbeats", put(instances::heartbeats).layer(named("SendManyHeartbeat")))
        .route("/microservices", delete(services::delete_many).layer(named("UnregisterManyService")))
        .route(&below(service, "/schemas"), get(schemas::list).layer(named("ListSchema")))
        .route(&below(service, "/schemas"), post(schemas::replace).layer(named("PutSchemas")))
        .route(&below(service, "/schemas/{schemaId}"), get(schemas::get).layer(named("GetSchema")))
        .route(&below(service, "/schemas/{schemaId}"), put(schemas::put).layer(named("PutSchema")))
        .route(&below(service, "/schemas/{schemaId}"), delete(schemas::delete).layer(named("DeleteSchema")))
        .route(&below(service, "/tags"), get(tags::get).layer(named("ListTag")))
        .route(&below(service, "/tags"), post(tags::replace).layer(named("PutManyTags")))
        .route(&below(service, "/tags/{key}"), put(tags::update).layer(named("PutTag")))
        .route(&below(service, "/tags/{key}"), delete(tags::delete).layer(named("DeleteManyTags")))
        .route(&below(service, "/rules"), get(tags::rules).layer(named("GetRules")))
        .route(&below(service, "/rules"), post(tags::add_rules).layer(named("AddRule")))
        .route(&below(service, "/rules/{ruleId}"), put(tags::update_rule).layer(named("UpdateRule")))
        .route(&below(service, "/rules/{ruleId}"), delete(tags::delete_rules).layer(named("DeleteRule")))
}

fn govern_routes() -> Router<Api> {
    Router::new()
        .route("/microservices/{serviceId}", get(govern::one).layer(named("GetServiceDetail")))
        .route("/microservices", get(govern::list).layer(named("GetServicesInfo")))
        .route("/relations", get(govern::relations).layer(named("GetGraph")))
        .route("/apps", get(govern::apps).layer(named("GetApplications")))
        .route("/statistics", get(govern::statistics_only).layer(named("GetStatistics")))
}

/// Singular words, and fewer of them.
fn govern_routes_v3() -> Router<Api> {
    Router::new()
        .route("/govern/service/{serviceId}", get(govern::one).layer(named("GetServiceDetail")))
        .route("/govern/relation", get(govern::relations).layer(named("GetGraph")))
        .route("/govern/services", get(govern::list).layer(named("GetServicesInfo")))
}

fn admin_routes() -> Router<Api> {
    Router::new()
        .route("/dump", get(admin::dump).layer(named("Dump")))
        .route("/clusters", get(admin::clusters).layer(named("Clusters")))
        .route("/alarms", get(admin::alarms).layer(named("ListAlarm")))
        .route("/alarms", delete(admin::forget_alarms).layer(named("ClearAlarm")))
        .route("/protections", get(admin::protections).layer(named("ListProtection")))
        .route("/protections/{serviceId}", delete(admin::release).layer(named("ReleaseProtection")))
}

fn v4_only() -> Router<Api> {
    Router::new()
        .route("/instances/action", post(discovery::batch).layer(named("InstancesAction")))
        .route(
            "/instances/status",
            put(instances::update_status_of_many).layer(named("UpdateManyInstanceStatus")),
        )
        .route("/version", get(health::version_v4).layer(named("GetVersion")))
        .route("/health", get(health::cluster).layer(named("ClusterHealth")))
        .route("/health/readiness", get(health::readiness).layer(named("Readiness")))
}
