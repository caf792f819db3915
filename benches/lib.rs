//! Measurements an operator would ask for, each beside its floor.
//!
//! A bench prints one JSON object per figure to standard output, with the shape of its input, and a table to
//! standard error. Figures of different runs or machines do not compare; those of one run do.
//!
//! | room | holds |
//! | --- | --- |
//! | [`stage`] | a system of real processes, with the providers and consumers in it |
//! | [`crowd`] | the watchers, in a process of their own |
//! | [`bare`] | the bare handler that requests are held against |
//! | [`floor`] | the bare loop that fan-out is held against |
//! | [`plain`] | the plain server of gRPC that xDS is held against |
//! | [`call`] | a client of the registry that costs little |
//! | [`stamp`] | the mark in a change by which its receipt is timed and its order checked |
//! | [`usage`] | CPU and memory of a process |
//! | [`report`] | figures as a table and as JSON |

use std::time::Duration;

use anyhow::{Context as _, Result};

pub mod bare;
pub mod call;
pub mod crowd;
pub mod floor;
pub mod plain;
pub mod report;
pub mod stage;
pub mod stamp;
pub mod usage;

/// The durations of a number of calls.
#[derive(Clone, Debug)]
pub struct Latencies {
    sorted: Vec<Duration>,
    wall: Duration,
}

impl Latencies {
    /// Sorts the durations of calls that were made within `wall`.
    pub fn new(mut calls: Vec<Duration>, wall: Duration) -> Self {
        calls.sort_unstable();
        Self { sorted: calls, wall }
    }

    /// The time within which the calls were made.
    pub fn wall(&self) -> Duration {
        self.wall
    }

    /// The durations, shortest first.
    pub fn into_durations(self) -> Vec<Duration> {
        self.sorted
    }

    /// Calls made.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Calls per second.
    pub fn per_second(&self) -> f64 {
        // The lower bound keeps a run without calls from printing NaN.
        self.count() as f64 / self.wall.as_secs_f64().max(f64::EPSILON)
    }

    /// The time within which this share (0 to 1) of the calls was done, in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        // The nearest rank and no interpolation: each figure is the duration of a real call.
        let place = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        self.sorted.get(place).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    }
}

/// The numbers on the command line; a default stands in for each that is missing.
///
/// # Errors
/// When an argument is not a number.
pub fn arguments<const N: usize>(defaults: [usize; N]) -> Result<[usize; N]> {
    let mut numbers = defaults;
    for (number, text) in numbers.iter_mut().zip(std::env::args().skip(1)) {
        *number = text.parse().with_context(|| format!("`{text}` is not a number"))?;
    }
    Ok(numbers)
}

/// Any number of numbers on the command line; the defaults when there is none.
///
/// # Errors
/// When an argument is not a number.
pub fn list_of_arguments(defaults: &[usize]) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for text in std::env::args().skip(1) {
        numbers.push(text.parse().with_context(|| format!("`{text}` is not a number"))?);
    }
    Ok(if numbers.is_empty() { defaults.to_vec() } else { numbers })
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
