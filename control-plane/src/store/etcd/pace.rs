//! The pace of commits: the moment at which the transactions that wait leave together.
//!
//! In: how many wait, and how many are under way in how many commits. Out: whether a group of them leaves, and
//! if not, at which time it leaves even if no other comes. A transaction that comes alone never waits. In a
//! crowd a group first gathers, because what a commit costs etcd and every replica depends little on its
//! members.

use std::time::Duration;

use host::crowd::{Crowd, FEW};
use tokio::time::Instant;

/// The commits under way at a time. With one, a transaction that comes alone just after another would wait
/// for all of its round trip. With many, nothing would gather.
pub(super) const UNDER_WAY: usize = 2;
/// The transactions that are worth a commit, even if others come soon.
const ENOUGH: usize = 32;
/// The longest time for which a group gathers: about as long as a commit of a crowd takes.
const GATHERING: Duration = Duration::from_millis(4);

/// The next step of the transactions that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A group of them leaves.
    Leave,
    /// They wait for others, at most until then.
    Gather(Instant),
    /// They wait for others, or for the end of a commit.
    Wait,
}

/// The pace of one committer.
#[derive(Debug)]
pub(super) struct Pace {
    crowd: Crowd,
}

impl Default for Pace {
    fn default() -> Self {
        Self { crowd: Crowd::new(GATHERING) }
    }
}

impl Pace {
    /// The step of `waiting` transactions beside so many commits of so many transactions. After
    /// [`Step::Leave`] a group of them has to leave.
    pub(super) fn step(&mut self, waiting: usize, commits: usize, members: usize, now: Instant) -> Step {
        if waiting == 0 || commits >= UNDER_WAY {
            self.crowd.stop_waiting();
            return Step::Wait;
        }
        let present = waiting + members;
        if waiting >= ENOUGH {
            self.crowd.begin(present, now);
            return Step::Leave;
        }
        // It grows until one of many that are under way has ended.
        if members > FEW {
            self.crowd.stop_waiting();
            return Step::Wait;
        }
        self.crowd.waits_until(present, now).map_or(Step::Leave, Step::Gather)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_alone_leaves_at_once() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.step(0, 0, 0, now), Step::Wait, "nobody waits");
        for _ in 0..10 {
            assert_eq!(pace.step(1, 0, 0, now), Step::Leave);
            assert_eq!(pace.step(1, 1, 1, now), Step::Leave, "beside another one");
            assert_eq!(pace.step(1, UNDER_WAY, 2, now), Step::Wait, "as many as may be are under way");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_grows_beside_a_commit_of_many() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.step(FEW + 1, 0, 0, now), Step::Leave, "no crowd is known");
        assert_eq!(pace.step(ENOUGH - 1, 1, FEW + 1, now), Step::Wait);
        assert_eq!(pace.step(ENOUGH, 1, FEW + 1, now), Step::Leave);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_of_a_crowd_gathers_until_all_are_there_or_its_time_is_over() {
        let mut pace = Pace::default();
        let began = Instant::now();
        assert_eq!(pace.step(8, 0, 0, began), Step::Leave);
        let until = began + GATHERING;
        assert_eq!(pace.step(1, 0, 0, began), Step::Gather(until), "seven may come again");
        assert_eq!(pace.step(6, 1, 2, began), Step::Leave, "two of them are under way");
        assert_eq!(pace.step(2, 0, 0, until), Step::Gather(until + GATHERING));
        assert_eq!(pace.step(0, 0, 0, until), Step::Wait, "all have left");
        assert_eq!(pace.step(2, 0, 0, until + GATHERING), Step::Gather(until + GATHERING * 2));
        assert_eq!(pace.step(2, 0, 0, until + GATHERING * 2), Step::Leave);
    }
}
