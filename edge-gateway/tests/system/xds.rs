//! xDS over the API port, by a client that speaks the protocol itself: both variants, rights, and the ends of
//! streams.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{LimitsConfig, PolicyConfig, UpstreamConfig};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::envoy as pb;
use shared::event::Action::{Create, Delete};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::tokens::{self, token};
use crate::world::{PATIENCE, World, config};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub(crate) const ADS: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA_ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const EDS: &str = "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints";

/// A stream of one variant.
pub(crate) struct Stream<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

pub(crate) type Whole = Stream<pb::DiscoveryRequest, pb::DiscoveryResponse>;
type Delta = Stream<pb::DeltaDiscoveryRequest, pb::DeltaDiscoveryResponse>;

impl<Q: Message + 'static, A: Message + Default + 'static> Stream<Q, A> {
    /// Opens a stream with its first request.
    pub(crate) async fn open(
        world: &World,
        path: &'static str,
        first: Q,
        account: Option<&str>,
    ) -> Result<Self, Status> {
        let endpoint = Channel::from_shared(format!("http://{}", world.api)).expect("an address");
        let mut client = tonic::client::Grpc::new(endpoint.connect().await.expect("connects"));
        client.ready().await.expect("is ready");
        let (requests, receiver) = mpsc::channel(8);
        requests.send(first).await.expect("there is room");
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(account) = account {
            let value = format!("Bearer {}", token(account, 3600));
            request.metadata_mut().insert("authorization", value.parse().expect("a value"));
        }
        let path = http::uri::PathAndQuery::from_static(path);
        let answers = client.streaming(request, path, ProstCodec::<Q, A>::default()).await?.into_inner();
        Ok(Self { requests, answers })
    }

    async fn send(&self, request: Q) {
        self.requests.send(request).await.expect("the stream is open");
    }

    pub(crate) async fn next(&mut self) -> A {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("in time");
        next.expect("good").expect("open")
    }

    /// The status with which the stream ends.
    async fn end(&mut self) -> Code {
        loop {
            match tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("in time") {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }
}

impl Whole {
    /// Acknowledges an answer; the names stay.
    pub(crate) async fn acknowledge(&self, answer: &pb::DiscoveryResponse, names: &[&str]) {
        self.send(pb::DiscoveryRequest {
            version_info: answer.version_info.clone(),
            response_nonce: answer.nonce.clone(),
            ..ask(&answer.type_url, names)
        })
        .await;
    }
}

pub(crate) fn ask(type_url: &str, names: &[&str]) -> pb::DiscoveryRequest {
    pb::DiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..pb::DiscoveryRequest::default()
    }
}

fn ask_delta(type_url: &str, names: &[&str]) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..pb::DeltaDiscoveryRequest::default()
    }
}

/// The name, and the addresses with their health.
fn endpoints(any: &prost_types::Any) -> (String, Vec<(String, bool)>) {
    assert_eq!(any.type_url, ENDPOINTS);
    let made = pb::ClusterLoadAssignment::decode(&*any.value).expect("an assignment");
    let each = made.endpoints.iter().flat_map(|locality| &locality.lb_endpoints).map(|endpoint| {
        let address = endpoint.endpoint.clone().and_then(|endpoint| endpoint.address);
        let address = address.and_then(|address| address.socket_address).expect("an address");
        let healthy = endpoint.health_status() == pb::HealthStatus::Healthy;
        (format!("{}:{}", address.address, address.port_value), healthy)
    });
    (made.cluster_name, each.collect())
}

fn names(resources: &[prost_types::Any]) -> Vec<String> {
    let name = |any: &prost_types::Any| pb::Cluster::decode(&*any.value).expect("a cluster").name;
    resources.iter().map(name).collect()
}

