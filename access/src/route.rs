//! The table of all routes of all transports, and what each of them needs.
//!
//! A route that has no line here is refused wherever access control is on, so a new route cannot be open by
//! oversight. The control plane's tests compare this table with its router.

use std::sync::LazyLock;

use http::Method;

use crate::role::{Need, ResourceType, Verb};

use self::LabelSource as L;
use ResourceType::{Account, Ops, Role, Schema, Service};
use Verb::{Create, Delete, Get, Update};

/// The access that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody may send it.
    Free,
    /// Every account may send it; its handler decides the rest.
    Authenticated,
    /// It needs a permission, for things with the labels that the source names.
    Needs(Need, LabelSource),
    /// The path exists, with another method.
    OtherMethod,
    /// No route has this path.
    Unknown,
}

/// The place from which the labels of a request come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelSource {
    /// The service that the path names.
    Path,
    /// The service or the name in the query.
    Query,
    /// The service in the body.
    Registration,
    /// Each service that an element of the body names.
    Elements,
    /// The watch's own terms: its consumer, its providers, or its selection.
    Watch,
    /// The reply leaves out what the caller may not see, and the tenant is named in the dialect's own way.
    Dialect,
    /// Nothing in the request: the reply leaves out what the caller may not see.
    Reply,
    /// Nothing at all: the request concerns no single service.
    Nothing,
    /// Nothing at all, and the request concerns every tenant.
    AllTenants,
}

type Line = (&'static str, &'static str, Access);

const fn needs(resource: ResourceType, verb: Verb, labels: LabelSource) -> Access {
    Access::Needs(Need { resource, verb }, labels)
}

/// Below `/v4/{project}/registry` and `/registry/v3`.
const REGISTRY: &[Line] = &[
    ("GET", "/existence", needs(Service, Get, L::Query)),
    ("POST", "/microservices", needs(Service, Create, L::Registration)),
    ("GET", "/microservices", needs(Service, Get, L::Reply)),
    ("DELETE", "/microservices", needs(Service, Delete, L::Elements)),
    ("GET", "/microservices/{serviceId}", needs(Service, Get, L::Path)),
    ("DELETE", "/microservices/{serviceId}", needs(Service, Delete, L::Path)),
    ("PUT", "/microservices/{serviceId}/properties", needs(Service, Update, L::Path)),
    ("GET", "/microservices/{serviceId}/instances", needs(Service, Get, L::Path)),
    ("POST", "/microservices/{serviceId}/instances", needs(Service, Create, L::Path)),
    ("GET", "/microservices/{serviceId}/instances/{instanceId}", needs(Service, Get, L::Path)),
    ("DELETE", "/microservices/{serviceId}/instances/{instanceId}", needs(Service, Delete, L::Path)),
    ("PUT", "/microservices/{serviceId}/instances/{instanceId}/heartbeat", needs(Service, Update, L::Path)),
    ("PUT", "/microservices/{serviceId}/instances/{instanceId}/properties", needs(Service, Update, L::Path)),
    ("PUT", "/microservices/{serviceId}/instances/{instanceId}/status", needs(Service, Update, L::Path)),
    ("PUT", "/heartbeats", needs(Service, Update, L::Elements)),
    ("GET", "/instances", needs(Service, Get, L::Query)),
    ("GET", "/microservices/{serviceId}/schemas", needs(Schema, Get, L::Path)),
    ("POST", "/microservices/{serviceId}/schemas", needs(Schema, Create, L::Path)),
    ("GET", "/microservices/{serviceId}/schemas/{schemaId}", needs(Schema, Get, L::Path)),
    ("PUT", "/microservices/{serviceId}/schemas/{schemaId}", needs(Schema, Update, L::Path)),
    ("DELETE", "/microservices/{serviceId}/schemas/{schemaId}", needs(Schema, Delete, L::Path)),
    ("GET", "/microservices/{serviceId}/tags", needs(Service, Get, L::Path)),
    ("POST", "/microservices/{serviceId}/tags", needs(Service, Create, L::Path)),
    ("PUT", "/microservices/{serviceId}/tags/{key}", needs(Service, Update, L::Path)),
    ("DELETE", "/microservices/{serviceId}/tags/{key}", needs(Service, Delete, L::Path)),
    ("GET", "/microservices/{serviceId}/rules", needs(Service, Get, L::Path)),
    ("POST", "/microservices/{serviceId}/rules", needs(Service, Create, L::Path)),
    ("PUT", "/microservices/{serviceId}/rules/{ruleId}", needs(Service, Update, L::Path)),
    ("DELETE", "/microservices/{serviceId}/rules/{ruleId}", needs(Service, Delete, L::Path)),
    // Service-Center maps these to nothing, so that only an administrator can declare dependencies there.
    ("POST", "/dependencies", needs(Service, Update, L::Elements)),
    ("PUT", "/dependencies", needs(Service, Update, L::Elements)),
    ("GET", "/microservices/{serviceId}/providers", needs(Service, Get, L::Path)),
    ("GET", "/microservices/{serviceId}/consumers", needs(Service, Get, L::Path)),
    // Answered by the gateway. It marks the instances in the client's name, and more only if that is allowed.
    ("POST", "/microservices/{serviceId}/drain", needs(Service, Update, L::Path)),
    ("POST", "/microservices/{serviceId}/instances/{instanceId}/drain", needs(Service, Update, L::Path)),
    // Answered by the gateway.
    ("GET", "/microservices/{serviceId}/watcher", needs(Service, Get, L::Watch)),
];

