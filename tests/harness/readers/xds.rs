//! Clients of xDS that go from one gateway to the next and say what they have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use prost_types::value::Kind as Form;
use proto::envoy as pb;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::{Dialect, PATIENCE, PAUSE, Part, Record, Told};
use crate::oracle::STAMP;

const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const SERVICE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService";
/// The time for which a client stays at a gateway, at least and at most.
const STAYS: [Duration; 2] = [Duration::from_millis(1500), Duration::from_secs(5)];
/// Requests that may wait.
const WAITING: usize = 16;

/// Reads from each gateway in turn until the end.
pub(super) async fn follow(part: &Part, record: &Mutex<Record>) {
    let name = format!("shop/{}", part.name);
    let mut has = Has::default();
    for turn in 0.. {
        let (gateway, _) = part.gateways[turn % part.gateways.len()];
        let stays = STAYS[0] + (STAYS[1] - STAYS[0]).mul_f64(fastrand::f64());
        let reading = async {
            match part.dialect {
                Dialect::XdsDelta => delta(gateway, &name, part, record, &mut has).await,
                _ => world(gateway, &name, part, record, &mut has).await,
            }
        };
        // Passed: it leaves without a word. An end of the stream is no fault.
        _ = timeout(stays, reading).await;
        sleep(PAUSE).await;
    }
}

/// The version of a resource with endpoints, and the properties of each of them, as a new stream of a client
/// that has `has` is told them. `None` when the stream ends before that.
pub async fn endpoints(
    gateway: SocketAddr,
    name: &str,
    has: Option<&str>,
) -> Option<(String, Vec<BTreeMap<String, String>>)> {
    let mut stream = EndpointStream::open(gateway, name, has).await?;
    let resource = stream.next().await?.resources.into_iter().next()?;
    let assignment = pb::ClusterLoadAssignment::decode(&*resource.resource?.value).ok()?;
    let endpoints = assignment.endpoints.into_iter().flat_map(|group| group.lb_endpoints);
    Some((resource.version, endpoints.map(|one| properties(one.metadata)).collect()))
}

/// A stream of the endpoints of one service.
#[derive(Debug)]
pub struct EndpointStream {
    requests: mpsc::Sender<pb::DeltaDiscoveryRequest>,
    answers: Streaming<pb::DeltaDiscoveryResponse>,
}

impl EndpointStream {
    /// Opens a stream of a client that has this version; `None` when that fails.
    pub async fn open(gateway: SocketAddr, name: &str, has: Option<&str>) -> Option<Self> {
        let has = has.map(|version| (name.to_owned(), version.to_owned()));
        let first = pb::DeltaDiscoveryRequest {
            type_url: ENDPOINTS.to_owned(),
            resource_names_subscribe: vec![name.to_owned()],
            initial_resource_versions: has.into_iter().collect(),
            ..pb::DeltaDiscoveryRequest::default()
        };
        let (requests, answers) = open(gateway, "DeltaAggregatedResources", first).await?;
        Some(Self { requests, answers })
    }

    /// The next answer, which is acknowledged; `None` when the stream ends.
    pub async fn next(&mut self) -> Option<pb::DeltaDiscoveryResponse> {
        let answer = self.answers.message().await.ok()??;
        let acknowledgement = pb::DeltaDiscoveryRequest {
            type_url: ENDPOINTS.to_owned(),
            response_nonce: answer.nonce.clone(),
            ..pb::DeltaDiscoveryRequest::default()
        };
        self.requests.send(acknowledgement).await.ok()?;
        Some(answer)
    }
}

fn properties(metadata: Option<pb::Metadata>) -> BTreeMap<String, String> {
    let mut metadata = metadata.unwrap_or_default();
    let fields = metadata.filter_metadata.remove("envoy.lb").unwrap_or_default().fields;
    let texts = fields.into_iter().filter_map(|(key, value)| match value.kind {
        Some(Form::StringValue(text)) => Some((key, text)),
        _ => None,
    });
    texts.collect()
}

/// Opens a stream with a first request. Servers answer once they have that.
async fn open<Q, A>(gateway: SocketAddr, method: &str, first: Q) -> Option<(mpsc::Sender<Q>, Streaming<A>)>
where
    Q: Message + Send + 'static,
    A: Message + Default + Send + 'static,
{
    let channel: Channel = Endpoint::from_shared(format!("http://{gateway}")).ok()?.connect().await.ok()?;
    let mut client = Grpc::new(channel);
    client.ready().await.ok()?;
    let (sender, requests) = mpsc::channel(WAITING);
    sender.try_send(first).ok()?;
    let path = format!("{SERVICE}/{method}").parse().ok()?;
    let codec = ProstCodec::<Q, A>::default();
    let opening = client.streaming(Request::new(ReceiverStream::new(requests)), path, codec);
    let stream = timeout(PATIENCE, opening).await.ok()?.ok()?.into_inner();
    Some((sender, stream))
}

