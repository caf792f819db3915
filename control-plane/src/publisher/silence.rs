//! Notices that nobody publishes, for a replica that stands by. It does no I/O and reads no clock.
//!
//! A publisher bookmarks a change at once, or 50 ms after its last bookmark. A replica whose view holds a
//! change that no bookmark has covered after twice that time concludes that the publisher is dead, stopped or
//! cut off, and publishes in its place. Replicas take turns by waiting for a random time on top: the first
//! one's bookmark ends the wait of the others.

use std::time::Duration;

use shared::backoff::jitter;
use tokio::time::Instant;

/// The shortest silence after which a replica stands in for the publisher. The longest is twice as long.
// Twice the interval of bookmarks during a burst, so that a publisher that is merely busy is heard in time.
const SILENCE: Duration = Duration::from_millis(100);

/// The silence of the bus about changes that this replica has seen.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The connection on which the silence began.
    generation: u64,
    /// The time at which this replica stands in; `None` while nothing is unheard.
    ends: Option<Instant>,
}

impl Silence {
    /// A bookmark went further than those before it. The next one gets the whole time again.
    pub(super) fn broken(&mut self) {
        self.ends = None;
    }

    /// Notes whether the view holds changes that no bookmark has covered. Returns true when that has lasted
    /// too long.
    pub(super) fn lasts(&mut self, is_unheard: bool, generation: u64, now: Instant) -> bool {
        // Nothing was heard while there was no connection, so that time does not count.
        if !is_unheard || self.generation != generation {
            self.generation = generation;
            self.ends = None;
        }
        if is_unheard {
            return *self.ends.get_or_insert_with(|| now + jitter(SILENCE, 1.0..=2.0)) <= now;
        }
        false
    }

    /// The time at which this replica stands in.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(200);

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_bookmark_or_connection() {
        let start = Instant::now();
        let mut silence = Silence::default();
        assert!(!silence.lasts(false, 1, start));
        assert_eq!(silence.ends(), None, "nothing to wait for");
        assert!(!silence.lasts(true, 1, start));
        assert!(silence.ends() >= Some(start + SILENCE) && silence.ends() <= Some(start + LONGEST));
        assert!(silence.lasts(true, 1, start + LONGEST));
        // Another bookmark, and a new connection, give the publisher the whole time again.
        silence.broken();
        assert!(!silence.lasts(true, 1, start + LONGEST));
        assert!(!silence.lasts(true, 2, start + LONGEST * 2));
        assert!(silence.lasts(true, 2, start + LONGEST * 3));
    }
}
