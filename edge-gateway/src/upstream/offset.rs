//! How far the publisher's clock and ours are apart at least.
//!
//! Nothing arrives before it was sent: the shortest way of the bookmarks of the last minutes, by both clocks, is
//! the difference of the clocks and some latency. Old ones are forgotten, because clocks drift and are set.

use std::time::{Duration, Instant};

/// How long the shortest way counts, at least; twice that at most.
const COUNTS: Duration = Duration::from_secs(60);

/// The shortest way of this stretch of time and of the one before it, in microseconds.
#[derive(Debug)]
pub(super) struct Offset {
    since: Instant,
    shortest: i64,
    before: i64,
}

impl Offset {
    /// Nothing is known.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, shortest: i64::MAX, before: i64::MAX }
    }

    /// A bookmark came at `received` that was sent at `sent`, in unix microseconds of each end's clock. Gives the
    /// shortest way lately.
    pub(super) fn note(&mut self, sent: u64, received: u64, now: Instant) -> i64 {
        if now.saturating_duration_since(self.since) >= COUNTS {
            (self.before, self.shortest, self.since) = (self.shortest, i64::MAX, now);
        }
        let way = i64::try_from(i128::from(received) - i128::from(sent)).unwrap_or(0);
        self.shortest = self.shortest.min(way);
        self.shortest.min(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_counts_until_it_is_old() {
        let begin = Instant::now();
        let mut offset = Offset::new(begin);
        assert_eq!(offset.note(1_000, 1_700, begin), 700);
        assert_eq!(offset.note(2_000, 1_900, begin), -100, "the publisher's clock is ahead");
        assert_eq!(offset.note(3_000, 3_900, begin), -100);
        let later = begin + COUNTS;
        assert_eq!(offset.note(4_000, 4_600, later), -100);
        assert_eq!(offset.note(5_000, 5_500, later + COUNTS), 500, "a clock that was set is believed");
    }
}
