//! The graph of a tenant's services and their dependencies.

use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use shared::model::Service;

use super::{PARTNERS, SHARED, listed};
use crate::api::call::Call;
use crate::api::operation::{Operation, get, object};
use crate::api::reply::{self, Reply};
use crate::api::state::Api;

pub(super) fn operation(path: &'static str) -> Operation {
    get(path, get_graph, "GetGraph", "Get the services of the tenant and the dependencies between them.")
        .query(&[SHARED])
        .returns(object! {
            "nodes": Option<Vec<Node>>, "lines": Option<Vec<Line>>, "circles": Option<Vec<Line>>,
        })
}

/// A service, alone or at the end of a line. Unlike elsewhere, empty members are written.
#[derive(Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: String,
    name: String,
    app_id: String,
    version: String,
    r#type: String,
    color: String,
    position: String,
}

/// A dependency: from the consumer to the provider.
#[derive(Serialize, JsonSchema)]
struct Line {
    from: Node,
    to: Node,
    r#type: String,
    color: String,
    descriptor: String,
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

async fn get_graph(State(api): State<Api>, call: Call) -> Reply {
    let snapshot = api.registry().read(&call.caller).await?;
    let registry = api.registry();
    let mut nodes = Vec::new();
    let mut lines = Vec::new();
    for (_, service) in listed(&api, &snapshot, &call.caller, call.flag("withShared")) {
        let reference = call.caller.service(&service.service_id);
        nodes.push(Node::of(service));
        let providers = registry.providers_of(&snapshot, &reference);
        for provider in registry.partners(&snapshot, &call.caller, &reference, providers, PARTNERS) {
            // Of the provider only id and name are shown here; its own node has the rest.
            let to = Node {
                id: provider.service_id.clone(),
                name: provider.service_name.clone(),
                ..Node::default()
            };
            lines.push(Line {
                from: Node::of(service),
                to,
                r#type: String::new(),
                color: String::new(),
                descriptor: String::new(),
            });
        }
    }
    reply::json(&json!({ "nodes": or_null(&nodes), "lines": or_null(&lines), "circles": null }))
}

/// Service-Center writes an empty list as `null` here.
fn or_null<T: Serialize>(items: &[T]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}
