//! The order in which replicas are tried: healthy ones in turn, then those whose failure is longest ago.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The health of each replica, as its last answer or failure shows it.
#[derive(Debug)]
pub(super) struct Health {
    /// The number of the replica's last failure, counted over all replicas; 0 while it answers.
    failed: Vec<AtomicU64>,
    failures: AtomicU64,
    turn: AtomicUsize,
}

impl Health {
    /// The given number of replicas, all of them healthy until they fail.
    pub(super) fn new(replicas: usize) -> Self {
        let failed = std::iter::repeat_with(AtomicU64::default).take(replicas).collect();
        Self { failed, failures: AtomicU64::new(0), turn: AtomicUsize::new(0) }
    }

    /// All replicas, the best first.
    pub(super) fn order(&self) -> Vec<usize> {
        let count = self.failed.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut order: Vec<usize> = (0..count).map(|n| (turn.wrapping_add(n)) % count).collect();
        // The sort is stable: among healthy replicas the turn decides.
        order.sort_by_key(|replica| self.failed[*replica].load(Ordering::Relaxed));
        order
    }

    /// Notes that a replica answered; true if it had failed before.
    pub(super) fn answered(&self, replica: usize) -> bool {
        // The load comes first because this runs for each request: healthy replicas share the cache line
        // unwritten.
        self.failed[replica].load(Ordering::Relaxed) != 0
            && self.failed[replica].swap(0, Ordering::Relaxed) != 0
    }

    /// Notes that a replica did not answer; true if it was healthy before.
    pub(super) fn failed(&self, replica: usize) -> bool {
        let now = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        self.failed[replica].swap(now, Ordering::Relaxed) == 0
    }

    /// The number of healthy replicas.
    pub(super) fn healthy(&self) -> usize {
        self.failed.iter().filter(|failed| failed.load(Ordering::Relaxed) == 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_replicas_take_turns_and_the_longest_failed_is_next() {
        let health = Health::new(4);
        assert!(health.failed(1) && health.failed(0) && !health.failed(1));
        assert_eq!(health.healthy(), 2);
        let orders: Vec<_> = (0..4).map(|_| health.order()).collect();
        for order in &orders {
            assert_eq!(order[2..], [0, 1], "the last failure of 0 is before that of 1");
        }
        assert!(orders.iter().any(|order| order[0] == 2) && orders.iter().any(|order| order[0] == 3));
        assert!(health.answered(1) && !health.answered(1));
        assert_eq!(health.order()[3], 0);
    }
}
