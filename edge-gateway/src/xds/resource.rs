//! Resources: made from the instances of a service, and encoded once for all streams.
//!
//! Envoy and gRPC differ in what they read, so a resource has only what both read alike: each address once
//! and no names of hosts, localities with weight 1 in priority 0, and one status for every instance that
//! takes no traffic.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost_types::value::Kind as Form;
use prost_types::{Any, Struct, Value};
use proto::envoy as pb;
use sha1::{Digest as _, Sha1};
use shared::model::{DataCenter, Instance, Revision};

use super::address::address;
use super::kind::Kind;
use super::name;
use super::version::{Point, version_of};

/// The metadata that Envoy chooses subsets of endpoints by.
const SUBSETS: &str = "envoy.lb";
/// Protocols that are HTTP/2 without a negotiation.
const HTTP2: [&str; 4] = ["grpc", "grpcs", "h2", "h2c"];
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// The number of the field with the resources, in the answers of both variants.
const RESOURCES: u32 = 2;

/// A resource at one version, as bytes.
///
/// The bytes are a field of a delta answer, which wraps the resource. The inner resource comes last, and as a
/// field it has the same number in its wrapper as in an answer of the state of the world. So one encoding
/// serves both.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    /// The digest of the content, by which versions are compared. Equal content has equal digests in every
    /// process.
    pub(crate) digest: u64,
    /// The last change of the services that it is made of.
    pub(crate) point: Point,
    field: Bytes,
    inner: usize,
}

impl Resource {
    /// The resource as a field of an answer of the state of the world.
    pub(crate) fn of_state(&self) -> Bytes {
        self.field.slice(self.inner..)
    }

    /// The resource as a field of a delta answer.
    pub(crate) fn of_delta(&self) -> Bytes {
        self.field.clone()
    }

    /// The same content with a version of this point, if its own is earlier. A client that comes from another gateway has
    /// shown that point, and the content is at least as new.
    pub(crate) fn at_least(self: Arc<Self>, point: Point) -> Arc<Self> {
        if self.point >= point {
            return self;
        }
        // The bytes are our own, so they can be read.
        let answer = pb::DeltaDiscoveryResponse::decode(self.of_delta()).ok();
        let resource = answer.and_then(|answer| answer.resources.into_iter().next());
        match resource.and_then(|resource| Some((resource.name, resource.resource?))) {
            Some((name, any)) => Arc::new(Self::wrap(&name, point, self.digest, &any.encode_to_vec())),
            None => self,
        }
    }

    /// The bytes of the larger form.
    pub(crate) fn size(&self) -> usize {
        self.field.len()
    }

    pub(crate) fn new(kind: Kind, name: &str, point: Point, value: Vec<u8>) -> Self {
        let any = Any { type_url: kind.type_url().to_owned(), value }.encode_to_vec();
        let mut sha1 = Sha1::new();
        // The name too: a digest of many resources is the sum of theirs, so no two may be alike.
        sha1.update(name.as_bytes());
        sha1.update(&any);
        let hash = sha1.finalize();
        let digest = hash.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte));
        Self::wrap(name, point, digest, &any)
    }

    fn wrap(name: &str, point: Point, digest: u64, any: &[u8]) -> Self {
        let outer =
            pb::Resource { version: version_of(point, digest), resource: None, name: name.to_owned() };
        let inner_len = key_len(RESOURCES) + encoded_len_varint(any.len() as u64) + any.len();
        let outer_len = outer.encoded_len() + inner_len;
        let mut field = BytesMut::with_capacity(outer_len + 16);
        encode_key(RESOURCES, WireType::LengthDelimited, &mut field);
        encode_varint(outer_len as u64, &mut field);
        outer.encode_raw(&mut field);
        let inner = field.len();
        encode_key(RESOURCES, WireType::LengthDelimited, &mut field);
        encode_varint(any.len() as u64, &mut field);
        field.put_slice(any);
        Self { digest, point, field: field.freeze(), inner }
    }
}

/// The cluster with this name. It depends on nothing but the name.
pub(crate) fn cluster(name: &str, protocol: Option<&str>) -> Vec<u8> {
    let mut options = BTreeMap::new();
    if protocol.is_some_and(|protocol| HTTP2.contains(&protocol)) {
        let http2 = pb::ExplicitHttpConfig { http2_protocol_options: Some(pb::Http2ProtocolOptions {}) };
        let http = pb::HttpProtocolOptions { explicit_http_config: Some(http2) };
        options.insert(HTTP_OPTIONS.to_owned(), packed(HTTP_OPTIONS, &http));
    }
    pb::Cluster {
        name: name.to_owned(),
        r#type: pb::DiscoveryType::Eds.into(),
        eds_cluster_config: Some(pb::EdsClusterConfig {
            eds_config: Some(from_here()),
            service_name: String::new(),
        }),
        connect_timeout: None,
        // An instance that takes no traffic gets none, also when most are such.
        common_lb_config: Some(pb::CommonLbConfig {
            healthy_panic_threshold: Some(pb::Percent { value: 0.0 }),
        }),
        // Envoy with health checks of its own calls an instance that is gone for as long as it answers,
        // otherwise.
        ignore_health_on_host_removal: true,
        typed_extension_protocol_options: options,
    }
    .encode_to_vec()
}

