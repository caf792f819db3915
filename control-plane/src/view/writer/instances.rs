//! Instances of the view, and their events.

use std::sync::Arc;

use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceRef};

use super::{Applying, ViewWriter};
use crate::store::KeyValue;
use crate::view::entry::InstanceView;
use crate::view::history::Change;

impl ViewWriter {
    pub(super) fn apply_instance(
        &mut self,
        service: &ServiceRef,
        id: &str,
        kv: &KeyValue,
        applying: &mut Applying,
    ) {
        let Some(view) = self.parse_instance(service, id, kv) else { return };
        let instance = view.instance.clone();
        let before = self.service_mut(service).put_instance(view);
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        let action = if before.is_some() { Action::Update } else { Action::Create };
        if before.is_none() {
            self.tenant_mut(&service.tenant).instance_count += 1;
        }
        self.push_event(service, action, instance, kv.mod_rev, applying);
        applying.affected.services.insert(service.clone());
    }

    pub(super) fn remove_instance(&mut self, service: &ServiceRef, id: &str, applying: &mut Applying) {
        // Checked first, because `service_mut` would make an entry for a service that the view does not have.
        let exists = self.current.any_service(service).is_some_and(|view| view.instances.contains_key(id));
        if !exists {
            return;
        }
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        if let Some(before) = self.service_mut(service).take_instance(id) {
            self.tenant_mut(&service.tenant).instance_count -= 1;
            self.push_event(service, Action::Delete, before.instance.clone(), applying.rev, applying);
        }
        applying.affected.services.insert(service.clone());
    }

    /// Adds an event to the provider's chain. A provider without a record has no name under which an event
    /// could go out, so its instances are announced when the record comes.
    pub(super) fn push_event(
        &mut self,
        provider: &ServiceRef,
        action: Action,
        instance: Arc<Instance>,
        mod_rev: Revision,
        applying: &mut Applying,
    ) {
        let view = self.service_mut(provider);
        if view.service.is_none() {
            return;
        }
        let prev = view.last;
        let sub = if prev.rev == applying.rev { prev.sub.saturating_add(1) } else { 0 };
        let at = Position { rev: applying.rev, sub };
        view.last = at;
        let key = view.key.clone();
        applying.changes.push(Change::Instance(Arc::new(InstanceEvent {
            provider: provider.clone(),
            at,
            prev,
            action,
            key,
            instance,
            mod_rev,
            committed_at: applying.committed_at,
            via: Via { trace: applying.trace.clone(), ..Via::default() },
        })));
    }

    /// Adds an event for each instance of a service: created ones when the record comes after them, and
    /// deleted ones when the record goes before them.
    pub(super) fn push_event_for_each_instance(
        &mut self,
        service: &ServiceRef,
        action: Action,
        applying: &mut Applying,
    ) {
        let instances: Vec<_> = self.service_mut(service).instances.values().cloned().collect();
        for view in instances {
            let mod_rev = if action == Action::Delete { applying.rev } else { view.mod_rev };
            self.push_event(service, action, view.instance.clone(), mod_rev, applying);
        }
    }

    pub(super) fn parse_instance(
        &mut self,
        service: &ServiceRef,
        id: &str,
        kv: &KeyValue,
    ) -> Option<InstanceView> {
        let record = self.parse::<Instance>(kv)?;
        let mut instance = record.value;
        // The key decides: a foreign writer may have left the ids out of the value.
        instance.instance_id = id.to_owned();
        instance.service_id = service.id.clone();
        // A view may hold a hundred thousand instances, most with one address in a list that grew to room for
        // four.
        instance.endpoints.shrink_to_fit();
        Some(InstanceView {
            instance: Arc::new(instance),
            unknown: (!record.unknown.is_empty()).then(|| Box::new(record.unknown)),
            mod_rev: kv.mod_rev,
            lease: kv.lease,
        })
    }
}
