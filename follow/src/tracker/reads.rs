//! The part of the tracker that finds and other dialects are answered from.
//!
//! A consumer whose finds are answered here is *held*: its group stays without sessions. So is a tenant whose
//! services are read as a whole. Only what held groups follow is published, so that topics which only
//! watchers use cost nothing more than a test of a flag.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use shared::model::{Revision, Scope, ServiceRef, Tenant};

use super::{Group, Slot, Tracker};
use crate::read::{ReadInterest, ReadTenant, ReadTopic, ReadView};
use crate::{GroupId, Selector};

/// Bytes of a held group beside its providers, about.
const GROUP_BYTES: usize = 1024;
/// Bytes of the name of a service, about.
const NAME_BYTES: usize = 128;

/// Held groups and what is published of them.
#[derive(Debug, Default)]
pub(super) struct Reads {
    view: ReadView,
    /// Each held group, as it is published.
    groups: HashMap<GroupId, Held>,
    /// Each service of held groups, with the number of those.
    services: HashMap<ServiceRef, usize>,
    /// The part of the state that has changed since it was published.
    dirty_groups: BTreeSet<GroupId>,
    dirty_services: HashSet<ServiceRef>,
    everything: bool,
    /// A bookmark has come since.
    has_advanced: bool,
    /// The bytes of everything that is published, about.
    bytes: usize,
    /// The number of changes of tenants that are read as a whole. One count for all, so that a tenant that is
    /// held again never repeats a version.
    versions: u64,
}

#[derive(Debug)]
struct Held {
    by: Holder,
    providers: Arc<BTreeSet<ServiceRef>>,
}

/// The reader for whom a group is held.
#[derive(Clone, Debug)]
enum Holder {
    /// The finds of this consumer.
    Consumer(ServiceRef),
    /// The readers of this tenant as a whole.
    Tenant(Tenant),
}

impl Holder {
    fn published<'a>(&self, view: &'a ReadView) -> Option<&'a Arc<ReadInterest>> {
        match self {
            Self::Consumer(consumer) => view.consumers.get(consumer),
            Self::Tenant(tenant) => view.tenants.get(tenant).map(|tenant| &tenant.services),
        }
    }

    fn publish(&self, view: &mut ReadView, interest: Option<ReadInterest>, version: u64) {
        match (self, interest) {
            (Self::Consumer(consumer), None) => _ = view.consumers.remove_mut(consumer),
            (Self::Tenant(tenant), None) => _ = view.tenants.remove_mut(tenant),
            (Self::Consumer(consumer), Some(interest)) => {
                view.consumers.insert_mut(consumer.clone(), Arc::new(interest));
            }
            (Self::Tenant(tenant), Some(interest)) => {
                view.tenants.insert_mut(tenant.clone(), ReadTenant { services: Arc::new(interest), version });
            }
        }
    }
}

impl Reads {
    /// Something about a service has changed.
    pub(super) fn touch(&mut self, service: &ServiceRef) {
        if self.services.contains_key(service) {
            self.dirty_services.insert(service.clone());
        }
    }

    /// Something about a group has changed.
    pub(super) fn touch_group(&mut self, id: GroupId) {
        if self.groups.contains_key(&id) {
            self.dirty_groups.insert(id);
        }
    }

    /// A bookmark has come. What it finds missing is touched by itself, so that a bookmark costs no look at
    /// everything that is held.
    pub(super) fn advance(&mut self) {
        self.has_advanced = !self.groups.is_empty();
    }

    /// Anything may have changed.
    pub(super) fn touch_all(&mut self) {
        self.everything = !self.groups.is_empty();
    }

    /// True when finds read the service.
    pub(super) fn has(&self, service: &ServiceRef) -> bool {
        self.services.contains_key(service)
    }

    /// A publisher that does not tell each changed find has sent a bookmark of `rev`.
    pub(super) fn raise_floor(&mut self, rev: Revision) {
        self.view.floor = self.view.floor.max(rev);
    }

    /// The order of revisions begins anew.
    pub(super) fn restore(&mut self) {
        self.view.floor = Revision::ZERO;
        self.touch_all();
    }
}

