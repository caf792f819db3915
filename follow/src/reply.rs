//! Requests to replicas, and their replies put together from parts.
//!
//! In: the payloads of reply parts, in the order of arrival. Out: a complete reply, or a [`ReplyError`],
//! after which the request is made again. A reply counts only when all of its parts have arrived.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{DecodeError, InstanceEvent, Position};
use shared::model::{Instance, Revision, Scope, ServiceKey, ServiceRef};

use crate::Selector;

/// The most parts that a reply may have. A reply with more is taken for a broken one.
const MAX_PARTS: u32 = 100_000;
/// The most bytes that a reply may have, which bounds its memory whatever the size of its parts: many times
/// the state of the largest providers.
const MAX_BYTES: usize = 1 << 30;

/// The reason for which a reply does not count.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The replica refused, for instance because its view lags behind the requested revision.
    #[error("the replica declined the request: {0}")]
    Declined(String),
    /// The reply is larger than any reply can be.
    #[error("the reply is too large")]
    TooLarge,
    /// The reply ended early, or its parts do not belong together.
    #[error("the reply is incomplete")]
    Incomplete,
    /// A part cannot be decoded.
    #[error("the reply cannot be decoded")]
    Malformed(#[from] DecodeError),
}

impl From<prost::DecodeError> for ReplyError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.into())
    }
}

/// Turns the `error` field of a reply into an error.
///
/// # Errors
/// [`ReplyError::Declined`] when the text is not empty.
pub fn check_accepted(error: String) -> Result<(), ReplyError> {
    if error.is_empty() { Ok(()) } else { Err(ReplyError::Declined(error)) }
}

/// Tells the receiver of reply parts whether another one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another part must be read.
    MoreParts,
    /// The reply is complete.
    Complete,
}

/// A replica's list of the providers that left an interest.
#[derive(Clone, Debug, Default)]
pub struct DepartureList {
    /// The revision after which departures were requested.
    pub since: Revision,
    /// Every departure after this revision is listed. It is later than `since` when the replica's history is
    /// short.
    pub complete_after: Revision,
    /// The revision of the reply.
    pub rev: Revision,
    /// Providers, each with the revision at which it left last.
    pub departures: Vec<(ServiceRef, Revision)>,
    /// Providers that came with instances which the consumer does not know, each with the revision of that.
    pub came: Vec<(ServiceRef, Revision)>,
}

impl DepartureList {
    /// The wants for the events of some of the listed providers.
    pub fn wants(&self, departures: &[(ServiceRef, Revision)]) -> Vec<Want> {
        let since = Position::end_of(self.complete_after);
        let want = |(provider, _): &(ServiceRef, Revision)| Want {
            provider: provider.clone(),
            since,
            snapshot: false,
        };
        departures.iter().map(want).collect()
    }
}

/// A provider whose events are requested from a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The provider.
    pub provider: ServiceRef,
    /// The position up to which everything is known already.
    pub since: Position,
    /// The instances are requested as well, even when all events since the position are known.
    pub snapshot: bool,
}

/// A replica's reply about one provider.
#[derive(Clone, Debug, Default)]
pub struct TopicReplay {
    /// The provider's name; `None` when the service does not exist.
    pub key: Option<Arc<ServiceKey>>,
    /// True when `events` holds every event after the requested position.
    pub continuous: bool,
    /// Events, in order.
    pub events: Vec<InstanceEvent>,
    /// The instances at `at`, each with the revision that wrote it.
    pub snapshot: Option<Vec<(Arc<Instance>, Revision)>>,
    /// The reply covers everything up to this position.
    pub at: Position,
    /// Parts of an instance are missing, because the bus does not carry the whole.
    pub shortened: bool,
}

/// A replica's reply about an interest.
#[derive(Clone, Debug, Default)]
pub struct InterestReply {
    /// False when the consumer is not registered.
    pub exists: bool,
    /// The revision of the reply.
    pub rev: Revision,
    /// The providers in the interest at that revision.
    pub providers: Vec<ServiceRef>,
    /// Those that may have come, since the revision that was known, with instances which the consumer does
    /// not know.
    pub shown: BTreeSet<ServiceRef>,
    /// Providers that left since the revision that was known, each with the revision at which it left last.
    pub left: Vec<(ServiceRef, Revision)>,
    /// The interest had no change between this revision and that of the reply. `None` from a replica of an
    /// older version.
    pub unchanged_since: Option<Revision>,
}

