//! The rate of answers to one source over UDP.
//!
//! In: the address that a packet claims to come from. Out: leave to answer. Over UDP an address can be
//! forged, so that the answers hit a machine that has not asked. Beyond the rate every other packet is
//! answered with the word to come over TCP, which a forger cannot; the rest is dropped.
//!
//! The rate is a token bucket of two seconds' worth. A bucket is chosen by a hash of the address from a fixed
//! number of them, so that forged addresses cannot fill the memory.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// The buckets.
const BUCKETS: u64 = 1 << 16;

type Limiter<C> = RateLimiter<u64, HashMapStateStore<u64>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The treatment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Answer,
    /// With the word to come over TCP.
    AnswerShort,
    Drop,
}

/// The rates of all sources.
pub(crate) struct Rate<C: Clock = MonotonicClock> {
    hasher: RandomState,
    limiter: Option<Limiter<C>>,
    is_odd: AtomicBool,
}

impl Rate {
    /// So many answers a second to each source; 0 is no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        Self::with_clock(per_second, MonotonicClock)
    }
}

impl<C: Clock> Rate<C> {
    fn with_clock(per_second: u32, clock: C) -> Self {
        let limiter = NonZeroU32::new(per_second).map(|per_second| {
            let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
            let quota = Quota::per_second(per_second).allow_burst(burst);
            RateLimiter::new(quota, HashMapStateStore::default(), clock)
        });
        Self { hasher: RandomState::new(), limiter, is_odd: AtomicBool::new(false) }
    }

    /// Counts a packet of a source.
    pub(crate) fn take(&self, source: IpAddr) -> Verdict {
        let Some(limiter) = &self.limiter else { return Verdict::Answer };
        // Seeded at random, so that nobody can aim at another's bucket.
        let bucket = self.hasher.hash_one(network_of(source)) % BUCKETS;
        if limiter.check_key(&bucket).is_ok() {
            Verdict::Answer
        } else if self.is_odd.fetch_xor(true, Ordering::Relaxed) {
            Verdict::Drop
        } else {
            Verdict::AnswerShort
        }
    }
}

/// The part of an address that one client has for itself: an IPv6 client chooses its last 64 bits freely.
pub(crate) fn network_of(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            octets
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn verdicts(rate: &Rate<FakeRelativeClock>, source: &str, count: usize) -> Vec<Verdict> {
        let source = source.parse().expect("an address");
        (0..count).map(|_| rate.take(source)).collect()
    }

    #[test]
    fn beyond_the_rate_a_source_is_asked_to_come_over_tcp() {
        use Verdict::{Answer, AnswerShort, Drop};
        let clock = FakeRelativeClock::default();
        let rate = Rate::with_clock(1, clock.clone());
        let first = verdicts(&rate, "192.0.2.1", 6);
        assert_eq!(first, [Answer, Answer, AnswerShort, Drop, AnswerShort, Drop]);
        assert_eq!(verdicts(&rate, "192.0.2.2", 1), [Answer], "another source");
        clock.advance(Duration::from_secs(1));
        assert_eq!(verdicts(&rate, "::ffff:192.0.2.1", 2), [Answer, AnswerShort], "the same in IPv6");
    }

    #[test]
    fn a_source_cannot_spread_over_its_own_network() {
        let rate = Rate::with_clock(1, FakeRelativeClock::default());
        verdicts(&rate, "2001:db8::1", 2);
        assert_eq!(verdicts(&rate, "2001:db8::2", 1), [Verdict::AnswerShort]);
        assert_eq!(verdicts(&rate, "2001:db8:0:1::1", 1), [Verdict::Answer]);
    }

    #[test]
    fn no_rate_is_no_limit() {
        let rate = Rate::with_clock(0, FakeRelativeClock::default());
        assert!(verdicts(&rate, "192.0.2.1", 1000).iter().all(|verdict| *verdict == Verdict::Answer));
    }
}
