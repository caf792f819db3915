//! Requests that end abnormally, and requests that overlap.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;

use async_trait::async_trait;
use bus::{BusError, Link, LocalBus, Message};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::Position;
use shared::model::{Revision, Tenant};
use shared::subject;

use super::request::Reply;
use super::*;
use crate::fanout::ToShard;
use crate::metrics::Metrics;
use crate::push::Encoding;
use crate::watch::Selector;

/// A bus on which the first request to each of some subjects panics.
struct PanickingBus {
    inner: LocalBus,
    panics: Mutex<HashSet<&'static str>>,
}

#[async_trait]
impl Bus for PanickingBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        self.inner.publish(message).await
    }

    async fn flush(&self) -> Result<(), BusError> {
        self.inner.flush().await
    }

    async fn subscribe(&self, subject: &str) -> Result<Messages, BusError> {
        self.inner.subscribe(subject).await
    }

    async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError> {
        self.inner.serve(subject, group).await
    }

    async fn request(&self, message: Message, timeout: Duration) -> Result<Messages, BusError> {
        let panics = self.panics.lock().expect("no panic while locked").remove(&*message.subject);
        assert!(!panics, "the test makes this request panic");
        self.inner.request(message, timeout).await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.inner.link()
    }

    fn max_payload(&self) -> usize {
        self.inner.max_payload()
    }
}

fn provider() -> ServiceRef {
    ServiceRef::new(Tenant::default(), "p")
}

/// A replica at revision 5, on which nothing ever happens. It answers at most `digests` digest requests.
async fn start_replica(bus: Arc<dyn Bus>, digests: usize) {
    let mut requests = Vec::new();
    for subject in [subject::RPC_INTEREST, subject::RPC_REPLAY, subject::RPC_DIGEST] {
        requests.push(bus.serve(subject, subject::REPLICAS).await.expect("the local bus is open"));
    }
    let mut digests_left = digests;
    tokio::spawn(async move {
        let mut requests = futures_util::stream::select_all(requests);
        while let Some(request) = requests.next().await {
            let payload = match &*request.subject {
                subject::RPC_INTEREST => {
                    pb::InterestReply { exists: true, rev: 5, ..Default::default() }.encode_to_vec()
                }
                subject::RPC_REPLAY => replay_nothing(&request.payload),
                _ if digests_left == 0 => continue,
                _ => {
                    digests_left -= 1;
                    pb::DigestReply { rev: 5, ..Default::default() }.encode_to_vec()
                }
            };
            let reply = Message::new(request.reply.expect("a request names its reply subject"), payload);
            bus.publish(reply).await.expect("the local bus is open");
        }
    });
}

fn replay_nothing(request: &[u8]) -> Vec<u8> {
    let request = pb::ReplayRequest::decode(request).expect("a request decodes");
    let mut reply = pb::ReplayReply { rev: 5, last: true, answer: 1, ..Default::default() };
    for wanted in request.providers {
        reply.providers.push(pb::replay_reply::Provider {
            provider: wanted.provider,
            continuous: true,
            at: Some(Position::end_of(Revision::new(5)).into()),
            ..Default::default()
        });
    }
    reply.encode_to_vec()
}

fn metrics() -> UpstreamMetrics {
    let provider = opentelemetry_sdk::metrics::SdkMeterProvider::default();
    Metrics::new(&opentelemetry::metrics::MeterProvider::meter(&provider, "test"), "test").upstream
}

#[tokio::test(start_paused = true)]
async fn every_request_whose_task_panics_is_made_again() {
    let panics = HashSet::from([subject::RPC_INTEREST, subject::RPC_REPLAY]);
    let bus = Arc::new(PanickingBus { inner: LocalBus::new(), panics: Mutex::new(panics) });
    start_replica(bus.clone(), 0).await;
    let (shard, mut pushed) = ShardHandle::without_shard();
    let config = UpstreamConfig { open_timeout: Duration::from_secs(60), ..UpstreamConfig::default() };
    let (upstream, handle) = Upstream::new(config, bus.clone(), vec![shard], Vec::new(), metrics());
    let stop = CancellationToken::new();
    let task = tokio::spawn(upstream.run(stop.clone()));

    let selector = Selector::Providers(BTreeSet::from([provider()]));
    let joined = handle.join(selector, Encoding::Resumable, None).await;
    assert!(joined.is_ok(), "the interest was requested again: {joined:?}");

    // A bookmark reaches the shards only when no topic awaits a reply any more.
    let mut confirmed = false;
    for _ in 0..30 {
        let bookmark = pb::Bookmark { rev: 5, since: 5, ..Default::default() };
        let message = Message::new(subject::BOOKMARK, bookmark.encode_to_vec());
        bus.publish(message).await.expect("the local bus is open");
        tokio::time::sleep(Duration::from_millis(500)).await;
        while let Ok(message) = pushed.try_recv() {
            confirmed |= matches!(message, ToShard::Bookmark { .. });
        }
    }
    assert!(confirmed, "the topic awaits the reply to a request that panicked");
    stop.cancel();
    task.await.expect("the upstream does not panic");
}

#[tokio::test(start_paused = true)]
async fn a_comparison_lasts_until_its_last_request_ends() {
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
    start_replica(bus.clone(), 1).await;
    let requester =
        Requester { bus, timeout: Duration::from_secs(3600), seen: Arc::default(), metrics: metrics() };
    let resources = Resources { requester, replays: Arc::new(Semaphore::new(1)), batch: 1 };
    let mut requests = Requests::default();
    for _ in 0..2 {
        let digests = Digests { topics: vec![(provider(), 0)], consumers: Vec::new() };
        requests.start(Request::Compare(digests), &resources);
    }
    assert!(matches!(requests.next().await, Some(Ended::Replied(Reply::Compared(_, Ok(_))))));
    assert!(requests.is_comparing(), "the second request is still under way");
    assert!(matches!(requests.next().await, Some(Ended::Replied(Reply::Compared(_, Err(_))))));
    assert!(!requests.is_comparing());
}