impl Group {
    fn as_read(&self, before: Option<&Held>) -> Option<ReadInterest> {
        let interest_rev = self.interest_rev?;
        let present = self.providers.iter().filter(|provider| !self.leaving.contains_key(*provider));
        let providers = match before {
            Some(held) if present.clone().eq(held.providers.iter()) => held.providers.clone(),
            _ => Arc::new(present.cloned().collect()),
        };
        Some(ReadInterest {
            changed_at: self.unchanged_since.unwrap_or(interest_rev).max(self.last_change.rev),
            sound: self.verified && self.request.is_idle(),
            settled: self.request.is_idle(),
            providers,
        })
    }
}

impl Tracker {
    /// Follows a consumer's providers for its finds, with or without sessions, until [`Tracker::release`].
    pub fn hold(&mut self, consumer: &ServiceRef) -> GroupId {
        let by = Holder::Consumer(consumer.clone());
        self.hold_group(Selector::Consumer(consumer.clone()), by)
    }

    /// Follows every service of a tenant, with or without sessions, until [`Tracker::release`].
    pub fn hold_tenant(&mut self, tenant: &Tenant) -> GroupId {
        self.hold_group(Selector::Scope(Scope::all(tenant.clone())), Holder::Tenant(tenant.clone()))
    }

    fn hold_group(&mut self, selector: Selector, by: Holder) -> GroupId {
        let id = match self.by_selector.get(&selector) {
            Some(id) => *id,
            None => self.open_group(selector),
        };
        if let Some(group) = self.groups.get_mut(&id) {
            group.held = true;
            group.empty_since = None;
        }
        let held = Held { by, providers: Arc::default() };
        self.reads.groups.entry(id).or_insert(held);
        self.reads.touch_group(id);
        id
    }

