//! Cuts answers into parts, each small enough for the bus.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use access::Bundle;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef};

use super::departures::Departures;
use crate::carriage::{self, Room};
use crate::view::{InstanceView, ServiceView};

/// The most providers in one part of an answer about interest: some 200 KB.
const PROVIDERS_PER_PART: usize = 2000;
/// The most bytes of one provider's state in an answer. It bounds the memory of both sides, and is many times
/// the state of the largest providers.
const MAX_STATE_BYTES: usize = 64 << 20;
/// The tag and the length that protobuf puts before each event and instance, rounded up.
const ITEM_BYTES: usize = 8;

/// The parts of an answer with the services of a scope or a list.
pub(super) fn services(rev: Revision, services: BTreeSet<ServiceRef>, room: Room) -> Vec<pb::InterestReply> {
    interest(rev, Some(services), &BTreeSet::new(), &BTreeMap::new(), room)
}

/// The parts of an answer with the providers of an interest; `None` stands for a consumer that does not
/// exist. Those in `shown` come first and are counted. Those in `left` left it.
pub(super) fn interest(
    rev: Revision,
    providers: Option<BTreeSet<ServiceRef>>,
    shown: &BTreeSet<ServiceRef>,
    left: &BTreeMap<ServiceRef, Revision>,
    room: Room,
) -> Vec<pb::InterestReply> {
    let exists = providers.is_some();
    let (first, rest): (Vec<_>, Vec<_>) =
        providers.into_iter().flatten().partition(|provider| shown.contains(provider));
    let mut shown = first.len();
    let providers: Vec<pb::ServiceRef> = first.iter().chain(&rest).map(Into::into).collect();
    let mut parts = Vec::new();
    for chunk in chunks(&providers, room) {
        let shown_here = shown.min(chunk.len());
        shown -= shown_here;
        parts.push(pb::InterestReply {
            exists,
            rev: rev.get(),
            providers: chunk.to_vec(),
            shown: shown_here as u32,
            ..pb::InterestReply::default()
        });
    }
    for chunk in carriage::parts(&of_providers(left), PROVIDERS_PER_PART, room.of_part()) {
        let left = chunk.to_vec();
        parts.push(pb::InterestReply { exists, rev: rev.get(), left, ..pb::InterestReply::default() });
    }
    numbered(parts)
}

/// The parts of an answer with departures, as of `rev`.
pub(super) fn departures(rev: Revision, departures: &Departures, room: Room) -> Vec<pb::InterestReply> {
    let head = pb::InterestReply {
        exists: true,
        rev: rev.get(),
        left_after: Some(departures.complete_after.get()),
        ..pb::InterestReply::default()
    };
    let left = of_providers(&departures.providers);
    let came = of_providers(&departures.came);
    let mut parts = Vec::new();
    for chunk in chunks(&left, room) {
        parts.push(pb::InterestReply { left: chunk.to_vec(), ..head.clone() });
    }
    for chunk in carriage::parts(&came, PROVIDERS_PER_PART, room.of_part()) {
        parts.push(pb::InterestReply { came: chunk.to_vec(), ..head.clone() });
    }
    numbered(parts)
}

fn of_providers(providers: &BTreeMap<ServiceRef, Revision>) -> Vec<pb::Left> {
    let left = |(provider, rev): (&ServiceRef, &Revision)| pb::Left {
        provider: Some(provider.into()),
        rev: (*rev).get(),
    };
    providers.iter().map(left).collect()
}

/// Chunks for one part each. An empty list gives one empty chunk, because an answer has at least one part.
fn chunks<T: prost::Message>(all: &[T], room: Room) -> Vec<&[T]> {
    if all.is_empty() {
        return vec![all];
    }
    carriage::parts(all, PROVIDERS_PER_PART, room.of_part())
}

/// The parts of an answer with the access policy. `answer_id` marks the parts that belong together.
pub(super) fn policy(bundle: &Bundle, answer_id: u64, room: Room) -> Vec<pb::PolicyReply> {
    let pieces: Vec<&[u8]> = bundle.json.chunks(room.of_part().max(1)).collect();
    let count = pieces.len();
    let mut parts = Vec::with_capacity(count);
    for (number, piece) in pieces.into_iter().enumerate() {
        parts.push(pb::PolicyReply {
            rev: bundle.version.revision.get(),
            digest: bundle.version.digest,
            policy: piece.to_vec(),
            part: number as u32,
            more: number + 1 < count,
            error: String::new(),
            answer: answer_id,
        });
    }
    parts
}