/// The listener with this name: for gRPC clients, which begin with it.
pub(crate) fn listener(name: &str) -> Vec<u8> {
    let manager = pb::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        rds: Some(pb::Rds { config_source: Some(from_here()), route_config_name: name.to_owned() }),
        // gRPC refuses a listener without it.
        http_filters: vec![pb::HttpFilter {
            name: "router".to_owned(),
            typed_config: Some(Any { type_url: url(ROUTER), value: Vec::new() }),
        }],
    };
    let api_listener = pb::ApiListener { api_listener: Some(packed(MANAGER, &manager)) };
    pb::Listener { name: name.to_owned(), api_listener: Some(api_listener) }.encode_to_vec()
}

/// The route with this name: everything goes to one cluster.
pub(crate) fn route(name: &str) -> Vec<u8> {
    let route = pb::Route {
        r#match: Some(pb::RouteMatch { prefix: "/".to_owned() }),
        route: Some(pb::RouteAction { cluster: name::routed(name) }),
    };
    let host = pb::VirtualHost { name: name.to_owned(), domains: vec!["*".to_owned()], routes: vec![route] };
    pb::RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host] }.encode_to_vec()
}

/// The endpoints with this name: those of instances, each with the revision of its last change and the
/// version of its service.
pub(crate) fn endpoints<'a>(
    name: &str,
    protocol: Option<&str>,
    instances: impl Iterator<Item = (&'a Instance, Revision, &'a str)>,
) -> Vec<u8> {
    let mut by_address: BTreeMap<(IpAddr, u16), Candidate<'a>> = BTreeMap::new();
    for (instance, rev, version) in instances {
        let Some(address) = instance.endpoints.iter().find_map(|text| address(text, protocol)) else {
            continue;
        };
        let candidate = Candidate { rank: (instance.takes_traffic(), rev), instance, version };
        // Two instances at one address are one that has begun anew, and its former self.
        let held = by_address.entry(address).or_insert(candidate);
        if candidate.rank > held.rank {
            *held = candidate;
        }
    }
    let mut localities: BTreeMap<(&str, &str), Vec<pb::LbEndpoint>> = BTreeMap::new();
    for (address, candidate) in by_address {
        let locality = locality(candidate.instance.data_center_info.as_ref());
        localities.entry(locality).or_default().push(candidate.endpoint(address));
    }
    let endpoints = localities.into_iter().map(|((region, zone), lb_endpoints)| pb::LocalityLbEndpoints {
        locality: Some(pb::Locality {
            region: region.to_owned(),
            zone: zone.to_owned(),
            sub_zone: String::new(),
        }),
        lb_endpoints,
        // gRPC leaves out a locality without a weight.
        load_balancing_weight: Some(1),
        priority: 0,
    });
    pb::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: endpoints.collect() }
        .encode_to_vec()
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    rank: (bool, Revision),
    instance: &'a Instance,
    version: &'a str,
}

impl Candidate<'_> {
    fn endpoint(&self, (ip, port): (IpAddr, u16)) -> pb::LbEndpoint {
        let socket_address = pb::SocketAddress { address: ip.to_string(), port_value: port.into() };
        // A weight of 0 is a mistake to both readers, so an instance with that is told as one without
        // traffic.
        let health = if self.instance.takes_traffic() {
            pb::HealthStatus::Healthy
        } else {
            pb::HealthStatus::Unhealthy
        };
        let text = |text: &str| Value { kind: Some(Form::StringValue(text.to_owned())) };
        let mut fields: BTreeMap<String, Value> =
            self.instance.properties.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        fields.insert("version".to_owned(), text(self.version));
        pb::LbEndpoint {
            endpoint: Some(pb::Endpoint {
                address: Some(pb::Address { socket_address: Some(socket_address) }),
            }),
            health_status: health.into(),
            metadata: Some(pb::Metadata {
                filter_metadata: [(SUBSETS.to_owned(), Struct { fields })].into(),
            }),
            load_balancing_weight: Some(self.instance.weight().max(1).into()),
        }
    }
}

/// Region and zone. A data centre without a region is one by itself.
fn locality(place: Option<&DataCenter>) -> (&str, &str) {
    let Some(place) = place else { return ("", "") };
    let region = if place.region.is_empty() { &place.name } else { &place.region };
    (region, &place.available_zone)
}

/// Further resources come over the stream that has told this one.
fn from_here() -> pb::ConfigSource {
    let ads = Some(pb::AggregatedConfigSource {});
    pb::ConfigSource { ads, resource_api_version: pb::ApiVersion::V3.into() }
}

fn packed(kind: &str, message: &impl Message) -> Any {
    Any { type_url: url(kind), value: message.encode_to_vec() }
}

