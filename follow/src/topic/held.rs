//! Events that wait behind a gap.

use std::collections::BTreeMap;

use shared::event::{InstanceEvent, Position};

use crate::bytes::text_bytes;

/// The most events that wait behind a gap. Of more, the latest are dropped and requested later.
pub(super) const MOST_HELD: usize = 1024;

/// The bytes of the instances in such events.
const MOST_HELD_BYTES: usize = 1024 * 1024;

/// Events behind a gap, in order.
#[derive(Debug, Default)]
pub(super) struct HeldEvents {
    events: BTreeMap<Position, InstanceEvent>,
    /// The bytes of their instances.
    bytes: usize,
    /// An event was dropped since the last [`HeldEvents::take_dropped`].
    dropped: bool,
}

impl HeldEvents {
    pub(super) fn add(&mut self, event: InstanceEvent) {
        self.bytes += text_bytes(&event.instance);
        if let Some(repeated) = self.events.insert(event.at, event) {
            self.bytes -= text_bytes(&repeated.instance);
        }
        // The latest goes: those before it can be applied as soon as the gap is filled.
        while (self.events.len() > MOST_HELD || self.bytes > MOST_HELD_BYTES)
            && let Some((_, latest)) = self.events.pop_last()
        {
            self.bytes -= text_bytes(&latest.instance);
            self.dropped = true;
        }
    }

    pub(super) fn first(&self) -> Option<&InstanceEvent> {
        self.events.first_key_value().map(|(_, event)| event)
    }

    pub(super) fn take_first(&mut self) -> Option<InstanceEvent> {
        let (_, event) = self.events.pop_first()?;
        self.bytes -= text_bytes(&event.instance);
        Some(event)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::testing::event;

    use super::*;

    #[test]
    fn large_held_events_are_bounded_by_their_bytes() {
        let mut held = HeldEvents::default();
        for number in 1..=100 {
            let mut event = event("p", number - 1, number);
            let instance = Arc::make_mut(&mut event.instance);
            instance.properties.insert("large".into(), "x".repeat(60_000));
            held.add(event.clone());
            // A repetition takes no further room.
            held.add(event);
        }
        assert_eq!(held.len(), MOST_HELD_BYTES / 60_100);
        assert!(held.take_dropped(), "what was dropped is requested");
        while held.take_first().is_some() {}
        assert_eq!(held.bytes, 0);
    }
}