/// Below `/v4/{project}/registry` only.
const REGISTRY_V4: &[Line] = &[
    ("POST", "/instances/action", needs(Service, Get, L::Elements)),
    ("PUT", "/instances/status", needs(Service, Update, L::Elements)),
    ("GET", "/microservices/{serviceId}/timeline", needs(Service, Get, L::Path)),
    ("GET", "/microservices/{serviceId}/instances/{instanceId}/timeline", needs(Service, Get, L::Path)),
    ("GET", "/microservices/{serviceId}/instances/{instanceId}/overrides", needs(Service, Get, L::Path)),
    // The mark of a drain, which the gateway sets and ends in its client's name.
    ("PUT", "/microservices/{serviceId}/instances/{instanceId}/drain", needs(Service, Update, L::Path)),
    ("DELETE", "/microservices/{serviceId}/instances/{instanceId}/drain", needs(Service, Update, L::Path)),
    ("PUT", "/overrides", needs(Service, Update, L::Elements)),
    ("GET", "/overrides", needs(Service, Get, L::Reply)),
    // The id does not say the service. The handler looks it up, and knows no override that is not permitted.
    ("GET", "/overrides/{overrideId}", needs(Service, Get, L::Reply)),
    ("DELETE", "/overrides/{overrideId}", needs(Service, Update, L::Reply)),
    // Both services of a shift must be covered. Ids of shifts are looked up as those of overrides are.
    ("POST", "/shifts", needs(Service, Update, L::Elements)),
    ("GET", "/shifts", needs(Service, Get, L::Reply)),
    ("GET", "/shifts/{shiftId}", needs(Service, Get, L::Reply)),
    ("PUT", "/shifts/{shiftId}/pause", needs(Service, Update, L::Reply)),
    ("PUT", "/shifts/{shiftId}/resume", needs(Service, Update, L::Reply)),
    ("PUT", "/shifts/{shiftId}/undo", needs(Service, Update, L::Reply)),
    ("GET", "/version", Access::Free),
    ("GET", "/health", Access::Free),
    // Gateways ask this of control planes, as load balancers do.
    ("GET", "/health/readiness", Access::Free),
    // Answered by the gateway. A heartbeat changes an instance, however it is sent.
    ("GET", "/microservices/{serviceId}/instances/{instanceId}/heartbeat", needs(Service, Update, L::Path)),
    // Answered by the gateway, after a control plane has decided about the service.
    ("GET", "/microservices/{serviceId}/watchers", needs(Service, Get, L::Path)),
    ("GET", "/watcher", needs(Service, Get, L::Watch)),
    ("GET", "/events", needs(Service, Get, L::Watch)),
];

