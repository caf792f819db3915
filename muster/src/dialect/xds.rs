//! The resources of xDS: what a delta stream of a gateway tells of services.
//!
//! A stream tells what there is and never says that this is all. A name that no resource has is answered at
//! once, after everything that was due before, so that its answer marks the end.

use std::collections::BTreeMap;

use prost_types::Struct;
use prost_types::value::Kind as Form;
use proto::envoy as pb;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Choice, Told};
use crate::client::{GrpcStream, RegistryClient};
use crate::failure::CommandFailure;

mod shown;

use shown::Shown;

const HEADS: [&str; 7] = ["TYPE", "NAME", "ADDRESS", "HEALTH", "WEIGHT", "LOCALITY", "VERSION"];
const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A name that no resource can have: services have an application.
const NOBODY: &str = "muster-has-told-all";

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// A resource as it was told.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) shown: Shown,
}

/// Asks as a client of xDS does: for a name in every form that clients have of it, or for everything.
pub(super) async fn ask(registry: &RegistryClient, choice: Choice<'_>) -> Result<Told, CommandFailure> {
    let mut resources = resources(registry, choice).await?;
    resources.retain(|resource| is_chosen(&resource.name, choice));
    resources.sort_by(|a, b| (a.shown.kind(), &a.name).cmp(&(b.shown.kind(), &b.name)));
    let rows = resources.iter().flat_map(rows).collect();
    let body = resources.iter().map(
        |Resource { name, version, shown }| json!({"name": name, "version": version, "resource": shown.json()}),
    );
    Ok(Told { heads: &HEADS, rows, body: Value::Array(body.collect()), age: None })
}

/// The resources of a service, or all clusters with their endpoints.
pub(crate) async fn resources(
    registry: &RegistryClient,
    choice: Choice<'_>,
) -> Result<Vec<Resource>, CommandFailure> {
    let asking = async {
        match group(choice) {
            // Envoy reads the plain name, and gRPC the name that its route leads to.
            Some(group) => {
                let both = [group.clone(), format!("{group}:grpc")];
                let one = [group];
                collect(registry, &[(CLUSTER, &both), (ENDPOINTS, &both), (LISTENER, &one), (ROUTE, &one)])
                    .await
            }
            None => {
                let all = ["*".to_owned()];
                collect(registry, &[(CLUSTER, &all), (ENDPOINTS, &all)]).await
            }
        }
    };
    match timeout(registry.timeout(), asking).await {
        Ok(told) => told,
        Err(_) => Err(CommandFailure::Unreachable {
            server: registry.server(),
            problem: "the stream has not told everything in time".to_owned(),
        }),
    }
}

/// The name of one service. `None` when more are asked for.
fn group(choice: Choice<'_>) -> Option<String> {
    let (app, service) = (choice.app?, choice.service?);
    Some(match choice.env {
        None | Some("") => format!("{app}/{service}"),
        Some(env) => format!("{env}/{app}/{service}"),
    })
}

fn is_chosen(name: &str, choice: Choice<'_>) -> bool {
    let group = name.split(['@', ':']).next().unwrap_or_default();
    let parts: Vec<&str> = group.split('/').collect();
    let (env, app, service) = match parts[..] {
        [app, service] => ("", app, service),
        [env, app, service] => (env, app, service),
        _ => return false,
    };
    let is = |wanted: Option<&str>, own: &str| wanted.is_none_or(|wanted| wanted == own);
    is(choice.env, env) && is(choice.app, app) && is(choice.service, service)
}

/// Subscribes to one kind after the other, and collects what each has.
async fn collect(
    registry: &RegistryClient,
    wanted: &[(&str, &[String])],
) -> Result<Vec<Resource>, CommandFailure> {
    let mut wanted = wanted.iter();
    let Some((mut kind, names)) = wanted.next().copied() else { return Ok(Vec::new()) };
    let mut stream = GrpcStream::open(registry, PATH, &first(registry, kind, names)).await?;
    let mut told = BTreeMap::new();
    loop {
        let answer: pb::DeltaDiscoveryResponse = stream.next().await?;
        let is_end = answer.removed_resources.iter().any(|name| name == NOBODY);
        for pb::Resource { name, version, resource } in answer.resources {
            let resource = resource.unwrap_or_default();
            let shown = Shown::read(&resource).map_err(|problem| CommandFailure::NotUnderstood {
                server: registry.server(),
                problem: format!("{name}: {problem}"),
            })?;
            told.insert((resource.type_url, name.clone()), Resource { name, version, shown });
        }
        for name in answer.removed_resources {
            told.remove(&(answer.type_url.clone(), name));
        }
        stream.send(&acknowledged(answer.type_url.clone(), answer.nonce)).await?;
        if is_end {
            let Some((next, names)) = wanted.next().copied() else { return Ok(told.into_values().collect()) };
            kind = next;
            stream.send(&subscription(kind, names)).await?;
        } else if answer.type_url == kind {
            // After the acknowledgement: what is still due of the kind comes before the answer to this.
            stream.send(&subscription(ROUTE, &[NOBODY.to_owned()])).await?;
        }
    }
}

fn first(registry: &RegistryClient, kind: &str, names: &[String]) -> pb::DeltaDiscoveryRequest {
    let text = |text: &str| prost_types::Value { kind: Some(Form::StringValue(text.to_owned())) };
    let fields = [
        ("muster.domain".to_owned(), text(registry.domain())),
        ("muster.project".to_owned(), text(registry.project())),
    ];
    let node = pb::Node {
        id: "muster-command".to_owned(),
        user_agent_name: "muster".to_owned(),
        metadata: Some(Struct { fields: fields.into() }),
        ..pb::Node::default()
    };
    pb::DeltaDiscoveryRequest { node: Some(node), ..subscription(kind, names) }
}

fn subscription(kind: &str, names: &[String]) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        resource_names_subscribe: names.to_vec(),
        ..pb::DeltaDiscoveryRequest::default()
    }
}

fn acknowledged(kind: String, nonce: String) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: kind,
        response_nonce: nonce,
        ..pb::DeltaDiscoveryRequest::default()
    }
}

/// One row for each endpoint, or one for the resource.
fn rows(resource: &Resource) -> Vec<Vec<String>> {
    let Resource { name, version, shown } = resource;
    let row = |[address, health, weight, locality]: [String; 4]| {
        vec![shown.kind().to_owned(), name.clone(), address, health, weight, locality, version.clone()]
    };
    let endpoints = shown.endpoints();
    if endpoints.is_empty() {
        return vec![row(Default::default())];
    }
    let each = endpoints.into_iter();
    each.map(|one| row([one.address, one.health.to_owned(), one.weight.to_string(), one.locality])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_the_name_that_clients_give_it() {
        let choice = Choice { app: Some("shop"), env: Some(""), service: Some("order") };
        assert_eq!(group(choice).as_deref(), Some("shop/order"));
        assert_eq!(group(Choice { env: Some("test"), ..choice }).as_deref(), Some("test/shop/order"));
        assert_eq!(group(Choice { service: None, ..choice }), None);
        for (name, expected) in
            [("shop/order", true), ("shop/order:grpc", true), ("test/shop/order", false), ("shop", false)]
        {
            assert_eq!(is_chosen(name, choice), expected, "{name}");
        }
        assert!(is_chosen("test/shop/cart", Choice { env: None, service: None, ..choice }));
    }
}
