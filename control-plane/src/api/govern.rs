//! Routes of the dashboard: everything at a glance, read only, from the view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use shared::model::{Instance, Service, ServiceRef, Tenant};

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::failure::Failure;
use crate::registry::dependency::PartnerFilter;
use crate::registry::schema::Schema;
use crate::registry::service::existing;
use crate::view::{ServiceRule, ServiceView, Snapshot};

/// Everything about a service; what was not asked for, or is empty, is absent.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    #[serde(skip_serializing_if = "Option::is_none")]
    micro_service: Option<Service>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instances: Vec<Arc<Instance>>,
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

/// What a list shows of each service.
struct Options {
    tags: bool,
    rules: bool,
    instances: bool,
    schemas: bool,
    dependencies: bool,
    statistics: bool,
    count_only: bool,
}

impl Options {
    fn read(call: &Call) -> Result<(Self, bool), Failure> {
        let asked: BTreeSet<String> = call.list("options").into_iter().collect();
        let has = |name: &str| asked.contains(name) || asked.contains("all");
        let count_only = match call.query("countOnly").trim() {
            "" | "0" => false,
            "1" => true,
            _ => return Err(Failure::invalid("parameter countOnly must be 1 or 0")),
        };
        let options = Self {
            tags: has("tags"),
            rules: has("rules"),
            instances: has("instances"),
            schemas: has("schemas"),
            dependencies: has("dependencies"),
            statistics: has("statistics"),
            count_only,
        };
        let only_statistics = asked.len() == 1 && asked.contains("statistics");
        Ok((options, only_statistics))
    }
}

const PARTNERS: PartnerFilter = PartnerFilter { same_domain: true, no_self: true };

/// The services of a tenant that the dashboard shows.
fn listed<'a>(
    api: &'a Api,
    snapshot: &'a Snapshot,
    tenant: &'a Tenant,
    with_shared: bool,
) -> impl Iterator<Item = (&'a Arc<ServiceView>, &'a Arc<Service>)> + 'a {
    let views = snapshot.tenant(tenant).into_iter().flat_map(|view| view.services.values());
    views.filter_map(|view| Some((view, view.service.as_ref()?))).filter(move |(_, service)| {
        with_shared || !api.registry().is_shared(tenant, &service.app_id, &service.service_name)
    })
}

pub(super) async fn one(State(api): State<Api>, call: Call) -> Answer {
    let reference = call.service()?;
    let registry = api.registry();
    let snapshot = registry.answer(&call.caller, |s| existing(s, &reference).map(|_| s.clone())).await?;
    let view = existing(&snapshot, &reference)?;
    let all = Options {
        tags: true,
        rules: true,
        instances: true,
        schemas: false,
        dependencies: true,
        statistics: false,
        count_only: false,
    };
    let mut detail = detail(&api, &snapshot, &reference, view, &all);
    detail.micro_service = view.service.as_deref().cloned();
    detail.schema_infos = registry.schemas(&call.caller, &reference, true).await?;
    if let Some(service) = &view.service {
        let name = crate::keys::Name::new(&service.environment, &service.app_id, &service.service_name);
        let versions = snapshot.versions(&reference.tenant, &name);
        detail.micro_service_versions = versions.iter().map(|v| v.text.clone()).collect();
    }
    detail.statics = Some(json!({}));
    reply::json(&json!({ "service": detail }))
}

pub(super) async fn list(State(api): State<Api>, call: Call) -> Answer {
    let (options, only_statistics) = Options::read(&call)?;
    let snapshot = api.registry().read(&call.caller).await?;
    let tenant = &call.caller.tenant;
    let mut body = serde_json::Map::new();
    if options.statistics {
        body.insert("statistics".into(), statistics(&api, &snapshot, tenant));
    }
    if only_statistics {
        return reply::json(&body);
    }
    let filter = Filter::read(&call)?;
    let mut details = Vec::new();
    for (view, service) in listed(&api, &snapshot, tenant, call.flag("withShared")) {
        if !filter.takes(service) {
            continue;
        }
        let reference = ServiceRef::new(tenant.clone(), &service.service_id);
        let mut detail = detail(&api, &snapshot, &reference, view, &options);
        let mut shown = (**service).clone();
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

/// Which services a list takes.
struct Filter {
    app_id: String,
    service_name: String,
    environment: String,
    properties: Vec<(String, String)>,
}

impl Filter {
    fn read(call: &Call) -> Result<Self, Failure> {
        let pair = |text: &String| match text.split_once(':') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Failure::invalid("parameter property must be key:value")),
        };
        Ok(Self {
            app_id: call.query("appId").into(),
            service_name: call.query("serviceName").into(),
            environment: call.query("env").into(),
            properties: call.all("property").map(pair).collect::<Result<_, _>>()?,
        })
    }

    fn takes(&self, service: &Service) -> bool {
        let fits = |asked: &str, is: &str| asked.is_empty() || asked == is;
        fits(&self.app_id, &service.app_id)
            && fits(&self.service_name, &service.service_name)
            && fits(&self.environment, &service.environment)
            && self.properties.iter().all(|(key, value)| service.properties.get(key) == Some(value))
    }
}

