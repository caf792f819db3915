//! Locks after failed logins.
//!
//! - An account is locked for one address after three failures, as in Service-Center: the count and the lock
//!   are one key of the store, so they hold on all replicas. Names that no account has are counted alike.
//! - An address is locked for all accounts after twenty failures. Each replica counts for itself; the lock is
//!   in the store.
//! - An account is locked for all addresses after a hundred failures, counted like those of an address,
//!   because a crowd of addresses has three guesses each. Those from which it has logged in of late are let
//!   through, so that a stranger cannot lock somebody out where they work.
//!
//! Strangers choose names and addresses. So a replica keeps a bounded number of counts and locks, in its
//! memory and in the store, and gives up the one that ends first for a new one.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{AccountConfig, Accounts, Stored, form, unchanged};
use crate::keys;
use crate::registry::{AccountError, CAS_TRIES, RegistryError};
use crate::store::{Compare, KeyValue, Op, RangeRequest, Txn};
use crate::view::ViewError;

/// The failures after which an account is locked for an address.
const FAILURES_OF_PAIR: u32 = 3;
/// The failures after which an address is locked for all accounts.
const FAILURES_OF_SOURCE: u32 = 20;
/// The failures after which an account is locked for all addresses.
const FAILURES_OF_ACCOUNT: u32 = 100;
/// The time in which failures of an address, or of an account, count together, in seconds.
const WINDOW: u64 = 15 * 60;
/// The time for which a replica remembers an address of an account's login, in seconds.
const REMEMBERED_LOGIN: u64 = 30 * 24 * 3600;
/// The most counts, logins and locks, of each kind, that a replica keeps.
const MOST_COUNTS: usize = 10_000;
const BANNED: &str = "banned";
const ATTEMPTED: &str = "attempted";

/// A lock, or failures on the way to one, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Lock {
    /// `account::address`; for an address alone `*::address`, for an account alone `account::*`.
    pub(crate) key: String,
    /// `attempted` or `banned`.
    pub(crate) status: String,
    /// The end, in seconds since 1970.
    pub(crate) release_at: u64,
}

/// A lock as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct StoredLock {
    #[serde(flatten)]
    lock: Lock,
    #[serde(default)]
    failures: u32,
}

/// The counts of this replica.
#[derive(Debug)]
pub(in crate::registry) struct Locks {
    config: AccountConfig,
    sources: Counts<IpAddr>,
    accounts: Counts<String>,
    /// The last login of each account from each address, in seconds since 1970.
    logins: Mutex<HashMap<(String, IpAddr), u64>>,
    /// The locks that this replica has written, each with the second in which it ends.
    written: Mutex<HashMap<String, u64>>,
}

/// Failures by the address or the account that they have in common.
#[derive(Debug)]
struct Counts<K> {
    /// The failure that is one too many.
    last: u32,
    counts: Mutex<HashMap<K, Failures>>,
}

/// Failures since a second.
#[derive(Clone, Copy, Debug)]
struct Failures {
    since: u64,
    count: u32,
}

impl<K: Clone + Eq + Hash> Counts<K> {
    fn up_to(last: u32) -> Self {
        Self { last, counts: Mutex::default() }
    }

    /// Counts a failure. True when that makes one too many; the count then begins anew.
    fn is_one_too_many(&self, of: K, now: u64) -> bool {
        let mut counts = self.counts.lock();
        if !counts.contains_key(&of) && counts.len() >= MOST_COUNTS {
            counts.retain(|_, failures| failures.since + WINDOW > now);
            make_room(&mut counts, |failures| failures.since);
        }
        let failures = counts.entry(of.clone()).or_insert(Failures { since: now, count: 0 });
        if failures.since + WINDOW <= now {
            *failures = Failures { since: now, count: 0 };
        }
        failures.count += 1;
        let is_too_many = failures.count >= self.last;
        if is_too_many {
            counts.remove(&of);
        }
        is_too_many
    }
}

impl Locks {
    pub(super) fn new(config: AccountConfig) -> Self {
        Self {
            config,
            sources: Counts::up_to(FAILURES_OF_SOURCE),
            accounts: Counts::up_to(FAILURES_OF_ACCOUNT),
            logins: Mutex::default(),
            written: Mutex::default(),
        }
    }

    /// Remembers that an account has logged in from an address.
    fn logged_in(&self, name: &str, source: IpAddr, now: u64) {
        let mut logins = self.logins.lock();
        let key = (name.to_owned(), source);
        if !logins.contains_key(&key) {
            make_room(&mut logins, |at| *at);
        }
        logins.insert(key, now);
    }

    /// True when an account has logged in from an address of late.
    fn has_logged_in(&self, name: &str, source: IpAddr, now: u64) -> bool {
        let logins = self.logins.lock();
        logins.get(&(name.to_owned(), source)).is_some_and(|at| at + REMEMBERED_LOGIN > now)
    }

