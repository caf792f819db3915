//! Requests to the control plane, made again until one is answered.
//!
//! Any replica may reply. A request that one replica does not answer soon is sent to all of them. A replica that
//! is behind, or cannot reply, says so in `error`; then the request is made again after a growing pause. A reply that
//! is incomplete or cannot be decoded counts as none. The bus bounds the size of each part of a reply.
//!
//! Of the requests that watches cause, a bounded number is under way at once. The others wait here: replicas that get
//! more than they answer within the timeout would work for requests that are made again already. Requests for reads of
//! the registry do not wait behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::{Bus, BusError, Message, Messages};
use follow::read::Changes;
use follow::reply::{
    InterestParts, InterestReply, Progress, ReplayParts, ReplyError, TopicReplay, Want, check_accepted,
    departures_request, fill_in_history, interest_request, replay_request, wants_without_history,
};
use follow::suspicion::Confirmation;
use follow::tracker::{Departures, Digests, RecordOutcome};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::backoff::Backoff;
use shared::model::{Incarnation, Revision};
use shared::subject;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::hedge::Hedge;
use crate::metrics::UpstreamMetrics;
use crate::watch::Selector;

/// The first pause between two attempts of a request.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts of a request.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// The wait for a replica that has the complete history. A busy replica replies within it; when no replica
/// has the history, it comes on top of the first reply.
const HISTORY_TIMEOUT: Duration = Duration::from_millis(250);

/// The attempts for an interest or for departures that are under way at once. They take some milliseconds each, so this is
/// enough for tens of thousands of watches a second.
const INTERESTS_AT_ONCE: usize = 128;
/// The attempts for replays that are under way at once: as many as one replica works on.
const REPLAYS_AT_ONCE: usize = 64;

/// The attempts that may be under way at once.
pub(super) struct Lanes {
    interests: Semaphore,
    replays: Semaphore,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { interests: Semaphore::new(INTERESTS_AT_ONCE), replays: Semaphore::new(REPLAYS_AT_ONCE) }
    }
}

/// The reason for which an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The bus did not carry the request, or no part of the reply came in time.
    #[error("the bus did not carry the request or its reply")]
    Bus(#[from] BusError),
    /// The reply does not count.
    #[error(transparent)]
    Reply(#[from] ReplyError),
}

impl From<prost::DecodeError> for RequestError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Reply(error.into())
    }
}

/// A replica's comparison of digests: indices into the two lists of the request.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Topics whose digest differs.
    pub(super) differing: Vec<u32>,
    /// Consumers that are not registered.
    pub(super) gone_consumers: Vec<u32>,
}

/// Makes requests. Cheap to clone. Every method is cancel-safe: a request that is dropped has no effect.
#[derive(Clone)]
pub(super) struct Requester {
    pub(super) bus: Arc<dyn Bus>,
    /// The longest wait for one part of a reply.
    pub(super) timeout: Duration,
    /// The highest revision that any message has mentioned. A reply must not be older.
    pub(super) seen: Arc<AtomicU64>,
    /// The incarnation of the store of which a reply must be; `None` while it is unknown.
    pub(super) incarnation: Arc<Mutex<Option<Incarnation>>>,
    /// Sends requests that are not answered soon to all replicas.
    pub(super) hedge: Arc<Hedge>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) metrics: UpstreamMetrics,
}

