//! The routes of those who look after the registry: console, administrators, health.

use std::collections::BTreeMap;

use shared::model::Instance;

use super::Text;
use super::shapes::{AlarmEntry, DumpEntry, Line, Statistics};
use crate::api::operation::{Operation, Parameter, SchemaOf, delete, get, object};
use crate::api::{admin, govern, health};
use crate::failure::Code::{self, Forbidden, ServiceNotFound, Unhealthy};
use crate::registry::protection::Protected;

pub(super) const HEALTH: &[Code] = &[Unhealthy, ServiceNotFound, Code::Internal];

pub(super) fn version() -> SchemaOf {
    object! { "version": String, "buildTag": String, "os": String, "arch": String, "apiVersion": String }
}

/// What the dashboard asks.
pub(in crate::api) fn govern() -> Vec<Operation> {
    vec![
        service_detail("/microservices/{serviceId}"),
        services_info("/microservices"),
        graph("/relations"),
        get("/apps", govern::apps, "GetApplications", "The applications with a service in an environment.")
            .query(&[("env", "The environment, exactly."), SHARED])
            .gives(object! { "appIds": Vec<String> }),
        get("/statistics", govern::statistics_only, "GetStatistics", "How many there are of what.")
            .gives(object! { "statistics": Statistics }),
    ]
}

/// Singular words, and fewer of them.
pub(in crate::api) fn govern_v3() -> Vec<Operation> {
    vec![service_detail("/service/{serviceId}"), services_info("/services"), graph("/relation")]
}

const SHARED: Parameter = ("withShared", "`1` or `true`: with the shared services.");

fn service_detail(path: &'static str) -> Operation {
    get(path, govern::one, "GetServiceDetail", "Everything about a service.")
        .gives(object! { "service": govern::Detail })
        .refuses(&[ServiceNotFound])
}

fn services_info(path: &'static str) -> Operation {
    get(path, govern::list, "GetServicesInfo", "All services of the tenant with what was asked for.")
        .query(&[
            ("options", "Comma list of `tags`, `rules`, `instances`, `schemas`, `dependencies`, `statistics`, or `all`."),
            ("appId", "Only services of this application."),
            ("serviceName", "Only services of this name."),
            ("env", "Only services of this environment."),
            ("property", "`key:value` that the service's properties must have; may be repeated."),
            ("countOnly", "`1`: numbers in place of instances."),
            SHARED,
        ])
        .gives(object! { "allServicesDetail": Vec<govern::Detail>, "statistics": Statistics })
}

fn graph(path: &'static str) -> Operation {
    get(path, govern::relations, "GetGraph", "Who depends on whom.")
        .query(&[SHARED])
        .gives(object! { "nodes": Option<Vec<govern::Node>>, "lines": Option<Vec<Line>>, "circles": Option<Vec<Line>> })
}

/// What administrators ask.
pub(in crate::api) fn admin() -> Vec<Operation> {
    vec![
        get("/dump", admin::dump, "Dump", "Everything that this node knows, of all tenants.")
            .query(&[("options", "Comma list of `cache`, `info`, or `all`; `cache` without it.")])
            .gives(object! { "info": Text, "cache": BTreeMap<String, Vec<DumpEntry>> })
            .refuses(&[Forbidden]),
        get("/clusters", admin::clusters, "Clusters", "The addresses of the store.")
            .gives(object! { "clusters": BTreeMap<String, Vec<String>> }),
        get("/alarms", admin::alarms, "ListAlarm", "What went wrong on this node.")
            .gives(object! { "alarms": Vec<AlarmEntry> }),
        delete("/alarms", admin::forget_alarms, "ClearAlarm", "Forget what went wrong on this node."),
        get(
            "/protections",
            admin::protections,
            "ListProtection",
            "The services some of whose expired instances are held.",
        )
        .gives(object! { "protections": Vec<Protected> }),
        delete(
            "/protections/{serviceId}",
            admin::release,
            "ReleaseProtection",
            "Let the held instances of a service go.",
        )
        .refuses(&[ServiceNotFound]),
    ]
}

/// What stands outside of all parts.
pub(in crate::api) fn root() -> Vec<Operation> {
    vec![
        get("/version", health::version_v3, "GetVersion", "The release of this node.")
            .tenantless()
            .gives(version()),
        get("/health", health::cluster, "ClusterHealth", "The live nodes of this release.")
            .tenantless()
            .gives(object! { "instances": Vec<Instance> })
            .refuses(HEALTH),
    ]
}
