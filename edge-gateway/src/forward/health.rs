//! The order in which replicas are tried for a class of requests.
//!
//! Ready replicas come first, in turn. Then come those that answer but are not ready, those that recently
//! failed at this class, and at last those that do not answer, the longest ago first. None is left out: a
//! replica without its store still answers reads when all others are gone.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::BusBehind;

/// The time for which a failure at a class of requests counts. Meanwhile the replica notices its own trouble.
const FAULT_COUNTS: Duration = Duration::from_secs(5);

/// The classes of requests at which a replica can fail while it serves the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestClass {
    /// Served from the replica's memory, and sometimes confirmed by the store.
    Read,
    /// Needs the store.
    Write,
}

/// The answer of a replica to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProbeAnswer {
    /// False when the replica says that it should not be given work.
    pub(super) is_ready: bool,
    /// The bus, as this replica sees it.
    pub(super) bus: BusBehind,
}

/// The health of each replica, as its last answer or failure shows it.
#[derive(Debug)]
pub(super) struct Health {
    replicas: Vec<ReplicaHealth>,
    failures: AtomicU64,
    turn: AtomicUsize,
    /// The origin of the times below.
    began: Instant,
}

#[derive(Debug, Default)]
struct ReplicaHealth {
    /// The number of the replica's last failure, counted over all replicas; 0 while it answers.
    failed: AtomicU64,
    /// True while it does not answer, for those who wait for it.
    is_silent: watch::Sender<bool>,
    /// It has answered something since the last probe of it began.
    is_heard: AtomicBool,
    /// The milliseconds at which it failed after it had answered.
    failed_at: AtomicU64,
    is_not_ready: AtomicBool,
    /// The bus as the replica sees it; written once for each probe.
    bus: Mutex<BusBehind>,
    /// For each class, the milliseconds until which its last fault counts.
    faulty_until: [AtomicU64; 2],
}

impl Health {
    /// The given number of replicas, all of them healthy until they fail.
    pub(super) fn new(replicas: usize) -> Self {
        let replicas = std::iter::repeat_with(ReplicaHealth::default).take(replicas).collect();
        Self { replicas, failures: AtomicU64::new(0), turn: AtomicUsize::new(0), began: Instant::now() }
    }

    /// All replicas, the best first.
    pub(super) fn order(&self, class: RequestClass, now: Instant) -> Vec<usize> {
        let count = self.replicas.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = self.millis(now);
        let mut order: Vec<usize> = (0..count).map(|n| (turn.wrapping_add(n)) % count).collect();
        // The sort is stable: among equals the turn decides.
        order.sort_by_key(|replica| {
            let health = &self.replicas[*replica];
            (
                health.failed.load(Ordering::Relaxed),
                health.faulty_until[class as usize].load(Ordering::Relaxed) > now,
                health.is_not_ready.load(Ordering::Relaxed),
            )
        });
        order
    }

    /// Notes that a replica answered a request; true if it had failed before.
    pub(super) fn answered(&self, replica: usize) -> bool {
        let ReplicaHealth { failed, is_heard, .. } = &self.replicas[replica];
        // The loads come first because this runs for each request: healthy replicas share the cache line
        // unwritten, but for once in each probe.
        if !is_heard.load(Ordering::Relaxed) {
            is_heard.store(true, Ordering::Relaxed);
        }
        let is_back = failed.load(Ordering::Relaxed) != 0 && failed.swap(0, Ordering::Relaxed) != 0;
        if is_back {
            self.replicas[replica].tell();
        }
        is_back
    }

    /// Notes that a replica did not answer; true if it was healthy before.
    pub(super) fn failed(&self, replica: usize, now: Instant) -> bool {
        let number = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let health = &self.replicas[replica];
        // Written first: nobody may read the time of an earlier failure as that of this one.
        if health.failed.load(Ordering::Relaxed) == 0 {
            health.failed_at.store(self.millis(now), Ordering::Relaxed);
        }
        let is_news = health.failed.swap(number, Ordering::Release) == 0;
        if is_news {
            health.tell();
        }
        is_news
    }

    /// A probe of a replica begins.
    pub(super) fn listen(&self, replica: usize) {
        self.replicas[replica].is_heard.store(false, Ordering::Relaxed);
    }

    /// True if a replica has answered any request since the last probe of it began.
    pub(super) fn is_heard(&self, replica: usize) -> bool {
        self.replicas[replica].is_heard.load(Ordering::Relaxed)
    }

    /// True while a replica does not answer.
    pub(super) fn is_silent(&self, replica: usize) -> bool {
        self.replicas[replica].failed.load(Ordering::Relaxed) != 0
    }

    /// Returns when a replica does not answer: no connection to it can be opened, or it has answered nothing in the
    /// time of a probe. Cancel-safe.
    pub(super) async fn silence(&self, replica: usize) {
        if self.replicas[replica].is_silent.subscribe().wait_for(|is_silent| *is_silent).await.is_err() {
            // The sender is here, and so it does not end before this does.
            pending::<()>().await;
        }
    }

    /// The time for which a replica has answered nothing, neither a probe nor a request. Zero for one that
    /// answers.
    pub(super) fn silent_for(&self, replica: usize, now: Instant) -> Duration {
        let health = &self.replicas[replica];
        if health.failed.load(Ordering::Acquire) == 0 {
            return Duration::ZERO;
        }
        let since = health.failed_at.load(Ordering::Relaxed);
        Duration::from_millis(self.millis(now).saturating_sub(since))
    }

