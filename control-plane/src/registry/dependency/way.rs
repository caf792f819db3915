//! The way of a change that takes several transactions, and the rests of one whose steps somebody else undoes.

use std::time::Duration;

use tokio::time::Instant;

/// Providers of one consumer whose rules change in one transaction. Each of them is also a condition of it.
pub(super) const CHANGES_PER_TXN: usize = 50;
/// The longest first rest. A step of the change that goes on takes some 10 ms, and as long again for each
/// transaction of others between two of them.
const FIRST_REST: Duration = Duration::from_millis(200);
/// The longest rest. A client waits for half a minute, so a change that rests has some ten tries at least.
const LONGEST_REST: Duration = Duration::from_secs(3);
/// The rules by which the rest of the way may have grown without a rest. A single find adds one to it; another long
/// change takes away half of a step or more.
const LITTLE: usize = CHANGES_PER_TXN / 4;

/// The way of a change.
///
/// A change whose way has grown since its last step meets another one of the same consumer, elsewhere, that leads to
/// other rules. It rests for a random time, and goes on when the way has not grown any more meanwhile: the other one
/// has ended, or rests itself.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// The rules that were left when the change was looked at last. `None` before its first step.
    left: Option<usize>,
    /// The rules that the step will leave which is being written.
    tried: Option<usize>,
    /// Rests so far.
    rests: u32,
    until: Option<Instant>,
}

impl Way {
    /// True if no step may be made now. `left` tells the rules that are left to be changed.
    pub(super) fn rests(&mut self, left: impl FnOnce() -> usize, now: Instant) -> bool {
        if self.until.is_some_and(|until| now < until) {
            return true;
        }
        self.until = None;
        let Some(before) = self.left else { return false };
        let left = left();
        if left <= before + LITTLE {
            return false;
        }
        let longest = FIRST_REST.saturating_mul(1 << self.rests.min(8)).min(LONGEST_REST);
        self.rests += 1;
        self.left = Some(left);
        // At least half of it, so that the other change has made a step meanwhile.
        self.until = Some(now + longest.mul_f64(fastrand::f64().midpoint(1.0)));
        true
    }

    /// The end of the rest, for a change that rests.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.until
    }

    /// A step is being written which leaves so many rules.
    pub(super) fn step(&mut self, left: usize) {
        self.tried = Some(left);
    }

    /// The step is written.
    pub(super) fn stepped(&mut self) {
        self.left = self.tried.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_rests_while_its_way_grows() {
        let now = Instant::now();
        let mut way = Way::default();
        assert!(!way.rests(|| 1_000, now), "the first step");
        way.step(950);
        assert!(!way.rests(|| 1_000, now), "that step was lost");
        way.step(950);
        way.stepped();
        assert!(!way.rests(|| 950, now) && !way.rests(|| 952, now), "a find has added a rule");
        assert!(way.rests(|| 1_000, now), "another change has undone the step");
        let until = way.rests_until().expect("it rests");
        assert!((FIRST_REST / 2..=FIRST_REST).contains(&(until - now)));
        assert!(way.rests(|| 0, until - Duration::from_millis(1)));
        assert!(way.rests(|| 1_050, until), "the other one goes on");
        let later = way.rests_until().expect("it rests again");
        assert!((FIRST_REST..=FIRST_REST * 2).contains(&(later - until)), "longer");
        assert!(!way.rests(|| 1_050, later), "the other one has ended");
        assert_eq!(way.rests_until(), None);
    }

    #[test]
    fn no_rest_is_longer_than_the_longest() {
        let mut now = Instant::now();
        let mut way = Way { left: Some(0), ..Way::default() };
        for n in 1..100 {
            assert!(way.rests(|| n * 1_000, now));
            let until = way.rests_until().expect("it rests");
            assert!(until - now <= LONGEST_REST);
            now = until;
        }
    }
}