/// The request for an interest as it is now, from a replica that has reached `min_rev`. It is known as it was
/// at `known_at`, if that is not the first request.
pub fn interest_request(
    selector: &Selector,
    min_rev: Revision,
    known_at: Option<Revision>,
) -> pb::InterestRequest {
    // A list is the scope of its whole tenant, and of that only the listed services.
    let whole = selector.tenant_of_changes().map(|tenant| Scope::all(tenant.clone()));
    let only = match selector {
        Selector::Consumer(_) | Selector::Scope(_) => Vec::new(),
        Selector::Providers(providers) => providers.iter().map(|provider| provider.id.clone()).collect(),
    };
    pb::InterestRequest {
        consumer: selector.consumer().map(Into::into),
        min_rev: min_rev.get(),
        scope: selector.scope().or(whole.as_ref()).map(Into::into),
        left_since: None,
        only,
        known_at: known_at.map(Revision::get),
        incarnation: None,
    }
}

/// The request for the providers that left an interest after `since`.
pub fn departures_request(selector: &Selector, min_rev: Revision, since: Revision) -> pb::InterestRequest {
    pb::InterestRequest { left_since: Some(since.get()), ..interest_request(selector, min_rev, None) }
}

/// The request for the events of providers.
pub fn replay_request(wants: &[Want], min_rev: Revision) -> pb::ReplayRequest {
    let providers = wants.iter().map(|want| pb::replay_request::Provider {
        provider: Some((&want.provider).into()),
        since: Some(want.since.into()),
        snapshot: want.snapshot,
    });
    pb::ReplayRequest { providers: providers.collect(), min_rev: min_rev.get(), incarnation: None }
}

/// The bytes of a reply so far, of at most `MOST`.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes<const MOST: usize>(usize);

impl<const MOST: usize> Bytes<MOST> {
    fn add(&mut self, bytes: usize) -> Result<(), ReplyError> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > MOST { Err(ReplyError::TooLarge) } else { Ok(()) }
    }
}

/// The parts of a reply to an interest or departures request.
#[derive(Debug, Default)]
pub struct InterestParts {
    parts: Vec<pb::InterestReply>,
    /// The number that all parts of one replica's reply share.
    answer_id: Option<u64>,
    bytes: Bytes<MAX_BYTES>,
}

impl InterestParts {
    /// Adds the payload of the next part. A part of another replica's reply is ignored.
    ///
    /// # Errors
    /// When the part is not the next one, declines, or cannot be decoded.
    pub fn add(&mut self, payload: &[u8]) -> Result<Progress, ReplyError> {
        let mut part = pb::InterestReply::decode(payload)?;
        // Several replicas may reply to a request that was sent to all of them. The first one to reply is read
        // to its end.
        if *self.answer_id.get_or_insert(part.answer) != part.answer {
            return Ok(Progress::MoreParts);
        }
        self.bytes.add(payload.len())?;
        check_accepted(std::mem::take(&mut part.error))?;
        if part.part as usize != self.parts.len() || part.part >= MAX_PARTS {
            return Err(ReplyError::Incomplete);
        }
        let progress = if part.more { Progress::MoreParts } else { Progress::Complete };
        self.parts.push(part);
        Ok(progress)
    }

    /// The complete reply to an interest request.
    pub fn into_interest(self) -> InterestReply {
        let mut interest = InterestReply::default();
        for part in self.parts {
            interest.exists = part.exists;
            interest.rev = Revision::new(part.rev);
            interest.unchanged_since = part.unchanged_since.map(Revision::new);
            let providers: Vec<ServiceRef> = part.providers.into_iter().map(ServiceRef::from).collect();
            interest.shown.extend(providers.iter().take(part.shown as usize).cloned());
            interest.providers.extend(providers);
            interest.left.extend(part.left.into_iter().filter_map(|left| change_of(left).ok()));
        }
        interest
    }

    /// The complete reply to a departures request with this `since`.
    ///
    /// # Errors
    /// When a departure names no provider.
    pub fn into_departures(self, since: Revision) -> Result<DepartureList, ReplyError> {
        let mut list = DepartureList { since, ..DepartureList::default() };
        for part in self.parts {
            list.rev = Revision::new(part.rev);
            // An older replica does not know this request and leaves the field out. Then no departure before
            // its revision is known.
            list.complete_after = Revision::new(part.left_after.unwrap_or(part.rev)).max(since);
            for departure in part.left {
                list.departures.push(change_of(departure)?);
            }
            for arrival in part.came {
                list.came.push(change_of(arrival)?);
            }
        }
        Ok(list)
    }
}

fn change_of(change: pb::Left) -> Result<(ServiceRef, Revision), ReplyError> {
    let provider = change.provider.ok_or(DecodeError::Missing("provider"))?;
    Ok((provider.into(), Revision::new(change.rev)))
}

/// The parts of a reply to a replay request.
#[derive(Debug, Default)]
pub struct ReplayParts {
    replays: HashMap<ServiceRef, PartialReplay>,
    /// The number that all parts of one replica's reply share.
    answer_id: Option<u64>,
    next_part: u32,
    bytes: Bytes<MAX_BYTES>,
}

