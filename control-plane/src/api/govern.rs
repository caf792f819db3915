//! Operations of the dashboard. They only read, and take everything but the contents of schemas from the
//! view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use shared::model::{Service, ServiceRef};

use super::call::Call;
use super::failure::Code::ServiceNotFound;
use super::failure::Failure;
use super::operation::{Operation, Parameter, get, object};
use super::reply::{self, Reply};
use super::state::Api;
use crate::keys::Name;
use crate::registry::Caller;
use crate::registry::dependency::PartnerFilter;
use crate::registry::schema::Schema;
use crate::registry::service::existing;
use crate::view::{PackedInstance, ServiceRule, ServiceView, Snapshot};

mod graph;
mod statistics;

/// The parameter with which shared services are listed too.
const SHARED: Parameter = ("withShared", "`1` or `true`: include the shared services.");
/// The dashboard shows partners of the same tenant, without the service itself.
const PARTNERS: PartnerFilter = PartnerFilter { same_domain: true, no_self: true };

pub(super) fn operations() -> Vec<Operation> {
    vec![
        service_detail("/microservices/{serviceId}"),
        services_info("/microservices"),
        graph::operation("/relations"),
        get("/apps", apps, "GetApplications", "List the applications that have a service in an environment.")
            .query(&[("env", "The environment, exactly."), SHARED])
            .returns(object! { "appIds": Vec<String> }),
        statistics::operation(),
    ]
}

/// Version 3 has fewer operations, and the singular in their paths.
pub(super) fn operations_v3() -> Vec<Operation> {
    vec![service_detail("/service/{serviceId}"), services_info("/services"), graph::operation("/relation")]
}

fn service_detail(path: &'static str) -> Operation {
    get(path, get_one, "GetServiceDetail", "Get everything about a service.")
        .returns(object! { "service": Detail })
        .fails_with(&[ServiceNotFound])
}

fn services_info(path: &'static str) -> Operation {
    get(path, list, "GetServicesInfo", "List the services of the tenant with the requested details.")
        .query(&[
            (
                "options",
                "Comma list of `tags`, `rules`, `instances`, `schemas`, `dependencies`, `statistics`, or `all`.",
            ),
            ("appId", "Only services of this application."),
            ("serviceName", "Only services with this name."),
            ("env", "Only services of this environment."),
            ("property", "`key:value` that the service's properties must have; may be repeated."),
            ("countOnly", "`1`: numbers in place of instances."),
            SHARED,
        ])
        .returns(object! { "allServicesDetail": Vec<Detail>, "statistics": statistics::Statistics })
}

/// Everything about a service. A member that was not requested, or is empty, is absent.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Detail {
    #[serde(skip_serializing_if = "Option::is_none")]
    micro_service: Option<Service>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instances: Vec<PackedInstance>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schema_infos: Vec<Schema>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<ServiceRule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    providers: Vec<Arc<Service>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    consumers: Vec<Arc<Service>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    micro_service_versions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statics: Option<Value>,
}

/// The details that a list shows of each service.
#[derive(Clone, Copy, Default)]
struct Options {
    tags: bool,
    rules: bool,
    instances: bool,
    schemas: bool,
    dependencies: bool,
    statistics: bool,
    /// Only the statistics were requested, so no service is listed.
    only_statistics: bool,
    /// Numbers stand in place of instances.
    count_only: bool,
}

impl Options {
    fn read(call: &Call) -> Result<Self, Failure> {
        let names: BTreeSet<String> = call.list("options").into_iter().collect();
        let all = names.contains("all");
        Ok(Self {
            tags: all || names.contains("tags"),
            rules: all || names.contains("rules"),
            instances: all || names.contains("instances"),
            schemas: all || names.contains("schemas"),
            dependencies: all || names.contains("dependencies"),
            statistics: all || names.contains("statistics"),
            only_statistics: names.len() == 1 && names.contains("statistics"),
            count_only: call.strict_flag("countOnly")?,
        })
    }
}

/// The services of the caller's tenant that the dashboard shows to the caller.
fn listed<'a>(
    api: &'a Api,
    snapshot: &'a Snapshot,
    caller: &'a Caller,
    with_shared: bool,
) -> impl Iterator<Item = (&'a Arc<ServiceView>, &'a Arc<Service>)> + 'a {
    let tenant = &caller.tenant;
    let views = snapshot.tenant(tenant).into_iter().flat_map(|view| view.services.values());
    let records = views.filter_map(|view| Some((view, view.service.as_ref()?)));
    records.filter(|(_, service)| caller.sees(service)).filter(move |(_, service)| {
        with_shared || !api.registry().is_shared(tenant, &service.app_id, &service.service_name)
    })
}

