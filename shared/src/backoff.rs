//! Pauses before a retry: exponential, at random within bounds, limited.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A sequence of pauses for one purpose. [`Backoff::reset`] starts it again after a success.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses that double from about `first` up to about `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// Counts a failure and returns the pause before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.nth(self.failures);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// The pause after `failures` earlier failures: between a half of the doubled base and all of it. For a
    /// caller that counts its failures itself.
    pub fn nth(&self, failures: u32) -> Duration {
        // Twenty doublings of a millisecond are a quarter of an hour, more than any bound here. The limit
        // keeps the shift within 32 bits, however long an outage lasts.
        let base = self.first.saturating_mul(1 << failures.min(20)).min(self.most);
        // Many clients fail in the same moment, when a server dies. They must not return in the same moment.
        jitter(base, 0.5..=1.0)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Begins again with the first pause. Call it after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random duration between the two given multiples of `base`, such as `0.75..=1.25`. Neither may be
/// negative.
pub fn jitter(base: Duration, multiples: RangeInclusive<f64>) -> Duration {
    // `mul_f64` panics when the product is negative, hence the rule about the multiples.
    let width = multiples.end() - multiples.start();
    base.mul_f64(multiples.start() + width * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over() {
        let first = Duration::from_millis(100);
        let most = Duration::from_secs(2);
        let mut backoff = Backoff::new(first, most);
        for step in 0..40 {
            let base = first.saturating_mul(1 << step.min(20)).min(most);
            let wait = backoff.next_wait();
            assert!(wait >= base / 2 && wait <= base, "step {step}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }

    #[test]
    fn a_caller_that_counts_failures_gets_the_same_bounds() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for (failures, base) in [(0, 100), (1, 200), (4, 1_600), (5, 2_000), (u32::MAX, 2_000)] {
            let base = Duration::from_millis(base);
            let wait = backoff.nth(failures);
            assert!(wait >= base / 2 && wait <= base, "after {failures}: {wait:?}");
        }
    }

    #[test]
    fn jitter_stays_between_its_multiples() {
        let base = Duration::from_secs(8);
        for _ in 0..1_000 {
            let wait = jitter(base, 0.75..=1.25);
            assert!(wait >= Duration::from_secs(6) && wait <= Duration::from_secs(10), "{wait:?}");
        }
    }
}