/// Below `/v4/{project}/govern`.
const GOVERN: &[Line] = &[
    ("GET", "/microservices/{serviceId}", needs(Service, Get, L::Path)),
    ("GET", "/microservices", needs(Service, Get, L::Reply)),
    ("GET", "/relations", needs(Service, Get, L::Reply)),
    ("GET", "/apps", needs(Service, Get, L::Reply)),
    ("GET", "/statistics", needs(Service, Get, L::Reply)),
];

/// Below `/registry/v3/govern`.
const GOVERN_V3: &[Line] = &[
    ("GET", "/service/{serviceId}", needs(Service, Get, L::Path)),
    ("GET", "/services", needs(Service, Get, L::Reply)),
    ("GET", "/relation", needs(Service, Get, L::Reply)),
];

/// Eureka's REST interface: below `/eureka`, and for another part of the registry below `/eureka/in/{scope}`.
/// Answered by the gateway; a control plane decides about each write again, with the labels of its service.
const EUREKA: &[Line] = &[
    ("GET", "/apps", needs(Service, Get, L::Dialect)),
    ("GET", "/apps/", needs(Service, Get, L::Dialect)),
    ("GET", "/apps/delta", needs(Service, Get, L::Dialect)),
    ("GET", "/apps/{app}", needs(Service, Get, L::Dialect)),
    ("POST", "/apps/{app}", needs(Service, Create, L::Dialect)),
    ("GET", "/apps/{app}/{instanceId}", needs(Service, Get, L::Dialect)),
    ("PUT", "/apps/{app}/{instanceId}", needs(Service, Update, L::Dialect)),
    ("DELETE", "/apps/{app}/{instanceId}", needs(Service, Delete, L::Dialect)),
    ("PUT", "/apps/{app}/{instanceId}/status", needs(Service, Update, L::Dialect)),
    ("DELETE", "/apps/{app}/{instanceId}/status", needs(Service, Update, L::Dialect)),
    ("PUT", "/apps/{app}/{instanceId}/metadata", needs(Service, Update, L::Dialect)),
    ("GET", "/instances/{instanceId}", needs(Service, Get, L::Dialect)),
    ("GET", "/vips/{name}", needs(Service, Get, L::Dialect)),
    ("GET", "/svips/{name}", needs(Service, Get, L::Dialect)),
];

/// Below `/v4/{project}/admin`.
const ADMIN: &[Line] = &[
    ("GET", "/dump", needs(Ops, Get, L::AllTenants)),
    ("GET", "/clusters", needs(Ops, Get, L::AllTenants)),
    ("GET", "/alarms", needs(Ops, Get, L::AllTenants)),
    ("DELETE", "/alarms", needs(Ops, Delete, L::AllTenants)),
    // Without access control everybody may; with it, an account needs the right without labels, also where
    // the scope leaves `ops` open: the handler looks.
    ("GET", "/audit", needs(Ops, Get, L::AllTenants)),
    ("GET", "/processes", needs(Ops, Get, L::AllTenants)),
    ("GET", "/protections", needs(Ops, Get, L::Nothing)),
    ("DELETE", "/protections/{serviceId}", needs(Ops, Delete, L::Nothing)),
];

