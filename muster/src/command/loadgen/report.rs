//! The figures of a run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Loadgen;
use super::tally::Tally;
use crate::failure::CommandFailure;
use crate::screen::Screen;

/// The figures of a run, with the parameters that gave them. Field names are the keys of the JSON.
#[derive(Debug, Serialize)]
pub(super) struct LoadReport {
    watchers: u32,
    slow_watchers: u32,
    consumers: u32,
    providers: u32,
    payload_bytes: u16,
    /// Number of source addresses; 0 when the system has chosen.
    sources: usize,
    changes: u64,
    changes_per_second: f64,
    watches_opened_per_second: f64,
    frames: u64,
    frames_per_second: f64,
    /// Watchers that ended with the state that the registry ended with.
    watchers_settled: usize,
    watchers_lost: usize,
    settled_in_time: bool,
    frames_out_of_order: u64,
    changes_merged_or_missed: u64,
    /// Milliseconds from the request of a change to its frame. Slow watchers are not counted: their delay is
    /// their own.
    latency_ms: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    mean: f64,
}

impl Latency {
    fn of(lag: &Histogram<u64>) -> Self {
        Self {
            p50: lag.value_at_quantile(0.5) as f64 / 1e3,
            p90: lag.value_at_quantile(0.9) as f64 / 1e3,
            p99: lag.value_at_quantile(0.99) as f64 / 1e3,
            p999: lag.value_at_quantile(0.999) as f64 / 1e3,
            max: lag.max() as f64 / 1e3,
            mean: lag.mean() / 1e3,
        }
    }
}

impl LoadReport {
    pub(super) fn new(
        load: &Loadgen,
        tally: &Tally,
        changes: u64,
        opened_in: Duration,
        changing: Duration,
        settled: bool,
    ) -> Self {
        let frames = tally.frames.load(Ordering::Acquire);
        Self {
            watchers: load.watchers,
            slow_watchers: load.slow,
            consumers: load.consumers,
            providers: load.providers,
            payload_bytes: load.payload,
            sources: load.source.len(),
            changes,
            changes_per_second: changes as f64 / changing.as_secs_f64(),
            watches_opened_per_second: f64::from(load.watchers) / opened_in.as_secs_f64(),
            frames,
            frames_per_second: frames as f64 / changing.as_secs_f64(),
            watchers_settled: tally.settled(),
            watchers_lost: tally.lost.load(Ordering::Acquire),
            settled_in_time: settled,
            frames_out_of_order: tally.disordered.load(Ordering::Acquire),
            changes_merged_or_missed: tally.skipped.load(Ordering::Acquire),
            latency_ms: Latency::of(&tally.lag.lock()),
        }
    }

    pub(super) fn show(&self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let watchers =
            format!("{} ({} slow), {} consumers", self.watchers, self.slow_watchers, self.consumers);
        let changes =
            format!("{} of {} providers, {:.1}/s", self.changes, self.providers, self.changes_per_second);
        let Latency { p50, p90, p99, p999, max, .. } = &self.latency_ms;
        let latency = format!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}");
        let rows = [
            ("watchers", watchers),
            ("watches opened", format!("{:.0}/s", self.watches_opened_per_second)),
            ("changes", changes),
            ("frames", format!("{}, {:.0}/s", self.frames, self.frames_per_second)),
            ("latency (ms)", latency),
            ("final state seen by", format!("{} of {} watchers", self.watchers_settled, self.watchers)),
            ("connections lost", self.watchers_lost.to_string()),
            ("frames out of order", self.frames_out_of_order.to_string()),
            ("merged or missed", self.changes_merged_or_missed.to_string()),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, figure)| vec![name.to_owned(), figure]).collect();
        screen.table(&["WHAT", "FIGURE"], &rows)
    }
}
