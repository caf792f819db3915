//! Builds the answers to gateways' requests. Pure: a snapshot, the history and a request come in, the
//! payloads of the reply come out, and nothing waits.
//!
//! An answer says nothing beyond its snapshot, even when the history has gone on since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, Scope, ServiceRef, Tenant};

use super::departures::{self, ConsumerChanges};
use super::error::AnswerError;
use super::page::{self, ProviderReplay, ReplayPages};
use crate::carriage::Room;
use crate::view::{Change, History, ServiceView, Snapshot, interest};

/// A provider whose events a gateway misses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayWant {
    /// The provider.
    pub provider: ServiceRef,
    /// The requester has everything up to and including this position.
    pub since: Position,
    /// The instances are requested as well, even when every event since then is known.
    pub snapshot: bool,
}

impl ReplayWant {
    /// Reads the wants of a request. An entry that names no provider is dropped.
    pub fn parse_all(request: pb::ReplayRequest) -> Vec<Self> {
        request.providers.into_iter().filter_map(Self::parse).collect()
    }

    fn parse(entry: pb::replay_request::Provider) -> Option<Self> {
        Some(Self {
            provider: entry.provider?.into(),
            since: entry.since.map(Position::from).unwrap_or_default(),
            snapshot: entry.snapshot,
        })
    }
}

/// The answer to a replay request.
pub struct Replay {
    /// Encoded `ReplayReply` parts, in order. There is at least one.
    pub payloads: ReplayPayloads,
    /// The events of every requested provider are complete. Otherwise at least one is answered by its state.
    pub complete: bool,
}

/// Answers a replay request: for each want the events after its position, or the instances when the history
/// does not reach back that far. `answer_id` marks the parts that belong together.
pub fn replay(
    snapshot: &Arc<Snapshot>,
    history: &History,
    wants: Vec<ReplayWant>,
    answer_id: u64,
    room: Room,
) -> Replay {
    let found = missed_events(snapshot, history, &wants);
    let complete = found.values().all(|missed| missed.complete);
    let pages = ReplayPages::new(snapshot.revision, answer_id, room);
    let wants = wants.into_iter();
    Replay {
        payloads: ReplayPayloads { snapshot: snapshot.clone(), wants, found, pages, ended: false },
        complete,
    }
}

/// The parts of an answer. They are made while they are taken: of a large answer never more exists than the
/// state of one provider.
pub struct ReplayPayloads {
    snapshot: Arc<Snapshot>,
    wants: std::vec::IntoIter<ReplayWant>,
    found: HashMap<ServiceRef, MissedEvents>,
    pages: ReplayPages,
    ended: bool,
}

impl ReplayPayloads {
    fn add(&mut self, want: &ReplayWant) {
        // A provider that is wanted twice gets its events once. Its second answer is the state.
        let missed = self.found.remove(&want.provider).unwrap_or_default();
        let service = self.snapshot.any_service(&want.provider).filter(|view| view.service.is_some());
        self.pages.add_provider(&ProviderReplay {
            provider: &want.provider,
            service,
            // Events with a hole would look complete to the gateway, so they are left out altogether.
            events: missed.complete.then_some(&missed.events),
            with_instances: want.snapshot || !missed.complete,
        });
    }
}

impl Iterator for ReplayPayloads {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(part) = self.pages.take() {
                return Some(part);
            }
            match self.wants.next() {
                Some(want) => self.add(&want),
                None if self.ended => return None,
                None => {
                    self.ended = true;
                    self.pages.close(true);
                }
            }
        }
    }
}

/// The events of one provider after a position.
#[derive(Default)]
struct MissedEvents {
    events: Vec<Arc<InstanceEvent>>,
    /// No event between the position and the snapshot is missing from `events`.
    complete: bool,
}

fn missed_events(
    snapshot: &Snapshot,
    history: &History,
    wants: &[ReplayWant],
) -> HashMap<ServiceRef, MissedEvents> {
    let mut found: HashMap<ServiceRef, MissedEvents> = HashMap::with_capacity(wants.len());
    for want in wants {
        // One revision earlier than the position, which may be in the middle of its revision.
        let after = want.since.rev.previous();
        let mut events = history.of_provider(&want.provider, after, snapshot.revision);
        events.retain(|event| event.at > want.since);
        found.insert(want.provider.clone(), MissedEvents { events, complete: false });
    }
    // Read only after the changes: another thread may drop old ones in between, and then they must count as
    // missing.
    let floor = Position::end_of(history.complete_since());
    for want in wants {
        if let Some(missed) = found.get_mut(&want.provider) {
            // A requester ahead of this snapshot has seen another history: the store was restored from a
            // backup.
            missed.complete = want.since >= floor && want.since.rev <= snapshot.revision;
        }
    }
    found
}

/// The owner of an interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterestOf {
    /// The providers of this consumer, by its dependency rules and wanted keys.
    Consumer(ServiceRef),
    /// The services of this scope.
    Scope(Scope),
    /// Those of these services that are registered. All belong to this tenant.
    Listed(Tenant, BTreeSet<String>),
}

/// A request about an interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterestWant {
    /// The owner of the interest.
    pub of: InterestOf,
    /// If set, the providers that left the interest after this revision are requested, not the present ones.
    pub departed_since: Option<Revision>,
    /// The requester knows the consumer's interest at this revision.
    pub known_at: Option<Revision>,
}

