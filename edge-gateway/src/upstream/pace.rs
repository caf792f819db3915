//! The pace of rounds that look at every resuming session.
//!
//! Almost every message may let one of them begin. With a few sessions a round follows each message. With thousands a
//! round takes milliseconds, and one after each message would leave no time for anything else.

use std::time::Duration;

use tokio::time::Instant;

/// A round that took less is not rested from.
const SHORT: Duration = Duration::from_millis(1);
/// The rest after a longer round, in times of the round: rounds take at most a fifth of the time.
const REST: u32 = 4;
/// The longest rest. A round may also have waited for a shard, which is no work.
const LONGEST_REST: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// No round before this.
    not_before: Option<Instant>,
    /// A round waits.
    is_wanted: bool,
}

impl Pace {
    /// True if a round is wanted and may be made now. One that is wanted and must wait is remembered.
    pub(super) fn may_begin(&mut self, is_wanted: bool, now: Instant) -> bool {
        self.is_wanted = is_wanted && self.not_before.is_some_and(|not_before| now < not_before);
        is_wanted && !self.is_wanted
    }

    /// A round has ended.
    pub(super) fn ended(&mut self, began: Instant, now: Instant) {
        let took = now.duration_since(began);
        self.not_before = (took >= SHORT).then(|| now + (took * REST).min(LONGEST_REST));
    }

    /// Waits until the round that is wanted may be made; for ever when none is. Cancel-safe.
    pub(super) async fn rest(&self) {
        match self.not_before.filter(|_| self.is_wanted) {
            Some(not_before) => tokio::time::sleep_until(not_before).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn short_rounds_follow_each_other_and_long_ones_are_rested_from() {
        let mut pace = Pace::default();
        let began = Instant::now();
        assert!(pace.may_begin(true, began));
        pace.ended(began, began + Duration::from_micros(100));
        assert!(pace.may_begin(true, began));
        pace.ended(began, began + Duration::from_millis(5));
        assert!(
            !pace.may_begin(true, began + Duration::from_millis(24)),
            "a round of 5 ms and a rest of 20 ms"
        );
        pace.rest().await;
        assert!(began.elapsed() >= Duration::from_millis(25));
        assert!(pace.may_begin(true, Instant::now()));
        pace.ended(began, began + Duration::from_secs(1));
        assert!(pace.may_begin(true, began + Duration::from_secs(1) + LONGEST_REST));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_rested_for_while_no_round_is_wanted() {
        let mut pace = Pace::default();
        let began = Instant::now();
        pace.ended(began, began + Duration::from_millis(5));
        let rest = tokio::time::timeout(Duration::from_secs(1), pace.rest()).await;
        assert!(rest.is_err(), "nobody asked for a round");
        let soon = began + Duration::from_millis(6);
        assert!(!pace.may_begin(true, soon) && !pace.may_begin(false, soon));
        let rest = tokio::time::timeout(Duration::from_secs(1), pace.rest()).await;
        assert!(rest.is_err(), "nobody asks for it any more");
    }
}