fn detail(
    api: &Api,
    snapshot: &Snapshot,
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
        detail.instances = view.instances.values().map(|it| it.instance.clone()).collect();
    }
    if options.tags {
        detail.tags = (*view.tags).clone();
    }
    if options.rules {
        detail.rules = view.rules.values().cloned().collect();
    }
    if options.dependencies {
        let providers = registry.providers_of(snapshot, reference);
        detail.providers = registry.partners(snapshot, reference, providers, PARTNERS);
        let consumers = registry.consumers_of(snapshot, reference);
        detail.consumers = registry.partners(snapshot, reference, consumers, PARTNERS);
    }
    detail
}

fn statistics(api: &Api, snapshot: &Snapshot, tenant: &Tenant) -> Value {
    let (mut names, mut online, mut apps) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut instances = 0;
    for (view, service) in listed(api, snapshot, tenant, false) {
        let name = (&service.environment, &service.app_id, &service.service_name);
        names.insert(name);
        apps.insert(&service.app_id);
        if !view.instances.is_empty() {
            online.insert(name);
        }
        instances += view.instances.size();
    }
    let of_domain = snapshot.tenants.keys().filter(|other| other.domain == tenant.domain);
    let by_domain: usize = of_domain
        .flat_map(|other| listed(api, snapshot, other, false))
        .map(|(view, _)| view.instances.size())
        .sum();
    let counted = |pairs: &[(&str, usize)]| {
        let nonzero = pairs.iter().filter(|(_, n)| *n > 0).map(|(name, n)| ((*name).to_owned(), json!(n)));
        Value::Object(nonzero.collect())
    };
    json!({
        "services": counted(&[("count", names.len()), ("onlineCount", online.len())]),
        "instances": counted(&[("count", instances), ("countByDomain", by_domain)]),
        "apps": counted(&[("count", apps.len())]),
    })
}

pub(super) async fn statistics_only(State(api): State<Api>, call: Call) -> Answer {
    let snapshot = api.registry().read(&call.caller).await?;
    reply::json(&json!({ "statistics": statistics(&api, &snapshot, &call.caller.tenant) }))
}

pub(super) async fn apps(State(api): State<Api>, call: Call) -> Answer {
    let snapshot = api.registry().read(&call.caller).await?;
    let environment = call.query("env");
    let apps: BTreeSet<&str> = listed(&api, &snapshot, &call.caller.tenant, call.flag("withShared"))
        .filter(|(_, service)| service.environment == environment)
        .map(|(_, service)| service.app_id.as_str())
        .collect();
    if apps.is_empty() { reply::json(&json!({})) } else { reply::json(&json!({ "appIds": apps })) }
}

/// A node or an end of a line; here everything is always written.
#[derive(Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    id: String,
    name: String,
    app_id: String,
    version: String,
    r#type: String,
    color: String,
    position: String,
}

impl Node {
    fn of(service: &Service) -> Self {
        Self {
            id: service.service_id.clone(),
            name: service.service_name.clone(),
            app_id: service.app_id.clone(),
            version: service.version.clone(),
            ..Self::default()
        }
    }
}

pub(super) async fn relations(State(api): State<Api>, call: Call) -> Answer {
    let snapshot = api.registry().read(&call.caller).await?;
    let registry = api.registry();
    let (mut nodes, mut lines) = (Vec::new(), Vec::new());
    for (_, service) in listed(&api, &snapshot, &call.caller.tenant, call.flag("withShared")) {
        let reference = call.caller.service(&service.service_id);
        nodes.push(Node::of(service));
        let providers = registry.providers_of(&snapshot, &reference);
        for provider in registry.partners(&snapshot, &reference, providers, PARTNERS) {
            let to = Node {
                id: provider.service_id.clone(),
                name: provider.service_name.clone(),
                ..Node::default()
            };
            lines.push(
                json!({ "from": Node::of(service), "to": to, "type": "", "color": "", "descriptor": "" }),
            );
        }
    }
    let or_null = |is_empty: bool, value: Value| if is_empty { Value::Null } else { value };
    reply::json(&json!({
        "nodes": or_null(nodes.is_empty(), json!(nodes)),
        "lines": or_null(lines.is_empty(), json!(lines)),
        "circles": null,
    }))
}