    /// Notes the finding of a probe that was answered; true if that is a change.
    pub(super) fn set_ready(&self, replica: usize, is_ready: bool) -> bool {
        self.replicas[replica].is_not_ready.swap(!is_ready, Ordering::Relaxed) == is_ready
    }

    /// Notes the bus as a replica sees it.
    pub(super) fn set_bus(&self, replica: usize, bus: BusBehind) {
        *self.replicas[replica].bus.lock() = bus;
    }

    /// The bus, as the replicas see it that answer.
    pub(super) fn bus(&self) -> BusBehind {
        let answering = self.replicas.iter().filter(|replica| replica.failed.load(Ordering::Relaxed) == 0);
        let seen: Vec<BusBehind> = answering.map(|replica| *replica.bus.lock()).collect();
        let any = |state| seen.contains(&state).then_some(state);
        any(BusBehind::Joined).or(any(BusBehind::Lost)).unwrap_or_default()
    }

    /// Notes that a replica failed at a request that another one answered; true if it had not failed at its
    /// class of late.
    pub(super) fn faulty(&self, replica: usize, class: RequestClass, now: Instant) -> bool {
        let until = self.millis(now + FAULT_COUNTS);
        let before = self.replicas[replica].faulty_until[class as usize].swap(until, Ordering::Relaxed);
        before <= self.millis(now)
    }

    /// The number of replicas that answer.
    pub(super) fn answering(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.failed.load(Ordering::Relaxed) == 0).count()
    }

    /// The number of replicas that answer and are ready.
    pub(super) fn ready(&self) -> usize {
        let is_ready = |replica: &&ReplicaHealth| {
            replica.failed.load(Ordering::Relaxed) == 0 && !replica.is_not_ready.load(Ordering::Relaxed)
        };
        self.replicas.iter().filter(is_ready).count()
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

impl ReplicaHealth {
    /// Tells whether it answers. Looked up while nobody else can tell: otherwise a failure and an answer of the same
    /// moment could be told in the other order, and the replica would be silent for those who wait until it fails anew.
    fn tell(&self) {
        self.is_silent.send_if_modified(|is_silent| {
            let now = self.failed.load(Ordering::Acquire) != 0;
            std::mem::replace(is_silent, now) != now
        });
    }
}

#[cfg(test)]
mod tests {
    use super::RequestClass::{Read, Write};
    use super::*;

    #[test]
    fn healthy_replicas_take_turns_and_the_longest_failed_is_next() {
        let health = Health::new(4);
        let now = Instant::now();
        assert!(health.failed(1, now) && health.failed(0, now) && !health.failed(1, now));
        assert_eq!(health.answering(), 2);
        let orders: Vec<_> = (0..4).map(|_| health.order(Read, now)).collect();
        for order in &orders {
            assert_eq!(order[2..], [0, 1], "the last failure of 0 is before that of 1");
        }
        assert!(orders.iter().any(|order| order[0] == 2) && orders.iter().any(|order| order[0] == 3));
        assert!(health.answered(1) && !health.answered(1));
        assert_eq!(health.order(Read, now)[3], 0);
    }

    #[test]
    fn the_bus_is_lost_when_no_replica_that_answers_has_it() {
        let health = Health::new(3);
        assert_eq!(health.bus(), BusBehind::Unknown);
        health.set_bus(0, BusBehind::Lost);
        assert_eq!(health.bus(), BusBehind::Lost, "the others are of an older version");
        health.set_bus(1, BusBehind::Joined);
        assert_eq!(health.bus(), BusBehind::Joined);
        health.failed(1, Instant::now());
        assert_eq!(health.bus(), BusBehind::Lost, "one that does not answer tells nothing");
    }

    #[test]
    fn a_replica_that_is_not_ready_is_asked_after_ready_ones() {
        let health = Health::new(3);
        let now = Instant::now();
        assert!(health.set_ready(0, false) && !health.set_ready(0, false));
        assert_eq!((health.answering(), health.ready()), (3, 2));
        health.failed(1, now);
        for _ in 0..6 {
            assert_eq!(health.order(Read, now), [2, 0, 1], "and before those that do not answer");
        }
        assert!(health.set_ready(0, true));
        assert_eq!(health.ready(), 2);
    }

    #[test]
    fn any_answer_ends_the_silence_of_a_replica() {
        let health = Health::new(1);
        let at = |seconds| health.began + Duration::from_secs(seconds);
        assert_eq!(health.silent_for(0, at(9)), Duration::ZERO);
        health.failed(0, at(10));
        health.failed(0, at(12));
        assert_eq!(health.silent_for(0, at(13)), Duration::from_secs(3), "since the first failure");
        health.answered(0);
        assert_eq!(health.silent_for(0, at(14)), Duration::ZERO);
        health.failed(0, at(15));
        assert_eq!(health.silent_for(0, at(16)), Duration::from_secs(1));
    }

    #[test]
    fn a_fault_counts_for_its_class_and_for_a_while() {
        let health = Health::new(2);
        let now = Instant::now();
        assert!(health.faulty(0, Write, now) && !health.faulty(0, Write, now));
        for _ in 0..4 {
            assert_eq!(health.order(Write, now), [1, 0]);
        }
        assert_ne!(health.order(Read, now), health.order(Read, now), "both take turns at reads");
        let later = now + FAULT_COUNTS + Duration::from_millis(1);
        assert_ne!(health.order(Write, later), health.order(Write, later));
    }
}
