//! The gateway's questions to the control plane, asked until they are answered.
//!
//! Any replica may answer; one that is behind or cannot says so in `error` and the question is asked again,
//! with growing waits. Answers that are incomplete or make no sense count as none. What is asked from here is
//! bounded by who calls; an answer's parts are bounded by the payload of the bus each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::{Bus, BusError, Message, Messages};
use futures_util::StreamExt as _;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::backoff::Backoff;
use shared::event::{DecodeError, InstanceEvent, Position};
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tracing::debug;

use super::Selector;
use super::core::{Added, Departed, Interest, Want};
use super::topic::Replayed;
use crate::metrics::UpstreamMetrics;

/// First and longest wait between two attempts of a question.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// How long replicas are waited for that may have the whole of a history. As long as it is for a busy one to answer:
/// when none has it, this comes on top.
const HISTORY: Duration = Duration::from_millis(250);
/// Parts of one answer at most; more is not an answer.
const MAX_PARTS: u32 = 100_000;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The bus did not carry it.
    #[error("the request did not get through")]
    Bus(#[from] BusError),
    /// The replica declined.
    #[error("the replica declined: {0}")]
    Declined(String),
    /// The answer ended early or has parts that do not fit.
    #[error("the answer is incomplete")]
    Incomplete,
    /// The answer cannot be understood.
    #[error("the answer makes no sense")]
    Malformed(#[from] DecodeError),
}

impl From<prost::DecodeError> for AskError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.into())
    }
}

/// Asks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) bus: Arc<dyn Bus>,
    /// How long a part of an answer may take.
    pub(super) timeout: Duration,
    /// The highest revision heard of: answers must not be older.
    pub(super) seen: Arc<AtomicU64>,
    pub(super) metrics: UpstreamMetrics,
}

