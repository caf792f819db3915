//! Overrides of a service, and the events of the instances that change with them.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::event::Action;
use shared::model::ServiceRef;
use tracing::warn;

use super::{Applying, ViewWriter};
use crate::store::KeyValue;
use crate::view::entry::Remerged;
use crate::view::overrides::{OverrideRecord, OverrideView};
use crate::view::timeline::{ByOverride, Cause, Noted};

impl ViewWriter {
    /// Notes a written override. Instances are merged with it later in the revision.
    pub(super) fn apply_override(
        &mut self,
        service: &ServiceRef,
        id: &str,
        kv: &KeyValue,
        applying: &mut Applying,
    ) {
        let Some(record) = self.parse::<OverrideRecord>(kv) else { return };
        let entry =
            Arc::new(OverrideView { record: record.value, mod_rev: kv.mod_rev, bytes: kv.value.len() });
        let until = entry.record.until;
        let is_in_force = entry.record.is_in_force();
        if entry.record.target.is_whole_service() {
            self.current.torn.remove_mut(service);
        }
        let hides = !entry.record.hidden_from.is_empty();
        let view = self.service_mut(service);
        let before = Arc::make_mut(&mut view.overrides).insert(id.to_owned(), entry.clone());
        let tenant = self.tenant_mut(&service.tenant);
        tenant.overrides.insert_mut(id.to_owned(), service.id.clone());
        tenant.override_bytes += entry.bytes;
        tenant.override_bytes -= before.as_ref().map_or(0, |before| before.bytes);
        let hid = before.as_ref().is_some_and(|before| self.forget_end(service, id, before));
        // Only another program changes the target under an id. Then the instances of both change.
        if let Some(before) = before.filter(|before| before.record.target != entry.record.target) {
            let before = ByOverride { id: id.to_owned(), entry: before };
            self.note_overridden(service, false, before, applying);
        }
        if until > 0 && is_in_force {
            self.current.ending.insert_mut((until, service.clone(), id.to_owned()), ());
        }
        self.note_overridden(service, hides || hid, ByOverride { id: id.to_owned(), entry }, applying);
    }

    /// Removes an override. Our own have ended before, so that no instance changes with this.
    pub(super) fn remove_override(&mut self, service: &ServiceRef, id: &str, applying: &mut Applying) {
        // Checked first, because `service_mut` would make an entry for a service that the view does not have.
        if !self.current.any_service(service).is_some_and(|view| view.overrides.contains_key(id)) {
            return;
        }
        let Some(before) = Arc::make_mut(&mut self.service_mut(service).overrides).remove(id) else { return };
        let hid = self.forget_end(service, id, &before);
        let tenant = self.tenant_mut(&service.tenant);
        tenant.override_bytes -= before.bytes;
        if tenant.overrides.get(id) == Some(&service.id) {
            tenant.overrides.remove_mut(id);
        }
        applying.affected.services.insert(service.clone());
        self.note_overridden(service, hid, ByOverride { id: id.to_owned(), entry: before }, applying);
    }

    /// Merges the instances of each service whose overrides the revision changed, and announces those that
    /// changed with them.
    pub(super) fn merge_overridden(&mut self, applying: &mut Applying) {
        for (service, overrides) in std::mem::take(&mut applying.affected.overridden) {
            // A service that has gone meanwhile has no instances either.
            if self.current.any_service(&service).is_none() {
                continue;
            }
            // The instances of a large service are not looked at for the drain of one of them.
            let named = overrides.iter().map(|by| by.entry.record.target.instance()).collect();
            let named: Option<BTreeSet<&str>> = named;
            let outcome = self.service_mut(&service).merge_again(Some(applying.rev), named.as_ref());
            if outcome.is_torn {
                warn!(
                    service.id = %service.id,
                    tenant = %service.tenant,
                    "another program deleted an override that was in force"
                );
                self.current.torn.insert_mut(service.clone(), ());
            }
            for changed in outcome.changed {
                self.note_override(&service, &overrides, &changed, applying);
                self.push_event(&service, Action::Update, changed.shown, changed.mod_rev, applying);
            }
        }
    }

    /// Forgets when an override that was replaced or removed was to end. True when it hid its service.
    fn forget_end(&mut self, service: &ServiceRef, id: &str, before: &OverrideView) -> bool {
        self.current.ending.remove_mut(&(before.record.until, service.clone(), id.to_owned()));
        !before.record.hidden_from.is_empty()
    }

    /// Notes an instance that changed with overrides, with the one that changed it.
    fn note_override(
        &self,
        service: &ServiceRef,
        overrides: &[Arc<ByOverride>],
        changed: &Remerged,
        applying: &Applying,
    ) {
        let by = overrides.iter().rfind(|by| by.entry.record.target.takes(&changed.reported)).cloned();
        let is_in_force = by.as_ref().is_some_and(|by| by.entry.record.is_in_force());
        let is_drain = by.as_ref().is_some_and(|by| by.entry.record.target.drain);
        let cause = match (is_drain, is_in_force) {
            (false, true) => Cause::Override,
            (false, false) => Cause::OverrideEnded,
            (true, true) => Cause::Drain,
            (true, false) => Cause::DrainEnded,
        };
        let Applying { rev, committed_at, .. } = *applying;
        let instance = changed.shown.clone();
        self.timeline.note(service, Noted { rev, committed_at, cause, instance, by });
    }

    fn note_overridden(
        &mut self,
        service: &ServiceRef,
        is_visibility: bool,
        by: ByOverride,
        applying: &mut Applying,
    ) {
        applying.affected.overridden.entry(service.clone()).or_default().push(Arc::new(by));
        if is_visibility {
            self.mark_name(service, applying);
        }
    }
}
