//! What was changed and what was seen, shared by the changes and all watchers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use shared::clock::Clock;
use tokio::sync::{MutexGuard, watch};

/// The run's figures.
#[derive(Debug)]
pub(super) struct Tally {
    /// The last number given to each provider. Held while its change is under way, so that changes of one
    /// instance do not overtake each other; an async lock, because that takes a request.
    turns: Vec<tokio::sync::Mutex<u64>>,
    /// The last number that the registry has taken.
    taken: Vec<AtomicU64>,
    /// Whether the last change has been made.
    ended: watch::Sender<bool>,
    /// Watchers that have seen the last number of every provider.
    settled: AtomicUsize,
    /// Watchers whose connection ended early.
    pub(super) lost: AtomicUsize,
    pub(super) frames: AtomicU64,
    /// Frames that told something older than one before them.
    pub(super) disordered: AtomicU64,
    /// Numbers passed over: merged away by the server, or lost.
    pub(super) skipped: AtomicU64,
    /// Microseconds from asking for a change to the frame, of watchers that read at once.
    pub(super) lag: Mutex<Histogram<u64>>,
    pub(super) clock: Clock,
}

/// The right to change a provider.
pub(super) struct Turn<'a> {
    last: MutexGuard<'a, u64>,
    taken: &'a AtomicU64,
    clock: &'a Clock,
}

impl Turn<'_> {
    /// The change's number, and now.
    pub(super) fn next(&mut self) -> (u64, u64) {
        *self.last += 1;
        (*self.last, self.clock.micros())
    }

    /// The registry has taken the change.
    pub(super) fn made(&self) {
        self.taken.store(*self.last, Ordering::Release);
    }
}

impl Tally {
    pub(super) fn new(providers: usize) -> Self {
        Self {
            turns: (0..providers).map(|_| tokio::sync::Mutex::new(0)).collect(),
            taken: (0..providers).map(|_| AtomicU64::new(0)).collect(),
            ended: watch::channel(false).0,
            settled: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            frames: AtomicU64::new(0),
            disordered: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            // A microsecond to ten minutes, three digits.
            lag: Mutex::new(Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")),
            clock: Clock::system(),
        }
    }

    pub(super) async fn turn(&self, provider: usize) -> Turn<'_> {
        let last = self.turns[provider].lock().await;
        Turn { last, taken: &self.taken[provider], clock: &self.clock }
    }

    pub(super) fn providers(&self) -> usize {
        self.taken.len()
    }

    /// No further change will be made.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Tells when the last change has been made.
    pub(super) fn end_of_changes(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// The quantile of the lag so far, in milliseconds.
    pub(super) fn lag_ms(&self, quantile: f64) -> f64 {
        self.lag.lock().value_at_quantile(quantile) as f64 / 1e3
    }

    /// Whoever has seen these numbers has seen the final state.
    pub(super) fn is_final(&self, seen: &[u64]) -> bool {
        self.has_ended()
            && self.taken.iter().zip(seen).all(|(taken, seen)| *seen >= taken.load(Ordering::Acquire))
    }

    pub(super) fn settle(&self) {
        self.settled.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::Acquire)
    }

    pub(super) fn is_settled(&self, watchers: usize) -> bool {
        self.settled() + self.lost.load(Ordering::Acquire) >= watchers
    }
}