/// Whole paths.
const ROOT: &[Line] = &[
    ("POST", "/v4/token", Access::Free),
    ("DELETE", "/v4/token", Access::Authenticated),
    ("GET", "/v4/self-perms", Access::Authenticated),
    ("GET", "/v4/accounts", needs(Account, Get, L::AllTenants)),
    ("POST", "/v4/accounts", needs(Account, Create, L::AllTenants)),
    ("POST", "/v4/accounts/batch-create", needs(Account, Create, L::AllTenants)),
    ("GET", "/v4/accounts/{name}", needs(Account, Get, L::AllTenants)),
    ("PUT", "/v4/accounts/{name}", needs(Account, Update, L::AllTenants)),
    ("DELETE", "/v4/accounts/{name}", needs(Account, Delete, L::AllTenants)),
    // The handler decides: one's own with the current password, another's as an administrator.
    ("POST", "/v4/accounts/{name}/password", Access::Authenticated),
    ("DELETE", "/v4/accounts/{name}/sessions", needs(Account, Update, L::AllTenants)),
    ("GET", "/v4/accounts/{name}/tokens", needs(Account, Get, L::AllTenants)),
    ("POST", "/v4/accounts/{name}/tokens", needs(Account, Update, L::AllTenants)),
    ("DELETE", "/v4/accounts/{name}/tokens/{tokenId}", needs(Account, Update, L::AllTenants)),
    ("GET", "/v4/account-locks", needs(Account, Get, L::AllTenants)),
    ("DELETE", "/v4/account-locks/{lock}", needs(Account, Update, L::AllTenants)),
    ("GET", "/v4/roles", needs(Role, Get, L::AllTenants)),
    ("POST", "/v4/roles", needs(Role, Create, L::AllTenants)),
    ("GET", "/v4/roles/{roleName}", needs(Role, Get, L::AllTenants)),
    ("PUT", "/v4/roles/{roleName}", needs(Role, Update, L::AllTenants)),
    ("DELETE", "/v4/roles/{roleName}", needs(Role, Delete, L::AllTenants)),
    ("GET", "/.well-known/jwks.json", Access::Free),
    ("GET", "/version", Access::Free),
    ("GET", "/health", Access::Free),
    ("GET", "/openapi", Access::Free),
    ("GET", "/openapi.json", Access::Free),
    // The console's files, which contain no data. They are answered before any table is asked.
    ("GET", "/console", Access::Free),
    ("GET", "/console/", Access::Free),
    ("GET", "/console/{file}", Access::Free),
    // Dialects, answered by the gateway.
    ("GET", "/prometheus/v1/targets", needs(Service, Get, L::Dialect)),
    // gRPC, answered by the gateway.
    ("POST", "/proto.ServiceInstanceCtrl/watch", needs(Service, Get, L::Watch)),
    ("POST", "/muster.watch.v1.Watch/Watch", needs(Service, Get, L::Watch)),
    // xDS, answered by the gateway.
    (
        "POST",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        needs(Service, Get, L::Dialect),
    ),
    (
        "POST",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        needs(Service, Get, L::Dialect),
    ),
    (
        "POST",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        needs(Service, Get, L::Dialect),
    ),
    (
        "POST",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        needs(Service, Get, L::Dialect),
    ),
    (
        "POST",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        needs(Service, Get, L::Dialect),
    ),
    (
        "POST",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        needs(Service, Get, L::Dialect),
    ),
    (
        "POST",
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        needs(Service, Get, L::Dialect),
    ),
    (
        "POST",
        "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        needs(Service, Get, L::Dialect),
    ),
    ("POST", "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes", needs(Service, Get, L::Dialect)),
    ("POST", "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes", needs(Service, Get, L::Dialect)),
    ("POST", "/grpc.health.v1.Health/Check", Access::Free),
    ("POST", "/grpc.health.v1.Health/Watch", Access::Free),
    ("POST", "/grpc.health.v1.Health/List", Access::Free),
    // The shapes of the services are public, as the OpenAPI document is.
    ("POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::Free),
    ("POST", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::Free),
];

/// Tables and the paths below which they lie. Earlier tables have precedence.
const TABLES: &[(&str, &[Line])] = &[
    ("", ROOT),
    ("/v4/{project}/registry", REGISTRY),
    ("/v4/{project}/registry", REGISTRY_V4),
    ("/registry/v3", REGISTRY),
    ("/v4/{project}/govern", GOVERN),
    ("/registry/v3/govern", GOVERN_V3),
    ("/v4/{project}/admin", ADMIN),
    ("/eureka", EUREKA),
    ("/eureka/in/{scope}", EUREKA),
];

/// The most segments of a path that a route has. The one before the first slash is empty, and counts.
const MOST_SEGMENTS: usize = 12;

/// A line with its whole path.
struct Route {
    method: &'static str,
    segments: Vec<&'static str>,
    access: Access,
}

/// All lines, by the number of segments of their paths, those with precedence first. Every request is looked up
/// here, and most lines differ from it in their last segment.
static ROUTES: LazyLock<[Vec<Route>; MOST_SEGMENTS + 1]> = LazyLock::new(|| {
    let mut routes = [const { Vec::new() }; MOST_SEGMENTS + 1];
    for (base, lines) in TABLES {
        for &(method, pattern, access) in *lines {
            let segments: Vec<&str> = base.split('/').chain(pattern.split('/').skip(1)).collect();
            if let Some(routes) = routes.get_mut(segments.len()) {
                routes.push(Route { method, segments, access });
            }
        }
    }
    routes
});

/// The routes that have a path, those with precedence first.
fn routes_of(path: &str) -> impl Iterator<Item = &'static Route> {
    let mut own = [""; MOST_SEGMENTS];
    let mut length = 0;
    for segment in path.split('/') {
        // One past the end is too long for every route, however long it is.
        if let Some(place) = own.get_mut(length) {
            *place = segment;
        }
        length = (length + 1).min(MOST_SEGMENTS + 1);
    }
    let routes = ROUTES.get(length).map(Vec::as_slice).unwrap_or_default();
    routes.iter().filter(move |route| {
        let own = own.iter().take(length).rev();
        route.segments.iter().rev().zip(own).all(|(pattern, own)| segment_matches(pattern, own))
    })
}

