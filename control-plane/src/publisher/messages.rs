//! What changes and progress look like on the bus, in messages that it carries.

use bus::Message;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};
use shared::subject;

use super::term::Reached;
use crate::trace;
use crate::view::Change;

/// Services named in one message: some 200 KB, or twice that with their names.
const SERVICES_PER_MESSAGE: usize = 2000;
/// Services named in one bookmark: some 200 KB.
pub(super) const REACHED_PER_BOOKMARK: usize = 2000;

/// The messages of a change that is handed to the bus at `now`, unix microseconds.
pub(super) fn of(change: &Change, now: u64) -> Vec<Message> {
    match change {
        Change::Instance(event) => {
            let told = pb::InstanceEvent { published_at: now, ..event.to_proto() };
            let cause = event.via.trace.as_deref();
            let traceparent = cause.and_then(|cause| trace::published(cause, event, &told));
            let message = Message::new(subject::event(&event.provider), told.encode_to_vec());
            vec![Message { traceparent, ..message }]
        }
        Change::Interest(change) => {
            let Some(consumer) = change.consumer.clone().map(ServiceRef::from) else { return Vec::new() };
            let subject = subject::interest(&consumer);
            let parts = parts(&change.added, &change.removed);
            let message = |(Part { part, more }, added, removed)| pb::InterestChange {
                added,
                removed,
                part,
                more,
                ..(**change).clone()
            };
            parts.map(message).map(|it| Message::new(subject.clone(), it.encode_to_vec())).collect()
        }
        Change::Services(change) => {
            let subject = subject::services(&Tenant::new(&change.domain, &change.project));
            let parts = parts(&change.added, &change.removed);
            let message = |(Part { part, more }, added, removed)| pb::ServicesChange {
                added,
                removed,
                part,
                more,
                ..(**change).clone()
            };
            parts.map(message).map(|it| Message::new(subject.clone(), it.encode_to_vec())).collect()
        }
    }
}

/// Which part of a change a message is.
struct Part {
    part: u32,
    more: bool,
}

/// Two lists in parts: who watches everything may gain more services at once than one message holds.
fn parts<'a, A: Clone, B: Clone>(
    added: &'a [A],
    removed: &'a [B],
) -> impl Iterator<Item = (Part, Vec<A>, Vec<B>)> + 'a {
    let count = added.len().max(removed.len()).div_ceil(SERVICES_PER_MESSAGE).max(1);
    (0..count).map(move |index| {
        let number = Part { part: u32::try_from(index).unwrap_or(u32::MAX), more: index + 1 < count };
        (number, part(added, index), part(removed, index))
    })
}

fn part<T: Clone>(all: &[T], index: usize) -> Vec<T> {
    all.chunks(SERVICES_PER_MESSAGE).nth(index).unwrap_or_default().to_vec()
}

/// Bookmarks that name what was reached; only the last one advances to `rev`. `head` is what all have in common.
pub(super) fn bookmarks(
    reached: &Reached,
    rev: Revision,
    head: impl Fn() -> pb::Bookmark,
) -> Vec<pb::Bookmark> {
    let providers = named(reached.providers.iter().map(|(service, at)| (service.into(), *at)));
    let consumers = named(reached.consumers.iter().map(|(service, at)| (service.into(), *at)));
    let tenants = named(reached.tenants.iter().map(|(tenant, at)| (whole(tenant), *at)));
    let chunks = |all: Vec<pb::Reached>| {
        all.chunks(REACHED_PER_BOOKMARK).map(<[_]>::to_vec).collect::<Vec<_>>().into_iter()
    };
    let providers = chunks(providers).map(|providers| pb::Bookmark { providers, ..head() });
    let consumers = chunks(consumers).map(|consumers| pb::Bookmark { consumers, ..head() });
    let tenants = chunks(tenants).map(|tenants| pb::Bookmark { tenants, ..head() });
    let mut all: Vec<_> = providers.chain(consumers).chain(tenants).collect();
    match &mut all[..] {
        [] => all.push(pb::Bookmark { rev, ..head() }),
        [.., last] => last.rev = rev,
    }
    all
}

fn named(reached: impl Iterator<Item = (pb::ServiceRef, Position)>) -> Vec<pb::Reached> {
    reached.map(|(service, at)| pb::Reached { service: Some(service), at: Some(at.into()) }).collect()
}

/// A tenant, where a service could stand.
fn whole(tenant: &Tenant) -> pb::ServiceRef {
    pb::ServiceRef {
        domain: tenant.domain.clone(),
        project: tenant.project.clone(),
        service_id: String::new(),
    }
}
