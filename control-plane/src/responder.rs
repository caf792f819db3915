//! Answers the requests of gateways: a watcher's interest, missed events, comparisons of state, and the
//! access policy.
//!
//! Any replica may answer. A replica whose view has not reached the requested revision waits a little and
//! then declines; the gateway repeats the request, and another replica takes it. A request that one replica
//! does not answer soon is sent to all of them. Everything in one answer comes from one snapshot.
//!
//! This file only receives, waits and sends. The pure part is [`answer`], which builds an answer from a
//! snapshot and the history.

use std::sync::Arc;
use std::time::Duration;

use access::{Bundle, Policy};

use bus::{Bus, BusError, Message, Messages};
use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::model::{Incarnation, Revision};
use shared::subject;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::answer::{InterestOf, InterestWant};
use self::error::AnswerError;
use crate::carriage::Room;
use crate::keys::INCARNATION;
use crate::registry::Registry;
use crate::store::RangeRequest;
use crate::view::Snapshot;

pub mod answer;
pub mod departures;
mod error;
mod page;

/// The longest time a request waits until the view has reached its revision.
const VIEW_WAIT: Duration = Duration::from_secs(1);
/// The number of requests in progress at once; further ones wait in their subscription.
const MAX_CONCURRENT: usize = 64;
/// The pause before the subscriptions are opened again after they ended.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(200);

/// The task that answers requests.
pub struct Responder {
    registry: Registry,
    bus: Arc<dyn Bus>,
    /// The last policy that was asked for, and its bundle: all gateways ask for the same one.
    bundle: Mutex<Option<(Arc<Policy>, Arc<Bundle>)>>,
}

#[derive(Clone, Copy, Debug)]
enum RequestKind {
    Interest,
    /// A replica with too short a history answers with the state.
    Replay,
    /// Only a replica with the complete history answers.
    History,
    Digest,
    Policy,
}

/// The replicas that receive a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentTo {
    /// The bus has chosen this one, which says so when it cannot answer.
    One,
    /// All of them. A replica that cannot answer is silent, because another one may answer, and a refusal must
    /// not come before that answer.
    All,
}

/// The requests that are sent to one replica, or to all of them. History is sent to all of them only.
const REQUESTS: [(&str, RequestKind); 4] = [
    (subject::RPC_INTEREST, RequestKind::Interest),
    (subject::RPC_REPLAY, RequestKind::Replay),
    (subject::RPC_DIGEST, RequestKind::Digest),
    (subject::RPC_POLICY, RequestKind::Policy),
];

/// The encoded parts of an answer, in order.
type Payloads = Box<dyn Iterator<Item = Vec<u8>> + Send>;

