//! The smallest possible difference between the publisher's clock and this gateway's.
//!
//! No message arrives before it was sent. So the shortest transit of recent bookmarks, measured by both
//! clocks, is the difference of the clocks plus some latency. Old transits are forgotten, because clocks
//! drift and are set.

use std::time::{Duration, Instant};

/// The shortest time for which a transit counts. It counts for twice as long at most.
const WINDOW: Duration = Duration::from_secs(60);

/// The shortest transit in the present window and in the one before it, in microseconds.
#[derive(Debug)]
pub(super) struct Offset {
    window_began: Instant,
    shortest: i64,
    shortest_before: i64,
}

impl Offset {
    /// An offset without a measurement.
    pub(super) fn new(now: Instant) -> Self {
        Self { window_began: now, shortest: i64::MAX, shortest_before: i64::MAX }
    }

    /// Adds a bookmark that was sent at `sent` by the publisher's clock and received at `received` by this
    /// gateway's, in Unix microseconds. Returns the shortest recent transit in microseconds, which is
    /// negative when the publisher's clock is ahead.
    pub(super) fn note(&mut self, sent: u64, received: u64, now: Instant) -> i64 {
        if now.saturating_duration_since(self.window_began) >= WINDOW {
            self.window_began = now;
            // Two windows, because a new one has no measurement yet: its first transit may be a slow one.
            self.shortest_before = self.shortest;
            self.shortest = i64::MAX;
        }
        let transit = i64::try_from(i128::from(received) - i128::from(sent)).unwrap_or(0);
        self.shortest = self.shortest.min(transit);
        self.shortest.min(self.shortest_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_transit_counts_until_it_is_old() {
        let begin = Instant::now();
        let mut offset = Offset::new(begin);
        assert_eq!(offset.note(1_000, 1_700, begin), 700);
        assert_eq!(offset.note(2_000, 1_900, begin), -100, "the publisher's clock is ahead");
        assert_eq!(offset.note(3_000, 3_900, begin), -100);
        let later = begin + WINDOW;
        assert_eq!(offset.note(4_000, 4_600, later), -100);
        assert_eq!(offset.note(5_000, 5_500, later + WINDOW), 500, "a clock that was set is believed");
    }
}