async fn get_one(State(api): State<Api>, call: Call) -> Reply {
    let reference = call.service()?;
    let registry = api.registry();
    // One snapshot for the whole reply, so that its parts agree with each other.
    let snapshot = registry
        .answer(&call.caller, |snapshot| existing(snapshot, &reference).map(|_| snapshot.clone()))
        .await?;
    let view = existing(&snapshot, &reference)?;
    let options =
        Options { tags: true, rules: true, instances: true, dependencies: true, ..Options::default() };
    let mut detail = detail(&api, &snapshot, &call.caller, &reference, view, &options);
    detail.micro_service = view.service.as_deref().cloned();
    detail.schema_infos = registry.schemas(&call.caller, &reference, true).await?;
    if let Some(service) = &view.service {
        let name = Name::new(&service.environment, &service.app_id, &service.service_name);
        let versions = snapshot.versions(&reference.tenant, &name);
        detail.micro_service_versions = versions.iter().map(|version| version.text.clone()).collect();
    }
    detail.statics = Some(json!({}));
    reply::json(&json!({ "service": detail }))
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    let options = Options::read(&call)?;
    let snapshot = api.registry().read(&call.caller).await?;
    let tenant = &call.caller.tenant;
    let mut body = serde_json::Map::new();
    if options.statistics {
        body.insert("statistics".into(), statistics::of_tenant(&api, &snapshot, &call.caller));
    }
    // A dashboard asks for these numbers often, and making the list is the expensive part.
    if options.only_statistics {
        return reply::json(&body);
    }
    let filter = Filter::read(&call)?;
    let mut details = Vec::new();
    for (view, service) in listed(&api, &snapshot, &call.caller, call.flag("withShared")) {
        if !filter.takes(service) {
            continue;
        }
        let reference = ServiceRef::new(tenant.clone(), &service.service_id);
        let mut detail = detail(&api, &snapshot, &call.caller, &reference, view, &options);
        let mut shown = (**service).clone();
        // The ids of schemas would only make the list longer; they are in the detail when it was requested.
        shown.schemas.clear();
        detail.micro_service = Some(shown);
        if options.schemas {
            detail.schema_infos = api.registry().schemas(&call.caller, &reference, true).await?;
        }
        details.push(detail);
    }
    if !details.is_empty() {
        body.insert("allServicesDetail".into(), json!(details));
    }
    reply::json(&body)
}

/// The conditions that a listed service meets. An empty text is no condition.
struct Filter {
    app_id: String,
    service_name: String,
    environment: String,
    properties: Vec<(String, String)>,
}

impl Filter {
    fn read(call: &Call) -> Result<Self, Failure> {
        let mut properties = Vec::new();
        for text in call.all("property") {
            let Some((key, value)) = text.split_once(':') else {
                return Err(Failure::invalid("parameter property must be key:value"));
            };
            properties.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self {
            app_id: call.query("appId").into(),
            service_name: call.query("serviceName").into(),
            environment: call.query("env").into(),
            properties,
        })
    }

    fn takes(&self, service: &Service) -> bool {
        fits(&self.app_id, &service.app_id)
            && fits(&self.service_name, &service.service_name)
            && fits(&self.environment, &service.environment)
            && self.properties.iter().all(|(key, value)| service.properties.get(key) == Some(value))
    }
}

fn fits(condition: &str, value: &str) -> bool {
    condition.is_empty() || condition == value
}

fn detail(
    api: &Api,
    snapshot: &Snapshot,
    caller: &Caller,
    reference: &ServiceRef,
    view: &ServiceView,
    options: &Options,
) -> Detail {
    let registry = api.registry();
    let mut detail = Detail::default();
    if options.count_only {
        let count = view.instances.size();
        let instances = if count == 0 { json!({}) } else { json!({ "count": count }) };
        detail.statics = Some(if options.instances { json!({ "instances": instances }) } else { json!({}) });
    } else if options.instances {
        detail.instances = view.instances.values().map(|entry| entry.instance.clone()).collect();
    }
    if options.tags {
        detail.tags = (*view.tags).clone();
    }
    if options.rules {
        detail.rules = view.rules.values().map(|entry| entry.rule.clone()).collect();
    }
    if options.dependencies {
        let providers = registry.providers_of(snapshot, reference);
        detail.providers = registry.partners(snapshot, caller, reference, providers, PARTNERS);
        let consumers = registry.consumers_of(snapshot, reference);
        detail.consumers = registry.partners(snapshot, caller, reference, consumers, PARTNERS);
    }
    detail
}

async fn apps(State(api): State<Api>, call: Call) -> Reply {
    let snapshot = api.registry().read(&call.caller).await?;
    let environment = call.query("env");
    let apps: BTreeSet<&str> = listed(&api, &snapshot, &call.caller, call.flag("withShared"))
        .filter(|(_, service)| service.environment == environment)
        .map(|(_, service)| service.app_id.as_str())
        .collect();
    reply::list("appIds", &Vec::from_iter(apps))
}
