//! Consumers that are followed for their finds, tenants that are followed as a whole, and the state that
//! requests answer from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpds::HashTrieMapSync;
use shared::model::{Scope, ServiceRef, Tenant};
use tokio::sync::oneshot;

use super::Upstream;
use crate::reads::{EdgeView, Lease, ReadsConfig, SharedView, TenantLease};
use crate::watch::{Full, GroupId, Selector};

/// The answer to a reader that wants a tenant to be followed.
pub(crate) type Following = oneshot::Sender<Result<(), Full>>;

/// The most time that one bookmark confirms: they come every second.
const CONFIRMED: Duration = Duration::from_secs(3);

/// A held group's consumer or tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Consumer(ServiceRef),
    Tenant(Tenant),
}

/// The consumers and tenants that are followed.
#[derive(Debug)]
pub(super) struct Holds {
    config: ReadsConfig,
    began: Instant,
    view: Arc<SharedView>,
    groups: HashMap<GroupId, Held>,
    leases: HashTrieMapSync<ServiceRef, Arc<Lease>>,
    tenants: HashTrieMapSync<Tenant, Arc<TenantLease>>,
    /// Readers that wait for a tenant's group to open. Bounded by the requests that are under way.
    opening: HashMap<GroupId, Vec<Following>>,
    /// The last bookmark arrived then.
    heard: Option<Instant>,
    /// The time for which bookmarks have come, pauses left out.
    confirmed: Duration,
    /// `leases` has changed since it was published.
    is_changed: bool,
}

impl Holds {
    pub(super) fn new(config: ReadsConfig, view: Arc<SharedView>, began: Instant) -> Self {
        Self {
            config,
            began,
            view,
            groups: HashMap::new(),
            leases: HashTrieMapSync::new_sync(),
            tenants: HashTrieMapSync::new_sync(),
            opening: HashMap::new(),
            heard: None,
            confirmed: Duration::ZERO,
            is_changed: false,
        }
    }

    /// A bookmark has arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        let pause = self.heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard));
        self.confirmed += pause.min(CONFIRMED);
        if self.confirmed >= self.config.idle {
            // Every client that still asks has asked since, and its tenant is followed.
            self.view.forget_remembered();
        }
        self.heard = Some(now);
    }

    /// The store was restored from a backup.
    pub(super) fn restored(&self) {
        self.view.forget_remembered();
    }

    /// The store is of this incarnation. True if what the last process knew was of another one.
    pub(super) fn forget_other_incarnation(&self, incarnation: Option<u64>) -> bool {
        self.view.forget_other_incarnation(incarnation)
    }

    /// A group has ended.
    pub(super) fn ended(&mut self, group: GroupId) {
        match self.groups.remove(&group) {
            None => return,
            Some(Held::Consumer(consumer)) => _ = self.leases.remove_mut(&consumer),
            Some(Held::Tenant(tenant)) => _ = self.tenants.remove_mut(&tenant),
        }
        self.is_changed = true;
    }

    /// A group has opened, or has been refused for this reason.
    pub(super) fn opened(&mut self, group: GroupId, outcome: Result<(), Full>) {
        for reader in self.opening.remove(&group).into_iter().flatten() {
            // A reader that has stopped waiting needs no answer.
            let _ = reader.send(outcome);
        }
    }

    fn has_too_many_tenants(&self) -> bool {
        self.config.tenants > 0 && self.tenants.size() >= self.config.tenants
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    /// The groups of consumers that have asked nothing for a while and of tenants that nobody has read, and
    /// of the others, while there is too little memory, some of those that asked longest ago.
    fn expired(&self, now: Instant, bytes: usize) -> Vec<GroupId> {
        let second = self.second(now);
        let idle = self.config.idle.as_secs();
        let mut by_use: Vec<(u64, GroupId)> = Vec::with_capacity(self.groups.len());
        for (group, held) in &self.groups {
            let used = match held {
                Held::Consumer(consumer) => Some(self.leases.get(consumer).map_or(0, |lease| lease.used())),
                Held::Tenant(tenant) => {
                    self.tenants.get(tenant).map_or(Some(0), |lease| lease.unused_since())
                }
            };
            // A tenant stays while somebody reads it.
            by_use.extend(used.map(|used| (used, *group)));
        }
        by_use.sort_unstable();
        let of_leases: usize = self.leases.values().map(|lease| lease.bytes()).sum();
        let is_full = self.config.memory > 0 && bytes + of_leases > self.config.memory;
        // What each of them frees is not known: providers may be shared. The next round frees more, if need
        // be.
        let surplus = if is_full { (by_use.len() / 8).max(1) } else { 0 };
        let expired = by_use.iter().enumerate();
        let is_expired = |(index, (used, _)): &(usize, &(u64, GroupId))| {
            *index < surplus || used.saturating_add(idle) < second
        };
        expired.filter(is_expired).map(|(_, (_, group))| *group).collect()
    }
}

