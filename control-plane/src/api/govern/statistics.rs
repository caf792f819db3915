//! Numbers of a tenant's services, instances and applications.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::listed;
use crate::api::call::Call;
use crate::api::operation::{Operation, get, object};
use crate::api::reply::{self, Reply};
use crate::api::state::Api;
use crate::registry::Caller;
use crate::view::Snapshot;

/// Numbers of a tenant, or of the registry. One that is zero is absent.
// For the document only.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Statistics {
    services: BTreeMap<String, u64>,
    instances: BTreeMap<String, u64>,
    apps: BTreeMap<String, u64>,
}

pub(super) fn operation() -> Operation {
    get(
        "/statistics",
        get_statistics,
        "GetStatistics",
        "Count the services, instances and applications of the tenant.",
    )
    .returns(object! { "statistics": Statistics })
}

async fn get_statistics(State(api): State<Api>, call: Call) -> Reply {
    let snapshot = api.registry().read(&call.caller).await?;
    reply::json(&json!({ "statistics": of_tenant(&api, &snapshot, &call.caller) }))
}

/// The numbers of the caller's tenant without shared services, of what the caller may see.
pub(super) fn of_tenant(api: &Api, snapshot: &Snapshot, caller: &Caller) -> Value {
    // Versions of one name count as one service.
    let mut names = BTreeSet::new();
    let mut online = BTreeSet::new();
    let mut apps = BTreeSet::new();
    let mut instances = 0;
    for (view, service) in listed(api, snapshot, caller, false) {
        let name = (&service.environment, &service.app_id, &service.service_name);
        names.insert(name);
        apps.insert(&service.app_id);
        if !view.instances.is_empty() {
            online.insert(name);
        }
        instances += view.instances.size();
    }
    let mut of_domain = 0;
    for other in snapshot.tenants.keys().filter(|other| other.domain == caller.tenant.domain) {
        let there = Caller { tenant: other.clone(), ..caller.clone() };
        for (view, _) in listed(api, snapshot, &there, false) {
            of_domain += view.instances.size();
        }
    }
    json!({
        "services": nonzero(&[("count", names.len()), ("onlineCount", online.len())]),
        "instances": nonzero(&[("count", instances), ("countByDomain", of_domain)]),
        "apps": nonzero(&[("count", apps.len())]),
    })
}

fn nonzero(numbers: &[(&str, usize)]) -> Value {
    let mut object = Map::new();
    for (name, number) in numbers.iter().filter(|(_, number)| *number > 0) {
        object.insert((*name).to_owned(), json!(number));
    }
    Value::Object(object)
}