/// What a client has of the kinds that it reads, across streams.
#[derive(Debug, Default)]
struct Has {
    /// The version of the endpoints of the service, or of all endpoints.
    endpoints: String,
    /// The version of all clusters; on a stream of deltas, which tell those again, that of the service's.
    clusters: String,
}

async fn delta(
    gateway: SocketAddr,
    name: &str,
    part: &Part,
    record: &Mutex<Record>,
    has: &mut Has,
) -> Option<()> {
    let shown = Some(has.endpoints.clone()).filter(|version| !version.is_empty());
    let first = pb::DeltaDiscoveryRequest {
        type_url: ENDPOINTS.to_owned(),
        resource_names_subscribe: vec![name.to_owned()],
        initial_resource_versions: shown.into_iter().map(|version| (name.to_owned(), version)).collect(),
        ..pb::DeltaDiscoveryRequest::default()
    };
    // A client that names no cluster wants all of them.
    let all =
        pb::DeltaDiscoveryRequest { type_url: CLUSTERS.to_owned(), ..pb::DeltaDiscoveryRequest::default() };
    let (sender, mut stream) =
        open::<_, pb::DeltaDiscoveryResponse>(gateway, "DeltaAggregatedResources", first).await?;
    sender.send(all).await.ok()?;
    while let Some(answer) = stream.message().await.ok()? {
        {
            let mut record = record.lock();
            if answer.removed_resources.iter().any(|removed| removed == name) {
                record.fault(format!("{} of {name} was removed", answer.type_url));
            }
            for resource in answer.resources {
                if answer.type_url == ENDPOINTS {
                    record.version(&resource.version);
                    record.note(&part.fixed, told(&resource.resource.unwrap_or_default().value));
                    has.endpoints = resource.version;
                } else if resource.name == name {
                    record.newer_clusters(&has.clusters, &resource.version);
                    has.clusters = resource.version;
                }
            }
        }
        let acknowledged = pb::DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..pb::DeltaDiscoveryRequest::default()
        };
        sender.send(acknowledged).await.ok()?;
    }
    Some(())
}

async fn world(
    gateway: SocketAddr,
    name: &str,
    part: &Part,
    record: &Mutex<Record>,
    has: &mut Has,
) -> Option<()> {
    let request = |kind: &str, version: &str, nonce: String| pb::DiscoveryRequest {
        version_info: version.to_owned(),
        // A client that names no cluster wants all of them.
        resource_names: (kind == ENDPOINTS).then(|| name.to_owned()).into_iter().collect(),
        type_url: kind.to_owned(),
        response_nonce: nonce,
        ..pb::DiscoveryRequest::default()
    };
    let first = request(ENDPOINTS, &has.endpoints, String::new());
    let (sender, mut stream) =
        open::<_, pb::DiscoveryResponse>(gateway, "StreamAggregatedResources", first).await?;
    sender.send(request(CLUSTERS, &has.clusters, String::new())).await.ok()?;
    while let Some(answer) = stream.message().await.ok()? {
        {
            let mut record = record.lock();
            if answer.type_url == ENDPOINTS {
                record.version(&answer.version_info);
                for resource in &answer.resources {
                    record.note(&part.fixed, told(&resource.value));
                }
                has.endpoints.clone_from(&answer.version_info);
            } else {
                record.newer_clusters(&has.clusters, &answer.version_info);
                has.clusters.clone_from(&answer.version_info);
                let clusters = answer.resources.iter().map(|resource| pb::Cluster::decode(&*resource.value));
                if !clusters.flatten().any(|cluster| cluster.name == name) {
                    record.fault(format!("the list of all clusters lacks {name}"));
                }
            }
        }
        sender.send(request(&answer.type_url, &answer.version_info, answer.nonce)).await.ok()?;
    }
    Some(())
}

/// The addresses of a resource with their stamps.
fn told(bytes: &[u8]) -> Told {
    let assignment = pb::ClusterLoadAssignment::decode(bytes).unwrap_or_default();
    let endpoints = assignment.endpoints.into_iter().flat_map(|group| group.lb_endpoints);
    let told: BTreeMap<_, _> = endpoints
        .filter_map(|one| {
            let socket = one.endpoint?.address?.socket_address?;
            let stamp = properties(one.metadata).get(STAMP).and_then(|text| text.parse().ok());
            // An instance without a stamp would count as one that a dialect tells none of.
            Some((format!("{}:{}", socket.address, socket.port_value), Some(stamp.unwrap_or(0))))
        })
        .collect();
    told
}
