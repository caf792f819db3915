//! Holding instances that expire together with too many others; see [`crate::view::protection`].

use std::sync::Arc;

use shared::event::Action;
use shared::model::{Instance, ServiceRef};
use tracing::warn;

use super::{Round, Writer};
use crate::store::KeyValue;
use crate::view::entry::{Held, InstanceView};
use crate::view::protection::{HeldRecord, Size};

impl Writer {
    pub(super) fn put_size(&mut self, service: &ServiceRef, kv: &KeyValue, round: &mut Round) {
        let Some(record) = self.parse::<Size>(kv) else { return };
        let Size { size, left } = record.value;
        if !left.is_empty() {
            round.left.insert((service.clone(), left));
        }
        self.service_mut(service).size = size;
        self.current.shrunk.remove_mut(service);
        round.touched.insert(service.clone());
    }

    /// Holds an instance that expired, if its service is to be protected. False when it is to go.
    pub(super) fn hold(&mut self, service: &ServiceRef, id: &str, round: &mut Round) -> bool {
        let protection = self.protection;
        let Some(view) = self.current.any_service(service) else { return false };
        if view.instance(id).is_none() || !protection.holds(view.size, view.living()) {
            return false;
        }
        if view.held.is_empty() {
            warn!(
                service.id = %service.id, tenant = %service.tenant, size = view.size, living = view.living(),
                "too many instances of a service expired; further ones are held"
            );
        }
        let since = round.rev;
        let view = self.service_mut(service);
        view.held.insert_mut(id.to_owned(), Held { since, recorded: false });
        self.current.unrecorded.insert_mut((service.clone(), id.to_owned()), since);
        true
    }

    pub(super) fn put_held(&mut self, service: &ServiceRef, id: &str, kv: &KeyValue, round: &mut Round) {
        let Some(record) = self.parse::<HeldRecord>(kv) else { return };
        let HeldRecord { instance, mod_rev, since } = record.value;
        let held = Held { since, recorded: true };
        let known = self
            .current
            .any_service(service)
            .map(|view| (view.instances.contains_key(id), view.held.contains_key(id)));
        match known {
            // It lives again; the record is about to be forgotten.
            Some((true, false)) => return,
            Some((true, true)) => self.service_mut(service).held.insert_mut(id.to_owned(), held),
            _ => {
                // This replica was not there when it expired.
                let instance = Arc::new(Instance {
                    instance_id: id.to_owned(),
                    service_id: service.id.clone(),
                    ..instance
                });
                let view = InstanceView { instance: instance.clone(), unknown: None, mod_rev, lease: None };
                let entry = self.service_mut(service);
                entry.put_instance(view);
                entry.held.insert_mut(id.to_owned(), held);
                self.tenant_mut(&service.tenant).instance_count += 1;
                self.announce(service, Action::Create, instance, mod_rev, round);
            }
        }
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        round.touched.insert(service.clone());
    }

    /// The protection of an instance ended: by time, by an operator, or because it registered again.
    pub(super) fn delete_held(&mut self, service: &ServiceRef, id: &str, round: &mut Round) {
        if !self.current.any_service(service).is_some_and(|view| view.held.contains_key(id)) {
            return;
        }
        self.delete_instance(service, id, round);
        let Some(view) = self.current.any_service(service) else { return };
        if view.held.is_empty() && view.living() < view.size {
            self.current.shrunk.insert_mut(service.clone(), ());
        }
    }
}