fn numbered(mut parts: Vec<pb::InterestReply>) -> Vec<pb::InterestReply> {
    // Numbered at the end, because `more` is not known before all parts exist.
    let count = parts.len();
    for (number, part) in parts.iter_mut().enumerate() {
        part.part = number as u32;
        part.more = number + 1 < count;
    }
    parts
}

/// One provider in the answer to a replay request.
pub(super) struct ProviderReplay<'a> {
    pub(super) provider: &'a ServiceRef,
    /// The service, unless it has no record.
    pub(super) service: Option<&'a Arc<ServiceView>>,
    /// The complete events since the requested position, or `None` when the history is too short.
    pub(super) events: Option<&'a Vec<Arc<InstanceEvent>>>,
    /// The instances are part of the answer.
    pub(super) with_instances: bool,
}

impl ProviderReplay<'_> {
    /// The message of this provider, without events and instances.
    fn head(&self, rev: Revision) -> pb::replay_reply::Provider {
        pb::replay_reply::Provider {
            provider: Some(self.provider.into()),
            key: self.service.map(|view| (&*view.key).into()),
            continuous: self.events.is_some(),
            has_snapshot: self.with_instances,
            // The end of the revision, not the position of the last event: the answer also says that nothing
            // came later.
            at: Some(Position::end_of(rev).into()),
            ..Default::default()
        }
    }

    /// The most bytes of each instance. When the instances together exceed the bound of a state, each gets
    /// the same part of it: a client that needs more of one gets it with a find.
    fn bytes_of_instance(&self, room: Room) -> usize {
        let together: usize = self.instances().map(|view| view.instance.json().len()).sum();
        match MAX_STATE_BYTES.checked_div(self.instances().count()) {
            Some(share) if together > MAX_STATE_BYTES => room.of_item().min(share),
            _ => room.of_item(),
        }
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<InstanceView>> {
        let service = if self.with_instances { self.service } else { None };
        service.into_iter().flat_map(|view| view.instances.values())
    }
}

/// Collects the providers of an answer, and closes a part whenever it is full.
///
/// A part is encoded as soon as it is closed, so that never more than one part exists in decoded form: the
/// answer to a gateway that starts may have many megabytes.
pub(super) struct ReplayPages {
    rev: Revision,
    answer_id: u64,
    room: Room,
    /// Closed parts that have not been taken.
    closed: VecDeque<Vec<u8>>,
    /// The number of parts closed so far.
    count: u32,
    open: pb::ReplayReply,
    open_bytes: usize,
}

impl ReplayPages {
    pub(super) fn new(rev: Revision, answer_id: u64, room: Room) -> Self {
        let open = empty_part(rev, answer_id);
        Self { rev, answer_id, room, closed: VecDeque::new(), count: 0, open, open_bytes: 0 }
    }

    pub(super) fn add_provider(&mut self, replay: &ProviderReplay<'_>) {
        let mut entry = ProviderEntry::new(replay.head(self.rev));
        for event in replay.events.into_iter().flatten() {
            let mut event = event.to_proto();
            let mut bytes = event.encoded_len();
            // As the publisher sends it. A reply that leaves an event out would not be continuous, and one
            // with the whole event could not be sent: the gateway would ask for ever.
            if bytes > self.room.of_item() && carriage::shorten_event(&mut event, self.room.of_item()) {
                bytes = event.encoded_len();
            }
            self.make_room(&mut entry, replay, bytes);
            entry.message.events.push(event);
        }
        let allowed = replay.bytes_of_instance(self.room);
        for view in replay.instances() {
            let mut instance = pb::Instance::from(&view.instance.unpack());
            carriage::shorten(&mut instance, allowed);
            let instance = pb::SnapshotInstance { instance: Some(instance), mod_rev: view.mod_rev.get() };
            self.make_room(&mut entry, replay, instance.encoded_len());
            entry.message.instances.push(instance);
        }
        self.push(entry);
        if self.open_bytes > self.room.of_part() {
            self.close(false);
        }
    }

