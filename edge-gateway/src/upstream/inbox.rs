//! What the bus delivers: subscriptions merged into one stream, taken in batches, in the order of revisions.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bus::{Message, Messages};
use futures_util::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures_util::{Stream as _, StreamExt as _};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef};
use tracing::debug;

use super::core::InterestChange;
use super::topic::Fate;
use super::{Selector, Upstream};
use crate::metrics::UpstreamMetrics;
use crate::trace;
use crate::watch::GroupId;

/// Messages that are taken together.
const BATCH: usize = 1024;

/// All subscriptions.
pub(super) type Subscriptions = SelectAll<BoxStream<'static, (Source, Message)>>;

/// Where a message of the bus came from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Event,
    Interest(GroupId),
}

/// A message of the bus that was understood.
enum Heard {
    Interest(GroupId, InterestChange),
    Event(InstanceEvent),
}

impl Upstream {
    /// Takes what has come together, in the order of revisions: subjects have channels of their own, so it comes
    /// in any. A change of interest counts after all events that were published before it: the deletes of a
    /// provider's instances come before the news that the provider is gone.
    pub(super) async fn on_messages(&mut self, first: Option<(Source, Message)>) {
        let mut messages: Vec<_> = first.into_iter().collect();
        let mut interests = Vec::new();
        loop {
            drain(&mut self.messages, BATCH, &mut messages).await;
            let more = messages.len() >= BATCH;
            let mut events = Vec::new();
            for (source, message) in messages.drain(..) {
                match self.understand(source, &message) {
                    Some(Heard::Event(event)) => events.push(event),
                    Some(Heard::Interest(group, change)) => interests.push((group, change)),
                    None => {}
                }
            }
            events.sort_by_key(|event| event.at);
            self.count_way(&mut events);
            let mut fates = Fates::default();
            for event in events {
                fates.note(self.core.on_event(event));
            }
            fates.tell(&self.metrics);
            self.act().await;
            if !more {
                break;
            }
        }
        interests.sort_by_key(|(_, change)| change.at);
        for (group, change) in interests {
            self.core.on_interest_change(group, change);
        }
        self.act().await;
    }

    /// Notes when a batch was taken from the bus.
    fn count_way(&self, events: &mut [InstanceEvent]) {
        let Some(oldest) = events.first().map(|event| event.via.published_at) else { return };
        let now = self.clock.micros();
        self.metrics.took(oldest, now);
        for event in events {
            event.via.received_at = now;
        }
    }

    fn understand(&self, source: Source, message: &Message) -> Option<Heard> {
        match source {
            Source::Event => match InstanceEvent::decode(&message.payload) {
                Ok(mut event) => {
                    event.via.trace = trace::publisher(message.traceparent.as_deref());
                    return Some(Heard::Event(event));
                }
                Err(error) => self.malformed(&message.subject, &error),
            },
            Source::Interest(group) => match interest_change(self.core.selector(group)?, &message.payload) {
                Ok(change) => return Some(Heard::Interest(group, change)),
                Err(error) => self.malformed(&message.subject, &error),
            },
        }
        None
    }

    pub(super) fn malformed(&self, subject: &str, error: &dyn std::fmt::Display) {
        self.metrics.malformed();
        debug!(subject, %error, "a message of the bus cannot be understood");
    }
}

/// What a change means for who watches this.
pub(super) fn interest_change(
    selector: &Selector,
    payload: &[u8],
) -> Result<InterestChange, prost::DecodeError> {
    let Some(scope) = selector.scope() else {
        let change = pb::InterestChange::decode(payload)?;
        return Ok(InterestChange {
            at: place(change.rev, change.part, change.more),
            prev: before(change.rev, change.part, change.prev_rev),
            added: change.added.into_iter().map(Into::into).collect(),
            removed: change.removed.into_iter().map(Into::into).collect(),
            deleted: change.consumer_deleted,
        });
    };
    let told = pb::ServicesChange::decode(payload)?;
    let mut change = InterestChange {
        at: place(told.rev, told.part, told.more),
        prev: before(told.rev, told.part, told.prev_rev),
        ..InterestChange::default()
    };
    change.removed.extend(told.removed.into_iter().map(ServiceRef::from));
    for it in told.added {
        let (Some(service), Some(key)) = (it.service, it.key) else { continue };
        // A service that has left the scope is told of by what it is now.
        let side = if scope.matches(&key.into()) { &mut change.added } else { &mut change.removed };
        side.push(service.into());
    }
    Ok(change)
}

/// The place of a part of a change; the last one ends its revision.
fn place(rev: Revision, part: u32, more: bool) -> Position {
    if more { Position { rev, sub: part } } else { Position::end_of(rev) }
}

/// The place before a part.
fn before(rev: Revision, part: u32, prev_rev: Revision) -> Position {
    part.checked_sub(1).map_or(Position::end_of(prev_rev), |sub| Position { rev, sub })
}

/// What became of a batch of events; told to the metrics in one go.
#[derive(Default)]
struct Fates {
    applied: u64,
    duplicate: u64,
    gap: u64,
    unwatched: u64,
}

impl Fates {
    fn note(&mut self, fate: Option<Fate>) {
        match fate {
            Some(Fate::Applied) => self.applied += 1,
            Some(Fate::Duplicate) => self.duplicate += 1,
            Some(Fate::Gap) => self.gap += 1,
            None => self.unwatched += 1,
        }
    }

    fn tell(&self, metrics: &UpstreamMetrics) {
        let all = [
            ("applied", self.applied),
            ("duplicate", self.duplicate),
            ("gap", self.gap),
            ("unwatched", self.unwatched),
        ];
        for (fate, count) in all.into_iter().filter(|(_, count)| *count > 0) {
            metrics.event(fate, count);
        }
    }
}

/// A subscription, and how to end it.
pub(super) fn tagged(
    messages: Messages,
    source: Source,
) -> (BoxStream<'static, (Source, Message)>, AbortHandle) {
    let (handle, registration) = AbortHandle::new_pair();
    (Abortable::new(messages.map(move |message| (source, message)), registration).boxed(), handle)
}

/// Everything that is ready now, without waiting, up to `most`.
///
/// A poll that is pending does not prove that nothing is ready: the set yields after a while to be fair, and
/// says so by waking at once. So it is polled until it is pending without having woken.
async fn drain(messages: &mut Subscriptions, most: usize, ready: &mut Vec<(Source, Message)>) {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    // Outside the task's budget, which would also make ready streams look pending.
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