impl Upstream {
    /// Follows a consumer for its finds, if there is room.
    pub(super) fn hold(&mut self, consumer: ServiceRef, lease: Arc<Lease>) {
        let selector = Selector::Consumer(consumer.clone());
        if self.holds.leases.contains_key(&consumer) || !self.tracker.has_room(&selector, self.config.topics)
        {
            return;
        }
        let group = self.tracker.hold(&consumer);
        self.holds.groups.insert(group, Held::Consumer(consumer.clone()));
        self.holds.leases.insert_mut(consumer, lease);
        self.holds.is_changed = true;
    }

    /// Follows a tenant as a whole, if there is room, and answers when its services are known.
    pub(super) fn hold_tenant(&mut self, tenant: Tenant, reader: Following) {
        let selector = Selector::Scope(Scope::all(tenant.clone()));
        if !self.holds.tenants.contains_key(&tenant) {
            let full = if !self.tracker.has_room(&selector, self.config.topics) {
                Some(Full::Topics)
            } else if self.holds.has_too_many_tenants() && !self.free_a_tenant() {
                Some(Full::Tenants)
            } else {
                None
            };
            if let Some(full) = full {
                _ = reader.send(Err(full));
                return;
            }
            let group = self.tracker.hold_tenant(&tenant);
            let lease = TenantLease::default();
            // The reader that asks enters only after the answer.
            lease.enter();
            lease.leave(self.holds.second(Instant::now()));
            self.holds.groups.insert(group, Held::Tenant(tenant.clone()));
            self.holds.tenants.insert_mut(tenant, Arc::new(lease));
            self.holds.is_changed = true;
        }
        match self.tracker.group(&selector) {
            Some(group) if !self.tracker.is_open(group) => {
                self.holds.opening.entry(group).or_default().push(reader);
            }
            // A reader that has stopped waiting needs no answer.
            _ => _ = reader.send(Ok(())),
        }
    }

    /// Stops following the tenant that nobody has read for the longest time. False when all are being read.
    fn free_a_tenant(&mut self) -> bool {
        let unread = self.holds.groups.iter().filter_map(|(group, held)| match held {
            Held::Consumer(_) => None,
            Held::Tenant(tenant) => Some((self.holds.tenants.get(tenant)?.unused_since()?, *group)),
        });
        let Some((_, group)) = unread.min() else { return false };
        self.holds.ended(group);
        self.tracker.release(group, Instant::now());
        true
    }

    /// Makes the state of held consumers visible to requests, if it has changed.
    pub(super) fn publish_reads(&mut self) {
        let read = self.tracker.take_reads();
        if read.is_none() && !self.holds.is_changed {
            return;
        }
        self.holds.is_changed = false;
        let read = read.unwrap_or_else(|| self.holds.view.load().read.clone());
        self.holds.view.store(EdgeView {
            read,
            leases: self.holds.leases.clone(),
            tenants: self.holds.tenants.clone(),
            heard: self.holds.heard,
            incarnation: self.resources.requester.incarnation(),
        });
    }

