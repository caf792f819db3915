//! Answers the gateways' questions: who is interested in what, what happened since, do we agree?
//!
//! Any replica may answer; one whose view has not reached the revision that the question asks for waits a
//! little and then declines, so that the gateway asks again and another one answers. All of an answer comes
//! from one snapshot.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusError, Message};
use futures_util::StreamExt;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, Scope, ServiceRef};
use shared::subject;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::keys::ROOT;
use crate::registry::Registry;
use crate::view::{Change, ServiceView, Snapshot, interest};

pub mod left;

/// How long a question waits for the view.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions worked on at once; more wait in their subscription.
const AT_ONCE: usize = 64;
/// Providers named in a part of an answer about interest: some 200 KB.
const PROVIDERS_PER_PART: usize = 2000;
/// An answer's part is closed when it has about this many bytes.
const PART_BYTES: usize = 256 << 10;

/// The questions' task.
pub struct Responder {
    registry: Registry,
    bus: Arc<dyn Bus>,
}

#[derive(Clone, Copy)]
enum Question {
    Interest,
    Replay,
    /// The same of all replicas: who does not have the whole of it says nothing.
    History,
    Digest,
}

impl Responder {
    /// A responder over a registry's view.
    pub fn new(registry: Registry, bus: Arc<dyn Bus>) -> Self {
        Self { registry, bus }
    }