    /// Counts an item of `item_bytes`, after closing the open part if the item does not fit into it.
    fn make_room(&mut self, entry: &mut ProviderEntry, replay: &ProviderReplay<'_>, item_bytes: usize) {
        let item_bytes = item_bytes + ITEM_BYTES;
        let would_have = self.open_bytes + entry.head_bytes + entry.bytes + item_bytes;
        // A single item beyond the limit goes out alone: an entry without any item would not make it smaller.
        if entry.bytes > 0 && would_have > self.room.of_part() {
            let mut full = std::mem::replace(entry, ProviderEntry::new(replay.head(self.rev)));
            full.message.more = true;
            self.push(full);
            self.close(false);
        } else if self.open_bytes > 0 && would_have > self.room.of_part() {
            // Providers before this one: together with them, an item of nearly a whole message is too much.
            self.close(false);
        }
        entry.bytes += item_bytes;
    }

    fn push(&mut self, entry: ProviderEntry) {
        self.open_bytes += entry.head_bytes + entry.bytes;
        self.open.providers.push(entry.message);
    }

    /// Closes the open part. The `last` one of the answer says so.
    pub(super) fn close(&mut self, last: bool) {
        let mut full = std::mem::replace(&mut self.open, empty_part(self.rev, self.answer_id));
        full.part = self.count;
        full.last = last;
        self.count += 1;
        self.closed.push_back(full.encode_to_vec());
        self.open_bytes = 0;
    }

    /// The next part that has been closed and not taken.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.closed.pop_front()
    }
}

fn empty_part(rev: Revision, answer_id: u64) -> pb::ReplayReply {
    pb::ReplayReply { rev: rev.get(), answer: answer_id, ..Default::default() }
}

/// A provider's share of the open part, while it is filled.
struct ProviderEntry {
    message: pb::replay_reply::Provider,
    /// Bytes of its names and positions.
    head_bytes: usize,
    /// Bytes of its events and instances so far.
    bytes: usize,
}

