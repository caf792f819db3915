//! Limits how often clients may send requests and open watches: per source, per tenant and per account.
//!
//! In: the source, the tenant and the account of a request. Out: leave to go on, or the time after which to
//! try again. Heartbeats are not limited: one that is refused would cost an instance its life.
//!
//! Each limit is a token bucket of two seconds' worth. A bucket is chosen by a hash of its name from a fixed
//! number of them, so that strangers cannot fill the memory with names; two names in one bucket share it,
//! which with a thousand busy clients happens to one in a hundred.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use shared::model::Tenant;

/// The buckets of one limit.
const BUCKETS: u64 = 1 << 16;

/// Requests and watch openings a second; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RatesConfig {
    /// Requests of one source address.
    pub source_requests: u32,
    /// Requests for one tenant.
    pub tenant_requests: u32,
    /// Requests of one account.
    pub account_requests: u32,
    /// Watches that one source address opens.
    pub source_watches: u32,
    /// Watches that are opened for one tenant.
    pub tenant_watches: u32,
    /// Watches that one account opens.
    pub account_watches: u32,
}

/// The party whose limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// The address that the request comes from.
    Source,
    /// The tenant that the request is for.
    Tenant,
    /// The account whose token the request has.
    Account,
}

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFast {
    /// The party whose limit it is.
    pub(crate) party: Party,
    /// The time after which the next one is allowed.
    pub(crate) after: Duration,
}

/// The kinds of requests that have limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request that is answered and over.
    Request,
    /// The opening of a watch, on any transport.
    Watch,
}

type Limiter<C> = RateLimiter<u64, HashMapStateStore<u64>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The limits in force.
#[derive(Debug)]
pub(crate) struct Rates<C: Clock = MonotonicClock> {
    hasher: RandomState,
    clock: C,
    limiters: ArcSwap<Limiters<C>>,
}

#[derive(Debug)]
struct Limiters<C: Clock> {
    config: RatesConfig,
    requests: [Option<Limiter<C>>; 3],
    watches: [Option<Limiter<C>>; 3],
}

impl Party {
    /// All of them, in the order in which they are asked.
    pub(crate) const ALL: [Self; 3] = [Self::Source, Self::Tenant, Self::Account];

    /// The word in metrics and refusals.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Tenant => "tenant",
            Self::Account => "account",
        }
    }
}

impl TooFast {
    /// The whole seconds after which to try again, at least one.
    pub(crate) fn seconds(&self) -> u64 {
        self.after.as_secs_f64().ceil().max(1.0) as u64
    }
}

impl fmt::Display for TooFast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let party = self.party.as_str();
        write!(f, "the {party} sends more than is allowed; try again in {} s", self.seconds())
    }
}

impl Rates {
    /// Limits of which nobody has used anything yet.
    pub(crate) fn new(config: RatesConfig) -> Self {
        Self::with_clock(config, MonotonicClock)
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with_clock(config: RatesConfig, clock: C) -> Self {
        let limiters = ArcSwap::from_pointee(Limiters::new(config, &clock));
        Self { hasher: RandomState::new(), clock, limiters }
    }

    /// Replaces the limits. Only changed ones begin anew.
    pub(crate) fn set(&self, config: &RatesConfig) {
        if self.limiters.load().config != *config {
            self.limiters.store(Limiters::new(config.clone(), &self.clock).into());
        }
    }

    /// Counts one request of a source, for a tenant and of an account, as far as they are known.
    ///
    /// # Errors
    /// The first limit that is reached. Limits before it have counted the request.
    pub(crate) fn take(
        &self,
        kind: Kind,
        source: Option<IpAddr>,
        tenant: Option<&Tenant>,
        account: Option<&str>,
    ) -> Result<(), TooFast> {
        let limiters = self.limiters.load();
        let [of_source, of_tenant, of_account] = match kind {
            Kind::Request => &limiters.requests,
            Kind::Watch => &limiters.watches,
        };
        self.take_one(Party::Source, of_source, source.map(network_of))?;
        self.take_one(Party::Tenant, of_tenant, tenant)?;
        self.take_one(Party::Account, of_account, account)
    }

    fn take_one(
        &self,
        party: Party,
        limiter: &Option<Limiter<C>>,
        name: Option<impl Hash>,
    ) -> Result<(), TooFast> {
        let (Some(limiter), Some(name)) = (limiter, name) else { return Ok(()) };
        // Seeded at random, so that nobody can aim at another's bucket.
        let bucket = self.hasher.hash_one(name) % BUCKETS;
        limiter.check_key(&bucket).map_err(|not_until| {
            let after = not_until.wait_time_from(self.clock.now());
            TooFast { party, after }
        })
    }
}

impl<C: Clock + Clone> Limiters<C> {
    fn new(config: RatesConfig, clock: &C) -> Self {
        let RatesConfig {
            source_requests,
            tenant_requests,
            account_requests,
            source_watches,
            tenant_watches,
            account_watches,
        } = config;
        Self {
            requests: [source_requests, tenant_requests, account_requests].map(|rate| limiter(rate, clock)),
            watches: [source_watches, tenant_watches, account_watches].map(|rate| limiter(rate, clock)),
            config,
        }
    }
}

fn limiter<C: Clock + Clone>(per_second: u32, clock: &C) -> Option<Limiter<C>> {
    let per_second = NonZeroU32::new(per_second)?;
    let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
    let quota = Quota::per_second(per_second).allow_burst(burst);
    Some(RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()))
}