impl InterestWant {
    /// Reads a request.
    ///
    /// # Errors
    /// `AnswerError::NothingNamed` when it has neither a scope nor a consumer.
    pub fn parse(request: pb::InterestRequest) -> Result<Self, AnswerError> {
        let of = match (request.scope, request.consumer) {
            (Some(scope), _) if !request.only.is_empty() => {
                InterestOf::Listed(Scope::from(scope).tenant, request.only.into_iter().collect())
            }
            (Some(scope), _) => InterestOf::Scope(scope.into()),
            (None, Some(consumer)) => InterestOf::Consumer(consumer.into()),
            (None, None) => return Err(AnswerError::NothingNamed),
        };
        let departed_since = request.left_since.map(Revision::new);
        Ok(Self { of, departed_since, known_at: request.known_at.map(Revision::new) })
    }
}

/// Answers an interest request with encoded `InterestReply` parts. There is at least one. `answer_id` marks the
/// parts that belong together.
///
/// A consumer that is missing from the snapshot is answered with `exists: false`. The caller decides first
/// whether the snapshot is recent enough to claim that.
pub fn interest(
    snapshot: &Snapshot,
    history: &History,
    want: &InterestWant,
    answer_id: u64,
    room: Room,
) -> Vec<Vec<u8>> {
    let rev = snapshot.revision;
    let mut parts = match (&want.of, want.departed_since) {
        (InterestOf::Consumer(consumer), None) => {
            let mut parts = interest_of(snapshot, history, consumer, want.known_at, room);
            let unchanged_since = history.interest_unchanged_since(consumer, rev);
            parts.iter_mut().for_each(|part| part.unchanged_since = Some(unchanged_since.get()));
            parts
        }
        (InterestOf::Scope(scope), None) => page::services(rev, interest::scoped(snapshot, scope), room),
        (InterestOf::Listed(tenant, ids), None) => {
            page::services(rev, interest::listed(snapshot, tenant, ids), room)
        }
        (of, Some(since)) => page::departures(rev, &departures::of(history, of, since, rev), room),
    };
    parts.iter_mut().for_each(|part| part.answer = answer_id);
    parts.iter().map(pb::InterestReply::encode_to_vec).collect()
}

/// The answer about a consumer's interest, whose requester knows it at `known_at`.
fn interest_of(
    snapshot: &Snapshot,
    history: &History,
    consumer: &ServiceRef,
    known_at: Option<Revision>,
    room: Room,
) -> Vec<pb::InterestReply> {
    let rev = snapshot.revision;
    let found = interest::providers(snapshot, consumer);
    let (Some(known_at), Some(providers)) = (known_at, &found) else {
        return page::interest(rev, found, &BTreeSet::new(), &BTreeMap::new(), room);
    };
    let Some(ConsumerChanges { mut left, came }) = departures::changes(history, consumer, known_at, rev)
    else {
        // An instance told once too often does less harm than one that is never told.
        let all = providers.clone();
        return page::interest(rev, found, &all, &BTreeMap::new(), room);
    };
    left.retain(|provider, _| !providers.contains(provider));
    page::interest(rev, found, &came.into_keys().collect(), &left, room)
}

/// The last changes of providers and of consumers' interest after `since`, as of the snapshot. They are not
/// known when there are too many for one message or the history does not reach back that far.
pub fn changes_since(snapshot: &Snapshot, history: &History, since: Revision, room: Room) -> pb::DigestReply {
    let mut reply = pb::DigestReply { rev: snapshot.revision.get(), ..pb::DigestReply::default() };
    let found = history.since(since, snapshot.revision, |change| !matches!(change, Change::Services(_)));
    let mut providers: HashMap<&ServiceRef, Position> = HashMap::new();
    for change in &found.changes {
        match change {
            Change::Instance(event) => _ = providers.insert(&event.provider, event.at),
            Change::Interest(change) => reply.consumers.push(pb::Reached {
                service: change.consumer.clone(),
                at: Some(Position::end_of(Revision::new(change.rev)).into()),
            }),
            Change::Services(_) => {}
        }
    }
    let reached = |(service, at): (&ServiceRef, Position)| pb::Reached {
        service: Some(service.into()),
        at: Some(at.into()),
    };
    reply.providers = providers.into_iter().map(reached).collect();
    // Read only after the changes: another thread may drop old ones in between.
    reply.changes_known = since >= history.complete_since() && reply.encoded_len() <= room.of_part();
    if !reply.changes_known {
        reply.providers.clear();
        reply.consumers.clear();
    }
    reply
}

/// Compares the requester's state with the snapshot.
pub fn digest(snapshot: &Snapshot, request: &pb::DigestRequest) -> pb::DigestReply {
    let mut reply = pb::DigestReply { rev: snapshot.revision.get(), ..pb::DigestReply::default() };
    for (index, entry) in (0_u32..).zip(&request.entries) {
        if differs(snapshot, entry) {
            reply.differing.push(index);
        }
    }
    for (index, consumer) in (0_u32..).zip(&request.consumers) {
        if snapshot.service(&consumer.clone().into()).is_none() {
            reply.gone_consumers.push(index);
        }
    }
    reply
}

fn differs(snapshot: &Snapshot, entry: &pb::digest_request::Entry) -> bool {
    // An entry without a provider counts as different, which makes the gateway request the state.
    let Some(provider) = entry.provider.clone().map(ServiceRef::from) else { return true };
    snapshot.any_service(&provider).map_or(0, announced_digest) != entry.hash
}

/// The digest of the announced instances. Instances of a service without a record have not been announced.
fn announced_digest(view: &Arc<ServiceView>) -> u64 {
    if view.service.is_some() { view.digest } else { 0 }
}
