//! Holds instances that expire together with too many others; see [`crate::view::protection`].

use std::sync::Arc;

use shared::event::Action;
use shared::model::{Instance, ServiceRef};
use tracing::warn;

use super::{Applying, ViewWriter};
use crate::store::KeyValue;
use crate::view::entry::{Held, PutInstance, Reported};
use crate::view::protection::{HeldRecord, ServiceSize};
use crate::view::timeline::Cause;

impl ViewWriter {
    pub(super) fn apply_size(&mut self, service: &ServiceRef, kv: &KeyValue, applying: &mut Applying) {
        let Some(record) = self.parse::<ServiceSize>(kv) else { return };
        let ServiceSize { usual, unregistered } = record.value;
        if !unregistered.is_empty() {
            applying.affected.unregistered.insert((service.clone(), unregistered));
        }
        self.service_mut(service).usual_size = usual;
        self.current.shrunk.remove_mut(service);
        applying.affected.services.insert(service.clone());
    }

    /// Holds an expired instance if its service is to be protected. Returns false when the instance is to go.
    pub(super) fn try_hold(&mut self, service: &ServiceRef, id: &str, applying: &mut Applying) -> bool {
        let protection = self.protection;
        let Some(view) = self.current.any_service(service) else { return false };
        if view.instance(id).is_none() || !protection.holds(view.usual_size, view.living()) {
            return false;
        }
        // Logged once for each protection, not for each instance.
        if view.held.is_empty() {
            warn!(
                service.id = %service.id,
                tenant = %service.tenant,
                size = view.usual_size,
                living = view.living(),
                "too many instances of a service expired; further ones are held until they register again"
            );
        }
        let since = applying.rev;
        if let Some(held) = view.instance(id) {
            self.note(service, Cause::Held, &Arc::new(held.instance.unpack()), applying);
        }
        let view = self.service_mut(service);
        view.held.insert_mut(id.to_owned(), Held { since, recorded: false });
        self.current.unrecorded.insert_mut((service.clone(), id.to_owned()), since);
        true
    }

    pub(super) fn apply_held(
        &mut self,
        service: &ServiceRef,
        id: &str,
        kv: &KeyValue,
        applying: &mut Applying,
    ) {
        let Some(record) = self.parse::<HeldRecord>(kv) else { return };
        let HeldRecord { instance, mod_rev, since } = record.value;
        let held = Held { since, recorded: true };
        let existing = self
            .current
            .any_service(service)
            .and_then(|view| view.instances.contains_key(id).then(|| view.held.contains_key(id)));
        match existing {
            // The instance has registered again in the meantime. Its registration deletes the record.
            Some(false) => return,
            Some(true) => self.service_mut(service).held.insert_mut(id.to_owned(), held),
            // This replica started after the instance had expired, and learns of it from the record only.
            None => {
                let instance =
                    Instance { instance_id: id.to_owned(), service_id: service.id.clone(), ..instance };
                // Without a lease: the instance's own has ended, and the record is on the lease of the
                // protection.
                let entry = self.service_mut(service);
                let PutInstance { shown, mod_rev, .. } = entry.put_instance(Reported::new(instance, mod_rev));
                entry.held.insert_mut(id.to_owned(), held);
                self.note(service, Cause::Held, &shown, applying);
                self.tenant_mut(&service.tenant).instance_count += 1;
                self.push_event(service, Action::Create, shown, mod_rev, applying);
            }
        }
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        applying.affected.services.insert(service.clone());
    }

    /// Ends the hold of an instance: its time is over, an operator released it, or it registered again.
    pub(super) fn end_hold(&mut self, service: &ServiceRef, id: &str, applying: &mut Applying) {
        if !self.current.any_service(service).is_some_and(|view| view.held.contains_key(id)) {
            return;
        }
        self.remove_instance(service, id, Cause::HoldEnded, applying);
        let Some(view) = self.current.any_service(service) else { return };
        if view.held.is_empty() && view.living() < view.usual_size {
            self.current.shrunk.insert_mut(service.clone(), ());
        }
    }
}
