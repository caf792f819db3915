//! Turns changes and progress into messages that fit on the bus.

use bus::Message;
use host::telemetry::trace::{self, SpanContext, SpanKind, Step};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef, Tenant};
use shared::subject;

use super::term::Progress;
use crate::carriage::{self, Room};
use crate::view::Change;

/// The most services in one message: some 200 KB, or twice that with their names.
const SERVICES_PER_MESSAGE: usize = 2000;
/// The most entries in one bookmark: some 200 KB.
pub(super) const ENTRIES_PER_BOOKMARK: usize = 2000;

/// The messages of one change.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// The part of the change that the bus cannot carry, if any.
    pub omitted: Option<Omitted>,
}

/// The part of a change that is not sent, because the bus would refuse it for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omitted {
    /// The event leaves without the parts of its instance that made it too large.
    Properties,
    /// The change, or a part of it, does not leave at all. Gateways notice by the next bookmark that they
    /// have not received it, and request the state.
    Message,
}

/// The messages of a change that is handed to the bus at `now`, in unix microseconds.
pub(super) fn of(change: &Change, now: u64, room: Room) -> Outgoing {
    let mut outgoing = match change {
        Change::Instance(event) => of_instance(event, now, room),
        Change::Interest(change) => Outgoing { messages: of_interest(change, room), omitted: None },
        Change::Services(change) => Outgoing { messages: of_services(change, room), omitted: None },
    };
    let before = outgoing.messages.len();
    // Other programs may have stored names of any length, so a part may be too large even when it is alone.
    outgoing
        .messages
        .retain(|message| room.takes(&message.payload) && carriage::is_subject(&message.subject));
    if outgoing.messages.len() < before {
        outgoing.omitted = Some(Omitted::Message);
    }
    outgoing
}

fn of_instance(event: &InstanceEvent, now: u64, room: Room) -> Outgoing {
    let mut published = pb::InstanceEvent { published_at: now, ..event.to_proto() };
    let traceparent = event.via.trace.as_deref().and_then(|cause| publish_span(cause, event, now));
    let mut payload = published.encode_to_vec();
    let mut omitted = None;
    if !room.takes(&payload) && carriage::shorten_event(&mut published, room.of_item()) {
        payload = published.encode_to_vec();
        omitted = Some(Omitted::Properties);
    }
    let message = Message::new(subject::event(&event.provider), payload);
    Outgoing { messages: vec![Message { traceparent, ..message }], omitted }
}

/// Records the span from the change's arrival in the view to the bus, and gives the header that continues it.
fn publish_span(cause: &SpanContext, event: &InstanceEvent, now: u64) -> Option<String> {
    let step = Step::begin("publish", SpanKind::Producer, cause, event.committed_at)?
        .about("messaging.system", "nats")
        .about("muster.revision", event.at.rev.get() as i64)
        .about("muster.action", event.action.as_str());
    let header = trace::traceparent(&step.context());
    step.end(now);
    Some(header)
}

fn of_interest(change: &pb::InterestChange, room: Room) -> Vec<Message> {
    // The writer always sets the consumer. Without one there is no subject to publish to.
    let Some(consumer) = change.consumer.clone().map(ServiceRef::from) else { return Vec::new() };
    let subject = subject::interest(&consumer);
    let mut messages = Vec::new();
    let mut shown = change.shown;
    for part in parts(&change.added, &change.removed, room) {
        let shown_here = shown.min(part.added.len() as u32);
        shown -= shown_here;
        let message = pb::InterestChange {
            added: part.added,
            shown: shown_here,
            removed: part.removed,
            part: part.number,
            more: part.more,
            ..change.clone()
        };
        messages.push(Message::new(subject.clone(), message.encode_to_vec()));
    }
    messages
}

fn of_services(change: &pb::ServicesChange, room: Room) -> Vec<Message> {
    let subject = subject::services(&Tenant::new(&change.domain, &change.project));
    let mut messages = Vec::new();
    for part in parts(&change.added, &change.removed, room) {
        let message = pb::ServicesChange {
            added: part.added,
            removed: part.removed,
            part: part.number,
            more: part.more,
            ..change.clone()
        };
        messages.push(Message::new(subject.clone(), message.encode_to_vec()));
    }
    messages
}

/// One message's share of a change.
struct ChangePart<A, R> {
    number: u32,
    more: bool,
    added: Vec<A>,
    removed: Vec<R>,
}

/// Cuts a change into parts: a consumer of everything may gain more services at once than one message holds.
fn parts<A, R>(added: &[A], removed: &[R], room: Room) -> Vec<ChangePart<A, R>>
where
    A: Clone + prost::Message,
    R: Clone + prost::Message,
{
    // Half for each list, because one message has a part of both.
    let bytes = room.of_part() / 2;
    let added = carriage::parts(added, SERVICES_PER_MESSAGE, bytes);
    let removed = carriage::parts(removed, SERVICES_PER_MESSAGE, bytes);
    // At least one part: the change of a deleted consumer may have no lists.
    let count = added.len().max(removed.len()).max(1);
    let mut parts = Vec::with_capacity(count);
    for index in 0..count {
        parts.push(ChangePart {
            number: u32::try_from(index).unwrap_or(u32::MAX),
            more: index + 1 < count,
            added: added.get(index).map(|part| part.to_vec()).unwrap_or_default(),
            removed: removed.get(index).map(|part| part.to_vec()).unwrap_or_default(),
        });
    }
    parts
}

/// Bookmarks that list `progress`. `head` has the fields that all of them have in common.
pub(super) fn bookmarks(
    progress: &Progress,
    rev: Revision,
    head: &pb::Bookmark,
    room: Room,
) -> Vec<pb::Bookmark> {
    let providers = entries(progress.providers.iter().map(|(service, at)| (service.into(), *at)));
    let consumers = entries(progress.consumers.iter().map(|(service, at)| (service.into(), *at)));
    let tenants = entries(progress.tenants.iter().map(|(tenant, at)| (whole_tenant(tenant), *at)));
    let mut bookmarks = Vec::new();
    for chunk in carriage::parts(&providers, ENTRIES_PER_BOOKMARK, room.of_part()) {
        bookmarks.push(pb::Bookmark { providers: chunk.to_vec(), ..head.clone() });
    }
    for chunk in carriage::parts(&consumers, ENTRIES_PER_BOOKMARK, room.of_part()) {
        bookmarks.push(pb::Bookmark { consumers: chunk.to_vec(), ..head.clone() });
    }
    for chunk in carriage::parts(&tenants, ENTRIES_PER_BOOKMARK, room.of_part()) {
        bookmarks.push(pb::Bookmark { tenants: chunk.to_vec(), ..head.clone() });
    }
    // Only the last one advances to `rev`: a gateway that received a part of them must not count as complete.
    match bookmarks.last_mut() {
        Some(last) => last.rev = rev.get(),
        None => bookmarks.push(pb::Bookmark { rev: rev.get(), ..head.clone() }),
    }
    bookmarks
}

fn entries(reached: impl Iterator<Item = (pb::ServiceRef, Position)>) -> Vec<pb::Reached> {
    reached.map(|(service, at)| pb::Reached { service: Some(service), at: Some(at.into()) }).collect()
}

/// A tenant in the shape of a service reference, without a service id.
fn whole_tenant(tenant: &Tenant) -> pb::ServiceRef {
    pb::ServiceRef {
        domain: tenant.domain.clone(),
        project: tenant.project.clone(),
        service_id: String::new(),
    }
}
