//! Counts the changes that were made and the frames that were seen. All watchers and changes share it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use shared::clock::Clock;
use tokio::sync::{MutexGuard, watch};

use super::failures::{Answers, Failures};

/// A microsecond to ten minutes, with three digits: less than 200 KiB, whatever the length of the run.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

/// The figures of the run.
#[derive(Debug)]
pub(super) struct Tally {
    providers: Vec<ProviderTally>,
    /// The last change has been made.
    ended: watch::Sender<bool>,
    /// Watchers that have seen the last number of every provider.
    settled: AtomicUsize,
    /// Watchers that have no connection now.
    pub(super) away: AtomicUsize,
    /// Frames with a change.
    pub(super) frames: AtomicU64,
    /// Frames with an older number than one before them, whose change did not fail.
    pub(super) disordered: AtomicU64,
    /// Frames with the same number as the one before them, although the watcher had not resumed.
    pub(super) told_twice: AtomicU64,
    /// Frames that a server has sent again to a watcher that resumed, as it may.
    pub(super) repeated: AtomicU64,
    /// Frames of failed changes that were made all the same, after a later change: the answer had said that
    /// the outcome is unknown, and the generator went on.
    pub(super) late: AtomicU64,
    /// Numbers that no frame carried: the server has merged them, or they were lost.
    pub(super) skipped: AtomicU64,
    /// Numbers that were given while a watcher without revisions had no connection.
    pub(super) missed_away: AtomicU64,
    /// Microseconds from the request of a change to its frame, of watchers that read at once.
    pub(super) lag: Mutex<Histogram<u64>>,
    /// Microseconds from the end of a watcher's connection to its next one.
    pub(super) gaps: Mutex<Histogram<u64>>,
    /// Answers to changes.
    pub(super) answers: Answers,
    /// Changes that failed.
    pub(super) failed_changes: Failures,
    /// Requests with heartbeats that failed.
    pub(super) failed_heartbeats: Failures,
    /// Handshakes that failed after the first ones.
    pub(super) failed_watches: Failures,
    /// Connections of watchers that ended.
    pub(super) lost_connections: Failures,
    /// Instances that were registered again, because the registry did not have them any more.
    pub(super) registered_again: AtomicU64,
    pub(super) clock: Clock,
}

/// The changes of one provider.
#[derive(Debug, Default)]
struct ProviderTally {
    /// The last number given to a change. The lock is held until the change is committed, so that changes of
    /// one instance do not overtake each other. It is an async lock, because that takes a request.
    turn: tokio::sync::Mutex<u64>,
    /// The same number, for those who do not wait.
    given: AtomicU64,
    /// The last number that the registry has accepted.
    accepted: AtomicU64,
    /// Runs of numbers whose change failed, first and last. Such a change may have been made all the same, so
    /// a frame with it is right, and so is none.
    failed: Mutex<Vec<(u64, u64)>>,
}

/// The right to change a provider.
pub(super) struct Turn<'a> {
    last: MutexGuard<'a, u64>,
    provider: &'a ProviderTally,
    clock: &'a Clock,
}

