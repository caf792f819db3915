//! Consumers that are followed for their finds, and the state that requests answer from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rpds::HashTrieMapSync;
use shared::model::ServiceRef;

use super::Upstream;
use crate::reads::{EdgeView, Lease, ReadsConfig, SharedView};
use crate::watch::{GroupId, Selector};

/// The consumers that are followed for their finds.
#[derive(Debug)]
pub(super) struct Holds {
    config: ReadsConfig,
    began: Instant,
    view: SharedView,
    groups: HashMap<GroupId, ServiceRef>,
    leases: HashTrieMapSync<ServiceRef, Arc<Lease>>,
    /// The last bookmark arrived then.
    heard: Option<Instant>,
    /// `leases` has changed since it was published.
    is_changed: bool,
}

impl Holds {
    pub(super) fn new(config: ReadsConfig, view: SharedView, began: Instant) -> Self {
        Self {
            config,
            began,
            view,
            groups: HashMap::new(),
            leases: HashTrieMapSync::new_sync(),
            heard: None,
            is_changed: false,
        }
    }

    /// A bookmark has arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// A group has ended.
    pub(super) fn ended(&mut self, group: GroupId) {
        if let Some(consumer) = self.groups.remove(&group) {
            self.leases.remove_mut(&consumer);
            self.is_changed = true;
        }
    }

    /// The groups whose consumers have asked nothing for a while, and of the others, while there is too
    /// little memory, some of those that asked longest ago.
    fn expired(&self, now: Instant, bytes: usize) -> Vec<GroupId> {
        let second = now.saturating_duration_since(self.began).as_secs();
        let idle = self.config.idle.as_secs();
        let mut by_use: Vec<(u64, GroupId)> = Vec::with_capacity(self.groups.len());
        for (group, consumer) in &self.groups {
            let used = self.leases.get(consumer).map_or(0, |lease| lease.used());
            by_use.push((used, *group));
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
        self.holds.groups.insert(group, consumer.clone());
        self.holds.leases.insert_mut(consumer, lease);
        self.holds.is_changed = true;
    }

    /// Makes the state of held consumers visible to requests, if it has changed.
    pub(super) fn publish_reads(&mut self) {
        let read = self.tracker.take_reads();
        if read.is_none() && !self.holds.is_changed {
            return;
        }
        self.holds.is_changed = false;
        let read = read.unwrap_or_else(|| self.holds.view.load().read.clone());
        let view = EdgeView { read, leases: self.holds.leases.clone(), heard: self.holds.heard };
        self.holds.view.store(Arc::new(view));
    }

    /// Stops following consumers that ask nothing any more, or for which there is no memory.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        let bytes = self.tracker.held().1 + self.tracker.held_group_bytes();
        for group in self.holds.expired(now, bytes) {
            self.holds.ended(group);
            self.tracker.release(group, now);
        }
        self.metrics.holds(self.holds.groups.len(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::model::Tenant;

    use super::*;
    use crate::reads::shared_view;

    #[test]
    fn idle_consumers_go_and_for_memory_those_that_asked_first() {
        let began = Instant::now();
        let config = ReadsConfig { idle: Duration::from_secs(10), memory: 1000, ..ReadsConfig::default() };
        let mut holds = Holds::new(config, shared_view(), began);
        for (number, used) in [(1, 5), (2, 8), (3, 12)] {
            let consumer = ServiceRef::new(Tenant::default(), number.to_string());
            let lease = Arc::new(Lease::default());
            lease.touch(used);
            holds.groups.insert(GroupId::new(number), consumer.clone());
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
}