#[tokio::test]
async fn a_grpc_client_gets_from_a_listener_to_endpoints() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    let mut stream = Whole::open(&world, ADS, ask(LISTENER, &["app/p:highway"]), None).await.expect("opens");
    let listener = stream.next().await;
    assert_eq!(listener.resources.len(), 1);
    stream.acknowledge(&listener, &["app/p:highway"]).await;
    stream.send(ask(ROUTE, &["app/p:highway"])).await;
    let route = stream.next().await;
    let table = pb::RouteConfiguration::decode(&*route.resources[0].value).expect("a route");
    let cluster = table.virtual_hosts[0].routes[0].route.clone().expect("an action").cluster;
    stream.acknowledge(&route, &["app/p:highway"]).await;
    stream.send(ask(CLUSTER, &[&cluster])).await;
    let clusters = stream.next().await;
    assert_eq!(names(&clusters.resources), [&*cluster]);
    stream.acknowledge(&clusters, &[&cluster]).await;
    stream.send(ask(ENDPOINTS, &[&cluster])).await;
    let first = stream.next().await;
    assert_eq!(endpoints(&first.resources[0]), (cluster.clone(), vec![("127.0.0.1:7070".into(), true)]));
    stream.acknowledge(&first, &[&cluster]).await;

    // A change, and one that is refused: only the next change is sent.
    world.control_plane.change("p", Create, "127.0.0.2").await;
    let second = stream.next().await;
    assert_eq!(endpoints(&second.resources[0]).1.len(), 2);
    let refusal = pb::Status { code: 3, message: "no".into() };
    stream
        .send(pb::DiscoveryRequest {
            version_info: first.version_info.clone(),
            response_nonce: second.nonce.clone(),
            error_detail: Some(refusal),
            ..ask(ENDPOINTS, &[&cluster])
        })
        .await;
    world.until(r#"muster_xds_nacks_total{type="endpoint"}"#, |count| count == 1.0).await;
    world.control_plane.change("p", Delete, "127.0.0.1").await;
    let third = stream.next().await;
    assert_eq!(endpoints(&third.resources[0]).1, [("127.0.0.2:7070".into(), true)]);
    assert!(world.metric(r#"muster_xds_resources_sent_total{type="endpoint"}"#) == 3.0);
}

#[tokio::test]
async fn a_resource_that_is_asked_for_early_arrives_when_it_exists() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    let first = ask(ENDPOINTS, &["app/q:highway", "app/p:highway"]);
    let mut stream = Whole::open(&world, EDS, first, None).await.expect("opens");
    let known = stream.next().await;
    assert_eq!(endpoints(&known.resources[0]).0, "app/p:highway");
    assert_eq!(known.resources.len(), 1, "nothing is said about what does not exist");
    stream.acknowledge(&known, &["app/q:highway", "app/p:highway"]).await;
    world.control_plane.change("q", Create, "127.0.0.7").await;
    world.control_plane.register("q").await;
    let arrived = stream.next().await;
    assert_eq!(
        endpoints(&arrived.resources[0]),
        ("app/q:highway".into(), vec![("127.0.0.7:7070".into(), true)])
    );
}

#[tokio::test]
async fn a_reconnect_gets_no_endpoints_again() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    world.control_plane.bookmark().await;
    let mut stream = Whole::open(&world, EDS, ask("", &["app/p:highway"]), None).await.expect("opens");
    let first = stream.next().await;
    assert_eq!(first.resources.len(), 1);
    let again = pb::DiscoveryRequest { version_info: first.version_info, ..ask("", &["app/p:highway"]) };
    let mut stream = Whole::open(&world, EDS, again, None).await.expect("opens");
    let answer = stream.next().await;
    assert_eq!(answer.resources, [], "it is answered, and nothing is sent again");

    let mut delta =
        Delta::open(&world, DELTA_ADS, ask_delta(ENDPOINTS, &["app/p:highway"]), None).await.expect("opens");
    let version = delta.next().await.resources[0].version.clone();
    let again = pb::DeltaDiscoveryRequest {
        initial_resource_versions: [("app/p:highway".to_owned(), version)].into(),
        ..ask_delta(ENDPOINTS, &["app/p:highway"])
    };
    let mut delta = Delta::open(&world, DELTA_ADS, again, None).await.expect("opens");
    let answer = delta.next().await;
    assert_eq!((answer.resources.len(), answer.removed_resources.len()), (0, 0));
    delta
        .send(pb::DeltaDiscoveryRequest {
            type_url: ENDPOINTS.into(),
            response_nonce: answer.nonce,
            ..pb::DeltaDiscoveryRequest::default()
        })
        .await;
    world.control_plane.change("p", Create, "127.0.0.2").await;
    assert_eq!(delta.next().await.resources.len(), 1);
}

