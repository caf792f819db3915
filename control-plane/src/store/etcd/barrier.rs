//! Barriers: a revision that covers everything before the call, and that watches reach by themselves.
//!
//! Calls that wait at the same time share one round trip. It must begin after all of them: a round trip that
//! is already in flight may have read the revision before their writes. In a crowd, the first calls wait a
//! moment for the others.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use host::crowd::Crowd;
use shared::model::Revision;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout_at};

use crate::store::StoreError;

/// The longest time for which calls wait for others: about as long as a round trip takes.
const GATHERING: Duration = Duration::from_millis(2);

/// The last round trip.
struct RoundTrip {
    prefix: String,
    /// The calls with lower numbers came before it began.
    covers: u64,
    result: Result<Revision, StoreError>,
}

struct State {
    last: Option<RoundTrip>,
    crowd: Crowd,
}

/// Bundles round trips. The holder of the lock makes the round trip that the waiting calls share.
pub(super) struct Barrier {
    // Tokio's mutex: it is held over the round trip, and serves the calls in their order.
    state: Mutex<State>,
    /// The number of the next call.
    // No clock: two calls may come in the same moment.
    next: AtomicU64,
    waiting: AtomicUsize,
    /// Notified when a call has come.
    came: Notify,
}

/// A call that waits. It is counted until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Barrier {
    fn default() -> Self {
        let state = State { last: None, crowd: Crowd::new(GATHERING) };
        Self {
            state: Mutex::new(state),
            next: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            came: Notify::new(),
        }
    }
}

impl Barrier {
    /// The result of a round trip that began after this call. Cancel-safe: the next call in line makes its
    /// own.
    pub(super) async fn pass<F>(
        &self,
        prefix: &str,
        round_trip: impl FnOnce() -> F,
    ) -> Result<Revision, StoreError>
    where
        F: Future<Output = Result<Revision, StoreError>>,
    {
        // A round trip that sees a higher number than this begins after the call.
        let number = self.next.fetch_add(1, Ordering::AcqRel);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        self.came.notify_one();
        let mut state = self.state.lock().await;
        if let Some(round) =
            state.last.as_ref().filter(|round| round.prefix == prefix && number < round.covers)
        {
            let result = round.result.clone();
            // Before the lock, so that the next one in line counts those who wait and nobody else.
            drop(waiting);
            return result;
        }
        while let Some(until) = state.crowd.waits_until(self.waiting.load(Ordering::Relaxed), Instant::now())
        {
            // Whether one has come or the time is over, the crowd decides again.
            _ = timeout_at(until, self.came.notified()).await;
        }
        let covers = self.next.load(Ordering::Acquire);
        let result = round_trip().await;
        state.last = Some(RoundTrip { prefix: prefix.to_owned(), covers, result: result.clone() });
        drop(waiting);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_that_come_again_share_each_round_trip() {
        let barrier = &Barrier::default();
        let rounds = Cell::new(0);
        let round_trip = || async {
            rounds.set(rounds.get() + 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Revision::new(rounds.get()))
        };
        let round_trip = &round_trip;
        // They come apart at first, so that without a crowd there would be two halves in turns.
        let callers = (0..16).map(|caller| async move {
            tokio::time::sleep(Duration::from_micros(200 * caller)).await;
            for _ in 0..20 {
                barrier.pass("/", round_trip).await.expect("a revision");
            }
        });
        futures_util::future::join_all(callers).await;
        assert!(rounds.get() <= 26, "{} round trips for 20 calls of each", rounds.get());
        assert_eq!(barrier.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_during_a_round_trip_share_the_next_one() {
        let barrier = &Barrier::default();
        let rounds = Cell::new(0);
        let round_trip = || async {
            rounds.set(rounds.get() + 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(Revision::new(rounds.get()))
        };
        let round_trip = &round_trip;
        let calls = [0, 1, 5, 9, 15, 50].map(|millis| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            barrier.pass("/", round_trip).await.ok().map(Revision::get)
        });
        let results = futures_util::future::join_all(calls).await;
        assert_eq!(results, [Some(1), Some(2), Some(2), Some(2), Some(3), Some(4)]);
    }
}
