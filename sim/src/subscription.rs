//! Subscriptions of a simulated gateway to subjects of the bus.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use shared::event::InstanceEvent;

/// A subscription, with the messages that the gateway has not taken yet.
pub(crate) struct Subscription<T> {
    /// The gateway takes messages. It begins when the reply to the subscription's first request has arrived.
    pub(crate) is_read: bool,
    pub(crate) queue: VecDeque<T>,
}

/// The subscriptions to events, by the id of the provider.
pub(crate) type Topics = BTreeMap<String, Subscription<InstanceEvent>>;

impl<T> Subscription<T> {
    pub(crate) fn new() -> Self {
        Self { is_read: false, queue: VecDeque::new() }
    }
}

/// Takes the oldest event of a subscription that is read; the dice choose among these, because each subject has a
/// channel of its own, and any of them may be read first. `None` when no event waits.
pub(crate) fn take_any(topics: &mut Topics, dice: &mut Rng) -> Option<InstanceEvent> {
    let ready = topics.values_mut().filter(|topic| topic.is_read && !topic.queue.is_empty());
    let mut ready: Vec<_> = ready.collect();
    if ready.is_empty() {
        return None;
    }
    let pick = dice.usize(0..ready.len());
    ready[pick].queue.pop_front()
}
