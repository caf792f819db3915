//! Instances of the view, and their events.

use std::sync::Arc;

use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceRef};

use super::{Applying, ViewWriter};
use crate::store::KeyValue;
use crate::view::entry::{PutInstance, Reported};
use crate::view::history::Change;
use crate::view::timeline::{Cause, Noted};

impl ViewWriter {
    pub(super) fn apply_instance(
        &mut self,
        service: &ServiceRef,
        id: &str,
        kv: &KeyValue,
        applying: &mut Applying,
    ) {
        let Some(view) = self.parse_instance(service, id, kv) else { return };
        let PutInstance { shown, mod_rev, reported, before, is_held } =
            self.service_mut(service).put_instance(view);
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        let action = if before.is_none() { Action::Create } else { Action::Update };
        let cause = match &before {
            None => Cause::Registered,
            Some(_) if is_held => Cause::RegisteredAgain,
            Some(before) => cause_of_change(&before.reported.unpack(), &reported),
        };
        self.note(service, cause, &shown, applying);
        if before.is_none() {
            self.tenant_mut(&service.tenant).instance_count += 1;
        }
        self.push_event(service, action, shown, mod_rev, applying);
        applying.affected.services.insert(service.clone());
    }

    /// Notes a change in the timeline.
    pub(super) fn note(
        &self,
        service: &ServiceRef,
        cause: Cause,
        instance: &Arc<Instance>,
        applying: &Applying,
    ) {
        if applying.is_list {
            return;
        }
        let instance = instance.clone();
        let Applying { rev, committed_at, .. } = *applying;
        self.timeline.note(service, Noted { rev, committed_at, cause, instance, by: None });
    }

    pub(super) fn remove_instance(
        &mut self,
        service: &ServiceRef,
        id: &str,
        cause: Cause,
        applying: &mut Applying,
    ) {
        // Checked first, because `service_mut` would make an entry for a service that the view does not have.
        let exists = self.current.any_service(service).is_some_and(|view| view.instances.contains_key(id));
        if !exists {
            return;
        }
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        if let Some(before) = self.service_mut(service).take_instance(id) {
            self.tenant_mut(&service.tenant).instance_count -= 1;
            let instance = Arc::new(before.instance.unpack());
            self.note(service, cause, &instance, applying);
            self.push_event(service, Action::Delete, instance, applying.rev, applying);
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
        if applying.is_list {
            return;
        }
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
        // Asked here as well, because each instance would be unpacked first.
        if applying.is_list {
            return;
        }
        let instances: Vec<_> = self.service_mut(service).instances.values().cloned().collect();
        for view in instances {
            let cause = match action {
                Action::Delete => Cause::ServiceDeleted,
                _ => Cause::ServiceRegistered,
            };
            let instance = Arc::new(view.instance.unpack());
            self.note(service, cause, &instance, applying);
            let mod_rev = if action == Action::Delete { applying.rev } else { view.mod_rev };
            self.push_event(service, action, instance, mod_rev, applying);
        }
    }

    pub(super) fn parse_instance(
        &mut self,
        service: &ServiceRef,
        id: &str,
        kv: &KeyValue,
    ) -> Option<Reported> {
        let record = self.parse::<Instance>(kv)?;
        let mut instance = record.value;
        // The key decides: a foreign writer may have left the ids out of the value.
        instance.instance_id = id.to_owned();
        instance.service_id = service.id.clone();
        Some(Reported {
            unknown: (!record.unknown.is_empty()).then(|| Box::new(record.unknown)),
            lease: kv.lease,
            ..Reported::new(instance, kv.mod_rev)
        })
    }
}

/// The reason of a change of a living instance's record.
fn cause_of_change(before: &Instance, now: &Instance) -> Cause {
    // Only a registration that creates an instance sets this.
    if before.timestamp != now.timestamp {
        return Cause::RegisteredAgain;
    }
    let is_same = before.endpoints == now.endpoints
        && before.properties == now.properties
        && before.host_name == now.host_name
        && before.health_check == now.health_check
        && before.data_center_info == now.data_center_info;
    if is_same && before.status != now.status { Cause::StatusChanged } else { Cause::Changed }
}
