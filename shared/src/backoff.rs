//! Waiting longer after each failure: exponential, jittered, bounded.

use std::time::Duration;

/// A sequence of waits. One owner, one purpose; [`Backoff::reset`] after a success.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from about `first` up to about `most`, doubling.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The next wait: the doubled base, less up to a half of it at random, so that many who failed
    /// together do not come back together.
    pub fn next_wait(&mut self) -> Duration {
        let base = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        base.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, most);
        for step in 0..40 {
            let base = first.saturating_mul(1 << step.min(20)).min(most);
            let wait = backoff.next_wait();
            assert!(wait >= base / 2 && wait <= base, "step {step}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }
}