impl ProviderEntry {
    fn new(head: pb::replay_reply::Provider) -> Self {
        Self { head_bytes: head.encoded_len() + ITEM_BYTES, message: head, bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;
    use crate::view::Reported;

    const ROOM: Room = Room::new(1 << 20);

    #[test]
    fn a_consumer_of_everything_is_answered_in_parts() {
        let services = (0..4500).map(|n| ServiceRef::new(Tenant::default(), format!("s{n:05}")));
        let shown = services.clone().skip(2450).collect();
        let parts = interest(7.into(), Some(services.collect()), &shown, &BTreeMap::new(), ROOM);
        let shape: Vec<_> = parts.iter().map(|p| (p.part, p.providers.len(), p.more, p.rev)).collect();
        assert_eq!(shape, [(0, 2000, true, 7), (1, 2000, true, 7), (2, 500, false, 7)]);
        assert_eq!(parts.iter().map(|p| p.shown).collect::<Vec<_>>(), [2000, 50, 0]);
        assert_eq!(parts[0].providers[0].service_id, "s02450", "those come first");
        let nobody = interest(7.into(), None, &BTreeSet::new(), &BTreeMap::new(), ROOM);
        assert_eq!(nobody.iter().map(|p| (p.exists, p.more)).collect::<Vec<_>>(), [(false, false)]);
    }

    #[test]
    fn a_policy_larger_than_a_message_is_answered_in_parts() {
        let account = |number: u32| (format!("account-{number}"), access::AccountState::default());
        let policy = access::Policy { accounts: (0..2000).map(account).collect(), ..Default::default() };
        let bundle = Bundle::of(&policy);
        let room = Room::new(8 << 10);
        let parts = super::policy(&bundle, 3, room);
        assert!(parts.len() > 4, "{} parts", parts.len());
        assert!(parts.iter().all(|part| room.takes(&part.encode_to_vec())));
        let shape = parts.iter().enumerate();
        assert!(shape.clone().all(|(number, part)| (part.part, part.answer) == (number as u32, 3)));
        assert_eq!(parts.iter().filter(|part| !part.more).count(), 1);
        let json: Vec<u8> = parts.iter().flat_map(|part| part.policy.iter().copied()).collect();
        assert_eq!(Bundle { version: bundle.version, json }.read().expect("a policy"), policy);
    }

    #[test]
    fn many_departures_are_answered_in_parts() {
        let providers =
            (0..2001).map(|n| (ServiceRef::new(Tenant::default(), n.to_string()), 9.into())).collect();
        let parts = departures(
            12.into(),
            &Departures { providers, came: BTreeMap::new(), complete_after: 4.into() },
            ROOM,
        );
        let shape: Vec<_> =
            parts.iter().map(|p| (p.part, p.left.len(), p.more, p.left_after, p.rev)).collect();
        assert_eq!(shape, [(0, 2000, true, Some(4), 12), (1, 1, false, Some(4), 12)]);
        let nobody =
            departures(12.into(), &Departures { complete_after: 4.into(), ..Departures::default() }, ROOM);
        assert_eq!(nobody.iter().map(|p| (p.left.len(), p.more)).collect::<Vec<_>>(), [(0, false)]);
    }

    #[test]
    fn every_part_of_a_replay_fits_whatever_the_instances() {
        let room = Room::new(64 << 10);
        let mut answer = ReplayPages::new(Revision::new(9), 1, room);
        let provider = ServiceRef::new(Tenant::default(), "s");
        let mut wanted = 0;
        // Sizes around a part, and one that no part can hold.
        for kilobytes in [1, 20, 31, 40, 47, 200, 1, 47, 47] {
            let mut view = ServiceView::default();
            for id in 0..3 {
                let instance = shared::model::Instance {
                    instance_id: format!("i{id}"),
                    properties: [("k".to_owned(), "x".repeat(kilobytes << 10))].into(),
                    ..Default::default()
                };
                let mod_rev = Revision::new(5);
                view.put_instance(Reported::new(instance, mod_rev));
                wanted += 1;
            }
            answer.add_provider(&ProviderReplay {
                provider: &provider,
                service: Some(&Arc::new(view)),
                events: None,
                with_instances: true,
            });
        }
        let mut found = 0;
        let mut whole = 0;
        answer.close(true);
        while let Some(payload) = answer.take() {
            assert!(room.takes(&payload), "{} bytes", payload.len());
            let part = pb::ReplayReply::decode(&payload[..]).expect("decodes");
            for item in part.providers.iter().flat_map(|provider| &provider.instances) {
                let instance = item.instance.as_ref().expect("an instance");
                found += 1;
                whole += usize::from(!instance.properties.is_empty());
            }
        }
        assert_eq!((found, whole), (wanted, wanted - 3), "only what fits nowhere is shortened");
    }

    #[test]
    fn the_state_of_a_provider_is_bounded_whatever_its_instances() {
        let provider = ServiceRef::new(Tenant::default(), "s");
        let mut bytes = Vec::new();
        // Below the bound, above, and far above.
        for count in [1000, 1200, 2400] {
            let mut view = ServiceView::default();
            for id in 0..count {
                let instance = shared::model::Instance {
                    instance_id: format!("i{id}"),
                    endpoints: vec!["rest://10.0.0.7:8080".to_owned()],
                    properties: [("k".to_owned(), "x".repeat(60 << 10))].into(),
                    ..Default::default()
                };
                view.put_instance(Reported::new(instance, 5.into()));
            }
            let mut answer = ReplayPages::new(Revision::new(9), 1, ROOM);
            answer.add_provider(&ProviderReplay {
                provider: &provider,
                service: Some(&Arc::new(view)),
                events: None,
                with_instances: true,
            });
            answer.close(true);
            let mut found = 0;
            bytes.push(0);
            while let Some(payload) = answer.take() {
                *bytes.last_mut().expect("pushed above") += payload.len();
                let part = pb::ReplayReply::decode(&payload[..]).expect("decodes");
                for item in part.providers.iter().flat_map(|provider| &provider.instances) {
                    let instance = item.instance.as_ref().expect("an instance");
                    assert_eq!(instance.endpoints.len(), 1, "a consumer can reach each of them");
                    found += 1;
                }
            }
            assert_eq!(found, count);
        }
        assert!(bytes[0] > 1000 * (60 << 10), "nothing is left out: {bytes:?}");
        assert!(bytes.iter().all(|bytes| *bytes <= MAX_STATE_BYTES + (MAX_STATE_BYTES >> 4)), "{bytes:?}");
    }
}
