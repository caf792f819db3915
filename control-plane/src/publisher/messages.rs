//! Turns changes and progress into messages that fit on the bus.

use bus::Message;
use host::telemetry::trace::{self, SpanContext, SpanKind, Step};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef, Tenant};
use shared::subject;

use super::term::Progress;
use crate::view::Change;

/// The most services in one message: some 200 KB, or twice that with their names.
const SERVICES_PER_MESSAGE: usize = 2000;
/// The most entries in one bookmark: some 200 KB.
pub(super) const ENTRIES_PER_BOOKMARK: usize = 2000;

/// The messages of a change that is handed to the bus at `now`, in unix microseconds.
pub(super) fn of(change: &Change, now: u64) -> Vec<Message> {
    match change {
        Change::Instance(event) => vec![of_instance(event, now)],
        Change::Interest(change) => of_interest(change),
        Change::Services(change) => of_services(change),
    }
}

fn of_instance(event: &InstanceEvent, now: u64) -> Message {
    let published = pb::InstanceEvent { published_at: now, ..event.to_proto() };
    let traceparent = event.via.trace.as_deref().and_then(|cause| publish_span(cause, event, now));
    let message = Message::new(subject::event(&event.provider), published.encode_to_vec());
    Message { traceparent, ..message }
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

fn of_interest(change: &pb::InterestChange) -> Vec<Message> {
    // The writer always sets the consumer. Without one there is no subject to publish to.
    let Some(consumer) = change.consumer.clone().map(ServiceRef::from) else { return Vec::new() };
    let subject = subject::interest(&consumer);
    let mut messages = Vec::new();
    for part in parts(&change.added, &change.removed) {
        let message = pb::InterestChange {
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

fn of_services(change: &pb::ServicesChange) -> Vec<Message> {
    let subject = subject::services(&Tenant::new(&change.domain, &change.project));
    let mut messages = Vec::new();
    for part in parts(&change.added, &change.removed) {
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
fn parts<A: Clone, R: Clone>(added: &[A], removed: &[R]) -> Vec<ChangePart<A, R>> {
    // At least one part: the change of a deleted consumer may have no lists.
    let count = added.len().max(removed.len()).div_ceil(SERVICES_PER_MESSAGE).max(1);
    let mut parts = Vec::with_capacity(count);
    for index in 0..count {
        parts.push(ChangePart {
            number: u32::try_from(index).unwrap_or(u32::MAX),
            more: index + 1 < count,
            added: slice(added, index),
            removed: slice(removed, index),
        });
    }
    parts
}

fn slice<T: Clone>(all: &[T], index: usize) -> Vec<T> {
    all.chunks(SERVICES_PER_MESSAGE).nth(index).unwrap_or_default().to_vec()
}

/// Bookmarks that list `progress`. `head` has the fields that all of them have in common.
pub(super) fn bookmarks(progress: &Progress, rev: Revision, head: &pb::Bookmark) -> Vec<pb::Bookmark> {
    let providers = entries(progress.providers.iter().map(|(service, at)| (service.into(), *at)));
    let consumers = entries(progress.consumers.iter().map(|(service, at)| (service.into(), *at)));
    let tenants = entries(progress.tenants.iter().map(|(tenant, at)| (whole_tenant(tenant), *at)));
    let mut bookmarks = Vec::new();
    for chunk in providers.chunks(ENTRIES_PER_BOOKMARK) {
        bookmarks.push(pb::Bookmark { providers: chunk.to_vec(), ..head.clone() });
    }
    for chunk in consumers.chunks(ENTRIES_PER_BOOKMARK) {
        bookmarks.push(pb::Bookmark { consumers: chunk.to_vec(), ..head.clone() });
    }
    for chunk in tenants.chunks(ENTRIES_PER_BOOKMARK) {
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