fn url(kind: &str) -> String {
    format!("type.googleapis.com/{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::version::read_version;

    fn point(revision: u64) -> Point {
        Point::new(Some(3), revision.into())
    }

    fn instance(endpoint: &str, status: &str, properties: &[(&str, &str)]) -> Instance {
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Instance {
            endpoints: vec!["highway://10.0.0.9:1".into(), endpoint.into()],
            status: status.into(),
            properties,
            ..Instance::default()
        }
    }

    fn made(instances: &[(Instance, u64)]) -> pb::ClusterLoadAssignment {
        let each = instances.iter().map(|(instance, rev)| (instance, Revision::new(*rev), "1.0.0"));
        let bytes = endpoints("shop/order:rest", Some("rest"), each);
        pb::ClusterLoadAssignment::decode(&*bytes).expect("an assignment")
    }

    #[test]
    fn an_instance_becomes_one_endpoint() {
        let mut placed = instance("rest://10.0.0.2:80", "UP", &[("weight", "30"), ("stage", "gray")]);
        placed.data_center_info =
            Some(DataCenter { name: "dc".into(), region: "north".into(), available_zone: "a".into() });
        let made = made(&[
            (placed, 1),
            (instance("rest://10.0.0.1:80", "", &[]), 2),
            (instance("rest://10.0.0.3:80", "OUTOFSERVICE", &[]), 3),
            (instance("rest://10.0.0.4:80", "UP", &[("weight", "0")]), 4),
            (instance("rest://name.example:80", "UP", &[]), 5),
            (instance("grpc://10.0.0.5:80", "UP", &[]), 6),
        ]);
        assert_eq!(made.cluster_name, "shop/order:rest");
        let [here, north] = &made.endpoints[..] else { panic!("two localities: {made:?}") };
        assert_eq!((here.load_balancing_weight, here.priority), (Some(1), 0));
        let health: Vec<_> = here.lb_endpoints.iter().map(|endpoint| endpoint.health_status()).collect();
        use pb::HealthStatus::{Healthy, Unhealthy};
        assert_eq!(health, [Healthy, Unhealthy, Unhealthy]);
        assert!(here.lb_endpoints.iter().all(|endpoint| endpoint.load_balancing_weight >= Some(1)));
        assert_eq!(
            north.locality.clone().map(|place| (place.region, place.zone)),
            Some(("north".into(), "a".into()))
        );
        assert_eq!(north.lb_endpoints[0].load_balancing_weight, Some(30));
        let metadata =
            &north.lb_endpoints[0].metadata.as_ref().expect("metadata").filter_metadata["envoy.lb"];
        let keys: Vec<_> = metadata.fields.keys().map(String::as_str).collect();
        assert_eq!(keys, ["stage", "version", "weight"]);
    }

    #[test]
    fn an_address_appears_once_with_the_living_instance() {
        let made = made(&[
            (instance("rest://10.0.0.1:80", "UP", &[("n", "old")]), 1),
            (instance("rest://10.0.0.1:80", "UP", &[("n", "new")]), 2),
            (instance("rest://10.0.0.1:80", "DOWN", &[("n", "down")]), 3),
        ]);
        assert_eq!(made.endpoints[0].lb_endpoints.len(), 1);
        let endpoint = &made.endpoints[0].lb_endpoints[0];
        let fields = &endpoint.metadata.as_ref().expect("metadata").filter_metadata["envoy.lb"].fields;
        assert_eq!(fields["n"].kind, Some(Form::StringValue("new".into())));
    }

    #[test]
    fn one_encoding_serves_both_variants() {
        let resource = Resource::new(Kind::Cluster, "a/b", point(7), cluster("a/b", Some("grpc")));
        let state = pb::DiscoveryResponse::decode(resource.of_state()).expect("an answer");
        let delta = pb::DeltaDiscoveryResponse::decode(resource.of_delta()).expect("an answer");
        assert_eq!(delta.resources[0].resource.as_ref(), state.resources.first());
        assert_eq!(delta.resources[0].name, "a/b");
        let version = read_version(&delta.resources[0].version);
        assert_eq!(version, Some((point(7), resource.digest)));
        let cluster = pb::Cluster::decode(&*state.resources[0].value).expect("a cluster");
        assert!(cluster.ignore_health_on_host_removal && cluster.typed_extension_protocol_options.len() == 1);
        let later = Resource::new(Kind::Cluster, "a/b", point(8), super::cluster("a/b", Some("grpc")));
        assert_eq!(later.digest, resource.digest, "the revision is no part of the content");
    }

    #[test]
    fn routes_lead_to_the_endpoints_for_grpc() {
        let listener = pb::Listener::decode(&*listener("a/b@1+")).expect("a listener");
        let manager = listener.api_listener.and_then(|api| api.api_listener).expect("a manager");
        let manager = pb::HttpConnectionManager::decode(&*manager.value).expect("a manager");
        assert_eq!(manager.rds.expect("a source").route_config_name, "a/b@1+");
        let route = pb::RouteConfiguration::decode(&*route("a/b@1+")).expect("a route");
        let action = route.virtual_hosts[0].routes[0].route.clone().expect("an action");
        assert_eq!(action.cluster, "a/b@1+:grpc");
    }
}