impl Responder {
    /// A responder for the view of `registry`.
    pub fn new(registry: Registry, bus: Arc<dyn Bus>) -> Self {
        Self { registry, bus, bundle: Mutex::default() }
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut revisions = self.registry.view().revisions();
        // A subscribed replica takes requests away from the others, so one without a view must not subscribe
        // yet.
        tokio::select! { () = stop.cancelled() => return, _ = revisions.wait_for(|rev| *rev > Revision::ZERO) => {} }
        let this = Arc::new(self);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                outcome = this.clone().serve() => {
                    if let Err(error) = outcome {
                        debug!(%error, "the subscriptions to gateways' requests could not be opened; trying again");
                    }
                    tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
                }
            }
        }
    }

    /// Serves until a subscription cannot be opened, or all of them have ended.
    async fn serve(self: Arc<Self>) -> Result<(), BusError> {
        let mut requests = SelectAll::new();
        let history = self.bus.subscribe(subject::RPC_HISTORY).await?;
        requests.push(tagged(history, RequestKind::History, SentTo::All));
        for (subject, kind) in REQUESTS {
            let to_one = self.bus.serve(subject, subject::REPLICAS).await?;
            requests.push(tagged(to_one, kind, SentTo::One));
            let to_all = self.bus.subscribe(&subject::to_all(subject)).await?;
            requests.push(tagged(to_all, kind, SentTo::All));
        }
        let mut running = JoinSet::new();
        while let Some((kind, sent_to, message)) = requests.next().await {
            while running.len() >= MAX_CONCURRENT {
                running.join_next().await;
            }
            // A JoinSet keeps each finished task until it is joined, so they are collected as requests come.
            while running.try_join_next().is_some() {}
            let this = self.clone();
            running.spawn(async move { this.respond(kind, sent_to, message).await });
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }

    async fn respond(&self, kind: RequestKind, sent_to: SentTo, request: Message) {
        // A message without a reply subject is no request: nobody would receive the answer.
        let Some(reply_subject) = request.reply.clone() else { return };
        let payloads = match self.answer(kind, &request.payload).await {
            Ok(payloads) => payloads,
            Err(error) if sent_to == SentTo::All => {
                debug!(?kind, %error, "a request to all replicas is left to the others");
                return;
            }
            Err(error) => Box::new(std::iter::once(refusal(kind, &error))),
        };
        for payload in payloads {
            let reply = Message {
                traceparent: request.traceparent.clone(),
                ..Message::new(reply_subject.clone(), payload)
            };
            // The remaining parts are useless without this one, so the first failure ends the answer.
            if let Err(error) = self.bus.publish(reply).await {
                debug!(%error, "a reply could not be sent; the gateway repeats its request");
                return;
            }
        }
    }

    /// Read for each answer: after a reconnect the bus may have another limit.
    fn room(&self) -> Room {
        Room::new(self.bus.max_payload())
    }

    /// The view once it has reached `min_rev`, if it is of the incarnation that the gateway knows.
    async fn snapshot(&self, min_rev: u64, known: Option<u64>) -> Result<Arc<Snapshot>, AnswerError> {
        let snapshot = self.registry.view().at(Revision::new(min_rev), VIEW_WAIT).await?;
        // A replica that has not noticed a restore yet would answer with the history that was undone, and one
        // that has would wait in vain for a gateway's revisions.
        match known {
            Some(known) if known != snapshot.incarnation.get() => Err(AnswerError::OtherIncarnation),
            _ => Ok(snapshot),
        }
    }

    async fn answer(&self, kind: RequestKind, payload: &[u8]) -> Result<Payloads, AnswerError> {
        Ok(match kind {
            RequestKind::Interest => Box::new(self.interest(payload).await?.into_iter()),
            RequestKind::Replay => Box::new(self.replay(payload).await?.payloads),
            RequestKind::History => {
                let replay = self.replay(payload).await?;
                if !replay.complete {
                    return Err(AnswerError::HistoryTooShort);
                }
                Box::new(replay.payloads)
            }
            RequestKind::Digest => Box::new(std::iter::once(self.digest(payload).await?.encode_to_vec())),
            RequestKind::Policy => Box::new(self.policy(payload).await?.into_iter()),
        })
    }

    async fn interest(&self, payload: &[u8]) -> Result<Vec<Vec<u8>>, AnswerError> {
        let request = pb::InterestRequest::decode(payload)?;
        let min_rev = request.min_rev;
        let incarnation = request.incarnation;
        let want = InterestWant::parse(request)?;
        let mut snapshot = self.snapshot(min_rev, incarnation).await?;
        if let InterestWant { of: InterestOf::Consumer(consumer), departed_since: None, .. } = &want
            && snapshot.service(consumer).is_none()
        {
            // A gateway ends the watches of a consumer that does not exist. A view that merely lags behind
            // its registration must not cause that.
            let confirmed = self.registry.confirmed().await?;
            snapshot = confirmed.ok_or(AnswerError::Unconfirmed)?;
        }
        Ok(answer::interest(&snapshot, self.registry.view().history(), &want, answer_id(), self.room()))
    }

    async fn digest(&self, payload: &[u8]) -> Result<pb::DigestReply, AnswerError> {
        let request = pb::DigestRequest::decode(payload)?;
        if let (true, Some(since)) = (request.confirm, request.changed_since) {
            let snapshot = self.registry.confirmed().await?.ok_or(AnswerError::Unconfirmed)?;
            if request.incarnation.is_some_and(|known| known != snapshot.incarnation.get()) {
                return Err(AnswerError::OtherIncarnation);
            }
            let history = self.registry.view().history();
            let reply = answer::changes_since(&snapshot, history, Revision::new(since), self.room());
            return Ok(pb::DigestReply { confirmed: true, ..reply });
        }
        if request.confirm {
            return self.confirm().await;
        }
        let snapshot = self.snapshot(request.min_rev, request.incarnation).await?;
        let reply = answer::digest(&snapshot, &request);
        // As with interest, a confirmed view decides, because the gateway ends the watches of a missing
        // consumer. While the store is away this snapshot decides: the gateway has seen the consumer at or
        // before the requested revision, so it has been deleted since.
        if !reply.gone_consumers.is_empty()
            && let Ok(Some(confirmed)) = self.registry.confirmed().await
        {
            return Ok(answer::digest(&confirmed, &request));
        }
        Ok(reply)
    }

    /// Reads the store's revision and incarnation, both at once.
    async fn confirm(&self) -> Result<pb::DigestReply, AnswerError> {
        let read = self.registry.store().range(RangeRequest::key(INCARNATION)).await?;
        let stored = read.items.first().and_then(|kv| Incarnation::parse(&kv.value));
        Ok(pb::DigestReply {
            rev: read.revision.get(),
            confirmed: true,
            incarnation: Some(stored.unwrap_or_default().get()),
            ..pb::DigestReply::default()
        })
    }

    async fn policy(&self, payload: &[u8]) -> Result<Vec<Vec<u8>>, AnswerError> {
        let request = pb::PolicyRequest::decode(payload)?;
        let snapshot = self.snapshot(request.min_rev, None).await?;
        let parts = page::policy(&self.bundle_of(&snapshot.policy), answer_id(), self.room());
        Ok(parts.iter().map(prost::Message::encode_to_vec).collect())
    }

    fn bundle_of(&self, policy: &Arc<Policy>) -> Arc<Bundle> {
        let mut known = self.bundle.lock();
        if let Some((of, bundle)) = &*known
            && Arc::ptr_eq(of, policy)
        {
            return bundle.clone();
        }
        let bundle = Arc::new(Bundle::of(policy));
        *known = Some((policy.clone(), bundle.clone()));
        bundle
    }

    async fn replay(&self, payload: &[u8]) -> Result<answer::Replay, AnswerError> {
        let request = pb::ReplayRequest::decode(payload)
            .inspect_err(|error| warn!(%error, "a replay request cannot be decoded"))?;
        let snapshot = self.snapshot(request.min_rev, request.incarnation).await?;
        let wants = answer::ReplayWant::parse_all(request);
        Ok(answer::replay(&snapshot, self.registry.view().history(), wants, answer_id(), self.room()))
    }
}

/// The number that the parts of an answer share: several replicas may answer, and the gateway reads one of them.
fn answer_id() -> u64 {
    fastrand::u64(1..)
}

/// The encoded answer with which a replica refuses.
fn refusal(kind: RequestKind, error: &AnswerError) -> Vec<u8> {
    let error = error.to_string();
    match kind {
        RequestKind::Interest => pb::InterestReply { error, ..Default::default() }.encode_to_vec(),
        RequestKind::Replay | RequestKind::History => {
            pb::ReplayReply { error, last: true, ..Default::default() }.encode_to_vec()
        }
        RequestKind::Digest => pb::DigestReply { error, ..Default::default() }.encode_to_vec(),
        RequestKind::Policy => pb::PolicyReply { error, ..Default::default() }.encode_to_vec(),
    }
}

fn tagged(
    messages: Messages,
    kind: RequestKind,
    sent_to: SentTo,
) -> impl Stream<Item = (RequestKind, SentTo, Message)> + Unpin {
    messages.map(move |message| (kind, sent_to, message))
}
