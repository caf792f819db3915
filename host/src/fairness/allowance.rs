//! The number of places that each party has at the moment.
//!
//! In: the time for which work waits for a processor, measured again and again. Out: a number of places
//! between two bounds. The number falls by a quarter when work waits too long, and grows by one when it does
//! not and somebody wants more: it shrinks within a few measurements, and grows back more slowly.

use std::time::Duration;

/// The wait for a processor that is no reason to take places away. A request that is answered without a
/// question to anybody takes some tens of microseconds, so this is a queue of a few of them.
pub(super) const BEARABLE: Duration = Duration::from_micros(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    lowest: usize,
    highest: usize,
    places: usize,
}

impl Allowance {
    /// Begins with the fewest places: two for each processor, and not more than `highest`. More would let a
    /// flood in before the first measurement.
    pub(super) fn new(highest: usize, processors: usize) -> Self {
        let lowest = processors.saturating_mul(2).min(highest);
        Self { lowest, highest, places: lowest }
    }

    pub(super) fn places(self) -> usize {
        self.places
    }

    pub(super) fn highest(self) -> usize {
        self.highest
    }

    /// Work has waited this long for a processor. `is_wanted` says whether a request has waited for a place
    /// since the last measurement: without that more places would be no use, and would be too many for the
    /// flood that comes next.
    pub(super) fn measured(&mut self, wait: Duration, is_wanted: bool) {
        if wait > BEARABLE {
            self.places = (self.places - self.places.div_ceil(4)).max(self.lowest);
        } else if is_wanted {
            self.places = (self.places + 1).min(self.highest);
        }
    }

    /// Nobody has to share any more.
    pub(super) fn reset(&mut self) {
        self.places = self.lowest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn places_grow_while_they_are_wanted_and_work_does_not_wait() {
        let mut allowance = Allowance::new(6, 2);
        assert_eq!(allowance.places(), 4);
        allowance.measured(BEARABLE, false);
        assert_eq!(allowance.places(), 4, "nobody wants more");
        for expected in [5, 6, 6] {
            allowance.measured(BEARABLE, true);
            assert_eq!(allowance.places(), expected);
        }
        allowance.measured(LONG, true);
        assert_eq!(allowance.places(), 4);
        allowance.measured(LONG, true);
        assert_eq!(allowance.places(), 4, "never below the lowest number");
    }

    #[test]
    fn a_flood_is_held_after_a_few_measurements() {
        let mut allowance = Allowance::new(64, 2);
        for _ in 0..100 {
            allowance.measured(Duration::ZERO, true);
        }
        assert_eq!(allowance.places(), 64);
        let measurements = (1..).find(|_| {
            allowance.measured(LONG, true);
            allowance.places() == 4
        });
        assert!(measurements.is_some_and(|some| some <= 11), "{measurements:?}");
    }

    proptest! {
        #[test]
        fn places_stay_within_their_bounds(
            highest in 1_usize..100,
            processors in 1_usize..64,
            measured in proptest::collection::vec((0_u64..1000, any::<bool>()), 0..200),
        ) {
            let mut allowance = Allowance::new(highest, processors);
            for (wait, is_wanted) in measured {
                allowance.measured(Duration::from_micros(wait), is_wanted);
                let places = allowance.places();
                prop_assert!(places >= 1 && places <= highest && places >= (2 * processors).min(highest));
            }
            allowance.reset();
            prop_assert_eq!(allowance, Allowance::new(highest, processors));
        }
    }
}