/// Of a client that comes from another gateway.
#[tokio::test]
async fn a_client_gets_nothing_older_while_what_it_has_is_being_requested() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    world.control_plane.bookmark().await;
    let mut stream = Whole::open(&world, EDS, ask("", &["app/p:highway"]), None).await.expect("opens");
    let first = stream.next().await;
    assert_eq!(endpoints(&first.resources[0]).1.len(), 1);

    // The event is lost, the bookmark tells of it, and nobody answers the request for it.
    let lost = world.control_plane.commit("p", Create, "127.0.0.2");
    world.control_plane.decline(usize::MAX);
    world.control_plane.bookmark().await;
    world.until("muster_edge_requests_repeated_total", |count| count >= 1.0).await;
    let (before, digest) = first.version_info.split_once('-').expect("a version");
    let history = before.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let version_info = format!("{history}{}-{digest}", lost.at.rev);
    let asked = world.metric(r#"muster_xds_requests_total{type="endpoint"}"#);
    let later = pb::DiscoveryRequest { version_info, ..ask("", &["app/p:highway"]) };
    let opening = Whole::open(&world, EDS, later, None);
    let answered = async {
        world.until(r#"muster_xds_requests_total{type="endpoint"}"#, |count| count > asked).await;
        // A further bookmark proves no more than the one before.
        world.control_plane.bookmark().await;
        world.control_plane.decline(0);
    };
    let (stream, ()) = tokio::join!(opening, answered);
    let told = stream.expect("opens").next().await;
    assert_eq!(endpoints(&told.resources[0]).1.len(), 2, "what it has from elsewhere, and not less");
}

#[tokio::test]
async fn a_delta_stream_gets_everything_and_what_is_new() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    let mut stream = Delta::open(&world, DELTA_ADS, ask_delta(CLUSTER, &[]), None).await.expect("opens");
    let first = stream.next().await;
    assert_eq!(first.resources.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["app/p"]);
    let acknowledgement = pb::DeltaDiscoveryRequest {
        type_url: CLUSTER.into(),
        response_nonce: first.nonce,
        ..pb::DeltaDiscoveryRequest::default()
    };
    stream.send(acknowledgement).await;
    // No change of instances is one of clusters.
    world.control_plane.change("p", Create, "127.0.0.2").await;
    world.control_plane.change("q", Create, "127.0.0.1").await;
    world.control_plane.register("q").await;
    let second = stream.next().await;
    assert_eq!(second.resources.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["app/q"]);
    stream.send(ask_delta(ENDPOINTS, &["app/no"])).await;
    assert_eq!(stream.next().await.removed_resources, ["app/no"]);
}

