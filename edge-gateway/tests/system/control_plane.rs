//! A scripted control plane: a history of commits, of which the test publishes what it likes, and honest
//! replies to the gateway's requests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use access::{Bundle, Policy};
use bus::{Bus, Message};
use futures_util::StreamExt as _;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{Action, InstanceEvent, Position, digest_of};
use shared::model::{Instance, Revision, ServiceKey, ServiceRef, Tenant};
use shared::subject;
use tokio::task::JoinSet;

#[derive(Clone)]
pub(crate) struct ControlPlane {
    pub(crate) bus: Arc<dyn Bus>,
    truth: Arc<Mutex<Truth>>,
    // Held for its drop, which ends the responders with the test.
    _responders: Arc<JoinSet<()>>,
}

#[derive(Default)]
struct Truth {
    rev: Revision,
    providers: HashMap<ServiceRef, Provider>,
    interests: HashMap<ServiceRef, BTreeSet<ServiceRef>>,
    /// Departures: the consumer, the provider that left its interest, and the revision.
    left: Vec<(ServiceRef, ServiceRef, Revision)>,
    /// The revision of the last registration.
    services_rev: Revision,
    bookmark: Revision,
    /// The revision up to which events are forgotten.
    forgotten: Revision,
    /// The number of requests to decline before one is answered.
    declining: usize,
    /// No request is answered.
    is_silent: bool,
    /// The requests that were not answered.
    unanswered: usize,
    replays: usize,
    /// The access policy, once there is one.
    policy: Option<Policy>,
    /// The number in replies to replay requests, by which gateways tell replicas apart.
    answer: u64,
}

#[derive(Default)]
struct Provider {
    events: Vec<InstanceEvent>,
    instances: BTreeMap<String, (Arc<Instance>, Revision)>,
    /// Its service is not registered any more.
    deleted: bool,
}

pub(crate) fn service(id: &str) -> ServiceRef {
    ServiceRef::new(Tenant::default(), id)
}

// The name is the id, so that a test can tell from a frame which provider it is about.
fn key(id: &str) -> Arc<ServiceKey> {
    Arc::new(ServiceKey {
        tenant: "default/default".to_owned(),
        app_id: "app".into(),
        service_name: id.to_owned(),
        version: "1.0.0".into(),
        ..Default::default()
    })
}