/// The access that a request needs, by its method and its path as it was sent.
///
/// The path is compared undecoded, as routers compare it: a segment that hides a letter behind a percent sign
/// is another segment.
pub fn access_of(method: &Method, path: &str) -> Access {
    let mut answer = Access::Unknown;
    for route in routes_of(path) {
        if route.method == method.as_str() {
            return route.access;
        }
        answer = Access::OtherMethod;
    }
    answer
}

/// The path with placeholders of the route that takes a request; `None` when no route does.
pub fn pattern_of(method: &Method, path: &str) -> Option<String> {
    let route = routes_of(path).find(|route| route.method == method.as_str())?;
    Some(route.segments.join("/"))
}

/// Every route: method, path with placeholders, and the access that it needs.
pub fn all() -> impl Iterator<Item = (&'static str, String, Access)> {
    TABLES.iter().flat_map(|(base, lines)| {
        lines.iter().map(move |(method, pattern, access)| (*method, format!("{base}{pattern}"), *access))
    })
}

fn segment_matches(pattern: &str, segment: &str) -> bool {
    if pattern.starts_with('{') { !segment.is_empty() } else { pattern == segment }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_found_by_its_own_path() {
        for (method, path, access) in all() {
            let method: Method = method.parse().expect("a method");
            let filled = path.replace("{project}", "default").replace(['{', '}'], "");
            assert_eq!(access_of(&method, &filled), access, "{method} {path}");
            assert_eq!(pattern_of(&method, &filled), Some(path));
        }
    }

    #[test]
    fn a_route_without_a_line_is_unknown() {
        for path in [
            "",
            "/",
            "/v4",
            "/v4//registry/microservices",
            "/v4/default/registry/microservices/",
            "/v4/default/registry/microservice%73",
            "/v4/default/registry/microservices/a/b",
            "/v4/default/registry/microservices/a/instances/b/heartbeat/c/d/e/f/g/h/i",
            "/v4/default/Registry/microservices",
            "//v4/token",
            "/v4/token/",
            "/muster.watch.v1.Watch/watch",
        ] {
            assert_eq!(access_of(&Method::GET, path), Access::Unknown, "{path}");
        }
        assert_eq!(access_of(&Method::HEAD, "/v4/default/registry/microservices"), Access::OtherMethod);
        assert_eq!(access_of(&Method::PATCH, "/v4/token"), Access::OtherMethod);
    }
}
