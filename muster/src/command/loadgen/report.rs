//! The figures of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Loadgen;
use super::failures::AnswerTimes;
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
    resumable_watches: bool,
    /// Changes that the registry has accepted.
    changes: u64,
    changes_per_second: f64,
    changes_failed: BTreeMap<String, u64>,
    heartbeats_failed: BTreeMap<String, u64>,
    /// Instances whose lease ended, for example in an outage.
    instances_registered_again: u64,
    without_answer: WithoutAnswer,
    /// Milliseconds from the request of a change to its answer.
    answer_ms: Latency,
    watches_opened_per_second: f64,
    frames: u64,
    frames_per_second: f64,
    /// Watchers that ended with the state that the registry ended with.
    watchers_settled: usize,
    /// Watchers without a connection at the end.
    watchers_lost: usize,
    connections_lost: BTreeMap<String, u64>,
    reconnects_failed: BTreeMap<String, u64>,
    /// Milliseconds from the end of a watcher's connection to its next one.
    watch_gap_ms: Latency,
    settled_in_time: bool,
    frames_out_of_order: u64,
    /// Frames that told a watcher again what it had just been told, although it had not resumed.
    frames_told_twice: u64,
    /// Frames that came again after a watcher resumed, as they may.
    frames_repeated: u64,
    frames_of_failed_changes_made_late: u64,
    /// Changes made while a watch without revisions had no connection.
    changes_missed_while_away: u64,
    changes_merged_or_missed: u64,
    /// Milliseconds from the request of a change to its frame. Slow watchers are not counted: their delay is
    /// their own.
    latency_ms: Latency,
}

/// Times during which every change failed, each from the last answer to the next one.
#[derive(Debug, Serialize)]
struct WithoutAnswer {
    times: u64,
    total_ms: f64,
    longest_ms: f64,
}

/// The figures that are measured outside of the tally.
pub(super) struct Measured {
    /// Changes that were tried.
    pub(super) changes: u64,
    pub(super) opened_in: Duration,
    pub(super) changing: Duration,
    pub(super) answers: AnswerTimes,
    pub(super) settled: bool,
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

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max, .. } = self;
        write!(f, "p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}")
    }
}

impl LoadReport {
    pub(super) fn new(load: &Loadgen, tally: &Tally, measured: Measured) -> Self {
        let Measured { changes, opened_in, changing, answers, settled } = measured;
        let frames = tally.frames.load(Ordering::Acquire);
        // A rate that counted failed changes would praise a registry for refusing them quickly.
        let changes = changes.saturating_sub(tally.failed_changes.total());
        Self {
            watchers: load.watchers,
            slow_watchers: load.slow,
            consumers: load.consumers,
            providers: load.providers,
            payload_bytes: load.payload,
            sources: load.source.len(),
            resumable_watches: load.resume,
            changes,
            changes_per_second: changes as f64 / changing.as_secs_f64(),
            changes_failed: tally.failed_changes.by_kind(),
            heartbeats_failed: tally.failed_heartbeats.by_kind(),
            instances_registered_again: tally.registered_again.load(Ordering::Acquire),
            without_answer: WithoutAnswer {
                times: answers.outages,
                total_ms: answers.without.as_secs_f64() * 1e3,
                longest_ms: answers.longest.as_secs_f64() * 1e3,
            },
            answer_ms: Latency::of(&answers.took),
            watches_opened_per_second: f64::from(load.watchers) / opened_in.as_secs_f64(),
            frames,
            frames_per_second: frames as f64 / changing.as_secs_f64(),
            watchers_settled: tally.settled(),
            watchers_lost: tally.away.load(Ordering::Acquire),
            connections_lost: tally.lost_connections.by_kind(),
            reconnects_failed: tally.failed_watches.by_kind(),
            watch_gap_ms: Latency::of(&tally.gaps.lock()),
            settled_in_time: settled,
            frames_out_of_order: tally.disordered.load(Ordering::Acquire),
            frames_told_twice: tally.told_twice.load(Ordering::Acquire),
            frames_repeated: tally.repeated.load(Ordering::Acquire),
            frames_of_failed_changes_made_late: tally.late.load(Ordering::Acquire),
            changes_missed_while_away: tally.missed_away.load(Ordering::Acquire),
            changes_merged_or_missed: tally.skipped.load(Ordering::Acquire),
            latency_ms: Latency::of(&tally.lag.lock()),
        }
    }

    /// A failure if a request failed or a watcher is lost, so that a script sees it in the exit status.
    pub(super) fn verdict(&self) -> Result<(), CommandFailure> {
        let failed: u64 = self.changes_failed.values().chain(self.heartbeats_failed.values()).sum();
        if failed == 0 && self.watchers_lost == 0 {
            return Ok(());
        }
        let lost = self.watchers_lost;
        Err(CommandFailure::Unwell(format!(
            "{failed} requests failed, and {lost} watchers have no connection"
        )))
    }

    pub(super) fn show(&self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let watchers =
            format!("{} ({} slow), {} consumers", self.watchers, self.slow_watchers, self.consumers);
        let changes =
            format!("{} of {} providers, {:.1}/s", self.changes, self.providers, self.changes_per_second);
        let WithoutAnswer { times, total_ms, longest_ms } = self.without_answer;
        let without = format!("{times} times, {total_ms:.0} ms together, {longest_ms:.0} ms at most");
        let rows = [
            ("watchers", watchers),
            ("watches opened", format!("{:.0}/s", self.watches_opened_per_second)),
            ("changes", changes),
            ("changes failed", listed(&self.changes_failed)),
            ("heartbeats failed", listed(&self.heartbeats_failed)),
            ("without an answer", without),
            ("answers (ms)", self.answer_ms.to_string()),
            ("frames", format!("{}, {:.0}/s", self.frames, self.frames_per_second)),
            ("latency (ms)", self.latency_ms.to_string()),
            ("final state seen by", format!("{} of {} watchers", self.watchers_settled, self.watchers)),
            ("connections lost", listed(&self.connections_lost)),
            ("reconnects failed", listed(&self.reconnects_failed)),
            ("gaps of watchers (ms)", self.watch_gap_ms.to_string()),
            ("without connection now", self.watchers_lost.to_string()),
            ("frames out of order", self.frames_out_of_order.to_string()),
            ("frames told twice", self.frames_told_twice.to_string()),
            ("of failed changes, made late", self.frames_of_failed_changes_made_late.to_string()),
            ("merged or missed", self.changes_merged_or_missed.to_string()),
            ("missed while away", self.changes_missed_while_away.to_string()),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, figure)| vec![name.to_owned(), figure]).collect();
        screen.table(&["WHAT", "FIGURE"], &rows)
    }
}

/// The kinds of failures with their numbers.
fn listed(kinds: &BTreeMap<String, u64>) -> String {
    if kinds.is_empty() {
        return "0".to_owned();
    }
    kinds.iter().map(|(kind, number)| format!("{number} × {kind}")).collect::<Vec<_>>().join("; ")
}