#[tokio::test]
async fn a_stream_ends_with_its_right_and_shows_no_more_than_that() {
    let access = PolicyConfig { end_over: Duration::from_millis(200), ..PolicyConfig::default() };
    let world = World::with(Config { access, ..config() }).await;
    for service in ["shop-a", "bank"] {
        world.control_plane.change(service, Create, "127.0.0.1").await;
    }
    let mut early = Whole::open(&world, ADS, ask(CLUSTER, &[]), None).await.expect("opens");
    assert_eq!(names(&early.next().await.resources), ["app/bank", "app/shop-a"]);
    world.control_plane.policy(tokens::policy()).await;
    assert_eq!(early.end().await, Code::Unauthenticated, "it has shown no token");

    let open = async |account| Whole::open(&world, ADS, ask(CLUSTER, &[]), account).await;
    assert_eq!(open(None).await.err().map(|status| status.code()), Some(Code::Unauthenticated));
    assert_eq!(open(Some("idle")).await.err().map(|status| status.code()), Some(Code::PermissionDenied));
    assert_eq!(open(Some("bound")).await.err().map(|status| status.code()), Some(Code::PermissionDenied));
    let metadata = [("muster.domain", "mine"), ("muster.project", "p")]
        .map(|(key, value)| (key.to_owned(), Value { kind: Some(Kind::StringValue(value.to_owned())) }));
    let node = pb::Node { metadata: Some(Struct { fields: metadata.into() }), ..pb::Node::default() };
    let first = pb::DiscoveryRequest { node: Some(node), ..ask(CLUSTER, &[]) };
    let mut bound = Whole::open(&world, ADS, first, Some("bound")).await.expect("its own tenant");
    assert_eq!(bound.next().await.resources, []);

    let mut shop = open(Some("shop")).await.expect("opens");
    let clusters = shop.next().await;
    assert_eq!(names(&clusters.resources), ["app/shop-a"]);
    shop.send(ask(ENDPOINTS, &["app/bank:highway", "app/shop-a:highway"])).await;
    let seen = shop.next().await;
    assert_eq!(seen.resources.len(), 1, "the other does not exist for it");
    assert_eq!(endpoints(&seen.resources[0]).0, "app/shop-a:highway");
    let mut policy = tokens::policy();
    policy.accounts.retain(|name, _| name != "shop");
    world.control_plane.policy(policy).await;
    assert_eq!(shop.end().await, Code::Unauthenticated, "the account is gone");
}

#[tokio::test]
async fn an_unknown_state_is_no_empty_answer() {
    let upstream = UpstreamConfig { open_timeout: Duration::from_millis(50), ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    world.control_plane.decline(1_000_000);
    let refused = Whole::open(&world, ADS, ask(CLUSTER, &[]), None).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::Unavailable));
    world.control_plane.decline(0);
    let waiting = async {
        while Whole::open(&world, ADS, ask(CLUSTER, &[]), None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("they become known");
}

#[tokio::test]
async fn limits_and_broken_requests_end_streams_with_a_reason() {
    let limits = LimitsConfig { node: 2, ..LimitsConfig::default() };
    let world = World::with(Config { limits, ..config() }).await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    let many: Vec<String> = (0..=10_000).map(|number| format!("app/{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut greedy = Whole::open(&world, ADS, ask(ENDPOINTS, &many), None).await.expect("opens");
    assert_eq!(greedy.end().await, Code::ResourceExhausted);
    drop(greedy);
    world.until("muster_edge_sessions", |_| true).await;
    let mut other = Whole::open(&world, EDS, ask(CLUSTER, &[]), None).await.expect("opens");
    assert_eq!(other.end().await, Code::InvalidArgument, "another service has clusters");
    drop(other);

    let scheme = format!(
        r#"service_center_notify_subscriber_total{{domain="default",instance="{}",scheme="xDS"}}"#,
        world.api
    );
    world.until(&scheme, |open| open == 0.0).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(Whole::open(&world, ADS, ask(CLUSTER, &[]), None).await.expect("opens"));
    }
    let refused = Whole::open(&world, ADS, ask(CLUSTER, &[]), None).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::ResourceExhausted));
    drop(held);
    world.until(&scheme, |open| open == 0.0).await;
}

#[tokio::test]
async fn a_drain_ends_xds_streams_with_unavailable() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "127.0.0.1").await;
    let mut stream = Whole::open(&world, ADS, ask(CLUSTER, &[]), None).await.expect("opens");
    stream.next().await;
    world.tasks.drain().cancel();
    assert_eq!(stream.end().await, Code::Unavailable);
    drop(stream);
    assert!(world.tasks.finish(PATIENCE).await);
}

#[tokio::test]
async fn xds_can_be_switched_off() {
    let world = World::with(Config { xds: false, ..config() }).await;
    let refused = Whole::open(&world, ADS, ask(CLUSTER, &[]), None).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::Unimplemented));
}
