//! Resources of a process over time: resident memory, open descriptors, threads, from `/proc`.

use std::fmt;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

/// Growth beyond which a soak fails: MiB an hour, over the second half, and MiB from the most in its first half to
/// the most in its second. Allocators keep some of what was used once, and what hostile clients hold comes and
/// goes, so single samples say little.
const SLOPE: f64 = 30.0;
const RISE: f64 = 6.0;
/// Descriptors that may be open besides those before: watchers come and go.
const DESCRIPTORS: f64 = 60.0;

/// The samples of one process.
pub(crate) struct Series {
    name: &'static str,
    samples: Vec<Sample>,
}

#[derive(Clone, Copy, Default)]
struct Sample {
    hours: f64,
    memory: f64,
    descriptors: u64,
    threads: u64,
}

impl Series {
    /// The head of a table of them.
    pub(crate) const HEAD: &str =
        "process          MiB first/middle/last  MiB/h   descriptors middle/last/most  threads";

    /// Nothing yet.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, samples: Vec::new() }
    }

    /// Whose it is.
    pub(crate) fn name(&self) -> &str {
        self.name
    }

    /// Looks at the process.
    pub(crate) fn take(&mut self, at: Duration, pid: u32) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64);
        self.samples.push(Sample {
            hours: at.as_secs_f64() / 3600.0,
            memory: number_of(&status, "VmRSS:") / 1024.0,
            descriptors,
            threads: number_of(&status, "Threads:") as u64,
        });
    }

    fn second_half(&self) -> &[Sample] {
        &self.samples[self.samples.len() / 2..]
    }

    fn ends(&self) -> [Sample; 3] {
        let first = self.samples.first().copied().unwrap_or_default();
        let middle = self.samples.get(self.samples.len() / 2).copied().unwrap_or_default();
        let last = self.samples.last().copied().unwrap_or_default();
        [first, middle, last]
    }

    /// MiB an hour by least squares over the second half: the first half fills caches and pools.
    fn slope(&self) -> f64 {
        let half = self.second_half();
        let count = half.len() as f64;
        let hours = half.iter().map(|sample| sample.hours).sum::<f64>() / count.max(1.0);
        let memory = half.iter().map(|sample| sample.memory).sum::<f64>() / count.max(1.0);
        let product: f64 = half.iter().map(|sample| (sample.hours - hours) * (sample.memory - memory)).sum();
        let square: f64 = half.iter().map(|sample| (sample.hours - hours).powi(2)).sum();
        if square > 0.0 { product / square } else { 0.0 }
    }

    /// The most of a figure in both halves of the second half.
    fn most(&self, figure: impl Fn(&Sample) -> f64) -> [f64; 2] {
        let half = self.second_half();
        let (before, after) = half.split_at(half.len() / 2);
        [before, after].map(|samples| samples.iter().map(&figure).fold(0.0, f64::max))
    }

    fn most_descriptors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.descriptors).max().unwrap_or(0)
    }

    /// Memory or descriptors grew beyond what is usual.
    pub(crate) fn grows(&self) -> bool {
        let [memory, later_memory] = self.most(|sample| sample.memory);
        let [descriptors, later_descriptors] = self.most(|sample| sample.descriptors as f64);
        (self.slope() > SLOPE && later_memory > memory + RISE)
            || later_descriptors > descriptors + DESCRIPTORS
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let [first, middle, last] = self.ends();
        json!({
            "name": self.name,
            "mib": [first.memory, middle.memory, last.memory],
            "mib_per_hour": self.slope(),
            "descriptors": { "middle": middle.descriptors, "last": last.descriptors, "most": self.most_descriptors() },
            "threads": last.threads,
        })
    }
}

/// The number behind a name in `/proc/{pid}/status`; 0 when there is none.
fn number_of(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, middle, last] = self.ends();
        write!(
            f,
            "{:16} {:6.1} {:6.1} {:6.1}  {:+6.1}   {:6} {:6} {:6}             {:4}",
            self.name,
            first.memory,
            middle.memory,
            last.memory,
            self.slope(),
            middle.descriptors,
            last.descriptors,
            self.most_descriptors(),
            last.threads
        )
    }
}
