//! Clients of xDS in the crowd: each opens one stream as gRPC does, for the four kinds of resources of one
//! service, and acknowledges what comes.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result};
use prost::Message;
use proto::envoy as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::seen::Memory;
use super::websocket::Shared;
use crate::stamp::{LENGTH, Stamp};

const SERVICE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService";
/// In the order in which a client of gRPC comes to them; the endpoints are the last.
const KINDS: [&str; 4] = [
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
];
/// Requests that may wait: the first four, and an acknowledgement of each kind.
const WAITING: usize = 8;

/// A connection for some streams.
pub(super) async fn connect(to: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{to}"))?.connect().await?)
}

/// A stream of one of the variants, which has everything that there is when this returns.
pub(super) async fn open(channel: Channel, delta: bool, name: &str) -> Result<Client> {
    if delta {
        Ok(Client::Delta(Stream::open(channel, name).await?))
    } else {
        Ok(Client::State(Stream::open(channel, name).await?))
    }
}

/// The first answers of all kinds to a client of a name.
pub(super) async fn answers(to: SocketAddr, name: &str) -> Result<Vec<pb::DiscoveryResponse>> {
    Stream::<pb::DiscoveryRequest>::begin(connect(&to.to_string()).await?, name)
        .await
        .map(|(_, answers)| answers)
}

/// A client with its stream.
pub(super) enum Client {
    State(Stream<pb::DiscoveryRequest>),
    Delta(Stream<pb::DeltaDiscoveryRequest>),
}

impl Client {
    /// Reads to the end of the stream.
    pub(super) async fn read(self, shared: Rc<Shared>) {
        // However it ended, the server was not to end it.
        _ = match self {
            Self::State(stream) => stream.read(&shared).await,
            Self::Delta(stream) => stream.read(&shared).await,
        };
        shared.seen.borrow_mut().ended += 1;
    }
}

/// The requests of a variant.
pub(super) trait Variant: Message + Default + 'static {
    type Answer: Message + Default + 'static;
    const METHOD: &'static str;

    fn first(kind: &str, name: &str) -> Self;
    fn acknowledge(answer: &Self::Answer, name: &str) -> Self;
    /// The content of the first resource.
    fn told(answer: &Self::Answer) -> &[u8];
}

impl Variant for pb::DiscoveryRequest {
    type Answer = pb::DiscoveryResponse;
    const METHOD: &'static str = "StreamAggregatedResources";

    fn first(kind: &str, name: &str) -> Self {
        Self { type_url: kind.to_owned(), resource_names: vec![name.to_owned()], ..Self::default() }
    }

    fn acknowledge(answer: &Self::Answer, name: &str) -> Self {
        Self {
            version_info: answer.version_info.clone(),
            response_nonce: answer.nonce.clone(),
            ..Self::first(&answer.type_url, name)
        }
    }

    fn told(answer: &Self::Answer) -> &[u8] {
        answer.resources.first().map(|resource| &*resource.value).unwrap_or_default()
    }
}

impl Variant for pb::DeltaDiscoveryRequest {
    type Answer = pb::DeltaDiscoveryResponse;
    const METHOD: &'static str = "DeltaAggregatedResources";

    fn first(kind: &str, name: &str) -> Self {
        let resource_names_subscribe = vec![name.to_owned()];
        Self { type_url: kind.to_owned(), resource_names_subscribe, ..Self::default() }
    }

    fn acknowledge(answer: &Self::Answer, _: &str) -> Self {
        Self { type_url: answer.type_url.clone(), response_nonce: answer.nonce.clone(), ..Self::default() }
    }

    fn told(answer: &Self::Answer) -> &[u8] {
        let resource = answer.resources.first().and_then(|resource| resource.resource.as_ref());
        resource.map(|resource| &*resource.value).unwrap_or_default()
    }
}

/// A stream about one name.
pub(super) struct Stream<Q: Variant> {
    name: String,
    requests: mpsc::Sender<Q>,
    answers: Streaming<Q::Answer>,
}

impl<Q: Variant> Stream<Q> {
    async fn open(channel: Channel, name: &str) -> Result<Self> {
        Ok(Self::begin(channel, name).await?.0)
    }

    /// A stream with its first answers.
    async fn begin(channel: Channel, name: &str) -> Result<(Self, Vec<Q::Answer>)> {
        let mut client = Grpc::new(channel);
        client.ready().await?;
        let (requests, receiver) = mpsc::channel(WAITING);
        for kind in KINDS {
            requests.send(Q::first(kind, name)).await?;
        }
        let path = format!("{SERVICE}/{}", Q::METHOD).parse()?;
        let codec = ProstCodec::<Q, Q::Answer>::default();
        let answers = client.streaming(Request::new(ReceiverStream::new(receiver)), path, codec).await?;
        let mut stream = Self { name: name.to_owned(), requests, answers: answers.into_inner() };
        let mut answers = Vec::with_capacity(KINDS.len());
        for _ in KINDS {
            let answer = stream.answers.message().await?.context("the stream has ended")?;
            stream.requests.send(Q::acknowledge(&answer, name)).await?;
            answers.push(answer);
        }
        Ok((stream, answers))
    }

    async fn read(mut self, shared: &Shared) -> Result<()> {
        let mut memory = Memory::default();
        while let Some(answer) = self.answers.message().await? {
            let content = Q::told(&answer);
            if let Some(stamp) = stamp_of(content) {
                shared.seen.borrow_mut().saw(stamp, &mut memory);
            }
            self.requests.send(Q::acknowledge(&answer, &self.name)).await?;
        }
        Ok(())
    }
}

/// The stamp among the metadata of an endpoint: the bytes between its name and its text are few.
fn stamp_of(content: &[u8]) -> Option<Stamp> {
    Stamp::read(content, place_of(content)?)
}

/// The offset of the text of the stamp.
pub(super) fn place_of(content: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"stamp";
    let at = memchr::memmem::find(content, NAME)? + NAME.len();
    // A value in a field of a map, and a text in the value: each has a tag and a length of one byte.
    let text = at + 4;
    content.get(text..text + LENGTH).map(|_| text)
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;
    use prost_types::{Struct, Value};

    use super::*;

    #[test]
    fn a_stamp_is_found_in_an_endpoint() {
        let stamp = Stamp { provider: 7, seq: 42, at: 1_700_000_000_123_456 };
        let text = Value { kind: Some(Kind::StringValue(stamp.text())) };
        let fields = [("stamp".to_owned(), text)].into();
        let filter_metadata = [("envoy.lb".to_owned(), Struct { fields })].into();
        let bytes = pb::Metadata { filter_metadata }.encode_to_vec();
        assert_eq!(stamp_of(&bytes), Some(stamp));
        assert_eq!(stamp_of(&bytes[..bytes.len() - 1]), None);
    }
}
