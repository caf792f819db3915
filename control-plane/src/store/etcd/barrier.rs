//! Barriers: a revision that covers everything before the call, and that watches reach by themselves.
//!
//! Calls that wait at the same time share one round trip. It must begin after all of them: a round trip that
//! is already in flight may have read the revision before their writes.

use std::future::Future;

use shared::model::Revision;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::StoreError;

/// The last round trip.
struct RoundTrip {
    prefix: String,
    began: Instant,
    result: Result<Revision, StoreError>,
}

/// Bundles round trips. The holder of the lock makes the round trip that the waiting calls share.
#[derive(Default)]
pub(super) struct Barrier(Mutex<Option<RoundTrip>>);

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
        let called = Instant::now();
        // Tokio's mutex: it is held over the round trip, and serves the calls in their order.
        let mut last = self.0.lock().await;
        if let Some(round) = last.as_ref().filter(|round| round.prefix == prefix && round.began > called) {
            return round.result.clone();
        }
        let began = Instant::now();
        let result = round_trip().await;
        *last = Some(RoundTrip { prefix: prefix.to_owned(), began, result: result.clone() });
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

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