#[derive(Debug, Default)]
struct PartialReplay {
    replay: TopicReplay,
    /// The provider continues in the next part.
    more: bool,
}

impl ReplayParts {
    /// Adds the payload of the next part. A part of another replica's reply is ignored.
    ///
    /// # Errors
    /// When the part is not the next one, declines, or cannot be decoded.
    pub fn add(&mut self, payload: &[u8]) -> Result<Progress, ReplyError> {
        let reply = pb::ReplayReply::decode(payload)?;
        // As in `InterestParts::add`.
        if *self.answer_id.get_or_insert(reply.answer) != reply.answer {
            return Ok(Progress::MoreParts);
        }
        self.bytes.add(payload.len())?;
        check_accepted(reply.error)?;
        if reply.part != self.next_part || reply.part >= MAX_PARTS {
            return Err(ReplyError::Incomplete);
        }
        self.next_part += 1;
        for provider in reply.providers {
            self.add_provider(provider)?;
        }
        Ok(if reply.last { Progress::Complete } else { Progress::MoreParts })
    }

    fn add_provider(&mut self, part: pb::replay_reply::Provider) -> Result<(), ReplyError> {
        let provider: ServiceRef = part.provider.ok_or(DecodeError::Missing("provider"))?.into();
        let partial = self.replays.entry(provider).or_default();
        let replay = &mut partial.replay;
        if let Some(key) = part.key {
            replay.key = Some(Arc::new(key.into()));
        }
        replay.continuous |= part.continuous;
        for event in part.events {
            replay.events.push(InstanceEvent::from_proto(event)?);
        }
        if part.has_snapshot {
            let snapshot = replay.snapshot.get_or_insert_default();
            for entry in part.instances {
                let instance = entry.instance.ok_or(DecodeError::Missing("instance"))?;
                replay.shortened |= instance.shortened;
                snapshot.push((Arc::new(instance.into()), Revision::new(entry.mod_rev)));
            }
        }
        if let Some(at) = part.at {
            replay.at = at.into();
        }
        partial.more = part.more;
        Ok(())
    }

    /// The complete replays, one for each want and in the same order.
    ///
    /// # Errors
    /// When a provider is missing or cut off.
    pub fn into_replays(mut self, wants: &[Want]) -> Result<Vec<TopicReplay>, ReplyError> {
        let mut replays = Vec::with_capacity(wants.len());
        for want in wants {
            match self.replays.remove(&want.provider) {
                Some(partial) if !partial.more => replays.push(partial.replay),
                Some(_) | None => return Err(ReplyError::Incomplete),
            }
        }
        Ok(replays)
    }
}

/// The wants that were answered with a state although another replica may know the events. A replica that has
/// just started knows the state and not how it came about.
pub fn wants_without_history(wants: &[Want], replays: &[TopicReplay]) -> Vec<Want> {
    wants
        .iter()
        .zip(replays)
        .filter(|(want, replay)| lacks_history(want, replay))
        .map(|(want, _)| want.clone())
        .collect()
}

/// Replaces the replays that [`wants_without_history`] named by `complete`, which answers exactly those
/// wants.
pub fn fill_in_history(wants: &[Want], replays: &mut [TopicReplay], complete: Vec<TopicReplay>) {
    let incomplete = replays.iter_mut().zip(wants).filter(|(replay, want)| lacks_history(want, replay));
    for ((replay, _), complete) in incomplete.zip(complete) {
        *replay = complete;
    }
}

fn lacks_history(want: &Want, replay: &TopicReplay) -> bool {
    // From the beginning of time only the state is of use: no history reaches back that far.
    !replay.continuous && want.since > Position::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_first_replica_make_an_interest() {
        let service = |id: &str| ServiceRef::new(shared::model::Tenant::default(), id);
        let part = |answer: u64, part: u32, id: &str| {
            let providers = vec![(&service(id)).into()];
            let more = part == 0;
            pb::InterestReply { exists: true, answer, part, more, providers, ..Default::default() }
                .encode_to_vec()
        };
        let mut parts = InterestParts::default();
        let mut progress = Vec::new();
        for payload in [part(7, 0, "a"), part(8, 0, "x"), part(8, 1, "y"), part(7, 1, "b")] {
            progress.push(parts.add(&payload).expect("the parts of one reply are in order"));
        }
        assert_eq!(progress.pop(), Some(Progress::Complete));
        assert!(progress.iter().all(|progress| *progress == Progress::MoreParts));
        assert_eq!(parts.into_interest().providers, [service("a"), service("b")]);
    }

    #[test]
    fn a_reply_is_bounded_in_bytes() {
        let mut bytes = Bytes::<10>::default();
        assert!(bytes.add(10).is_ok());
        assert!(matches!(bytes.add(1), Err(ReplyError::TooLarge)));
    }
}