impl Asker {
    /// Subscribes, as soon as the bus is there.
    pub(super) async fn subscribe(&self, subject: &str) -> Messages {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.bus.subscribe(subject).await {
                Ok(messages) => return messages,
                Err(error) => self.failed(&error.into(), &mut backoff).await,
            }
        }
    }

    /// Who is watched?
    pub(super) async fn interest(&self, selector: &Selector) -> Interest {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.try_interest(selector).await {
                Ok(interest) => return interest,
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
    }

    /// What happened to those that are not watched any more, since this revision and until they left? They are
    /// asked for in batches.
    pub(super) async fn departed(&self, selector: &Selector, since: Revision, batch: usize) -> Departed {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.try_departed(selector, since, batch).await {
                Ok(departed) => return departed,
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
    }

    /// What happened to these providers? One answer for each, in the order of the questions.
    pub(super) async fn replay(&self, wants: &[Want]) -> Vec<Replayed> {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.try_replay(wants, 0).await {
                Ok(replayed) => return replayed,
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
    }

    /// Whose sums differ, and which consumers are gone? Positions in the two lists. Asked once: it comes again.
    pub(super) async fn digest(
        &self,
        entries: &[(ServiceRef, u64)],
        consumers: &[ServiceRef],
    ) -> Result<(Vec<u32>, Vec<u32>), AskError> {
        let entry = |(provider, hash): &(ServiceRef, u64)| pb::digest_request::Entry {
            provider: Some(provider.into()),
            hash: *hash,
        };
        let request = pb::DigestRequest {
            entries: entries.iter().map(entry).collect(),
            consumers: consumers.iter().map(Into::into).collect(),
            min_rev: self.min_rev(),
            confirm: false,
        };
        let mut parts = self.ask(subject::RPC_DIGEST, &request).await?;
        let part = parts.next().await.ok_or(AskError::Incomplete)?;
        let reply = pb::DigestReply::decode(part.payload)?;
        accepted(reply.error)?;
        Ok((reply.differing, reply.gone_consumers))
    }

    /// What is the store's revision now? Asked until it is answered.
    pub(super) async fn probe(&self) -> Revision {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.confirm().await {
                Ok(rev) => return rev,
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
    }

    /// What is the store's revision now? Any revision that was known before is at most this, unless the store
    /// was restored from a backup.
    pub(super) async fn confirm(&self) -> Result<Revision, AskError> {
        let request = pb::DigestRequest { confirm: true, ..pb::DigestRequest::default() };
        let mut parts = self.ask(subject::RPC_DIGEST, &request).await?;
        let part = parts.next().await.ok_or(AskError::Incomplete)?;
        let reply = pb::DigestReply::decode(part.payload)?;
        accepted(reply.error)?;
        // A replica that does not know this question tells its view's revision, which proves nothing.
        if reply.confirmed { Ok(reply.rev) } else { Err(AskError::Incomplete) }
    }

    async fn try_interest(&self, selector: &Selector) -> Result<Interest, AskError> {
        let request = pb::InterestRequest {
            consumer: selector.consumer().map(Into::into),
            min_rev: self.min_rev(),
            scope: selector.scope().map(Into::into),
            left_since: None,
        };
        let mut interest = Interest::default();
        for reply in self.interest_parts(&request).await? {
            (interest.exists, interest.rev) = (reply.exists, reply.rev);
            interest.providers.extend(reply.providers.into_iter().map(ServiceRef::from));
        }
        Ok(interest)
    }

    async fn try_departed(
        &self,
        selector: &Selector,
        since: Revision,
        batch: usize,
    ) -> Result<Departed, AskError> {
        let request = pb::InterestRequest {
            consumer: selector.consumer().map(Into::into),
            min_rev: self.min_rev(),
            scope: selector.scope().map(Into::into),
            left_since: Some(since),
        };
        // A replica that does not know this question cannot say who left.
        let mut departed = Departed { since, ..Departed::default() };
        let mut left = Vec::new();
        for reply in self.interest_parts(&request).await? {
            departed.rev = reply.rev;
            departed.after = reply.left_after.unwrap_or(reply.rev).max(since);
            for it in reply.left {
                let provider: ServiceRef = it.provider.ok_or(DecodeError::Missing("provider"))?.into();
                left.push((provider, it.rev));
            }
        }
        let base = Position::end_of(departed.after);
        for left in left.chunks(batch.max(1)) {
            let want = |(provider, _): &(ServiceRef, _)| Want {
                provider: provider.clone(),
                since: base,
                snapshot: false,
            };
            let wants: Vec<Want> = left.iter().map(want).collect();
            // Another replica may answer: it must have come as far as the one that told who left.
            let replayed = self.try_replay(&wants, departed.rev).await?;
            for ((provider, until), replayed) in left.iter().zip(replayed) {
                match departed.add(selector, provider, *until, &replayed) {
                    Added::Told => {}
                    Added::Forgotten => return Ok(departed),
                    Added::Behind => return Err(AskError::Incomplete),
                }
            }
        }
        departed.events.sort_by_key(|(_, push)| push.at);
        Ok(departed)
    }

    async fn interest_parts(
        &self,
        request: &pb::InterestRequest,
    ) -> Result<Vec<pb::InterestReply>, AskError> {
        let mut parts = self.ask(subject::RPC_INTEREST, request).await?;
        let mut replies = Vec::new();
        for number in 0..MAX_PARTS {
            let part = parts.next().await.ok_or(AskError::Incomplete)?;
            let mut reply = pb::InterestReply::decode(part.payload)?;
            accepted(std::mem::take(&mut reply.error))?;
            if reply.part != number {
                return Err(AskError::Incomplete);
            }
            let more = reply.more;
            replies.push(reply);
            if !more {
                return Ok(replies);
            }
        }
        Err(AskError::Incomplete)
    }

    /// Asks a replica that has come at least to `rev`, and to what was heard of. One that began a moment ago knows the
    /// state and not how it came about; then those are asked that know more.
    async fn try_replay(&self, wants: &[Want], rev: Revision) -> Result<Vec<Replayed>, AskError> {
        let min_rev = self.min_rev().max(rev);
        let mut answers = self.replay_on(subject::RPC_REPLAY, wants, min_rev, self.timeout).await?;
        let is_short = |want: &Want, it: &Replayed| !it.continuous && want.since > Position::default();
        let pairs = wants.iter().zip(&answers).filter(|(want, it)| is_short(want, it));
        let short: Vec<Want> = pairs.map(|(want, _)| want.clone()).collect();
        if short.is_empty() {
            return Ok(answers);
        }
        match self.replay_on(subject::RPC_HISTORY, &short, min_rev, HISTORY.min(self.timeout)).await {
            Ok(whole) => {
                let places = answers.iter_mut().zip(wants).filter(|(it, want)| is_short(want, it));
                places.zip(whole).for_each(|((answer, _), whole)| *answer = whole);
            }
            Err(error) => debug!(%error, "no replica has the whole history; the state will do"),
        }
        Ok(answers)
    }

    async fn replay_on(
        &self,
        subject: &str,
        wants: &[Want],
        min_rev: Revision,
        timeout: Duration,
    ) -> Result<Vec<Replayed>, AskError> {
        let want = |want: &Want| pb::replay_request::Provider {
            provider: Some((&want.provider).into()),
            since: Some(want.since.into()),
            snapshot: want.snapshot,
        };
        let request = pb::ReplayRequest { providers: wants.iter().map(want).collect(), min_rev };
        let request = Message::new(subject, request.encode_to_vec());
        let mut parts = self.bus.request(request, timeout).await?;
        let mut answers: HashMap<ServiceRef, (Replayed, bool)> = HashMap::new();
        let (mut number, mut read) = (0, None);
        while number < MAX_PARTS {
            let part = parts.next().await.ok_or(AskError::Incomplete)?;
            let reply = pb::ReplayReply::decode(part.payload)?;
            if *read.get_or_insert(reply.answer) != reply.answer {
                // Of another replica.
                continue;
            }
            accepted(reply.error)?;
            if reply.part != number {
                return Err(AskError::Incomplete);
            }
            number += 1;
            for part in reply.providers {
                add_part(&mut answers, part)?;
            }
            if reply.last {
                let answer = |want: &Want| answers.remove(&want.provider).filter(|(_, more)| !more);
                let answers = wants.iter().map(answer).map(|it| it.map(|(replayed, _)| replayed));
                return answers.collect::<Option<_>>().ok_or(AskError::Incomplete);
            }
        }
        Err(AskError::Incomplete)
    }

    async fn ask(&self, subject: &str, request: &impl prost::Message) -> Result<Messages, AskError> {
        Ok(self.bus.request(Message::new(subject, request.encode_to_vec()), self.timeout).await?)
    }

    fn min_rev(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    async fn failed(&self, error: &AskError, backoff: &mut Backoff) {
        debug!(%error, "a request to the control plane failed; asking again");
        self.metrics.retry();
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

fn accepted(error: String) -> Result<(), AskError> {
    if error.is_empty() { Ok(()) } else { Err(AskError::Declined(error)) }
}

fn add_part(
    answers: &mut HashMap<ServiceRef, (Replayed, bool)>,
    part: pb::replay_reply::Provider,
) -> Result<(), AskError> {
    let provider: ServiceRef = part.provider.ok_or(DecodeError::Missing("provider"))?.into();
    let (answer, more) = answers.entry(provider).or_default();
    if let Some(key) = part.key {
        answer.key = Some(Arc::new(key.into()));
    }
    answer.continuous |= part.continuous;
    for event in part.events {
        answer.events.push(InstanceEvent::from_proto(event)?);
    }
    if part.has_snapshot {
        let snapshot = answer.snapshot.get_or_insert_default();
        for it in part.instances {
            let instance = it.instance.ok_or(DecodeError::Missing("instance"))?;
            snapshot.push((Arc::new(instance.into()), it.mod_rev));
        }
    }
    if let Some(at) = part.at {
        answer.at = at.into();
    }
    *more = part.more;
    Ok(())
}
