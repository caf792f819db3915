//! Failures by kind, and the times for which nothing was answered. A run goes on over failures, because a
//! rolling restart under load is worth watching to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Kinds that are told apart. Texts of failures come from the network, and each could be another one.
const MAX_KINDS: usize = 24;
/// The kind of a failure beyond those.
const OTHER: &str = "other";

/// The number of failures of each kind.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<String, u64>>);

impl Failures {
    /// Counts a failure.
    pub(super) fn count(&self, kind: &str) {
        let mut kinds = self.0.lock();
        let kind = if kinds.len() < MAX_KINDS || kinds.contains_key(kind) { kind } else { OTHER };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }

    /// The number of each kind.
    pub(super) fn by_kind(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }

    /// The number of all kinds.
    pub(super) fn total(&self) -> u64 {
        self.0.lock().values().sum()
    }
}

/// The answers to changes, and the times without one.
#[derive(Debug)]
pub(super) struct Answers(Mutex<AnswerTimes>);

#[derive(Clone, Debug)]
pub(super) struct AnswerTimes {
    last: Instant,
    /// A request has failed since the last answer.
    is_failing: bool,
    /// Times during which every request failed.
    pub(super) outages: u64,
    /// The time of all of them, each from the last answer before it to the first one after it.
    pub(super) without: Duration,
    /// The longest of them.
    pub(super) longest: Duration,
    /// Microseconds from request to answer.
    pub(super) took: Histogram<u64>,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self(Mutex::new(AnswerTimes::new(Instant::now())))
    }

    /// Begins the time of the first answer.
    pub(super) fn begin(&self) {
        self.0.lock().last = Instant::now();
    }

    /// A request that was sent at `asked` was answered as it should be.
    pub(super) fn answered(&self, asked: Instant) {
        self.0.lock().answered(asked, Instant::now());
    }

    /// A request failed.
    pub(super) fn failed(&self) {
        self.0.lock().is_failing = true;
    }

    /// The times up to now.
    pub(super) fn times(&self) -> AnswerTimes {
        let mut times = self.0.lock().clone();
        times.close(Instant::now());
        times
    }
}

impl AnswerTimes {
    fn new(begin: Instant) -> Self {
        Self {
            last: begin,
            is_failing: false,
            outages: 0,
            without: Duration::ZERO,
            longest: Duration::ZERO,
            took: super::tally::histogram(),
        }
    }

    fn answered(&mut self, asked: Instant, now: Instant) {
        self.close(now);
        self.last = now;
        self.took.saturating_record(u64::try_from((now - asked).as_micros()).unwrap_or(u64::MAX));
    }

    fn close(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_failing) {
            let without = now - self.last;
            self.outages += 1;
            self.without += without;
            self.longest = self.longest.max(without);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_bounded() {
        let failures = Failures::default();
        for n in 0..100 {
            failures.count(&format!("kind {n}"));
            failures.count("kind 1");
        }
        let kinds = failures.by_kind();
        assert_eq!((kinds.len(), failures.total()), (MAX_KINDS + 1, 200));
        assert_eq!((kinds["kind 1"], kinds[OTHER]), (101, 76));
    }

    #[test]
    fn a_time_without_answer_lasts_from_answer_to_answer() {
        let second = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut times = AnswerTimes::new(now);
        now += second;
        // Silence in which nothing failed is not an outage: nobody asked.
        times.answered(now, now);
        assert_eq!(times.outages, 0);
        for seconds in [2, 3] {
            times.is_failing = true;
            now += second * seconds;
            times.answered(now, now);
        }
        assert_eq!((times.outages, times.without, times.longest), (2, second * 5, second * 3));
        times.is_failing = true;
        times.close(now + second * 9);
        assert_eq!(times.longest, second * 9, "one that has not ended counts up to now");
    }
}
