//! The callers that share a piece of work, and the time for which those who are there wait for the others.
//!
//! In: the callers that are there, again whenever one has come. Out: whether the work begins, or the time at
//! which it begins even if nobody else comes. A caller that comes alone never waits. Callers that were
//! answered together usually come again together, so in a crowd the first of them wait for the rest: work
//! that is shared by all costs less than the same work for one half after the other.

use std::time::Duration;

use tokio::time::Instant;

/// As many callers are no crowd.
pub const FEW: usize = 2;
/// The time after which a crowd is forgotten.
const FORGOTTEN: Duration = Duration::from_millis(100);

/// The crowd of one piece of work that is done again and again.
#[derive(Debug)]
pub struct Crowd {
    /// The longest time for which callers wait for others.
    longest: Duration,
    /// The most callers that were there at a time, less when some were waited for in vain.
    size: usize,
    /// The time since which the present callers wait.
    since: Option<Instant>,
    /// The time at which the work began last.
    began: Option<Instant>,
}

impl Crowd {
    /// A crowd whose members wait for each other, at most for this time. It should be about as long as the
    /// work takes.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest, size: 0, since: None, began: None }
    }

    /// The time until which `present` callers wait for others. `None` if the work begins now.
    pub fn waits_until(&mut self, present: usize, now: Instant) -> Option<Instant> {
        if self.began.is_none_or(|began| now - began >= FORGOTTEN) {
            self.size = 0;
        }
        if present < self.size && self.size > FEW {
            let until = *self.since.get_or_insert(now) + self.longest;
            if now < until {
                return Some(until);
            }
            self.size = self.size * 3 / 4;
        }
        self.begin(present, now);
        None
    }

    /// The work begins now, whoever is missing.
    pub fn begin(&mut self, present: usize, now: Instant) {
        self.size = self.size.max(present);
        self.since = None;
        self.began = Some(now);
    }

    /// Nobody waits for others any more, because something else decides when the work begins.
    pub fn stop_waiting(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(4);

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_alone_begins_at_once() {
        let mut crowd = Crowd::new(LONGEST);
        for _ in 0..10 {
            assert_eq!(crowd.waits_until(1, Instant::now()), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_a_crowd_wait_until_all_are_there_or_their_time_is_over() {
        let mut crowd = Crowd::new(LONGEST);
        let began = Instant::now();
        assert_eq!(crowd.waits_until(8, began), None);
        let until = began + LONGEST;
        assert_eq!(crowd.waits_until(1, began), Some(until), "seven may come again");
        let later = began + LONGEST / 2;
        assert_eq!(crowd.waits_until(7, later), Some(until), "since the first one came");
        assert_eq!(crowd.waits_until(8, later), None, "nobody is missing");
        assert_eq!(crowd.waits_until(2, later), Some(later + LONGEST));
        assert_eq!(crowd.waits_until(2, later + LONGEST), None);
        assert_eq!(crowd.size, 6, "fewer are expected");
        assert_eq!(crowd.waits_until(1, later + LONGEST + FORGOTTEN), None, "all have gone");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_left_of_a_crowd_soon_begins_at_once() {
        let mut crowd = Crowd::new(LONGEST);
        let mut now = Instant::now();
        assert_eq!(crowd.waits_until(64, now), None);
        let mut waited = 0;
        while let Some(until) = crowd.waits_until(1, now) {
            now = until;
            assert_eq!(crowd.waits_until(1, now), None);
            waited += 1;
        }
        assert!(waited <= 11, "{waited} times");
    }
}
