//! The events of a provider that resuming sessions missed, as the pushes that these sessions share.

use std::sync::{Arc, OnceLock};

use shared::event::Position;

use crate::Push;
use crate::reply::TopicReplay;

/// A replica's reply about a provider, for all sessions that missed its events.
#[derive(Debug)]
pub struct MissedEvents {
    replay: TopicReplay,
    /// The pushes of its events, and the number of the topic that they name.
    pushes: OnceLock<(u32, Vec<Arc<Push>>)>,
}

impl From<TopicReplay> for MissedEvents {
    fn from(replay: TopicReplay) -> Self {
        Self { replay, pushes: OnceLock::new() }
    }
}

impl MissedEvents {
    /// The position up to which all events after the requested one are here; `None` when some are missing.
    pub(super) fn complete_to(&self) -> Option<Position> {
        self.replay.continuous.then_some(self.replay.at)
    }

    /// The events after `base` and up to `until`, in order.
    pub(super) fn between(&self, topic: u32, base: Position, until: Position) -> Vec<Arc<Push>> {
        let (named, pushes) = self.pushes.get_or_init(|| (topic, self.make_pushes(topic)));
        let is_wanted = |push: &&Arc<Push>| push.at > base && push.at <= until;
        if *named == topic {
            return pushes.iter().filter(is_wanted).cloned().collect();
        }
        // The topic was closed and opened again, and has another number since.
        self.make_pushes(topic).iter().filter(is_wanted).cloned().collect()
    }

    fn make_pushes(&self, topic: u32) -> Vec<Arc<Push>> {
        self.replay.events.iter().map(|event| Arc::new(Push::from_event(topic, event))).collect()
    }
}
