//! One timer for all sessions of a shard: a hashed wheel that turns one slot per tick.
//!
//! Setting an entry is O(1), and no entry is ever cancelled: the owner of an entry checks, when it fires, if
//! it still has a meaning. The wheel is written by hand because tokio's timers and tokio-util's `DelayQueue`
//! allocate for each entry and wake for each, and a shard has tens of thousands of deadlines, most of which
//! move before they are reached.

use std::time::Duration;

/// Time since the shard began, in steps of [`TICK`].
pub(crate) type Tick = u32;

/// The wheel's resolution.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// A turn takes about a hundred seconds, longer than most deadlines are away.
const SLOTS: usize = 1024;

/// A duration in whole ticks, rounded up, at least one.
pub(crate) fn ticks(duration: Duration) -> Tick {
    // A duration beyond the range counts as a quarter of it: adding that to the present tick does not
    // overflow in the first ten years of a process.
    Tick::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(Tick::MAX / 4).max(1)
}

/// Entries of type `T`, each with the tick at which it fires.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    slots: Vec<Vec<(Tick, T)>>,
    now: Tick,
}

impl<T> Wheel<T> {
    /// An empty wheel at tick 0.
    pub(crate) fn new() -> Self {
        Self { slots: std::iter::repeat_with(Vec::new).take(SLOTS).collect(), now: 0 }
    }

    /// The tick of the last turn.
    pub(crate) fn now(&self) -> Tick {
        self.now
    }

    /// Sets an entry. It fires at the first turn that reaches `at`, and never in the current one.
    pub(crate) fn set(&mut self, at: Tick, entry: T) {
        // The slot of the present tick has been turned already. An entry in it would wait for a whole turn.
        let at = at.max(self.now + 1);
        self.slots[at as usize % SLOTS].push((at, entry));
    }

    /// Turns to `now` and appends the entries that fire to `fired`, in no particular order.
    pub(crate) fn turn(&mut self, now: Tick, fired: &mut Vec<T>) {
        // After a whole turn every slot has been looked at, however long the shard stood still.
        let steps = now.saturating_sub(self.now).min(SLOTS as Tick);
        let first = now - steps;
        self.now = self.now.max(now);
        for step in 1..=steps {
            let slot = &mut self.slots[(first + step) as usize % SLOTS];
            let mut kept = 0;
            while kept < slot.len() {
                // An entry more than a turn away shares the slot and stays in it.
                if slot[kept].0 <= now {
                    // Entries that fire together need no order, so the cheap removal will do.
                    fired.push(slot.swap_remove(kept).1);
                } else {
                    kept += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_fire_once_at_the_first_turn_after_their_time(
            entries in prop::collection::vec((0..300_u32, 1..4000_u32), 0..60),
            turns in prop::collection::vec(1..1500_u32, 1..12),
        ) {
            let mut wheel = Wheel::new();
            let mut waiting: Vec<(Tick, usize)> = Vec::new();
            let mut entries = entries.into_iter().enumerate();
            let mut now = 0;
            for turn in turns {
                for (id, (_, after)) in entries.by_ref().take(5) {
                    wheel.set(now + after, id);
                    waiting.push((now + after, id));
                }
                now += turn;
                let mut fired = Vec::new();
                wheel.turn(now, &mut fired);
                fired.sort_unstable();
                let (due, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(at, _)| *at <= now);
                waiting = rest;
                prop_assert_eq!(fired, due.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
                prop_assert_eq!(wheel.now(), now);
            }
        }
    }
}