impl Turn<'_> {
    /// The number of the next change, and the present time in microseconds.
    pub(super) fn next(&mut self) -> (u64, u64) {
        *self.last += 1;
        self.provider.given.store(*self.last, Ordering::Release);
        (*self.last, self.clock.micros())
    }

    /// Records that the registry has accepted the change.
    pub(super) fn accepted(&self) {
        self.provider.accepted.store(*self.last, Ordering::Release);
    }

    /// Records that the change failed.
    pub(super) fn failed(&self) {
        let number = *self.last;
        let mut runs = self.provider.failed.lock();
        match runs.last_mut() {
            // An outage fails many in a row, and takes the room of one.
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
}

impl ProviderTally {
    fn has_failed(&self, number: u64) -> bool {
        self.failed.lock().iter().rev().any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// The changes between two numbers, both excluded, that did not fail.
    fn made_between(&self, after: u64, before: u64) -> u64 {
        let all = before.saturating_sub(after + 1);
        if all == 0 {
            return 0;
        }
        let mut failed = 0;
        for (first, last) in self.failed.lock().iter().rev() {
            if *last <= after {
                break;
            }
            failed += (*last + 1).min(before).saturating_sub((*first).max(after + 1));
        }
        all - failed
    }
}

impl Tally {
    pub(super) fn new(providers: usize) -> Self {
        Self {
            providers: (0..providers).map(|_| ProviderTally::default()).collect(),
            ended: watch::channel(false).0,
            settled: AtomicUsize::new(0),
            away: AtomicUsize::new(0),
            frames: AtomicU64::new(0),
            disordered: AtomicU64::new(0),
            told_twice: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            late: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            missed_away: AtomicU64::new(0),
            lag: Mutex::new(histogram()),
            gaps: Mutex::new(histogram()),
            answers: Answers::new(),
            failed_changes: Failures::default(),
            failed_heartbeats: Failures::default(),
            failed_watches: Failures::default(),
            lost_connections: Failures::default(),
            registered_again: AtomicU64::new(0),
            clock: Clock::system(),
        }
    }

    /// Waits until no other change of the provider is under way.
    pub(super) async fn turn(&self, provider: usize) -> Turn<'_> {
        let provider = &self.providers[provider];
        Turn { last: provider.turn.lock().await, provider, clock: &self.clock }
    }

    pub(super) fn providers(&self) -> usize {
        self.providers.len()
    }

    /// The last numbers that were accepted and given, of each provider. In between is the change under way.
    pub(super) fn standing(&self) -> Vec<(u64, u64)> {
        let mut all = Vec::with_capacity(self.providers.len());
        for provider in &self.providers {
            let accepted = provider.accepted.load(Ordering::Acquire);
            all.push((accepted, provider.given.load(Ordering::Acquire)));
        }
        all
    }

    /// The changes of a provider between two numbers, both excluded, that did not fail.
    pub(super) fn made_between(&self, provider: usize, after: u64, before: u64) -> u64 {
        self.providers[provider].made_between(after, before)
    }

    /// True if this change of a provider failed.
    pub(super) fn has_failed(&self, provider: usize, number: u64) -> bool {
        self.providers[provider].has_failed(number)
    }

    /// Declares that no further change will be made.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Becomes true when the last change has been made.
    pub(super) fn end_of_changes(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// The quantile of the lag so far, in milliseconds.
    pub(super) fn lag_ms(&self, quantile: f64) -> f64 {
        self.lag.lock().value_at_quantile(quantile) as f64 / 1e3
    }

    /// A watcher that has seen these numbers has seen the final state.
    pub(super) fn is_final(&self, seen: &[u64]) -> bool {
        self.has_ended()
            && self
                .providers
                .iter()
                .zip(seen)
                .all(|(provider, seen)| *seen >= provider.accepted.load(Ordering::Acquire))
    }

    /// Counts a watcher that has seen the final state.
    pub(super) fn settle(&self) {
        self.settled.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failed_changes_are_not_missed_by_anyone() {
        let tally = Tally::new(1);
        // Of ten changes the third to fifth and the ninth fail.
        for number in 1..=10 {
            let mut turn = tally.turn(0).await;
            assert_eq!(turn.next().0, number);
            if matches!(number, 3..=5 | 9) { turn.failed() } else { turn.accepted() }
        }
        for (after, before, made) in
            [(0, 11, 6), (2, 6, 0), (2, 7, 1), (3, 5, 0), (4, 10, 3), (9, 10, 0), (10, 10, 0)]
        {
            assert_eq!(tally.made_between(0, after, before), made, "between {after} and {before}");
        }
        assert_eq!(tally.providers[0].failed.lock().len(), 2);
        let failed: Vec<u64> = (0..=11).filter(|number| tally.has_failed(0, *number)).collect();
        assert_eq!(failed, [3, 4, 5, 9]);
    }
}