    /// The consumer's finds are not answered here any more, or the tenant is not read. Its group ends unless
    /// it has sessions.
    pub fn release(&mut self, id: GroupId, now: Instant) {
        self.reads.touch_group(id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.held = false;
        if group.sessions.iter().all(|count| *count == 0) {
            group.empty_since = Some(now);
        }
    }

    /// The number of consumers and tenants that are held, and the bytes of everything that is published for
    /// them, about.
    pub fn held(&self) -> (usize, usize) {
        (self.reads.groups.len(), self.reads.bytes)
    }

    /// The state that finds are answered from, if it has changed since the last call.
    pub fn take_reads(&mut self) -> Option<ReadView> {
        let reads = &mut self.reads;
        // Everything is rare (a restore, a lost bookmark), so it is turned into the usual lists.
        if reads.everything {
            reads.dirty_groups.extend(reads.groups.keys().copied());
            reads.dirty_services.extend(reads.services.keys().cloned());
        } else if reads.dirty_groups.is_empty() && reads.dirty_services.is_empty() && !reads.has_advanced {
            return None;
        }
        reads.everything = false;
        reads.has_advanced = false;
        // Groups first: they decide which services are read, and mark those that begin or end.
        for id in std::mem::take(&mut self.reads.dirty_groups) {
            self.publish_group(id);
        }
        for service in std::mem::take(&mut self.reads.dirty_services) {
            self.publish_service(&service);
        }
        self.reads.view.bookmark = self.bookmark.unwrap_or_default();
        debug_assert!(self.is_published(), "a change of what finds read was not noted");
        Some(self.reads.view.clone())
    }

    /// True when everything that is held is published as it is.
    fn is_published(&self) -> bool {
        let view = &self.reads.view;
        let is_current = |id: &GroupId, held: &Held| {
            let group = self.groups.get(id).filter(|group| group.held);
            let read = group.and_then(|group| group.as_read(Some(held)));
            held.by.published(view).map(|known| &**known) == read.as_ref()
        };
        let is_whole = |service: &ServiceRef| {
            let read = match self.topics.get(service) {
                Some(Slot::Live(topic)) => topic.as_read(),
                _ => None,
            };
            match (view.topics.get(service), read) {
                (None, None) => true,
                (Some(known), Some(read)) => known.is_same(&read),
                _ => false,
            }
        };
        let unsettled = view.topics.values().filter(|topic| !topic.settled).count()
            + view.consumers.values().filter(|interest| !interest.settled).count()
            + view.tenants.values().filter(|tenant| !tenant.services.settled).count();
        let mut groups = self.reads.groups.iter();
        unsettled == view.unsettled
            && groups.all(|(id, held)| is_current(id, held))
            && self.reads.services.keys().all(is_whole)
    }

    fn publish_group(&mut self, id: GroupId) {
        let Some(held) = self.reads.groups.get(&id) else { return };
        let (by, before) = (held.by.clone(), held.providers.clone());
        let group = self.groups.get(&id).filter(|group| group.held);
        let read = group.and_then(|group| group.as_read(Some(held)));
        let after = read.as_ref().map(|read| read.providers.clone()).unwrap_or_default();
        if group.is_none() {
            self.reads.groups.remove(&id);
        } else if let Some(held) = self.reads.groups.get_mut(&id) {
            held.providers = after.clone();
        }
        let view = &mut self.reads.view;
        // A tenant's version grows only with a change, because dialects encode their answers anew by it.
        let known = by.published(view).cloned();
        if known.as_deref() != read.as_ref() {
            let settled = |interest: &ReadInterest| interest.settled;
            view.unsettled =
                resettled(view.unsettled, known.as_deref().map(settled), read.as_ref().map(settled));
            self.reads.versions += 1;
            by.publish(view, read, self.reads.versions);
        }
        // `as_read` keeps the set while its contents are the same, so the usual case is one comparison.
        if Arc::ptr_eq(&before, &after) {
            return;
        }
        for service in after.difference(&before) {
            self.read_service(service);
        }
        for service in before.difference(&after) {
            self.stop_reading(service);
        }
    }

    fn read_service(&mut self, service: &ServiceRef) {
        let count = self.reads.services.entry(service.clone()).or_default();
        *count += 1;
        if *count == 1 {
            if let Some(Slot::Live(topic)) = self.topics.get_mut(service) {
                topic.start_reading();
            }
            self.reads.dirty_services.insert(service.clone());
        }
    }

    fn stop_reading(&mut self, service: &ServiceRef) {
        let Some(count) = self.reads.services.get_mut(service) else { return };
        *count -= 1;
        if *count == 0 {
            self.reads.services.remove(service);
            if let Some(Slot::Live(topic)) = self.topics.get_mut(service) {
                topic.stop_reading();
            }
            self.reads.dirty_services.insert(service.clone());
        }
    }

    fn publish_service(&mut self, service: &ServiceRef) {
        let known = self.reads.view.topics.get(service).cloned();
        let bytes_before = known.as_ref().map_or(0, |known| known.bytes);
        let read = match self.topics.get(service) {
            Some(Slot::Live(topic)) if self.reads.services.contains_key(service) => topic.as_read(),
            _ => None,
        };
        let bytes = read.as_ref().map_or(0, |read| read.bytes);
        self.reads.bytes = self.reads.bytes.saturating_sub(bytes_before) + bytes;
        let view = &mut self.reads.view;
        let settled = |topic: &ReadTopic| topic.settled;
        view.unsettled = resettled(view.unsettled, known.as_deref().map(settled), read.as_ref().map(settled));
        match read {
            None if known.is_none() => return,
            None => _ = view.topics.remove_mut(service),
            Some(read) if known.is_some_and(|known| known.is_same(&read)) => return,
            Some(read) => view.topics.insert_mut(service.clone(), Arc::new(read)),
        }
        // The version of a tenant stands for the contents of its services, too.
        if let Some(tenant) = view.tenants.get(&service.tenant) {
            self.reads.versions += 1;
            let next = ReadTenant { services: tenant.services.clone(), version: self.reads.versions };
            view.tenants.insert_mut(service.tenant.clone(), next);
        }
    }

    /// The bytes of held groups beside the services that they follow, about.
    pub fn held_group_bytes(&self) -> usize {
        let groups = self.reads.groups.values();
        groups.map(|held| GROUP_BYTES + held.providers.len() * NAME_BYTES).sum()
    }
}

/// The number of those that are not settled, after one of them was and is as these say; `None` is one that
/// is not published.
fn resettled(count: usize, was: Option<bool>, is: Option<bool>) -> usize {
    count + usize::from(is == Some(false)) - usize::from(was == Some(false))
}

impl crate::topic::Topic {
    fn as_read(&self) -> Option<ReadTopic> {
        let read = self.read.as_ref()?;
        Some(ReadTopic {
            at: self.at(),
            digest: self.digest(),
            key: self.key().cloned(),
            sound: self.is_sound(),
            settled: self.is_settled(),
            instances: read.instances.clone(),
            bytes: read.bytes,
            body: read.body.clone(),
        })
    }
}