    /// Stops following consumers that ask nothing any more, or for which there is no memory.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        let bytes = self.tracker.held().1 + self.tracker.held_group_bytes();
        for group in self.holds.expired(now, bytes) {
            self.holds.ended(group);
            self.tracker.release(group, now);
        }
        self.metrics.holds(self.holds.leases.size(), self.holds.tenants.size(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;
    use crate::reads::{Reads, shared_view};

    #[test]
    fn the_last_process_is_forgotten_when_all_have_asked() {
        let began = Instant::now();
        let view = shared_view();
        let config = ReadsConfig { idle: Duration::from_secs(60), ..ReadsConfig::default() };
        let reads = Reads::new(config.clone(), view.clone(), began);
        let remembered = EdgeView { incarnation: Some(1), ..(*view.load()).clone() };
        reads.remember(remembered.clone());
        let mut holds = Holds::new(config, view.clone(), began);
        // Bookmarks that come now and then are no proof that everybody could ask.
        for hour in 0..10 {
            holds.heard(began + hour * Duration::from_secs(3600));
        }
        assert!(reads.remembered().is_some());
        let again = began + Duration::from_secs(36_000);
        for second in 0..40 {
            holds.heard(again + Duration::from_secs(second));
        }
        assert!(reads.remembered().is_none());
        reads.remember(remembered);
        assert!(!view.forget_other_incarnation(None) && !view.forget_other_incarnation(Some(1)));
        assert!(reads.remembered().is_some(), "the same store");
        assert!(view.forget_other_incarnation(Some(2)));
        assert!(reads.remembered().is_none(), "a restored one, or another registry's");
    }

    #[test]
    fn idle_consumers_go_and_for_memory_those_that_asked_first() {
        let began = Instant::now();
        let config = ReadsConfig { idle: Duration::from_secs(10), memory: 1000, ..ReadsConfig::default() };
        let mut holds = Holds::new(config, shared_view(), began);
        for (number, used) in [(1, 5), (2, 8), (3, 12)] {
            let consumer = ServiceRef::new(Tenant::default(), number.to_string());
            let lease = Arc::new(Lease::default());
            lease.touch(used);
            holds.groups.insert(GroupId::new(number), Held::Consumer(consumer.clone()));
            holds.leases.insert_mut(consumer, lease);
        }
        let at = |second| began + Duration::from_secs(second);
        let ids = |expired: Vec<GroupId>| expired.into_iter().map(GroupId::get).collect::<Vec<_>>();
        assert_eq!(ids(holds.expired(at(15), 0)), [0; 0]);
        assert_eq!(ids(holds.expired(at(16), 0)), [1]);
        assert_eq!(ids(holds.expired(at(19), 0)), [1, 2]);
        assert_eq!(ids(holds.expired(at(15), 1001)), [1]);
        holds.ended(GroupId::new(1));
        assert_eq!(holds.leases.size(), 2);
    }

    #[test]
    fn a_tenant_stays_while_somebody_reads_it() {
        let began = Instant::now();
        let config = ReadsConfig { idle: Duration::from_secs(10), memory: 1000, ..ReadsConfig::default() };
        let mut holds = Holds::new(config, shared_view(), began);
        let lease = Arc::new(TenantLease::default());
        lease.enter();
        holds.groups.insert(GroupId::new(1), Held::Tenant(Tenant::default()));
        holds.tenants.insert_mut(Tenant::default(), lease.clone());
        let later = began + Duration::from_secs(60);
        assert_eq!(holds.expired(later, 2000), [], "neither time nor memory ends it");
        lease.leave(55);
        assert_eq!(holds.expired(later, 0), []);
        assert_eq!(holds.expired(later + Duration::from_secs(6), 0), [GroupId::new(1)]);
        assert_eq!(holds.expired(later, 2000), [GroupId::new(1)], "its memory is needed");
    }
}
