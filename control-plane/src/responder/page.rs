//! Cuts answers into parts, each small enough for the bus.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef};

use super::departures::Departures;
use crate::view::{InstanceView, ServiceView};

/// The most providers in one part of an answer about interest: some 200 KB.
const PROVIDERS_PER_PART: usize = 2000;
/// A part of a replay is closed once it has about this many bytes.
const PART_BYTES: usize = 256 << 10;
/// The names and positions of one provider, beside its events and instances.
const PROVIDER_BYTES: usize = 256;
/// The tag and the length that protobuf puts before each event and instance, rounded up.
const ITEM_BYTES: usize = 8;

/// The parts of an answer with the providers of an interest; `None` stands for a consumer that does not
/// exist.
pub(super) fn interest(rev: Revision, providers: Option<BTreeSet<ServiceRef>>) -> Vec<pb::InterestReply> {
    let exists = providers.is_some();
    let providers: Vec<pb::ServiceRef> = providers.unwrap_or_default().iter().map(Into::into).collect();
    let parts = chunks(&providers).map(|chunk| pb::InterestReply {
        exists,
        rev: rev.get(),
        providers: chunk.to_vec(),
        ..pb::InterestReply::default()
    });
    numbered(parts.collect())
}

/// The parts of an answer with departures, as of `rev`.
pub(super) fn departures(rev: Revision, departures: &Departures) -> Vec<pb::InterestReply> {
    let departed: Vec<pb::Left> = departures
        .providers
        .iter()
        .map(|(provider, rev)| pb::Left { provider: Some(provider.into()), rev: (*rev).get() })
        .collect();
    let parts = chunks(&departed).map(|chunk| pb::InterestReply {
        exists: true,
        rev: rev.get(),
        left: chunk.to_vec(),
        left_after: Some(departures.complete_after.get()),
        ..pb::InterestReply::default()
    });
    numbered(parts.collect())
}

/// Chunks for one part each. An empty list gives one empty chunk, because an answer has at least one part.
fn chunks<T>(all: &[T]) -> impl Iterator<Item = &[T]> {
    all.chunks(PROVIDERS_PER_PART).chain(all.is_empty().then_some(all))
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
    closed: Vec<Vec<u8>>,
    open: pb::ReplayReply,
    open_bytes: usize,
}

impl ReplayPages {
    pub(super) fn new(rev: Revision, answer_id: u64) -> Self {
        Self { rev, answer_id, closed: Vec::new(), open: empty_part(rev, answer_id), open_bytes: 0 }
    }

    pub(super) fn add_provider(&mut self, replay: &ProviderReplay<'_>) {
        let mut entry = ProviderEntry::new(replay.head(self.rev));
        for event in replay.events.into_iter().flatten() {
            let event = event.to_proto();
            self.make_room(&mut entry, replay, event.encoded_len());
            entry.message.events.push(event);
        }
        for view in replay.instances() {
            let instance = pb::SnapshotInstance {
                instance: Some((&*view.instance).into()),
                mod_rev: view.mod_rev.get(),
            };
            self.make_room(&mut entry, replay, instance.encoded_len());
            entry.message.instances.push(instance);
        }
        self.push(entry);
        if self.open_bytes > PART_BYTES {
            self.close(false);
        }
    }

    /// Counts an item of `item_bytes`, after closing the open part if the item does not fit into it.
    fn make_room(&mut self, entry: &mut ProviderEntry, replay: &ProviderReplay<'_>, item_bytes: usize) {
        let item_bytes = item_bytes + ITEM_BYTES;
        // A single item beyond the limit goes out alone: an entry without any item would not make it smaller.
        if entry.bytes > 0 && self.open_bytes + entry.bytes + item_bytes > PART_BYTES {
            let mut full = std::mem::replace(entry, ProviderEntry::new(replay.head(self.rev)));
            full.message.more = true;
            self.push(full);
            self.close(false);
        }
        entry.bytes += item_bytes;
    }

    fn push(&mut self, entry: ProviderEntry) {
        self.open_bytes += entry.bytes + PROVIDER_BYTES;
        self.open.providers.push(entry.message);
    }

    fn close(&mut self, last: bool) {
        let mut full = std::mem::replace(&mut self.open, empty_part(self.rev, self.answer_id));
        full.part = self.closed.len() as u32;
        full.last = last;
        self.closed.push(full.encode_to_vec());
        self.open_bytes = 0;
    }

    /// The encoded parts, of which the last one says so.
    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        self.close(true);
        self.closed
    }
}

fn empty_part(rev: Revision, answer_id: u64) -> pb::ReplayReply {
    pb::ReplayReply { rev: rev.get(), answer: answer_id, ..Default::default() }
}

/// A provider's share of the open part, while it is filled.
struct ProviderEntry {
    message: pb::replay_reply::Provider,
    bytes: usize,
}

impl ProviderEntry {
    fn new(head: pb::replay_reply::Provider) -> Self {
        Self { message: head, bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    #[test]
    fn a_consumer_of_everything_is_answered_in_parts() {
        let services = (0..4500).map(|n| ServiceRef::new(Tenant::default(), format!("s{n:05}")));
        let parts = interest(7.into(), Some(services.collect()));
        let shape: Vec<_> = parts.iter().map(|p| (p.part, p.providers.len(), p.more, p.rev)).collect();
        assert_eq!(shape, [(0, 2000, true, 7), (1, 2000, true, 7), (2, 500, false, 7)]);
        let nobody = interest(7.into(), None);
        assert_eq!(nobody.iter().map(|p| (p.exists, p.more)).collect::<Vec<_>>(), [(false, false)]);
    }

    #[test]
    fn many_departures_are_answered_in_parts() {
        let providers =
            (0..2001).map(|n| (ServiceRef::new(Tenant::default(), n.to_string()), 9.into())).collect();
        let parts = departures(12.into(), &Departures { providers, complete_after: 4.into() });
        let shape: Vec<_> =
            parts.iter().map(|p| (p.part, p.left.len(), p.more, p.left_after, p.rev)).collect();
        assert_eq!(shape, [(0, 2000, true, Some(4), 12), (1, 1, false, Some(4), 12)]);
        let nobody = departures(12.into(), &Departures { complete_after: 4.into(), ..Departures::default() });
        assert_eq!(nobody.iter().map(|p| (p.left.len(), p.more)).collect::<Vec<_>>(), [(0, false)]);
    }
}
