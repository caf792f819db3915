//! Messages of the bus: subscriptions merged into one stream, taken in batches, applied in the order of
//! revisions.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bus::{Message, Messages};
use follow::message::{InterestChange, ServicesChange};
use futures_util::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures_util::{Stream as _, StreamExt as _};
use shared::event::InstanceEvent;
use shared::model::Tenant;
use tracing::debug;

use super::Upstream;
use crate::trace;
use crate::watch::GroupId;

/// The most messages that are taken together. It bounds the memory of a batch and the delay of its first
/// event.
const BATCH: usize = 1024;

/// All subscriptions of topics and interests.
pub(super) type Subscriptions = SelectAll<BoxStream<'static, (Source, Message)>>;

/// The kind of subscription that a message came from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Event,
    Interest(GroupId),
    /// The changes of a tenant's services.
    Services(Arc<Tenant>),
}

/// A decoded message.
pub(super) enum Decoded {
    Interest(GroupId, InterestChange),
    Event(InstanceEvent),
    Services(Arc<Tenant>, ServicesChange),
}

impl Upstream {
    /// Applies `first` and everything that has arrived with it. Changes of interest come after all events:
    /// the deletes of a provider's instances are published before the news that the provider is gone, and
    /// must be applied before it.
    pub(super) async fn take_messages(&mut self, first: Option<(Source, Message)>) {
        let mut messages: Vec<(Source, Message)> = first.into_iter().collect();
        let mut changes = Vec::new();
        loop {
            drain(&mut self.messages, BATCH, &mut messages).await;
            // A full batch may have left messages behind, and a bookmark must not be applied before them.
            let may_have_more = messages.len() >= BATCH;
            let mut events = Vec::with_capacity(messages.len());
            for (source, message) in messages.drain(..) {
                match self.decode(&source, &message) {
                    Some(Decoded::Event(event)) => events.push(event),
                    Some(Decoded::Interest(group, change)) => changes.push((group, change)),
                    Some(Decoded::Services(tenant, change)) => self.spread(&tenant, &change, &mut changes),
                    None => {}
                }
            }
            self.note_arrival(&mut events);
            let fates = self.tracker.on_events(events);
            self.metrics.events(fates);
            self.act().await;
            if !may_have_more {
                break;
            }
        }
        self.tracker.on_interest_changes(changes);
        self.act().await;
    }

    /// Notes the time at which a batch was taken from the bus.
    fn note_arrival(&self, events: &mut [InstanceEvent]) {
        let Some(oldest) = events.iter().min_by_key(|event| event.at) else { return };
        let now = self.clock.micros();
        self.metrics.took(oldest.via.published_at, now);
        for event in events {
            event.via.received_at = now;
        }
    }

    /// Adds a change of a tenant's services for each group that it may concern. A group that it does not
    /// concern has to know of it too: the next change names this one as the one before.
    fn spread(&self, tenant: &Tenant, change: &ServicesChange, into: &mut Vec<(GroupId, InterestChange)>) {
        for group in self.feeds.groups(tenant) {
            if let Some(selector) = self.tracker.selector(group) {
                into.push((group, change.for_selector(selector)));
            }
        }
    }

    pub(super) fn decode(&self, source: &Source, message: &Message) -> Option<Decoded> {
        match source {
            Source::Event => match InstanceEvent::decode(&message.payload) {
                Ok(mut event) => {
                    event.via.trace = trace::publisher(message.traceparent.as_deref());
                    return Some(Decoded::Event(event));
                }
                Err(error) => self.malformed(&message.subject, &error),
            },
            Source::Interest(group) => {
                match InterestChange::decode(self.tracker.selector(*group)?, &message.payload) {
                    Ok(change) => return Some(Decoded::Interest(*group, change)),
                    Err(error) => self.malformed(&message.subject, &error),
                }
            }
            Source::Services(tenant) => match ServicesChange::decode(&message.payload) {
                Ok(change) => return Some(Decoded::Services(tenant.clone(), change)),
                Err(error) => self.malformed(&message.subject, &error),
            },
        }
        None
    }

    pub(super) fn malformed(&self, subject: &str, error: &dyn std::fmt::Display) {
        self.metrics.malformed();
        debug!(subject, %error, "a message of the bus cannot be decoded and is ignored");
    }
}

/// A subscription whose messages carry their source, and the handle that ends it.
pub(super) fn tagged(
    messages: Messages,
    source: Source,
) -> (BoxStream<'static, (Source, Message)>, AbortHandle) {
    let (handle, registration) = AbortHandle::new_pair();
    (Abortable::new(messages.map(move |message| (source.clone(), message)), registration).boxed(), handle)
}

/// Adds to `ready` everything that is ready now, without waiting, up to a total of `most`.
///
/// A pending poll does not prove that nothing is ready: the set yields after a while to be fair, and
/// announces that by waking immediately. So it is polled until it is pending without having woken.
async fn drain(messages: &mut Subscriptions, most: usize, ready: &mut Vec<(Source, Message)>) {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    // Unconstrained: with the task's budget used up, ready streams would look pending too.
    tokio::task::unconstrained(std::future::poll_fn(|_| {
        while ready.len() < most {
            match Pin::new(&mut *messages).poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(message)) => ready.push(message),
                Poll::Ready(None) => break,
                Poll::Pending if woken.0.swap(false, Ordering::AcqRel) => {}
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }))
    .await;
}
