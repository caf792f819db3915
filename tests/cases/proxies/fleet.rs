//! A system behind a proxy, and what its clients see through that.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::readers::xds::EndpointStream;
use harness::{Client, Watcher, World, deadline};
use prost::Message;
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::{WatchRequest, WatchResponse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use super::page::{Gateway, Proxy};

/// Requests while a gateway is gone. Each has a connection of its own.
const REQUESTS: usize = 12;
/// Pairs of watches that are open beside them.
const HELD: usize = 4;
/// Headers whose case must stay.
const NAMES: [&str; 3] = ["X-Resource-Revision", "X-Request-Id", "Content-Type"];

/// A world of two gateways with a consumer and the one instance of its provider.
pub(super) struct Fleet {
    pub(super) world: World,
    consumer: String,
    provider: String,
}

impl Fleet {
    pub(super) async fn of(world: World) -> Self {
        let pair = world.pair_of(0, &["i"]).await;
        Self { world, consumer: pair.consumer, provider: pair.provider }
    }

    pub(super) fn gateways(&self) -> [Gateway; 2] {
        [0, 1].map(|index| &self.world.gateways[index]).map(|gateway| (gateway.api, gateway.admin))
    }

    /// The bytes of a find's answer.
    async fn find(&self, address: SocketAddr, revision: &str) -> String {
        let request = format!(
            "GET /v4/default/registry/instances?appId=shop&serviceName=order&version=0%2B&rev={revision} \
             HTTP/1.1\r\nHost: {address}\r\nX-ConsumerId: {}\r\nConnection: close\r\n\r\n",
            self.consumer
        );
        let exchange = async {
            let mut stream = TcpStream::connect(address).await.expect("the proxy listens");
            stream.write_all(request.as_bytes()).await.expect("is sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("text");
            answer
        };
        timeout(deadline(), exchange).await.expect("an answer within the deadline")
    }

    /// A find has its headers, byte for byte, and is not answered again.
    pub(super) async fn finds_through(&self, proxy: &Proxy) {
        let answer = self.find(proxy.front, "").await;
        for name in NAMES {
            assert!(answer.contains(&format!("\r\n{name}: ")), "no {name} in {answer}");
        }
        let (_, rest) = answer.split_once("\r\nX-Resource-Revision: ").expect("the revision");
        let (revision, _) = rest.split_once("\r\n").expect("the line ends");
        let again = self.find(proxy.front, revision).await;
        assert!(again.starts_with("HTTP/1.1 304 "), "{again}");
    }

    /// Finds are answered in this time. Gives the slowest.
    pub(super) async fn answers_within(&self, proxy: &Proxy, most: Duration) -> Duration {
        let mut slowest = Duration::ZERO;
        for _ in 0..REQUESTS {
            let begun = Instant::now();
            let answer = self.find(proxy.front, "").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest <= most, "an answer took {slowest:?}");
        slowest
    }

    /// Opens watches that make a balancer prefer the gateway with fewer, which is the one that is gone.
    pub(super) async fn many_watches_of(&self, proxy: &Proxy) -> Vec<Watches> {
        let mut watches = Vec::new();
        while watches.len() < HELD {
            watches.push(self.watches_of(proxy).await);
        }
        watches
    }

    /// Opens watches through a proxy.
    pub(super) async fn watches_of(&self, proxy: &Proxy) -> Watches {
        let channel = Channel::from_shared(format!("http://{}", proxy.grpc)).expect("an address");
        let request = WatchRequest { consumer_id: self.consumer.clone(), ..WatchRequest::default() };
        let opened = EndpointStream::open(proxy.grpc, "shop/order", None).await;
        let mut endpoints = opened.expect("a stream is granted");
        endpoints.next().await.expect("it tells the state");
        let mut client = WatchClient::new(channel.connect().await.expect("the proxy listens"));
        Watches {
            front: proxy.front,
            socket: Watcher::connect(proxy.front, &self.consumer).await,
            stream: client.watch(request).await.expect("a watch is granted").into_inner(),
            endpoints,
        }
    }
}

/// Open watches of the consumer, by WebSocket and by gRPC, and a stream of xDS.
pub(super) struct Watches {
    front: SocketAddr,
    socket: Watcher,
    stream: Streaming<WatchResponse>,
    endpoints: EndpointStream,
}

impl Watches {
    /// A change that is made through the proxy reaches all.
    pub(super) async fn are_pushed(mut self, fleet: &Fleet) {
        let tag = format!("{:x}", fastrand::u64(..));
        Client::new(self.front).tag(&fleet.provider, "i", &tag).await;
        self.socket.expect("UPDATE", "i", &tag).await;
        let told = async {
            while !is_told(&self.stream.message().await.expect("goes on").expect("does not end"), &tag) {}
            while !is_told(&self.endpoints.next().await.expect("goes on"), &tag) {}
        };
        timeout(deadline(), told).await.expect("messages within the deadline");
    }
}

/// The bytes of a message contain the tag.
fn is_told(message: &impl Message, tag: &str) -> bool {
    message.encode_to_vec().windows(tag.len()).any(|part| part == tag.as_bytes())
}
