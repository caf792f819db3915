//! Barriers: a revision that covers everything before the call and that watches reach by themselves.
//!
//! Calls that wait at the same time share one round trip, but only one that begins after they do: the one
//! that is under way may have read before their write.

use std::future::Future;

use shared::model::Revision;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::StoreError;

/// The last round trip.
struct Round {
    prefix: String,
    began: Instant,
    result: Result<Revision, StoreError>,
}

/// Takes turns. The lock is one to wait for: who holds it makes the round trip that the others share.
#[derive(Default)]
pub(super) struct Barrier(Mutex<Option<Round>>);

impl Barrier {
    /// The result of a round trip that began after this call. Cancel-safe: the next in line makes its own.
    pub(super) async fn pass<F>(
        &self,
        prefix: &str,
        round_trip: impl FnOnce() -> F,
    ) -> Result<Revision, StoreError>
    where
        F: Future<Output = Result<Revision, StoreError>>,
    {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(round) = last.as_ref().filter(|round| round.prefix == prefix && round.began > asked) {
            return round.result.clone();
        }
        let began = Instant::now();
        let result = round_trip().await;
        *last = Some(Round { prefix: prefix.to_owned(), began, result: result.clone() });
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
        let (barrier, rounds) = (Barrier::default(), Cell::new(0));
        let round_trip = || async {
            rounds.set(rounds.get() + 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(rounds.get())
        };
        let late = |millis| {
            let (barrier, round_trip) = (&barrier, &round_trip);
            async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                barrier.pass("/", round_trip).await.ok()
            }
        };
        let all = tokio::join!(late(0), late(1), late(5), late(9), late(15), late(50));
        assert_eq!(all, (Some(1), Some(2), Some(2), Some(2), Some(3), Some(4)));
    }
}
