//! Answers the requests of gateways: a watcher's interest, missed events, comparisons of state, and the
//! access policy.
//!
//! Any replica may answer. A replica whose view has not reached the requested revision waits a little and
//! then declines; the gateway repeats the request, and another replica takes it. Everything in one answer
//! comes from one snapshot.
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

#[derive(Clone, Copy)]
enum RequestKind {
    Interest,
    /// A replay from one replica. A replica with too short a history answers with the state.
    Replay,
    /// A replay from all replicas at once. Only a replica with the complete history answers.
    History,
    Digest,
    Policy,
}

/// The requests that the bus gives to one replica each. History goes to all of them, and is subscribed apart.
const ONE_REPLICA: [(&str, RequestKind); 4] = [
    (subject::RPC_INTEREST, RequestKind::Interest),
    (subject::RPC_REPLAY, RequestKind::Replay),
    (subject::RPC_DIGEST, RequestKind::Digest),
    (subject::RPC_POLICY, RequestKind::Policy),
];

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
        // Not `serve`: a replica that cannot answer stays silent, so all of them have to see the request.
        let history = self.bus.subscribe(subject::RPC_HISTORY).await?;
        requests.push(tagged(history, RequestKind::History));
        for (subject, kind) in ONE_REPLICA {
            let messages = self.bus.serve(subject, subject::REPLICAS).await?;
            requests.push(tagged(messages, kind));
        }
        let mut running = JoinSet::new();
        while let Some((kind, message)) = requests.next().await {
            while running.len() >= MAX_CONCURRENT {
                running.join_next().await;
            }
            // A JoinSet keeps each finished task until it is joined, so they are collected as requests come.
            while running.try_join_next().is_some() {}
            let this = self.clone();
            running.spawn(async move { this.respond(kind, message).await });
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }

    async fn respond(&self, kind: RequestKind, request: Message) {
        // A message without a reply subject is no request: nobody would receive the answer.
        let Some(reply_subject) = request.reply.clone() else { return };
        let payloads: Box<dyn Iterator<Item = Vec<u8>> + Send> = match kind {
            RequestKind::Interest => Box::new(self.interest(&request.payload).await.into_iter()),
            RequestKind::Replay => self.replay(&request.payload, false).await,
            RequestKind::History => self.replay(&request.payload, true).await,
            RequestKind::Digest => Box::new(std::iter::once(self.digest(&request.payload).await)),
            RequestKind::Policy => Box::new(self.policy(&request.payload).await.into_iter()),
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

    async fn interest(&self, payload: &[u8]) -> Vec<Vec<u8>> {
        match self.try_interest(payload).await {
            Ok(payloads) => payloads,
            Err(error) => {
                let reply = pb::InterestReply { error: error.to_string(), ..Default::default() };
                vec![reply.encode_to_vec()]
            }
        }
    }

    async fn try_interest(&self, payload: &[u8]) -> Result<Vec<Vec<u8>>, AnswerError> {
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
        Ok(answer::interest(&snapshot, self.registry.view().history(), &want, self.room()))
    }

    async fn digest(&self, payload: &[u8]) -> Vec<u8> {
        let reply = match self.try_digest(payload).await {
            Ok(reply) => reply,
            Err(error) => pb::DigestReply { error: error.to_string(), ..Default::default() },
        };
        reply.encode_to_vec()
    }

    async fn try_digest(&self, payload: &[u8]) -> Result<pb::DigestReply, AnswerError> {
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

    async fn policy(&self, payload: &[u8]) -> Vec<Vec<u8>> {
        match self.try_policy(payload).await {
            Ok(parts) => parts.iter().map(prost::Message::encode_to_vec).collect(),
            Err(error) => {
                let reply = pb::PolicyReply { error: error.to_string(), ..Default::default() };
                vec![reply.encode_to_vec()]
            }
        }
    }

    async fn try_policy(&self, payload: &[u8]) -> Result<Vec<pb::PolicyReply>, AnswerError> {
        let request = pb::PolicyRequest::decode(payload)?;
        let snapshot = self.snapshot(request.min_rev, None).await?;
        Ok(page::policy(&self.bundle_of(&snapshot.policy), self.room()))
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

    /// Answers a replay request. With `only_complete`, a replica without the complete history sends nothing.
    async fn replay(&self, payload: &[u8], only_complete: bool) -> Box<dyn Iterator<Item = Vec<u8>> + Send> {
        match self.try_replay(payload).await {
            Ok(replay) if only_complete && !replay.complete => Box::new(std::iter::empty()),
            Ok(replay) => Box::new(replay.payloads),
            Err(error) => {
                if let AnswerError::Undecodable(error) = &error {
                    warn!(%error, "a replay request cannot be decoded");
                }
                // Another replica may have what this one lacks, and its answer must not be preceded by an
                // error.
                if only_complete {
                    return Box::new(std::iter::empty());
                }
                let reply = pb::ReplayReply { error: error.to_string(), last: true, ..Default::default() };
                Box::new(std::iter::once(reply.encode_to_vec()))
            }
        }
    }

    async fn try_replay(&self, payload: &[u8]) -> Result<answer::Replay, AnswerError> {
        let request = pb::ReplayRequest::decode(payload)?;
        let snapshot = self.snapshot(request.min_rev, request.incarnation).await?;
        let wants = answer::ReplayWant::parse_all(request);
        // Several replicas may answer, and the gateway reads one of them: its parts share this number.
        let answer_id = fastrand::u64(1..);
        Ok(answer::replay(&snapshot, self.registry.view().history(), wants, answer_id, self.room()))
    }
}

fn tagged(messages: Messages, kind: RequestKind) -> impl Stream<Item = (RequestKind, Message)> + Unpin {
    messages.map(move |message| (kind, message))
}
