//! Starting from a full list: at first, and again when the watch's history was compacted away.
//!
//! A list at an earlier revision than the view's is that of a store that was restored from a backup. It counts
//! as a first one: what was told so far has no place in this history. Gateways notice it by themselves.
//!
//! The first list announces nothing. A later one announces the difference to what the view had, each
//! provider's part as further links of its chain, so that gateways need not know that it came from a list.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::event::{Action, Position};
use shared::model::{Revision, ServiceRef};

use super::chain::Chain;
use super::{Round, Writer};
use crate::keys::Key;
use crate::store::KeyValue;
use crate::view::entry::ServiceView;
use crate::view::snapshot::Snapshot;

impl Writer {
    /// Replaces the view by the list `items`, read at revision `at`.
    pub fn reset(&mut self, items: Vec<KeyValue>, at: Revision) {
        let before = std::mem::take(&mut self.current);
        let first = before.revision == 0 || at < before.revision;
        if first {
            self.floor = at;
            self.gone.clear();
            (self.interests, self.services) = (Chain::since(at), Chain::since(at));
            self.history.restart(at);
        }
        let mut round = Round { rev: at, committed_at: self.clock.micros(), ..Round::default() };
        self.load(items, &mut round);
        self.current.revision = at;
        if first {
            self.forget_void(&round);
        } else {
            // What loading noted does not count: everything was put into an empty view.
            round = Round { rev: at, committed_at: round.committed_at, ..Round::default() };
            for provider in services(&before).union(&services(&self.current)) {
                self.announce_difference(&before, provider, &mut round);
            }
            round.consumers = services(&before).union(&services(&self.current)).cloned().collect();
            round.records.clone_from(&round.consumers);
            self.tell_interest(&before, &mut round);
            self.forget_void(&round);
            self.history.extend(round.events);
        }
        self.publish();
    }

    fn load(&mut self, items: Vec<KeyValue>, round: &mut Round) {
        // Held instances last: one that lives again has precedence.
        let mut held = Vec::new();
        // Each item is dropped where its part of the view has been made, which takes its memory.
        for kv in items {
            match Key::parse(&kv.key) {
                Key::Held(..) => held.push(kv),
                Key::Instance(service, id) => {
                    let Some(view) = self.parse_instance(&service, &id, &kv) else { continue };
                    if self.service_mut(&service).put_instance(view).is_none() {
                        self.tenant_mut(&service.tenant).instance_count += 1;
                    }
                }
                key => self.put(&key, &kv, round),
            }
        }
        for kv in held {
            self.put(&Key::parse(&kv.key), &kv, round);
        }
        // No announcement of the loading counts, so no place in the order was taken by it.
        for service in services(&self.current) {
            let last = self.gone.get(&service).copied().unwrap_or(Position::end_of(self.floor));
            self.service_mut(&service).last = last;
        }
    }

    fn announce_difference(&mut self, before: &Snapshot, provider: &ServiceRef, round: &mut Round) {
        let old = before.any_service(provider).cloned();
        let new = self.current.any_service(provider).cloned();
        // Instances without a service were not announced, and are not to be.
        let announced = |view: &Option<Arc<ServiceView>>| {
            let named = view.as_ref().filter(|view| view.service.is_some());
            named.map(|view| view.instances.clone()).unwrap_or_default()
        };
        let (old_instances, new_instances) = (announced(&old), announced(&new));
        let view = self.service_mut(provider);
        if let Some(old) = &old {
            view.last = old.last;
        }
        // A provider that is gone is announced under the name it had.
        let vanished = new.as_ref().is_none_or(|view| view.service.is_none());
        if let (true, Some(old)) = (vanished, &old) {
            view.key = old.key.clone();
            view.service = old.service.clone();
        }
        for (id, was) in old_instances.iter() {
            if !new_instances.contains_key(id) {
                self.announce(provider, Action::Delete, was.instance.clone(), round.rev, round);
            }
        }
        for (id, is) in new_instances.iter() {
            let action = match old_instances.get(id) {
                None => Action::Create,
                // In the history of a backup another writing may have the same revision.
                Some(was) if was.mod_rev != is.mod_rev || was.instance != is.instance => Action::Update,
                Some(_) => continue,
            };
            self.announce(provider, action, is.instance.clone(), is.mod_rev, round);
        }
        if vanished {
            self.service_mut(provider).service = None;
        }
        round.touched.insert(provider.clone());
    }
}

fn services(snapshot: &Snapshot) -> BTreeSet<ServiceRef> {
    let ids = |(tenant, view): (&shared::model::Tenant, &Arc<crate::view::TenantView>)| {
        view.services.keys().map(|id| ServiceRef::new(tenant.clone(), id)).collect::<Vec<_>>()
    };
    snapshot.tenants.iter().flat_map(ids).collect()
}