/// The part of an address that one client has for itself: an IPv6 client chooses its last 64 bits freely.
fn network_of(address: IpAddr) -> [u8; 16] {
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
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn standing(config: RatesConfig) -> Rates<FakeRelativeClock> {
        Rates::with_clock(config, FakeRelativeClock::default())
    }

    fn source(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// The number of requests that are admitted at once.
    fn admitted(
        rates: &Rates<FakeRelativeClock>,
        kind: Kind,
        source: Option<IpAddr>,
        account: Option<&str>,
    ) -> usize {
        (0..50).take_while(|_| rates.take(kind, source, Some(&Tenant::default()), account).is_ok()).count()
    }

    #[test]
    fn each_party_has_a_burst_of_its_own() {
        let rates = standing(RatesConfig { source_requests: 1, ..RatesConfig::default() });
        assert_eq!(admitted(&rates, Kind::Request, source(1), None), 2);
        assert_eq!(admitted(&rates, Kind::Request, source(2), None), 2);
        assert_eq!(admitted(&rates, Kind::Watch, source(1), None), 50, "watches have limits of their own");
        assert_eq!(admitted(&rates, Kind::Request, None, None), 50, "a source that is not known");
        let refused = rates.take(Kind::Request, source(1), None, None).expect_err("too fast");
        assert_eq!((refused.party, refused.seconds()), (Party::Source, 1));
        rates.clock.advance(Duration::from_secs(1));
        assert_eq!(admitted(&rates, Kind::Request, source(1), None), 1);
    }

    #[test]
    fn an_account_is_limited_from_all_its_sources_together() {
        let rates = standing(RatesConfig { account_watches: 1, ..RatesConfig::default() });
        assert_eq!(admitted(&rates, Kind::Watch, source(1), Some("peter")), 2);
        assert_eq!(admitted(&rates, Kind::Watch, source(2), Some("peter")), 0);
        assert_eq!(admitted(&rates, Kind::Watch, source(2), Some("paul")), 2);
    }

    #[test]
    fn new_limits_count_at_once_and_the_same_ones_go_on() {
        let config = RatesConfig { tenant_requests: 1, ..RatesConfig::default() };
        let rates = standing(config.clone());
        assert_eq!(admitted(&rates, Kind::Request, source(1), None), 2);
        rates.set(&config);
        assert_eq!(admitted(&rates, Kind::Request, source(1), None), 0);
        rates.set(&RatesConfig::default());
        assert_eq!(admitted(&rates, Kind::Request, source(1), None), 50);
    }

    #[test]
    fn an_ipv6_client_cannot_spread_over_its_own_network() {
        let rates = standing(RatesConfig { source_requests: 1, ..RatesConfig::default() });
        let at = |text: &str| Some(text.parse().expect("an address"));
        assert_eq!(admitted(&rates, Kind::Request, at("2001:db8::1"), None), 2);
        assert_eq!(admitted(&rates, Kind::Request, at("2001:db8::ffff:1"), None), 0);
        assert_eq!(admitted(&rates, Kind::Request, at("2001:db8:0:1::1"), None), 2);
    }
}
