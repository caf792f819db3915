//! Measurements an operator would ask for, each beside its floor.
//!
//! A bench prints one JSON object per figure to standard output, with the shape of its input, and a table to
//! standard error. Figures of different runs or machines do not compare; those of one run do.

//!
//! | room | holds |
//! | --- | --- |
//! | [`stage`] | a system of real processes, with who is watched and who watches |
//! | [`crowd`] | the watchers, in a process of their own |
//! | [`floor`] | the bare loop that fan-out is held against |
//! | [`call`] | a client of the registry that costs little |
//! | [`stamp`] | what a change carries so that its receipt can be timed and its order checked |
//! | [`usage`] | what a process has used |
//! | [`report`] | figures as a table and as JSON |

use std::time::Duration;

pub mod call;
pub mod crowd;
pub mod floor;
pub mod report;
pub mod stage;
pub mod stamp;
pub mod usage;

/// What a number of calls took.
#[derive(Clone, Debug)]
pub struct Latencies {
    sorted: Vec<Duration>,
    wall: Duration,
}

impl Latencies {
    /// Of the calls made within `wall`.
    pub fn new(mut calls: Vec<Duration>, wall: Duration) -> Self {
        calls.sort_unstable();
        Self { sorted: calls, wall }
    }

    /// Calls made.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Calls per second.
    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.wall.as_secs_f64().max(f64::EPSILON)
    }

    /// The time within which this share (0 to 1) of the calls was done, in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let place = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        self.sorted.get(place).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_taken_from_what_was_measured() {
        let latencies =
            Latencies::new((1..=101).rev().map(Duration::from_millis).collect(), Duration::from_secs(1));
        assert_eq!([0.0, 0.5, 1.0].map(|share| latencies.quantile_ms(share)), [1.0, 51.0, 101.0]);
        assert_eq!(latencies.per_second(), 101.0);
        assert_eq!(Latencies::new(vec![], Duration::ZERO).quantile_ms(0.5), 0.0);
    }
}
