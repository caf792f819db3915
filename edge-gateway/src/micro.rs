//! A window into the inner rooms for the micro-benches. It exists only with the feature `micro`, which no
//! program enables.

use std::sync::Arc;

use follow::reply::{InterestReply, TopicReplay};
use follow::{Effect, Selector, Tracker};
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef, Tenant};

use crate::fanout::merge::Merged;
use crate::push::{Encode as _, Encoding, Push};

pub use crate::fanout::shard::micro::Dispatch;

/// Encodes an event as a plain WebSocket frame. Returns the number of bytes.
pub fn websocket_frame(event: &InstanceEvent) -> usize {
    Push::from_event(0, event).frame(Encoding::Plain).len()
}

/// Encodes an event as a message of `muster.watch.v1`. Returns the number of bytes.
pub fn grpc_message(event: &InstanceEvent) -> usize {
    Push::from_event(0, event).frame(Encoding::Grpc).len()
}

/// The pending changes of one slow session.
#[derive(Default)]
pub struct Merging(Merged);

impl Merging {
    /// Adds a change. Returns true if it was merged into a pending one.
    pub fn add(&mut self, event: &InstanceEvent) -> bool {
        self.0.add(&Arc::new(Push::from_event(0, event)))
    }
}

/// A tracker with many groups, without a bus.
pub struct Lookup {
    tracker: Tracker,
}

impl Lookup {
    /// A tracker with one watch for each of `consumers` consumers. Consumer `n` is interested in `each`
    /// providers from provider `n` on; after the last of `providers` providers comes the first.
    pub fn new(consumers: usize, providers: usize, each: usize) -> Self {
        let mut tracker = Tracker::new(2);
        for number in 0..consumers {
            let consumer = ServiceRef::new(Tenant::default(), format!("consumer-{number}"));
            let (group, _) = tracker.join(&Selector::Consumer(consumer));
            tracker.take_effects();
            let providers = (0..each).map(|offset| provider((number + offset) % providers)).collect();
            tracker.on_interest(
                group,
                InterestReply { exists: true, rev: Revision::new(1), providers, ..InterestReply::default() },
            );
            for effect in tracker.take_effects() {
                let Effect::OpenTopics(wants) = effect else { continue };
                for want in wants {
                    let replay = TopicReplay { continuous: true, at: want.since, ..TopicReplay::default() };
                    tracker.on_loaded(&want.provider, want.since, replay);
                }
            }
        }
        tracker.take_effects();
        Self { tracker }
    }

    /// Applies an event of a provider at a revision. Returns the number of groups that receive it.
    pub fn event(&mut self, number: usize, rev: u64, like: &InstanceEvent) -> usize {
        let event = InstanceEvent {
            provider: provider(number),
            at: Position::first_of(Revision::new(rev)),
            // The beginning of time precedes everything, so there is never a gap.
            prev: Position::default(),
            mod_rev: Revision::new(rev),
            ..like.clone()
        };
        self.tracker.on_event(event);
        let mut groups_reached = 0;
        for effect in self.tracker.take_effects() {
            if let Effect::Deliver(_, groups) = effect {
                groups_reached += groups.len();
            }
        }
        groups_reached
    }
}

fn provider(number: usize) -> ServiceRef {
    ServiceRef::new(Tenant::default(), format!("provider-{number}"))
}
