//! Resources of xDS for people and programs: the JSON that Envoy's own tools show of them.

use prost::Message as _;
use prost_types::value::Kind as Form;
use prost_types::{Any, Struct};
use proto::envoy as pb;
use serde_json::{Map, Value, json};

/// A resource, read.
#[derive(Debug)]
pub(crate) enum Shown {
    Cluster(pb::Cluster),
    Endpoints(pb::ClusterLoadAssignment),
    Listener(pb::Listener),
    Route(pb::RouteConfiguration),
}

/// An endpoint with everything that a client chooses by.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) health: &'static str,
    pub(crate) weight: u32,
    pub(crate) locality: String,
}

impl Shown {
    /// Reads a resource.
    ///
    /// # Errors
    /// The problem, when it is of no kind that gateways tell.
    pub(super) fn read(any: &Any) -> Result<Self, String> {
        let value = any.value.as_slice();
        let read = match any.type_url.as_str() {
            super::CLUSTER => pb::Cluster::decode(value).map(Self::Cluster),
            super::ENDPOINTS => pb::ClusterLoadAssignment::decode(value).map(Self::Endpoints),
            super::LISTENER => pb::Listener::decode(value).map(Self::Listener),
            super::ROUTE => pb::RouteConfiguration::decode(value).map(Self::Route),
            other => return Err(format!("`{other}` is no kind of resource that is known here")),
        };
        read.map_err(|e| e.to_string())
    }

    /// The kind in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Endpoints(_) => "endpoints",
            Self::Listener(_) => "listener",
            Self::Route(_) => "route",
        }
    }

    /// The endpoints in it.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let Self::Endpoints(all) = self else { return Vec::new() };
        let mut endpoints = Vec::new();
        for group in &all.endpoints {
            let locality = group.locality.as_ref().map_or(String::new(), |place| {
                let parts = [&*place.region, &place.zone];
                parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
            });
            for one in &group.lb_endpoints {
                endpoints.push(Endpoint {
                    address: address(one),
                    health: one.health_status().as_str_name(),
                    weight: one.load_balancing_weight.unwrap_or_default(),
                    locality: locality.clone(),
                });
            }
        }
        endpoints
    }

    /// The resource in protobuf's JSON.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Cluster(cluster) => {
                let panic = cluster.common_lb_config.and_then(|config| config.healthy_panic_threshold);
                json!({
                    "@type": super::CLUSTER,
                    "name": cluster.name,
                    "type": cluster.r#type().as_str_name(),
                    "edsClusterConfig": {"edsConfig": {"ads": {}, "resourceApiVersion": "V3"}},
                    "commonLbConfig": {"healthyPanicThreshold": {"value": panic.map(|percent| percent.value)}},
                    "ignoreHealthOnHostRemoval": cluster.ignore_health_on_host_removal,
                    // Its only use is HTTP/2 without a negotiation.
                    "isHttp2": !cluster.typed_extension_protocol_options.is_empty(),
                })
            }
            Self::Endpoints(all) => {
                let groups = all.endpoints.iter().map(|group| {
                    let place = group.locality.clone().unwrap_or_default();
                    json!({
                        "locality": {"region": place.region, "zone": place.zone},
                        "lbEndpoints": group.lb_endpoints.iter().map(endpoint).collect::<Vec<_>>(),
                        "loadBalancingWeight": group.load_balancing_weight,
                        "priority": group.priority,
                    })
                });
                json!({
                    "@type": super::ENDPOINTS,
                    "clusterName": all.cluster_name,
                    "endpoints": groups.collect::<Vec<_>>(),
                })
            }
            Self::Listener(listener) => {
                let packed = listener.api_listener.as_ref().and_then(|api| api.api_listener.as_ref());
                let manager =
                    packed.and_then(|any| pb::HttpConnectionManager::decode(any.value.as_slice()).ok());
                let route = manager.and_then(|manager| manager.rds).map(|rds| rds.route_config_name);
                json!({
                    "@type": super::LISTENER,
                    "name": listener.name,
                    "apiListener": {"apiListener": {
                        "@type": packed.map(|any| &any.type_url),
                        "rds": {"routeConfigName": route},
                    }},
                })
            }
            Self::Route(route) => {
                let hosts = route.virtual_hosts.iter().map(|host| {
                    let routes = host.routes.iter().map(|route| {
                        json!({
                            "match": {"prefix": route.r#match.as_ref().map(|matched| &matched.prefix)},
                            "route": {"cluster": route.route.as_ref().map(|action| &action.cluster)},
                        })
                    });
                    json!({"name": host.name, "domains": host.domains, "routes": routes.collect::<Vec<_>>()})
                });
                json!({"@type": super::ROUTE, "name": route.name, "virtualHosts": hosts.collect::<Vec<_>>()})
            }
        }
    }
}

