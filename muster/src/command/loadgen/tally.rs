//! Counts the changes that were made and the frames that were seen. All watchers and changes share it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use shared::clock::Clock;
use tokio::sync::{MutexGuard, watch};

/// The figures of the run.
#[derive(Debug)]
pub(super) struct Tally {
    /// The last number given to a change of each provider. The lock is held until the change is committed, so
    /// that changes of one instance do not overtake each other. It is an async lock, because that takes a
    /// request.
    turns: Vec<tokio::sync::Mutex<u64>>,
    /// The last number of each provider that the registry has accepted.
    accepted: Vec<AtomicU64>,
    /// The last change has been made.
    ended: watch::Sender<bool>,
    /// Watchers that have seen the last number of every provider.
    settled: AtomicUsize,
    /// Watchers whose connection ended early.
    pub(super) lost: AtomicUsize,
    /// Frames with a change.
    pub(super) frames: AtomicU64,
    /// Frames with an older number than one before them.
    pub(super) disordered: AtomicU64,
    /// Numbers that no frame carried: the server has merged them, or they were lost.
    pub(super) skipped: AtomicU64,
    /// Microseconds from the request of a change to its frame, of watchers that read at once.
    pub(super) lag: Mutex<Histogram<u64>>,
    pub(super) clock: Clock,
}

/// The right to change a provider.
pub(super) struct Turn<'a> {
    last: MutexGuard<'a, u64>,
    accepted: &'a AtomicU64,
    clock: &'a Clock,
}

impl Turn<'_> {
    /// The number of the next change, and the present time in microseconds.
    pub(super) fn next(&mut self) -> (u64, u64) {
        *self.last += 1;
        (*self.last, self.clock.micros())
    }

    /// Records that the registry has accepted the change.
    pub(super) fn accepted(&self) {
        self.accepted.store(*self.last, Ordering::Release);
    }
}

impl Tally {
    pub(super) fn new(providers: usize) -> Self {
        Self {
            turns: (0..providers).map(|_| tokio::sync::Mutex::new(0)).collect(),
            accepted: (0..providers).map(|_| AtomicU64::new(0)).collect(),
            ended: watch::channel(false).0,
            settled: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            frames: AtomicU64::new(0),
            disordered: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            // A microsecond to ten minutes, with three digits: less than 200 KiB, whatever the length of the
            // run.
            lag: Mutex::new(Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")),
            clock: Clock::system(),
        }
    }

    /// Waits until no other change of the provider is under way.
    pub(super) async fn turn(&self, provider: usize) -> Turn<'_> {
        let last = self.turns[provider].lock().await;
        Turn { last, accepted: &self.accepted[provider], clock: &self.clock }
    }

    pub(super) fn providers(&self) -> usize {
        self.accepted.len()
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
                .accepted
                .iter()
                .zip(seen)
                .all(|(accepted, seen)| *seen >= accepted.load(Ordering::Acquire))
    }

    /// Counts a watcher that has seen the final state.
    pub(super) fn settle(&self) {
        self.settled.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::Acquire)
    }

    /// Every watcher has seen the final state or was lost.
    pub(super) fn is_settled(&self, watchers: usize) -> bool {
        self.settled() + self.lost.load(Ordering::Acquire) >= watchers
    }
}
