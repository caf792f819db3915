//! Events that wait behind a gap.

use std::collections::BTreeMap;

use shared::event::{InstanceEvent, Position};

/// The most events that wait behind a gap. Of more, the latest are dropped and requested later.
pub(super) const MOST_HELD: usize = 1024;

/// Events behind a gap, in order.
#[derive(Debug, Default)]
pub(super) struct HeldEvents {
    events: BTreeMap<Position, InstanceEvent>,
    /// An event was dropped since the last [`HeldEvents::take_dropped`].
    dropped: bool,
}

impl HeldEvents {
    pub(super) fn add(&mut self, event: InstanceEvent) {
        self.events.insert(event.at, event);
        if self.events.len() > MOST_HELD {
            // The latest goes: those before it can be applied as soon as the gap is filled.
            self.events.pop_last();
            self.dropped = true;
        }
    }

    pub(super) fn first(&self) -> Option<&InstanceEvent> {
        self.events.first_key_value().map(|(_, event)| event)
    }

    pub(super) fn take_first(&mut self) -> Option<InstanceEvent> {
        self.events.pop_first().map(|(_, event)| event)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// True when an event had to be dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> bool {
        std::mem::take(&mut self.dropped)
    }
}
