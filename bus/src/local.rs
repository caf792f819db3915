//! The bus within one process.
//!
//! A table of subjects behind one lock that is held for a moment; every subscription is a bounded channel.
//! Publishing never waits: when a channel is full, its receiver loses messages as it would on NATS, and the
//! link's generation rises.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{Bus, BusError, Link, Message, Messages, answer};

/// Messages that a subscription holds by default: several bursts of ten thousand events. A channel takes
/// memory only for the messages that are in it.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// The default of NATS, so that answers are split into the same pages on both.
const MAX_PAYLOAD: usize = 1 << 20;

/// A bus within this process. Cheap to clone; all clones are the same bus. It ends with the last clone.
#[derive(Clone)]
pub struct LocalBus(Arc<LocalState>);

struct LocalState {
    subjects: Mutex<HashMap<String, Subject>>,
    next_id: AtomicU64,
    link: watch::Sender<Link>,
    capacity: usize,
}

/// The receivers of one subject. It is removed from the table with the last of them.
#[derive(Default)]
struct Subject {
    subscribers: Vec<Receiver>,
    groups: HashMap<String, Group>,
}

#[derive(Default)]
struct Group {
    members: Vec<Receiver>,
    /// Index of the member that received the last message; members take turns.
    turn: usize,
}

struct Receiver {
    id: u64,
    messages: mpsc::Sender<Message>,
}

impl LocalBus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        Self::with_capacity(SUBSCRIPTION_CAPACITY)
    }

    /// A bus whose subscriptions hold `capacity` messages each (at least one).
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Arc::new(LocalState {
            subjects: Mutex::default(),
            next_id: AtomicU64::new(1),
            link: watch::Sender::new(Link { connected: true, generation: 1 }),
            // A channel with no capacity panics.
            capacity: capacity.max(1),
        }))
    }

    fn join(&self, subject: &str, group: Option<&str>) -> Messages {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        // When it is full, `deliver` drops the message for this receiver and raises the link's generation.
        let (sender, messages) = mpsc::channel(self.0.capacity);
        let receiver = Receiver { id, messages: sender };
        let mut subjects = self.0.subjects.lock();
        let entry = subjects.entry(subject.to_owned()).or_default();
        match group {
            None => entry.subscribers.push(receiver),
            Some(group) => entry.groups.entry(group.to_owned()).or_default().members.push(receiver),
        }
        drop(subjects);
        Messages::new(Subscription {
            id,
            subject: subject.to_owned(),
            bus: Arc::downgrade(&self.0),
            messages,
        })
    }

    /// Puts the message into the channels of its receivers. False when its subject has none.
    fn deliver(&self, message: &Message) -> bool {
        let mut lost = false;
        let mut subjects = self.0.subjects.lock();
        let Some(subject) = subjects.get_mut(&message.subject) else { return false };
        // The lock is held over all receivers: it is what keeps the messages of a publisher in
        // order everywhere.
        for receiver in &subject.subscribers {
            lost |= receiver.messages.try_send(message.clone()).is_err();
        }
        for group in subject.groups.values_mut() {
            // Not empty: a group is removed with its last member, so the remainder cannot divide by zero.
            group.turn = (group.turn + 1) % group.members.len();
            lost |= group.members[group.turn].messages.try_send(message.clone()).is_err();
        }
        // Released first, because raising the generation wakes the tasks that watch the link.
        drop(subjects);
        if lost {
            self.0.link.send_modify(|link| link.generation += 1);
        }
        true
    }
}

impl Default for LocalBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        self.deliver(&message);
        Ok(())
    }

    async fn flush(&self) -> Result<(), BusError> {
        // `publish` has already put everything into the channels of its receivers.
        Ok(())
    }

    async fn subscribe(&self, subject: &str) -> Result<Messages, BusError> {
        Ok(self.join(subject, None))
    }

    async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError> {
        Ok(self.join(subject, Some(group)))
    }

    async fn request(&self, mut message: Message, timeout: Duration) -> Result<Messages, BusError> {
        let inbox = format!("_INBOX.{}", self.0.next_id.fetch_add(1, Ordering::Relaxed));
        // Before the request is delivered: its responder may answer at once.
        let parts = self.join(&inbox, None);
        let subject = message.subject.clone();
        message.reply = Some(inbox);
        if !self.deliver(&message) {
            return Err(BusError::NoResponder(subject));
        }
        answer(subject, parts.map(Some), timeout).await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.0.link.subscribe()
    }

    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }
}

/// The receiving end of a subscription. Dropping it removes its receiver; the stream ends with the bus.
struct Subscription {
    id: u64,
    subject: String,
    // Weak, so that a forgotten subscription cannot keep the bus, and with it all other subscriptions, alive.
    bus: Weak<LocalState>,
    messages: mpsc::Receiver<Message>,
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.messages.poll_recv(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Some(bus) = self.bus.upgrade() else { return };
        let mut subjects = bus.subjects.lock();
        let Some(subject) = subjects.get_mut(&self.subject) else { return };
        subject.subscribers.retain(|receiver| receiver.id != self.id);
        subject.groups.retain(|_, group| {
            group.members.retain(|receiver| receiver.id != self.id);
            !group.members.is_empty()
        });
        // The table must not grow with every inbox that a request has ever used.
        if subject.subscribers.is_empty() && subject.groups.is_empty() {
            subjects.remove(&self.subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[tokio::test]
    async fn keeps_the_contract_of_a_bus() {
        contract::holds(&LocalBus::new(), &LocalBus::with_capacity(4), 4).await;
    }

    #[tokio::test]
    async fn a_dropped_subscription_leaves_nothing_behind() {
        let bus = LocalBus::new();
        let subscriber = bus.subscribe("a").await;
        let member = bus.serve("a", "g").await;
        drop((subscriber, member));
        assert!(bus.0.subjects.lock().is_empty());
    }

    #[tokio::test]
    async fn subscriptions_end_with_the_bus() {
        let bus = LocalBus::new();
        let mut messages = bus.subscribe("a").await.expect("subscribes");
        drop(bus);
        assert_eq!(messages.next().await, None);
    }
}