fn address(one: &pb::LbEndpoint) -> String {
    let socket =
        one.endpoint.as_ref().and_then(|endpoint| endpoint.address.as_ref()?.socket_address.as_ref());
    socket.map_or(String::new(), |socket| match socket.address.contains(':') {
        true => format!("[{}]:{}", socket.address, socket.port_value),
        false => format!("{}:{}", socket.address, socket.port_value),
    })
}

fn endpoint(one: &pb::LbEndpoint) -> Value {
    let socket = one.endpoint.as_ref().and_then(|endpoint| endpoint.address.as_ref()?.socket_address.clone());
    let socket = socket.unwrap_or_default();
    let metadata = one.metadata.iter().flat_map(|metadata| &metadata.filter_metadata);
    let metadata: Map<String, Value> = metadata.map(|(key, fields)| (key.clone(), texts(fields))).collect();
    json!({
        "endpoint": {"address": {"socketAddress":
            {"address": socket.address, "portValue": socket.port_value}}},
        "healthStatus": one.health_status().as_str_name(),
        "metadata": {"filterMetadata": metadata},
        "loadBalancingWeight": one.load_balancing_weight,
    })
}

/// The texts of a structure; gateways put in nothing else.
fn texts(fields: &Struct) -> Value {
    let pairs = fields.fields.iter().filter_map(|(key, value)| match &value.kind {
        Some(Form::StringValue(text)) => Some((key.clone(), Value::from(text.as_str()))),
        _ => None,
    });
    Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_shown_with_what_clients_choose_by() {
        let one = |address: &str, health: pb::HealthStatus| pb::LbEndpoint {
            endpoint: Some(pb::Endpoint {
                address: Some(pb::Address {
                    socket_address: Some(pb::SocketAddress { address: address.to_owned(), port_value: 80 }),
                }),
            }),
            health_status: health.into(),
            metadata: None,
            load_balancing_weight: Some(7),
        };
        let all = pb::ClusterLoadAssignment {
            cluster_name: "shop/order".to_owned(),
            endpoints: vec![pb::LocalityLbEndpoints {
                locality: Some(pb::Locality {
                    region: "r".to_owned(),
                    zone: "z".to_owned(),
                    ..pb::Locality::default()
                }),
                lb_endpoints: vec![
                    one("10.0.0.1", pb::HealthStatus::Healthy),
                    one("fd00::1", pb::HealthStatus::Unhealthy),
                ],
                ..pb::LocalityLbEndpoints::default()
            }],
        };
        let any = Any { type_url: crate::dialect::xds::ENDPOINTS.to_owned(), value: all.encode_to_vec() };
        let shown = Shown::read(&any).expect("endpoints");
        let told: Vec<_> = shown.endpoints().iter().map(|one| format!("{one:?}")).collect();
        assert!(told[0].contains(r#"address: "10.0.0.1:80", health: "HEALTHY", weight: 7, locality: "r/z""#));
        assert!(told[1].contains(r#"address: "[fd00::1]:80", health: "UNHEALTHY""#), "{told:?}");
        let json = shown.json();
        assert_eq!(json["clusterName"], "shop/order", "{json}");
        assert_eq!(json["endpoints"][0]["lbEndpoints"][1]["healthStatus"], "UNHEALTHY", "{json}");
        assert!(Shown::read(&Any { type_url: "other".to_owned(), value: Vec::new() }).is_err());
    }
}
