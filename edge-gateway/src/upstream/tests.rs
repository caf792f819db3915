//! Requests that end abnormally, and requests that overlap.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::collections::HashSet;
use std::sync::Mutex;

use async_trait::async_trait;
use bus::{BusError, Link, LocalBus, Message};
use follow::resume::ResumePoint;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceKey, Tenant};
use shared::subject;

use super::config::NamesConfig;
use super::request::Reply;
use super::*;
use crate::fanout::ToShard;
use crate::push::Encoding;
use crate::watch::{Full, Selector};

mod storm;

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

/// An upstream with one shard, without access control and reported heartbeats.
fn upstream(config: UpstreamConfig, bus: Arc<dyn Bus>, shard: ShardHandle) -> (Upstream, UpstreamHandle) {
    Upstream::new(
        config,
        bus,
        vec![shard],
        Vec::new(),
        PolicyHandle::off(),
        Beats::none(),
        UpstreamMetrics::none(),
    )
}

fn provider() -> ServiceRef {
    ServiceRef::new(Tenant::default(), "p")
}

fn watcher() -> ServiceRef {
    ServiceRef::new(Tenant::default(), "")
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
                subject::RPC_INTEREST => listed_providers(&request.payload),
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

/// Of all services only [`provider`] is registered.
fn listed_providers(request: &[u8]) -> Vec<u8> {
    let request = pb::InterestRequest::decode(request).expect("a request decodes");
    let provider = provider();
    let is_of_tenant = request.scope.is_some() && request.only.is_empty();
    let is_listed = is_of_tenant || request.only.contains(&provider.id);
    let providers = is_listed.then(|| (&provider).into()).into_iter().collect();
    pb::InterestReply { exists: true, rev: 5, providers, ..Default::default() }.encode_to_vec()
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

#[tokio::test(start_paused = true)]
async fn every_request_whose_task_panics_is_made_again() {
    let panics = HashSet::from([subject::RPC_INTEREST, subject::RPC_REPLAY]);
    let bus = Arc::new(PanickingBus { inner: LocalBus::new(), panics: Mutex::new(panics) });
    start_replica(bus.clone(), 0).await;
    let (shard, mut pushed) = ShardHandle::without_shard();
    let config = UpstreamConfig {
        open_timeout: Duration::from_secs(60),
        bookmark_interval: Duration::ZERO,
        ..UpstreamConfig::default()
    };
    let (upstream, handle) = upstream(config, bus.clone(), shard);
    let stop = CancellationToken::new();
    let task = tokio::spawn(upstream.run(stop.clone()));

    let selector = Selector::Providers(Arc::new([provider()].into()));
    let receives = Receives { encoding: Encoding::Resumable, right: None };
    let joined = handle.join(watcher(), selector, receives, None).await;
    assert!(joined.is_ok(), "the interest was requested again: {joined:?}");

    // The group is behind as long as its topic awaits a reply.
    let mut confirmed = false;
    for rev in 6..36 {
        let bookmark = pb::Bookmark { rev, since: rev - 1, ..Default::default() };
        let message = Message::new(subject::BOOKMARK, bookmark.encode_to_vec());
        bus.publish(message).await.expect("the local bus is open");
        tokio::time::sleep(Duration::from_millis(500)).await;
        while let Ok(message) = pushed.try_recv() {
            confirmed |= matches!(message, ToShard::Bookmark { behind, .. } if behind.is_empty());
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
    let requester = Requester {
        bus,
        timeout: Duration::from_secs(3600),
        seen: Arc::default(),
        incarnation: Arc::default(),
        hedge: Arc::new(Hedge::new(UpstreamMetrics::none())),
        lanes: Arc::default(),
        metrics: UpstreamMetrics::none(),
    };
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

/// A change of [`provider`] at revision 6.
fn change() -> InstanceEvent {
    let instance = Arc::new(Instance { instance_id: "i".into(), ..Instance::default() });
    let key = Arc::new(ServiceKey { tenant: "default/default".into(), ..ServiceKey::default() });
    InstanceEvent {
        provider: provider(),
        at: Position::first_of(Revision::new(6)),
        prev: Position::default(),
        action: Action::Create,
        key,
        instance,
        mod_rev: Revision::new(6),
        committed_at: 1,
        via: Via::default(),
    }
}

/// A client that reacts to a push by a find must find what it was pushed.
#[tokio::test(start_paused = true)]
async fn finds_show_a_change_before_a_shard_has_it() {
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
    start_replica(bus.clone(), 0).await;
    let (shard, mut messages) = ShardHandle::with_queue(1);
    let (upstream, handle) = upstream(UpstreamConfig::default(), bus.clone(), shard.clone());
    let stop = CancellationToken::new();
    let task = tokio::spawn(upstream.run(stop.clone()));
    let selector = Selector::Providers(Arc::new([provider()].into()));
    let receives = Receives { encoding: Encoding::Resumable, right: None };
    let tenant = Tenant::default();
    let opening =
        async { tokio::join!(handle.hold_tenant(&tenant), handle.join(watcher(), selector, receives, None)) };
    // The shard takes what it is sent until everything has come to rest.
    let shard_at_work = async {
        loop {
            messages.recv().await.expect("the gateway goes on");
        }
    };
    let opened = tokio::select! {
        opened = opening => opened,
        () = shard_at_work => unreachable!("a shard works for ever"),
    };
    assert!(opened.0.is_ok() && opened.1.is_ok(), "{opened:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    while messages.try_recv().is_ok() {}

    // The shard has no time, and one message waits for it already.
    assert!(shard.send(ToShard::Restored).await);
    let event = change();
    bus.publish(Message::new(subject::event(&provider()), event.encode()))
        .await
        .expect("the local bus is open");
    // The clock moves on when everything waits.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let view = handle.reads().view();
    let topic = view.read.topics.get(&provider()).expect("the service is followed");
    assert_eq!(topic.at, event.at);
    assert!(matches!(messages.recv().await, Some(ToShard::Restored)));
    assert!(matches!(messages.recv().await, Some(ToShard::Append { .. })), "the push comes after that");
    stop.cancel();
    task.await.expect("the upstream does not panic");
}

/// Everything that an upstream holds for watches.
fn held(upstream: &Upstream) -> [usize; 9] {
    [
        upstream.tracker.topic_count(),
        upstream.tracker.group_count(),
        upstream.messages.len(),
        upstream.topics.len(),
        upstream.interests.len() + upstream.feeds.len(),
        upstream.names.total(),
        upstream.interest_requests.len(),
        upstream.opening.len(),
        upstream.resuming.len(),
    ]
}

/// Opens resumable watches, each with a list of services that do not exist. Returns the outcomes.
async fn watch_made_up_lists(upstream: &mut Upstream, round: usize) -> Vec<Result<Joined, Full>> {
    let mut admissions = Vec::new();
    for list in 0..LISTS {
        let ids = (0..LISTED).map(|number| format!("{round}-{list}-{number}"));
        let services = ids.map(|id| ServiceRef::new(Tenant::default(), id)).collect();
        let (admission, admitted) = tokio::sync::oneshot::channel();
        admissions.push(admitted);
        let command = Command::Join {
            watcher: watcher(),
            selector: Selector::Providers(Arc::new(services)),
            receives: Receives { encoding: Encoding::Resumable, right: None },
            resumes: Some(ResumePoint::default()),
            admission,
        };
        upstream.on_command(command).await;
        upstream.act().await;
    }
    while let Some(ended) = upstream.requests.next().await {
        upstream.on_ended(ended).await;
        upstream.act().await;
        upstream.advance_resumes().await;
        upstream.act().await;
    }
    let mut outcomes = Vec::new();
    for admitted in admissions {
        outcomes.push(admitted.await.expect("every watch is answered"));
    }
    outcomes
}

const LISTS: usize = 20;
const LISTED: usize = 50;

#[tokio::test]
async fn made_up_names_are_bounded_and_leave_nothing_behind() {
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
    start_replica(bus.clone(), 0).await;
    let (shard, mut messages) = ShardHandle::without_shard();
    let names = NamesConfig { consumer: LISTS / 2 * LISTED, ..NamesConfig::default() };
    let config = UpstreamConfig { names, ..UpstreamConfig::default() };
    let (mut upstream, _handle) = upstream(config, bus, shard);
    let nothing = held(&upstream);
    for round in 0..6 {
        let outcomes = watch_made_up_lists(&mut upstream, round).await;
        let admitted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(admitted, LISTS / 2, "round {round}");
        assert!(matches!(outcomes.last(), Some(Err(Full::ConsumerNames))));
        assert_eq!(upstream.tracker.topic_count(), 0, "nothing is followed that does not exist");
        assert_eq!(upstream.messages.len(), 1, "one subscription serves all lists of a tenant");
        // All sessions end, and the groups' time without sessions passes.
        let now = Instant::now();
        while let Ok(message) = messages.try_recv() {
            if let ToShard::Reserve { group, .. } = message {
                upstream.tracker.sessions_closed(0, group, 1, now);
            }
        }
        upstream.tracker.forget_empty(now + Duration::from_secs(60));
        upstream.act().await;
        // A subscription that was ended leaves the set when that is polled next.
        upstream.take_messages(None).await;
        assert_eq!(held(&upstream), nothing, "round {round}");
    }
}

/// A replica of a store of this incarnation at revision 9. Returns the incarnations that replay requests ask
/// for.
async fn start_restored_replica(bus: Arc<dyn Bus>, incarnation: u64) -> mpsc::Receiver<Option<u64>> {
    let mut requests = Vec::new();
    for subject in [subject::RPC_INTEREST, subject::RPC_REPLAY, subject::RPC_DIGEST] {
        requests.push(bus.serve(subject, subject::REPLICAS).await.expect("the local bus is open"));
    }
    let (asked, asked_of) = mpsc::channel(100);
    tokio::spawn(async move {
        let mut requests = futures_util::stream::select_all(requests);
        while let Some(request) = requests.next().await {
            let payload = match &*request.subject {
                subject::RPC_INTEREST => listed_providers(&request.payload),
                subject::RPC_REPLAY => {
                    let replay = pb::ReplayRequest::decode(&request.payload[..]).expect("a request");
                    asked.try_send(replay.incarnation).expect("few requests");
                    replay_nothing(&request.payload)
                }
                _ => pb::DigestReply {
                    rev: 9,
                    confirmed: true,
                    incarnation: Some(incarnation),
                    ..Default::default()
                }
                .encode_to_vec(),
            };
            let reply = Message::new(request.reply.expect("a request names its reply subject"), payload);
            bus.publish(reply).await.expect("the local bus is open");
        }
    });
    asked_of
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_of_another_incarnation_starts_over_at_once() {
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
    let mut asked = start_restored_replica(bus.clone(), 7).await;
    let (shard, mut pushed) = ShardHandle::without_shard();
    let (upstream, handle) = upstream(UpstreamConfig::default(), bus.clone(), shard);
    let stop = CancellationToken::new();
    let task = tokio::spawn(upstream.run(stop.clone()));
    let selector = Selector::Providers(Arc::new([provider()].into()));
    let receives = Receives { encoding: Encoding::Resumable, right: None };
    handle.join(watcher(), selector, receives, None).await.expect("joined");
    assert_eq!(asked.recv().await, Some(None), "no bookmark has told which incarnation it is");
    let bookmark = |rev, incarnation| {
        let bookmark = pb::Bookmark { rev, since: 5, incarnation: Some(incarnation), ..Default::default() };
        bus.publish(Message::new(subject::BOOKMARK, bookmark.encode_to_vec()))
    };
    bookmark(5, 0).await.expect("the local bus is open");
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The restored store has passed the revision that the gateway knows.
    let heard = tokio::time::Instant::now();
    bookmark(9, 7).await.expect("the local bus is open");
    loop {
        match pushed.recv().await.expect("the gateway goes on") {
            ToShard::Restored => break,
            ToShard::Bookmark { rev, .. } => assert!(rev < Revision::new(9), "{rev} is not of this history"),
            _ => {}
        }
    }
    while asked.recv().await.expect("the gateway goes on") != Some(7) {}
    assert!(heard.elapsed() < Duration::from_secs(1), "{:?}", heard.elapsed());
    stop.cancel();
    task.await.expect("the upstream does not panic");
}