impl Requester {
    /// Subscribes, as soon as the bus can be reached.
    pub(super) async fn subscribe(&self, subject: &str) -> Messages {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.bus.subscribe(subject).await {
                Ok(messages) => return messages,
                Err(error) => self.pause_after(&error.into(), &mut backoff).await,
            }
        }
    }

    /// The selector's interest.
    pub(super) async fn interest(&self, selector: &Selector, known_at: Option<Revision>) -> InterestReply {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.try_interest(selector, known_at).await {
                Ok(interest) => return interest,
                Err(error) => self.pause_after(&error, &mut backoff).await,
            }
        }
    }

    /// The providers that left the selector's interest after `since`, with their events until then. At most
    /// `batch` providers are named in one request.
    pub(super) async fn departures(&self, selector: &Selector, since: Revision, batch: usize) -> Departures {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.try_departures(selector, since, batch).await {
                Ok(departures) => return departures,
                Err(error) => self.pause_after(&error, &mut backoff).await,
            }
        }
    }

    /// The events of these providers, or their states. One reply for each want, in the same order.
    pub(super) async fn replay(&self, wants: &[Want]) -> Vec<TopicReplay> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.try_replay(wants, Revision::ZERO).await {
                Ok(replays) => return replays,
                Err(error) => self.pause_after(&error, &mut backoff).await,
            }
        }
    }

    /// The store's revision now.
    pub(super) async fn store_revision(&self) -> Revision {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.try_confirm().await {
                Ok(confirmation) => return confirmation.rev,
                Err(error) => self.pause_after(&error, &mut backoff).await,
            }
        }
    }

    /// The store's revision and incarnation now, in one attempt. Every revision that was known before is at
    /// most this one, unless the store was restored from a backup.
    ///
    /// # Errors
    /// When no replica replies in time, or it cannot read the store.
    pub(super) async fn try_confirm(&self) -> Result<Confirmation, RequestError> {
        let request = pb::DigestRequest { confirm: true, ..pb::DigestRequest::default() };
        let reply = self.try_digest(&request).await?;
        // A replica of an older version ignores `confirm` and sends the revision of its view, which proves
        // nothing.
        if !reply.confirmed {
            return Err(ReplyError::Incomplete.into());
        }
        let incarnation = reply.incarnation.map(Incarnation::new);
        Ok(Confirmation { rev: Revision::new(reply.rev), incarnation })
    }

    /// Asks a replica to compare digests, in one attempt: the next comparison comes anyway.
    ///
    /// # Errors
    /// When no replica replies in time.
    pub(super) async fn compare(&self, digests: &Digests) -> Result<Comparison, RequestError> {
        let mut request = pb::DigestRequest {
            min_rev: self.seen().get(),
            incarnation: self.incarnation(),
            ..pb::DigestRequest::default()
        };
        for (_, consumer) in &digests.consumers {
            request.consumers.push(consumer.into());
        }
        for (provider, hash) in &digests.topics {
            let provider = Some(provider.into());
            request.entries.push(pb::digest_request::Entry { provider, hash: *hash });
        }
        let reply = self.try_digest(&request).await?;
        Ok(Comparison { differing: reply.differing, gone_consumers: reply.gone_consumers })
    }

    /// Everything that changed after `since`, up to a moment after the call, in one attempt.
    ///
    /// # Errors
    /// When no replica replies in time, or it does not know all of it.
    pub(super) async fn try_changes(&self, since: Revision) -> Result<Changes, RequestError> {
        let request = pb::DigestRequest { incarnation: self.incarnation(), ..Changes::request(since) };
        let reply = self.try_digest(&request).await?;
        Changes::from_reply(since, reply).ok_or_else(|| ReplyError::Incomplete.into())
    }

    async fn try_digest(&self, request: &pb::DigestRequest) -> Result<pb::DigestReply, RequestError> {
        let mut parts = self.send(subject::RPC_DIGEST, request).await?;
        let mut reply = pb::DigestReply::decode(next_part(&mut parts).await?.payload)?;
        check_accepted(std::mem::take(&mut reply.error))?;
        Ok(reply)
    }

    async fn try_interest(
        &self,
        selector: &Selector,
        known_at: Option<Revision>,
    ) -> Result<InterestReply, RequestError> {
        let mut request = interest_request(selector, self.seen(), known_at);
        request.incarnation = self.incarnation();
        Ok(self.interest_parts(&request).await?.into_interest())
    }

    async fn try_departures(
        &self,
        selector: &Selector,
        since: Revision,
        batch: usize,
    ) -> Result<Departures, RequestError> {
        let mut request = departures_request(selector, self.seen(), since);
        request.incarnation = self.incarnation();
        let mut list = self.interest_parts(&request).await?.into_departures(since)?;
        // A replica of an older version names every service of the tenant.
        list.departures.retain(|(provider, _)| selector.may_ask_for(provider));
        let mut departures = Departures::begin(&list);
        for batch in list.departures.chunks(batch.max(1)) {
            // Another replica may reply. It must have reached the revision of the one that listed the
            // departures.
            let replays = self.try_replay(&list.wants(batch), list.rev).await?;
            for ((provider, until), replay) in batch.iter().zip(replays) {
                match departures.record(selector, provider, *until, &replay) {
                    RecordOutcome::Recorded => {}
                    RecordOutcome::HistoryTooShort => return Ok(departures),
                    RecordOutcome::ReplicaBehind => return Err(ReplyError::Incomplete.into()),
                }
            }
        }
        departures.finish();
        Ok(departures)
    }

    async fn interest_parts(&self, request: &pb::InterestRequest) -> Result<InterestParts, RequestError> {
        // The semaphore is never closed, so this is always a permit; likewise below.
        let _turn = self.lanes.interests.acquire().await;
        let mut messages = self.send(subject::RPC_INTEREST, request).await?;
        let mut parts = InterestParts::default();
        while parts.add(&next_part(&mut messages).await?.payload)? == Progress::MoreParts {}
        Ok(parts)
    }

    /// Requests replays from a replica that has reached `rev` and everything that was seen here. A replica
    /// that started a moment ago knows the state and not how it came about; then those that know more are
    /// asked.
    async fn try_replay(&self, wants: &[Want], rev: Revision) -> Result<Vec<TopicReplay>, RequestError> {
        let _turn = self.lanes.replays.acquire().await;
        let min_rev = self.seen().max(rev);
        let messages = self.send(subject::RPC_REPLAY, &self.replay_request(wants, min_rev)).await?;
        let mut replays = read_replays(messages, wants).await?;
        let incomplete = wants_without_history(wants, &replays);
        if incomplete.is_empty() {
            return Ok(replays);
        }
        match self.complete_replays(&incomplete, min_rev).await {
            Ok(complete) => fill_in_history(wants, &mut replays, complete),
            Err(error) => debug!(%error, "no replica has the complete history; using the state instead"),
        }
        Ok(replays)
    }

    /// Requests replays from all replicas; only one with the complete history replies.
    async fn complete_replays(
        &self,
        wants: &[Want],
        min_rev: Revision,
    ) -> Result<Vec<TopicReplay>, RequestError> {
        let request = self.replay_request(wants, min_rev).encode_to_vec();
        let timeout = HISTORY_TIMEOUT.min(self.timeout);
        let messages = self.bus.request(Message::new(subject::RPC_HISTORY, request), timeout).await?;
        read_replays(messages, wants).await
    }

    fn replay_request(&self, wants: &[Want], min_rev: Revision) -> pb::ReplayRequest {
        pb::ReplayRequest { incarnation: self.incarnation(), ..replay_request(wants, min_rev) }
    }

    /// Sends a request to one replica, and to all of them when that one does not answer soon.
    async fn send(&self, subject: &str, request: &impl prost::Message) -> Result<Messages, RequestError> {
        let message = Message::new(subject, request.encode_to_vec());
        Ok(self.hedge.request(&*self.bus, message, self.timeout).await?)
    }

    /// The highest revision that any message has mentioned.
    pub(super) fn seen(&self) -> Revision {
        Revision::new(self.seen.load(Ordering::Relaxed))
    }

    /// The incarnation of the store, as far as it is known.
    pub(super) fn incarnation(&self) -> Option<u64> {
        self.incarnation.lock().map(Incarnation::get)
    }

    /// Notes the incarnation of which replies must be from now on.
    pub(super) fn set_incarnation(&self, incarnation: Option<Incarnation>) {
        *self.incarnation.lock() = incarnation;
    }

    async fn pause_after(&self, error: &RequestError, backoff: &mut Backoff) {
        debug!(%error, "a request to the control plane failed and will be made again");
        self.metrics.retry();
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn read_replays(mut messages: Messages, wants: &[Want]) -> Result<Vec<TopicReplay>, RequestError> {
    let mut parts = ReplayParts::default();
    while parts.add(&next_part(&mut messages).await?.payload)? == Progress::MoreParts {}
    Ok(parts.into_replays(wants)?)
}

/// The next part of a reply. The stream ends when none comes in time.
async fn next_part(parts: &mut Messages) -> Result<Message, ReplyError> {
    parts.next().await.ok_or(ReplyError::Incomplete)
}
