//! The part of the tracker that finds are answered from.
//!
//! A consumer whose finds are answered here is *held*: its group stays without sessions. Only what held
//! groups follow is published, so that topics which only watchers use cost nothing more than a test of a
//! flag.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use shared::model::{Revision, ServiceRef};

use super::{Group, Slot, Tracker};
use crate::read::{ReadConsumer, ReadTopic, ReadView};
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
}

#[derive(Debug)]
struct Held {
    consumer: ServiceRef,
    providers: Arc<BTreeSet<ServiceRef>>,
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
    fn as_read(&self, before: Option<&Held>) -> Option<ReadConsumer> {
        let interest_rev = self.interest_rev?;
        let present = self.providers.iter().filter(|provider| !self.leaving.contains_key(*provider));
        let providers = match before {
            Some(held) if present.clone().eq(held.providers.iter()) => held.providers.clone(),
            _ => Arc::new(present.cloned().collect()),
        };
        Some(ReadConsumer {
            changed_at: self.unchanged_since.unwrap_or(interest_rev).max(self.last_change.rev),
            sound: self.verified && self.request.is_idle(),
            providers,
        })
    }
}

impl Tracker {
    /// Follows a consumer's providers for its finds, with or without sessions, until [`Tracker::release`].
    pub fn hold(&mut self, consumer: &ServiceRef) -> GroupId {
        let selector = Selector::Consumer(consumer.clone());
        let id = match self.by_selector.get(&selector) {
            Some(id) => *id,
            None => self.open_group(selector),
        };
        if let Some(group) = self.groups.get_mut(&id) {
            group.held = true;
            group.empty_since = None;
        }
        let held = Held { consumer: consumer.clone(), providers: Arc::default() };
        self.reads.groups.entry(id).or_insert(held);
        self.reads.touch_group(id);
        id
    }

    /// The consumer's finds are not answered here any more. Its group ends unless it has sessions.
    pub fn release(&mut self, id: GroupId, now: Instant) {
        self.reads.touch_group(id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.held = false;
        if group.sessions.iter().all(|count| *count == 0) {
            group.empty_since = Some(now);
        }
    }

    /// The number of consumers that are held, and the bytes of everything that is published for them, about.
    pub fn held(&self) -> (usize, usize) {
        (self.reads.groups.len(), self.reads.bytes)
    }

    /// The state that finds are answered from, if it has changed since the last call.
    pub fn take_reads(&mut self) -> Option<ReadView> {
        let reads = &mut self.reads;
        if reads.everything {
            reads.dirty_groups.extend(reads.groups.keys().copied());
            reads.dirty_services.extend(reads.services.keys().cloned());
        } else if reads.dirty_groups.is_empty() && reads.dirty_services.is_empty() && !reads.has_advanced {
            return None;
        }
        reads.everything = false;
        reads.has_advanced = false;
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
            view.consumers.get(&held.consumer).map(|known| &**known) == read.as_ref()
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
        let mut groups = self.reads.groups.iter();
        groups.all(|(id, held)| is_current(id, held)) && self.reads.services.keys().all(is_whole)
    }

    fn publish_group(&mut self, id: GroupId) {
        let Some(held) = self.reads.groups.get(&id) else { return };
        let (consumer, before) = (held.consumer.clone(), held.providers.clone());
        let group = self.groups.get(&id).filter(|group| group.held);
        let read = group.and_then(|group| group.as_read(Some(held)));
        let after = read.as_ref().map(|read| read.providers.clone()).unwrap_or_default();
        if group.is_none() {
            self.reads.groups.remove(&id);
        } else if let Some(held) = self.reads.groups.get_mut(&id) {
            held.providers = after.clone();
        }
        match read {
            None => _ = self.reads.view.consumers.remove_mut(&consumer),
            Some(read) if self.reads.view.consumers.get(&consumer).is_some_and(|known| **known == read) => {}
            Some(read) => self.reads.view.consumers.insert_mut(consumer, Arc::new(read)),
        }
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
        let known = self.reads.view.topics.get(service);
        let bytes_before = known.map_or(0, |known| known.bytes);
        let read = match self.topics.get(service) {
            Some(Slot::Live(topic)) if self.reads.services.contains_key(service) => topic.as_read(),
            _ => None,
        };
        let bytes = read.as_ref().map_or(0, |read| read.bytes);
        self.reads.bytes = self.reads.bytes.saturating_sub(bytes_before) + bytes;
        match read {
            None => _ = self.reads.view.topics.remove_mut(service),
            Some(read) if known.is_some_and(|known| known.is_same(&read)) => {}
            Some(read) => self.reads.view.topics.insert_mut(service.clone(), Arc::new(read)),
        }
    }

    /// The bytes of held groups beside the services that they follow, about.
    pub fn held_group_bytes(&self) -> usize {
        let groups = self.reads.groups.values();
        groups.map(|held| GROUP_BYTES + held.providers.len() * NAME_BYTES).sum()
    }
}

impl crate::topic::Topic {
    fn as_read(&self) -> Option<ReadTopic> {
        let read = self.read.as_ref()?;
        Some(ReadTopic {
            at: self.at(),
            digest: self.digest(),
            key: self.key().cloned(),
            sound: self.is_sound(),
            instances: read.instances.clone(),
            bytes: read.bytes,
            body: read.body.clone(),
        })
    }
}