    /// Remembers a lock that is to be written. The lock that must go for it, if there are too many.
    fn remember(&self, name: &str, release_at: u64, now: u64) -> Option<String> {
        let mut written = self.written.lock();
        let mut gone = None;
        if !written.contains_key(name) && written.len() >= MOST_COUNTS {
            written.retain(|_, release_at| *release_at > now);
            gone = make_room(&mut written, |release_at| *release_at);
        }
        written.insert(name.to_owned(), release_at);
        gone
    }
}

/// Removes the entry that ends first from a map that is full, and returns its key.
fn make_room<K: Clone + Eq + Hash, V>(map: &mut HashMap<K, V>, end: impl Fn(&V) -> u64) -> Option<K> {
    if map.len() < MOST_COUNTS {
        return None;
    }
    let first = map.iter().min_by_key(|(_, value)| end(value)).map(|(key, _)| key.clone())?;
    map.remove(&first);
    Some(first)
}

/// The address by which failures are counted: of IPv6 the network, because one machine has all its addresses.
fn counted(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The stored count, if its time is not over.
fn living(kv: Option<&KeyValue>, now: u64) -> Option<StoredLock> {
    let stored: StoredLock = serde_json::from_slice(&kv?.value).ok()?;
    (stored.lock.release_at > now).then_some(stored)
}

fn is_banned(kv: Option<&KeyValue>, now: u64) -> bool {
    living(kv, now).is_some_and(|stored| stored.lock.status == BANNED)
}

impl Accounts {
    /// The account with this name and password. `None` for a wrong one, which counts as a failure.
    ///
    /// The work is the same for a name that no account has.
    pub(in crate::registry) async fn verified(
        &self,
        name: &str,
        password: &str,
        client: IpAddr,
    ) -> Result<Option<Stored>, RegistryError> {
        let source = counted(client);
        // A text that cannot be a name has no part in a key.
        let name = if form::is_name(name) { name } else { "" };
        let pair = format!("{name}::{source}");
        let pair_key = keys::login_lock(&pair);
        let turns = &self.registry.turns;
        // One guess after the other, so that many at the same time are not all made before the first counts.
        let _turn = turns.take(pair_key.clone()).await.ok_or(RegistryError::Contended)?;
        let wanted = vec![
            keys::account(name),
            keys::account_extra(name),
            pair_key,
            keys::login_lock(&source_name(source)),
            keys::login_lock(&account_name(name)),
        ];
        let mut found = self.registry.read_keys(wanted).await?.into_iter();
        let mut next = || found.next().flatten();
        let (account_at, extra_at) = (next(), next());
        let now = self.registry.clock.seconds();
        for lock in [next(), next()] {
            if is_banned(lock.as_ref(), now) {
                return Err(AccountError::Blocked.into());
            }
        }
        if is_banned(next().as_ref(), now) && !self.locks.has_logged_in(name, source, now) {
            return Err(AccountError::Blocked.into());
        }
        // Before the first accounts are made, nobody's password can be wrong. Counted, the logins of a site that starts
        // would lock the first account.
        if account_at.is_none() && self.registry.view.now()?.policy.accounts.is_empty() {
            return Err(ViewError::NotListed.into());
        }
        let stored = account_at.map(|account_at| Stored::parse(account_at, extra_at)).transpose()?;
        let hash = stored.as_ref().map(|stored| stored.account.value.password.as_str());
        if self.hashing.verify(hash, password).await? {
            self.locks.logged_in(name, source, now);
            return Ok(stored);
        }
        self.count_failure(name, &pair, source).await?;
        Ok(None)
    }

    /// Counts a failure of a pair, of an address and of an account. Fails when it could not be counted, so
    /// that nobody learns the outcome of a guess that does not count.
    async fn count_failure(&self, name: &str, pair: &str, source: IpAddr) -> Result<(), RegistryError> {
        let now = self.registry.clock.seconds();
        for _ in 0..CAS_TRIES {
            let found = self.registry.read_keys(vec![keys::login_lock(pair)]).await?.pop().flatten();
            let failures = living(found.as_ref(), now).map_or(0, |stored| stored.failures) + 1;
            let (status, time) = match failures {
                FAILURES_OF_PAIR.. => (BANNED, self.locks.config.release_lock_after),
                _ => (ATTEMPTED, self.locks.config.retain_failures_for),
            };
            let compare = unchanged(&keys::login_lock(pair), found.as_ref());
            if !self.write_lock(pair, status, time, failures, vec![compare]).await? {
                continue;
            }
            if status == BANNED {
                info!(lock = pair, "an account is locked for an address after failed logins");
            }
            // Names that no account has are counted alike, so that nobody learns from a lock which ones there
            // are.
            if self.locks.accounts.is_one_too_many(name.to_owned(), now) && !name.is_empty() {
                let time = self.locks.config.release_lock_after;
                self.write_lock(&account_name(name), BANNED, time, FAILURES_OF_ACCOUNT, Vec::new()).await?;
                warn!(account = name, "an account is locked for new addresses after failed logins from many");
            }
            if self.locks.sources.is_one_too_many(source, now) {
                let time = self.locks.config.release_lock_after;
                self.write_lock(&source_name(source), BANNED, time, FAILURES_OF_SOURCE, Vec::new()).await?;
                warn!(
                    %source,
                    "an address is locked after failed logins to several accounts; if it is a gateway or a proxy, \
                     add it to http.trusted-proxies"
                );
            }
            return Ok(());
        }
        Err(RegistryError::Contended)
    }

    async fn write_lock(
        &self,
        name: &str,
        status: &str,
        time: Duration,
        failures: u32,
        compare: Vec<Compare>,
    ) -> Result<bool, RegistryError> {
        let now = self.registry.clock.seconds();
        let release_at = now + time.as_secs();
        let lock = Lock { key: name.to_owned(), status: status.to_owned(), release_at };
        let lease = self.registry.lease_for(time).await?;
        let value = crate::record::render(&StoredLock { lock, failures }, None);
        let mut then = vec![Op::Put { key: keys::login_lock(name), value, lease: Some(lease) }];
        if let Some(gone) = self.locks.remember(name, release_at, now) {
            then.push(Op::Delete(keys::login_lock(&gone)));
        }
        Ok(self.registry.commit(Txn { compare, then, ..Txn::default() }).await?.succeeded)
    }

    /// The locks and counts, by their names.
    pub(crate) async fn locks(&self) -> Result<Vec<Lock>, RegistryError> {
        let read = self.registry.store.range(RangeRequest::prefix(keys::LOGIN_LOCKS)).await;
        let found = self.registry.note_connection(read).map_err(RegistryError::ReadAccount)?;
        let now = self.registry.clock.seconds();
        Ok(found.items.iter().filter_map(|kv| living(Some(kv), now)).map(|stored| stored.lock).collect())
    }

    /// Ends a lock before its time.
    pub(crate) async fn unlock(&self, by: &str, name: &str) -> Result<(), RegistryError> {
        let key = keys::login_lock(name);
        let is_one = name.len() <= 128 && name.contains("::") && !name.contains('/');
        let txn = Txn {
            compare: vec![Compare::Exists(key.clone())],
            then: vec![Op::Delete(key.clone())],
            ..Txn::default()
        };
        // An error, because a mistyped lock would otherwise be believed gone.
        if !is_one || !self.registry.commit_noting(txn, &[key]).await?.succeeded {
            return Err(RegistryError::invalid(format!("there is no lock '{}'", form::shown(name))));
        }
        info!(lock = name, by, "a lock of logins has been ended");
        Ok(())
    }
}

/// The name of the lock of an address alone. No account is called `*`.
fn source_name(source: IpAddr) -> String {
    format!("*::{source}")
}

/// The name of the lock of an account alone.
fn account_name(name: &str) -> String {
    format!("{name}::*")
}

#[cfg(test)]
mod tests {
    use access::password::HashKind;

    use super::*;

    fn locks() -> Locks {
        let time = Duration::from_secs(900);
        let hash = HashKind::Scrypt;
        Locks::new(AccountConfig { hash, release_lock_after: time, retain_failures_for: time })
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn an_address_has_twenty_failures_in_a_quarter_of_an_hour() {
        let locks = locks();
        let at = |now| locks.sources.is_one_too_many(address(1), now);
        assert!((0..19).all(|_| !at(0)));
        assert!(!at(900), "the window is over, and a new one begins");
        assert!((0..18).all(|_| !at(901)));
        assert!(!locks.sources.is_one_too_many(address(2), 901), "another address");
        assert!(at(901));
        assert!(!at(902), "the count begins anew");
    }

    #[test]
    fn strangers_do_not_fill_the_memory_or_the_store() {
        let locks = locks();
        let most = u32::try_from(MOST_COUNTS).expect("small");
        for number in 0..most + 50 {
            assert!(!locks.sources.is_one_too_many(address(number), u64::from(number) / 100));
            locks.logged_in("a", address(number), u64::from(number));
            let gone = locks.remember(&format!("a{number}"), 1000 + u64::from(number), 0);
            assert_eq!(gone, number.checked_sub(most).map(|gone| format!("a{gone}")));
        }
        assert_eq!(
            (locks.sources.counts.lock().len(), locks.written.lock().len()),
            (MOST_COUNTS, MOST_COUNTS)
        );
        assert_eq!(locks.logins.lock().len(), MOST_COUNTS);
        assert!(!locks.has_logged_in("a", address(0), 1) && locks.has_logged_in("a", address(most), 1));
        assert_eq!(locks.remember("later", 20_000, 5_000), None, "what is over makes room");
        assert!(locks.written.lock().len() < MOST_COUNTS);
    }

    #[test]
    fn a_machine_has_one_count_for_all_its_addresses() {
        let of = |text: &str| counted(text.parse().expect("an address")).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!((of("::ffff:192.0.2.1").as_str(), of("192.0.2.1").as_str()), ("192.0.2.1", "192.0.2.1"));
    }
}