impl ControlPlane {
    pub(crate) async fn start(bus: Arc<dyn Bus>) -> Self {
        let truth = Arc::new(Mutex::new(Truth { rev: 100.into(), ..Truth::default() }));
        let mut responders = JoinSet::new();
        for (subject, answer) in [
            (subject::RPC_INTEREST, interest as fn(&mut Truth, &[u8]) -> Vec<Vec<u8>>),
            (subject::RPC_REPLAY, replay),
            (subject::RPC_DIGEST, digest),
            (subject::RPC_POLICY, policy),
        ] {
            let bus = bus.clone();
            let truth = truth.clone();
            let mut requests = bus.serve(subject, subject::REPLICAS).await.expect("serves");
            responders.spawn(async move {
                while let Some(request) = requests.next().await {
                    // The lock ends before the replies are published, which awaits.
                    let parts = match &mut *truth.lock().expect("not poisoned") {
                        truth if truth.is_silent => {
                            truth.unanswered += 1;
                            continue;
                        }
                        truth => answer(truth, &request.payload),
                    };
                    let reply = request.reply.expect("a request names where to answer");
                    for part in parts {
                        bus.publish(Message::new(reply.clone(), part)).await.expect("publishes");
                    }
                }
            });
        }
        Self { bus, truth, _responders: Arc::new(responders) }
    }

    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().expect("not poisoned")
    }

    /// Commits that a consumer exists and is interested in these providers; publishes nothing.
    pub(crate) fn consumer(&self, id: &str, providers: &[&str]) {
        let mut truth = self.truth();
        truth.rev = truth.rev.next();
        truth.interests.insert(service(id), providers.iter().map(|id| service(id)).collect());
    }

    /// Commits a change of an instance; the event is not published yet.
    pub(crate) fn commit(&self, provider: &str, action: Action, id: &str) -> InstanceEvent {
        let mut truth = self.truth();
        truth.rev = truth.rev.next();
        let rev = truth.rev;
        let history = truth.providers.entry(service(provider)).or_default();
        let mut endpoints = vec![format!("rest://{id}.example:8080")];
        // For dialects that tell addresses and no names.
        if id.parse::<IpAddr>().is_ok() {
            endpoints.push(format!("highway://{id}:7070"));
        }
        let instance = Arc::new(Instance {
            instance_id: id.to_owned(),
            service_id: provider.to_owned(),
            endpoints,
            host_name: format!("rev-{rev}"),
            status: "UP".to_owned(),
            ..Instance::default()
        });
        match action {
            Action::Delete => {
                assert!(history.instances.remove(id).is_some(), "the test deletes what is there")
            }
            Action::Create | Action::Update => {
                history.instances.insert(id.to_owned(), (instance.clone(), rev));
            }
        }
        let event = InstanceEvent {
            provider: service(provider),
            at: Position::first_of(rev),
            prev: history.events.last().map_or(Position::default(), |last| last.at),
            action,
            key: key(provider),
            instance,
            mod_rev: rev,
            // Zero would mark the event as a difference, whose age is not recorded.
            committed_at: 1,
            via: shared::event::Via::default(),
        };
        history.events.push(event.clone());
        event
    }

    pub(crate) async fn publish(&self, event: &InstanceEvent) {
        let message = Message::new(subject::event(&event.provider), event.encode());
        self.bus.publish(message).await.expect("publishes");
    }

    /// Commits and publishes.
    pub(crate) async fn change(&self, provider: &str, action: Action, id: &str) -> InstanceEvent {
        let event = self.commit(provider, action, id);
        self.publish(&event).await;
        event
    }

    /// Commits and publishes that a find of the consumer is answered by other services, or in another order.
    pub(crate) async fn find_changes(&self, consumer: &str) {
        let rev = {
            let mut truth = self.truth();
            truth.rev = truth.rev.next();
            truth.rev
        };
        self.publish_interest(consumer, pb::InterestChange { rev: rev.get(), ..Default::default() }).await;
    }

    /// The store's revision.
    pub(crate) fn rev(&self) -> Revision {
        self.truth().rev
    }

    /// Commits and publishes that a find of the consumer has shown a provider.
    pub(crate) async fn interest(&self, consumer: &str, provider: &str) {
        self.begin_interest(consumer, provider, 0).await;
    }

    /// Commits and publishes that an earlier find of the consumer answers a provider now.
    pub(crate) async fn show(&self, consumer: &str, provider: &str) {
        self.begin_interest(consumer, provider, 1).await;
    }

    async fn begin_interest(&self, consumer: &str, provider: &str, shown: u32) {
        let rev = {
            let mut truth = self.truth();
            truth.rev = truth.rev.next();
            truth.interests.entry(service(consumer)).or_default().insert(service(provider));
            truth.rev
        };
        let added = vec![(&service(provider)).into()];
        let change = pb::InterestChange { rev: rev.get(), added, shown, ..Default::default() };
        self.publish_interest(consumer, change).await;
    }

    /// Commits and publishes that a service is registered.
    pub(crate) async fn register(&self, id: &str) {
        let change = {
            let mut truth = self.truth();
            truth.rev = truth.rev.next();
            truth.providers.entry(service(id)).or_default().deleted = false;
            let rev = truth.rev;
            let prev_rev = std::mem::replace(&mut truth.services_rev, rev);
            let named =
                pb::NamedService { service: Some((&service(id)).into()), key: Some((&*key(id)).into()) };
            pb::ServicesChange {
                rev: rev.get(),
                prev_rev: prev_rev.get(),
                added: vec![named],
                ..pb::ServicesChange::default()
            }
        };
        let message = Message::new(subject::services(&Tenant::default()), change.encode_to_vec());
        self.bus.publish(message).await.expect("the local bus is open");
    }

    /// Commits that a provider's service is deleted, and publishes that the consumer has lost it.
    pub(crate) async fn delete_provider(&self, consumer: &str, provider: &str) {
        if let Some(known) = self.truth().providers.get_mut(&service(provider)) {
            assert!(known.instances.is_empty(), "the test deletes the instances first");
            known.deleted = true;
        }
        self.no_interest(consumer, provider).await;
    }

    /// Commits and publishes that the consumer's finds do not answer a provider any more.
    pub(crate) async fn no_interest(&self, consumer: &str, provider: &str) {
        let rev = {
            let mut truth = self.truth();
            truth.rev = truth.rev.next();
            truth.interests.entry(service(consumer)).or_default().remove(&service(provider));
            let rev = truth.rev;
            truth.left.push((service(consumer), service(provider), rev));
            rev
        };
        let removed = vec![(&service(provider)).into()];
        self.publish_interest(consumer, pb::InterestChange { rev: rev.get(), removed, ..Default::default() })
            .await;
    }

    /// Commits that the consumer's service is deleted, and publishes it or not.
    pub(crate) async fn delete_consumer(&self, consumer: &str, published: bool) {
        let rev = {
            let mut truth = self.truth();
            truth.rev = truth.rev.next();
            truth.interests.remove(&service(consumer));
            truth.rev
        };
        if published {
            self.publish_interest(
                consumer,
                pb::InterestChange { rev: rev.get(), consumer_deleted: true, ..Default::default() },
            )
            .await;
        }
    }

    async fn publish_interest(&self, consumer: &str, change: pb::InterestChange) {
        let change = pb::InterestChange { consumer: Some((&service(consumer)).into()), ..change };
        let message = Message::new(subject::interest(&service(consumer)), change.encode_to_vec());
        self.bus.publish(message).await.expect("publishes");
    }

    /// Publishes a bookmark for everything so far, with the last event of each provider that changed since
    /// the bookmark before it.
    pub(crate) async fn bookmark(&self) {
        let bookmark = {
            let mut truth = self.truth();
            let rev = truth.rev;
            let since = std::mem::replace(&mut truth.bookmark, rev);
            let mut providers = Vec::new();
            for (service, provider) in &truth.providers {
                if let Some(event) = provider.events.last().filter(|event| event.at.rev > since) {
                    providers.push(pb::Reached { service: Some(service.into()), at: Some(event.at.into()) });
                }
            }
            let policy = truth.policy.as_ref().map(|policy| Bundle::of(policy).version).unwrap_or_default();
            pb::Bookmark {
                policy_rev: policy.revision.get(),
                policy_digest: policy.digest,
                epoch: 1,
                rev: rev.get(),
                since: since.get(),
                publisher: "test".to_owned(),
                providers,
                by_find: true,
                incarnation: Some(0),
                ..pb::Bookmark::default()
            }
        };
        self.bus.publish(Message::new(subject::BOOKMARK, bookmark.encode_to_vec())).await.expect("publishes");
    }

    /// Commits an access policy and publishes a bookmark that names it.
    pub(crate) async fn policy(&self, policy: Policy) {
        {
            let mut truth = self.truth();
            truth.rev = truth.rev.next();
            truth.policy = Some(Policy { revision: truth.rev, ..policy });
        }
        self.bookmark().await;
    }

    /// Has the next bookmark begin here, as if one for everything so far had been published and lost.
    pub(crate) fn forget_bookmark(&self) {
        let mut truth = self.truth();
        truth.bookmark = truth.rev;
    }

    /// Loses the event of a new service with one instance, and a bookmark after it, and declines the
    /// requests for what was lost until [`ControlPlane::decline`] says otherwise.
    pub(crate) async fn lose(&self, provider: &str, id: &str) {
        self.commit(provider, Action::Create, id);
        self.forget_bookmark();
        self.decline(usize::MAX);
        self.bookmark().await;
    }

    /// Forgets the events so far; only the state remains.
    pub(crate) fn forget_history(&self) {
        let mut truth = self.truth();
        truth.forgotten = truth.rev;
    }

    /// Adds two replicas that remember everything and answer at the same time.
    pub(crate) async fn elders(&self) {
        for answer in [1, 2] {
            let bus = self.bus.clone();
            let truth = self.truth.clone();
            let mut requests = bus.subscribe(subject::RPC_HISTORY).await.expect("subscribes");
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    let parts = {
                        let mut truth = truth.lock().expect("not poisoned");
                        let known = (truth.forgotten, truth.answer);
                        (truth.forgotten, truth.answer) = (Revision::ZERO, answer);
                        let parts = replay(&mut truth, &request.payload);
                        (truth.forgotten, truth.answer) = known;
                        parts
                    };
                    let reply = request.reply.expect("a request names where to answer");
                    for part in parts {
                        bus.publish(Message::new(reply.clone(), part)).await.expect("publishes");
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    }

    pub(crate) fn decline(&self, requests: usize) {
        self.truth().declining = requests;
    }

    /// Answers nothing any more, as one that hangs.
    pub(crate) fn fall_silent(&self) {
        self.truth().is_silent = true;
    }

    /// The requests that have come since it has fallen silent.
    pub(crate) fn unanswered(&self) -> usize {
        self.truth().unanswered
    }

    pub(crate) fn replays(&self) -> usize {
        self.truth().replays
    }
}

impl Truth {
    /// The digest of a provider's instances. The sum does not depend on their order.
    fn sum(&self, provider: &ServiceRef) -> u64 {
        let mut sum = 0_u64;
        for (id, (_, rev)) in self.providers.get(provider).into_iter().flat_map(|known| &known.instances) {
            sum = sum.wrapping_add(digest_of(id, *rev));
        }
        sum
    }

    fn declined(&mut self) -> String {
        match self.declining.checked_sub(1) {
            None => String::new(),
            Some(left) => {
                self.declining = left;
                "not now".to_owned()
            }
        }
    }
}

/// Those of the listed services that are registered, or all of the tenant: each that has changed or been
/// registered.
fn listed(truth: &mut Truth, request: &pb::InterestRequest) -> Vec<Vec<u8>> {
    let is_registered = |id: &ServiceRef| truth.providers.get(id).is_some_and(|known| !known.deleted);
    let tenant =
        request.scope.clone().and_then(|scope| Tenant::parse(&format!("{}/{}", scope.domain, scope.project)));
    let all = || truth.providers.keys().filter(|known| Some(&known.tenant) == tenant.as_ref()).cloned();
    let listed: Vec<ServiceRef> = match request.only.is_empty() {
        true => all().collect(),
        false => request.only.iter().map(|id| service(id)).collect(),
    };
    let registered: Vec<ServiceRef> = listed.into_iter().filter(is_registered).collect();
    let reply = pb::InterestReply {
        exists: true,
        rev: truth.rev.get(),
        providers: registered.iter().map(Into::into).collect(),
        left_after: request.left_since,
        error: truth.declined(),
        ..pb::InterestReply::default()
    };
    vec![reply.encode_to_vec()]
}

/// One provider per part, so that replies have many parts.
fn interest(truth: &mut Truth, request: &[u8]) -> Vec<Vec<u8>> {
    let request = pb::InterestRequest::decode(request).expect("a request");
    if request.scope.is_some() {
        return listed(truth, &request);
    }
    let consumer: ServiceRef = request.consumer.expect("a consumer").into();
    let rev = truth.rev.get();
    let error = truth.declined();
    if let Some(since) = request.left_since {
        let mut left = Vec::new();
        for (of, provider, at) in &truth.left {
            if *of == consumer && *at > Revision::new(since) {
                left.push(pb::Left { provider: Some(provider.into()), rev: at.get() });
            }
        }
        let left_after = Some(since.max(truth.forgotten.get()));
        let reply = pb::InterestReply { rev, left, left_after, error, ..Default::default() };
        return vec![reply.encode_to_vec()];
    }
    let providers = truth.interests.get(&consumer);
    let mut named: Vec<Option<pb::ServiceRef>> =
        providers.into_iter().flatten().map(|provider| Some(provider.into())).collect();
    if named.is_empty() {
        // An interest in nothing still has a reply, of one part.
        named.push(None);
    }
    let last = named.len() - 1;
    let mut parts = Vec::new();
    for (number, provider) in named.into_iter().enumerate() {
        let part = pb::InterestReply {
            exists: providers.is_some(),
            rev,
            providers: provider.into_iter().collect(),
            error: error.clone(),
            part: number as u32,
            more: number < last,
            ..pb::InterestReply::default()
        };
        parts.push(part.encode_to_vec());
    }
    parts
}

/// One part per provider and hundred events, so that replies have many parts.
fn replay(truth: &mut Truth, request: &[u8]) -> Vec<Vec<u8>> {
    let request = pb::ReplayRequest::decode(request).expect("a request");
    truth.replays += 1;
    let mut parts = Vec::new();
    for want in request.providers {
        let provider: ServiceRef = want.provider.expect("a provider").into();
        let since: Position = want.since.expect("a position").into();
        let known = truth.providers.get(&provider);
        let history = known.map_or(&[][..], |provider| &provider.events);
        let continuous = history.iter().all(|event| event.at <= since || event.at.rev > truth.forgotten);
        // With a gap before them the events are worth nothing: the client takes the state instead.
        let missed = history.iter().filter(|event| continuous && event.at > since);
        let events: Vec<_> = missed.map(InstanceEvent::to_proto).collect();
        let mut pages: Vec<_> = events.chunks(100).map(<[_]>::to_vec).collect();
        pages.push(Vec::new());
        let last = pages.len() - 1;
        for (number, events) in pages.into_iter().enumerate() {
            let has_snapshot = (want.snapshot || !continuous) && number == last;
            parts.push(pb::replay_reply::Provider {
                provider: Some((&provider).into()),
                key: known.filter(|known| !known.deleted).map(|_| (&*key(&provider.id)).into()),
                continuous,
                events,
                has_snapshot,
                instances: if has_snapshot { snapshot(known) } else { Vec::new() },
                at: Some(Position::end_of(truth.rev).into()),
                more: number != last,
            });
        }
    }
    let error = truth.declined();
    let count = parts.len();
    let mut replies = Vec::new();
    for (number, part) in parts.into_iter().enumerate() {
        let reply = pb::ReplayReply {
            rev: truth.rev.get(),
            providers: vec![part],
            part: number as u32,
            last: number + 1 == count,
            error: error.clone(),
            answer: truth.answer,
        };
        replies.push(reply.encode_to_vec());
    }
    replies
}

fn snapshot(provider: Option<&Provider>) -> Vec<pb::SnapshotInstance> {
    let mut instances = Vec::new();
    for (instance, mod_rev) in provider.into_iter().flat_map(|provider| provider.instances.values()) {
        instances.push(pb::SnapshotInstance { instance: Some((&**instance).into()), mod_rev: mod_rev.get() });
    }
    instances
}

/// The policy, in pieces of a hundred bytes.
fn policy(truth: &mut Truth, _: &[u8]) -> Vec<Vec<u8>> {
    let Some(policy) = &truth.policy else {
        let declined = pb::PolicyReply { error: "there is none".to_owned(), ..pb::PolicyReply::default() };
        return vec![declined.encode_to_vec()];
    };
    let bundle = Bundle::of(policy);
    let pieces: Vec<&[u8]> = bundle.json.chunks(100).collect();
    let part = |(number, piece): (usize, &&[u8])| pb::PolicyReply {
        rev: bundle.version.revision.get(),
        digest: bundle.version.digest,
        policy: piece.to_vec(),
        part: number as u32,
        more: number + 1 < pieces.len(),
        ..pb::PolicyReply::default()
    };
    pieces.iter().enumerate().map(|piece| part(piece).encode_to_vec()).collect()
}

fn digest(truth: &mut Truth, request: &[u8]) -> Vec<Vec<u8>> {
    let request = pb::DigestRequest::decode(request).expect("a request");
    if let Some(since) = request.changed_since {
        let mut reply = pb::DigestReply {
            rev: truth.rev.get(),
            confirmed: true,
            changes_known: true,
            ..Default::default()
        };
        for (service, provider) in &truth.providers {
            let last = provider.events.last().filter(|event| event.at.rev.get() > since);
            reply.providers.extend(
                last.map(|event| pb::Reached { service: Some(service.into()), at: Some(event.at.into()) }),
            );
        }
        return vec![reply.encode_to_vec()];
    }
    let mut differing = Vec::new();
    for (number, entry) in request.entries.iter().enumerate() {
        let provider: ServiceRef = entry.provider.clone().expect("a provider").into();
        if truth.sum(&provider) != entry.hash {
            differing.push(number as u32);
        }
    }
    let mut gone_consumers = Vec::new();
    for (number, consumer) in request.consumers.iter().enumerate() {
        if !truth.interests.contains_key(&consumer.clone().into()) {
            gone_consumers.push(number as u32);
        }
    }
    let reply = pb::DigestReply {
        rev: truth.rev.get(),
        differing,
        gone_consumers,
        error: String::new(),
        confirmed: request.confirm,
        ..pb::DigestReply::default()
    };
    vec![reply.encode_to_vec()]
}
