//! What a run has shown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Loadgen;
use super::tally::Tally;
use crate::failure::Failure;
use crate::screen::Screen;

/// The figures of a run, with the shape of its input.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    watchers: u32,
    slow_watchers: u32,
    consumers: u32,
    providers: u32,
    payload_bytes: u16,
    /// Addresses that the watches came from; 0 is the system's choice.
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
    /// From asking for a change to reading its frame, in milliseconds; slow watchers left out.
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

impl Report {
    pub(super) fn new(
        load: &Loadgen,
        tally: &Tally,
        changes: u64,
        opened_in: Duration,
        changing: Duration,
        settled: bool,
    ) -> Self {
        let lag = tally.lag.lock();
        let at = |quantile| lag.value_at_quantile(quantile) as f64 / 1e3;
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
            latency_ms: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: lag.max() as f64 / 1e3,
                mean: lag.mean() / 1e3,
            },
        }
    }

    pub(super) fn show(&self, screen: &mut Screen) -> Result<(), Failure> {
        let latency = &self.latency_ms;
        let rows = [
            (
                "watchers",
                format!("{} ({} slow), {} consumers", self.watchers, self.slow_watchers, self.consumers),
            ),
            ("watches opened", format!("{:.0}/s", self.watches_opened_per_second)),
            (
                "changes",
                format!("{} of {} providers, {:.1}/s", self.changes, self.providers, self.changes_per_second),
            ),
            ("frames", format!("{}, {:.0}/s", self.frames, self.frames_per_second)),
            (
                "latency (ms)",
                format!(
                    "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
                    latency.p50, latency.p90, latency.p99, latency.p999, latency.max
                ),
            ),
            ("final state seen by", format!("{} of {} watchers", self.watchers_settled, self.watchers)),
            ("connections lost", self.watchers_lost.to_string()),
            ("frames out of order", self.frames_out_of_order.to_string()),
            ("merged or missed", self.changes_merged_or_missed.to_string()),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(what, figure)| vec![what.to_owned(), figure]).collect();
        screen.table(&["WHAT", "FIGURE"], &rows)
    }
}