    /// Serves until `stop`. Starts when the first list is in: before it there is nothing to say.
    pub async fn run(self, stop: CancellationToken) {
        let mut revisions = self.registry.view().revisions();
        tokio::select! { () = stop.cancelled() => return, _ = revisions.wait_for(|rev| *rev > 0) => {} }
        let this = Arc::new(self);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                outcome = this.clone().serve() => {
                    if let Err(error) = outcome {
                        debug!(%error, "questions cannot be served; trying again");
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>) -> Result<(), BusError> {
        let serve = |subject: &'static str, question: Question| {
            let bus = self.bus.clone();
            async move {
                let messages = bus.serve(subject, subject::REPLICAS).await?;
                Ok::<_, BusError>(messages.map(move |message| (question, message)))
            }
        };
        let history = self.bus.subscribe(subject::RPC_HISTORY).await?;
        let history = history.map(|message| (Question::History, message));
        let one_of_us = futures_util::stream::select(
            serve(subject::RPC_INTEREST, Question::Interest).await?,
            futures_util::stream::select(
                serve(subject::RPC_REPLAY, Question::Replay).await?,
                serve(subject::RPC_DIGEST, Question::Digest).await?,
            ),
        );
        let mut questions = futures_util::stream::select(one_of_us, history);
        let mut running = JoinSet::new();
        while let Some((question, message)) = questions.next().await {
            while running.len() >= AT_ONCE {
                running.join_next().await;
            }
            while running.try_join_next().is_some() {}
            let this = self.clone();
            running.spawn(async move { this.answer(question, message).await });
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }

    async fn answer(&self, question: Question, message: Message) {
        let Some(reply) = message.reply.clone() else { return };
        let answers = match question {
            Question::Interest => self.interest(&message).await,
            Question::Replay => self.replay(&message, false).await,
            Question::History => self.replay(&message, true).await,
            Question::Digest => vec![self.digest(&message).await],
        };
        for payload in answers {
            let answer =
                Message { traceparent: message.traceparent.clone(), ..Message::new(reply.clone(), payload) };
            if let Err(error) = self.bus.publish(answer).await {
                debug!(%error, "an answer could not be sent; the gateway asks again");
                return;
            }
        }
    }

    async fn snapshot(&self, min_rev: Revision) -> Result<Arc<Snapshot>, String> {
        self.registry.view().at(min_rev, PATIENCE).await.map_err(|error| error.to_string())
    }

    async fn interest(&self, message: &Message) -> Vec<Vec<u8>> {
        let answer = async {
            let request = pb::InterestRequest::decode(&message.payload[..]).map_err(|e| e.to_string())?;
            let mut snapshot = self.snapshot(request.min_rev).await?;
            let (history, rev) = (self.registry.view().history(), snapshot.revision);
            if let Some(scope) = request.scope.map(Scope::from) {
                return Ok(match request.left_since {
                    None => interest_parts(rev, Some(interest::scoped(&snapshot, &scope))),
                    Some(since) => left::by_scope(history, &scope, since, rev).parts(rev),
                });
            }
            let consumer = ServiceRef::from(request.consumer.ok_or("the request lacks `consumer`")?);
            if let Some(since) = request.left_since {
                return Ok(left::by_consumer(history, &consumer, since, rev).parts(rev));
            }
            if snapshot.service(&consumer).is_none() {
                // That it does not exist ends its watches: said only of a confirmed view.
                let confirmed = self.registry.confirmed().await.map_err(|e| e.to_string())?;
                snapshot = confirmed.ok_or("the store cannot be asked")?;
            }
            Ok::<_, String>(interest_parts(snapshot.revision, interest::providers(&snapshot, &consumer)))
        };
        let failed = |error| vec![pb::InterestReply { error, ..Default::default() }];
        answer.await.unwrap_or_else(failed).iter().map(prost::Message::encode_to_vec).collect()
    }

    async fn digest(&self, message: &Message) -> Vec<u8> {
        let answer = async {
            let request = pb::DigestRequest::decode(&message.payload[..]).map_err(|e| e.to_string())?;
            if request.confirm {
                let rev = self.registry.store().barrier(ROOT).await.map_err(|e| e.to_string())?;
                return Ok(pb::DigestReply { rev, confirmed: true, ..pb::DigestReply::default() });
            }
            let mut snapshot = self.snapshot(request.min_rev).await?;
            let exists =
                |snapshot: &Snapshot, it: &pb::ServiceRef| snapshot.service(&it.clone().into()).is_some();
            if request.consumers.iter().any(|consumer| !exists(&snapshot, consumer))
                && let Ok(Some(confirmed)) = self.registry.confirmed().await
            {
                snapshot = confirmed;
            }
            let differs = |entry: &pb::digest_request::Entry| {
                let provider = entry.provider.clone().map(ServiceRef::from);
                provider.is_none_or(|p| snapshot.any_service(&p).map_or(0, announced_digest) != entry.hash)
            };
            let places = |flags: Vec<bool>| {
                (0_u32..).zip(flags).filter_map(|(place, flag)| flag.then_some(place)).collect::<Vec<_>>()
            };
            Ok::<_, String>(pb::DigestReply {
                rev: snapshot.revision,
                differing: places(request.entries.iter().map(differs).collect()),
                gone_consumers: places(request.consumers.iter().map(|c| !exists(&snapshot, c)).collect()),
                ..pb::DigestReply::default()
            })
        };
        answer.await.unwrap_or_else(|error| pb::DigestReply { error, ..Default::default() }).encode_to_vec()
    }

    /// What happened since; nothing at all when that must be the `whole` of it and is not.
    async fn replay(&self, message: &Message, whole: bool) -> Vec<Vec<u8>> {
        let failed = |error: String| {
            let reply = pb::ReplayReply { error, last: true, ..Default::default() };
            if whole { Vec::new() } else { vec![reply.encode_to_vec()] }
        };
        let request = match pb::ReplayRequest::decode(&message.payload[..]) {
            Ok(request) => request,
            Err(error) => {
                warn!(%error, "a replay request cannot be read");
                return failed(error.to_string());
            }
        };
        let snapshot = match self.snapshot(request.min_rev).await {
            Ok(snapshot) => snapshot,
            Err(error) => return failed(error),
        };
        let wanted: Vec<Wanted> = request.providers.into_iter().filter_map(Wanted::read).collect();
        let mut events = self.events_since(&snapshot, &wanted);
        if whole && !events.values().all(|(_, complete)| *complete) {
            return Vec::new();
        }
        let mut parts = Parts::new(snapshot.revision);
        for wanted in &wanted {
            let (events, complete) = events.remove(&wanted.provider).unwrap_or((Vec::new(), false));
            parts.add_provider(&snapshot, wanted, events, complete);
        }
        parts.finish()
    }

    /// The events after each provider's position, up to the snapshot, and whether they are all there were.
    fn events_since(
        &self,
        snapshot: &Snapshot,
        wanted: &[Wanted],
    ) -> HashMap<ServiceRef, (Vec<Arc<InstanceEvent>>, bool)> {
        let history = self.registry.view().history();
        let oldest = wanted.iter().map(|w| w.since.rev.saturating_sub(1)).min().unwrap_or(0);
        let mut found: HashMap<ServiceRef, (Vec<Arc<InstanceEvent>>, bool)> =
            wanted.iter().map(|w| (w.provider.clone(), (Vec::new(), false))).collect();
        let since = history.since(
            oldest,
            snapshot.revision,
            |change| matches!(change, Change::Instance(event) if found.contains_key(&event.provider)),
        );
        // Read after the changes: what was forgotten meanwhile counts as forgotten.
        let floor = Position::end_of(history.complete_since());
        let from: HashMap<&ServiceRef, Position> = wanted.iter().map(|w| (&w.provider, w.since)).collect();
        for change in since.changes {
            let Change::Instance(event) = change else { continue };
            if let (Some((events, _)), Some(since)) =
                (found.get_mut(&event.provider), from.get(&event.provider))
                && event.at > *since
            {
                events.push(event);
            }
        }
        for wanted in wanted {
            if let Some((_, complete)) = found.get_mut(&wanted.provider) {
                // Who asks from a later position knows another history.
                *complete = wanted.since >= floor && wanted.since.rev <= snapshot.revision;
            }
        }
        found
    }
}

/// The providers of a consumer, `None` when it does not exist, in messages that the bus takes.
fn interest_parts(rev: Revision, providers: Option<BTreeSet<ServiceRef>>) -> Vec<pb::InterestReply> {
    let exists = providers.is_some();
    let providers: Vec<pb::ServiceRef> = providers.unwrap_or_default().iter().map(Into::into).collect();
    numbered(chunks(&providers).map(|chunk| pb::InterestReply {
        exists,
        rev,
        providers: chunk.to_vec(),
        ..pb::InterestReply::default()
    }))
}

/// What fits into a part each; one that is empty when there is nothing.
fn chunks<T>(all: &[T]) -> impl Iterator<Item = &[T]> {
    all.chunks(PROVIDERS_PER_PART).chain(all.is_empty().then_some(all))
}

fn numbered(parts: impl Iterator<Item = pb::InterestReply>) -> Vec<pb::InterestReply> {
    let mut parts: Vec<_> = parts.collect();
    let count = parts.len();
    for (number, part) in parts.iter_mut().enumerate() {
        (part.part, part.more) = (number as u32, number + 1 < count);
    }
    parts
}

/// The digest over what has been announced: instances of a service without a record have not.
fn announced_digest(view: &Arc<ServiceView>) -> u64 {
    if view.service.is_some() { view.digest } else { 0 }
}

struct Wanted {
    provider: ServiceRef,
    since: Position,
    snapshot: bool,
}

impl Wanted {
    fn read(it: pb::replay_request::Provider) -> Option<Self> {
        let since = it.since.map(Position::from).unwrap_or_default();
        Some(Self { provider: it.provider?.into(), since, snapshot: it.snapshot })
    }
}

/// The parts of an answer, each small enough for the bus.
struct Parts {
    rev: Revision,
    answer: u64,
    done: Vec<Vec<u8>>,
    open: pb::ReplayReply,
    size: usize,
}

impl Parts {
    fn new(rev: Revision) -> Self {
        let answer = fastrand::u64(1..);
        Self {
            rev,
            answer,
            done: Vec::new(),
            open: pb::ReplayReply { rev, answer, ..Default::default() },
            size: 0,
        }
    }

    fn add_provider(
        &mut self,
        snapshot: &Snapshot,
        wanted: &Wanted,
        events: Vec<Arc<InstanceEvent>>,
        complete: bool,
    ) {
        let view = snapshot.any_service(&wanted.provider).filter(|view| view.service.is_some());
        let has_snapshot = wanted.snapshot || !complete;
        let head = || pb::replay_reply::Provider {
            provider: Some((&wanted.provider).into()),
            key: view.map(|view| (&*view.key).into()),
            continuous: complete,
            has_snapshot,
            at: Some(Position::end_of(snapshot.revision).into()),
            ..Default::default()
        };
        let mut provider = head();
        let mut size = 0;
        let events = events.iter().filter(|_| complete).map(|event| Item::Event(Box::new(event.to_proto())));
        let instances = view.into_iter().filter(|_| has_snapshot).flat_map(|view| view.instances.values());
        let instances = instances.map(|it| {
            Item::Instance(Box::new(pb::SnapshotInstance {
                instance: Some((&*it.instance).into()),
                mod_rev: it.mod_rev,
            }))
        });
        for item in events.chain(instances) {
            let more = item.size();
            if size + more + self.size > PART_BYTES && size > 0 {
                let full = std::mem::replace(&mut provider, head());
                self.push(pb::replay_reply::Provider { more: true, ..full }, size);
                self.close(false);
                size = 0;
            }
            size += more;
            match item {
                Item::Event(event) => provider.events.push(*event),
                Item::Instance(instance) => provider.instances.push(*instance),
            }
        }
        self.push(provider, size);
        if self.size > PART_BYTES {
            self.close(false);
        }
    }

    fn push(&mut self, provider: pb::replay_reply::Provider, size: usize) {
        // Some hundred bytes of names besides the content.
        self.size += size + 256;
        self.open.providers.push(provider);
    }

    fn close(&mut self, last: bool) {
        let part = self.done.len() as u32;
        let next = pb::ReplayReply { rev: self.rev, answer: self.answer, ..Default::default() };
        let full = std::mem::replace(&mut self.open, next);
        self.done.push(pb::ReplayReply { part, last, ..full }.encode_to_vec());
        self.size = 0;
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        self.close(true);
        self.done
    }
}

enum Item {
    Event(Box<pb::InstanceEvent>),
    Instance(Box<pb::SnapshotInstance>),
}

impl Item {
    fn size(&self) -> usize {
        match self {
            Self::Event(event) => event.encoded_len() + 8,
            Self::Instance(instance) => instance.encoded_len() + 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    #[test]
    fn a_consumer_of_everything_is_answered_in_parts() {
        let services = (0..4500).map(|n| ServiceRef::new(Tenant::default(), format!("s{n:05}")));
        let parts = interest_parts(7, Some(services.collect()));
        let shape: Vec<_> = parts.iter().map(|p| (p.part, p.providers.len(), p.more, p.rev)).collect();
        assert_eq!(shape, [(0, 2000, true, 7), (1, 2000, true, 7), (2, 500, false, 7)]);
        let nobody = interest_parts(7, None);
        assert_eq!(nobody.iter().map(|p| (p.exists, p.more)).collect::<Vec<_>>(), [(false, false)]);
    }
}
