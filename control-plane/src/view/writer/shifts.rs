//! Shifts of a tenant. They change no instance: their overrides do.

use std::sync::Arc;

use shared::model::Tenant;

use super::ViewWriter;
use crate::store::KeyValue;
use crate::view::shifts::{ShiftRecord, ShiftView};

impl ViewWriter {
    pub(super) fn apply_shift(&mut self, tenant: &Tenant, id: &str, kv: &KeyValue) {
        let Some(record) = self.parse::<ShiftRecord>(kv) else { return };
        self.remove_shift(tenant, id);
        if let Some(due) = record.value.due() {
            self.current.shifting.insert_mut((due, tenant.clone(), id.to_owned()), ());
        }
        let entry = Arc::new(ShiftView { record: record.value, mod_rev: kv.mod_rev });
        self.tenant_mut(tenant).shifts.insert_mut(id.to_owned(), entry);
    }

    pub(super) fn remove_shift(&mut self, tenant: &Tenant, id: &str) {
        // Looked up first, because `tenant_mut` would make an entry for a tenant that the view does not have.
        let Some(before) = self.current.tenant(tenant).and_then(|view| view.shifts.get(id)).cloned() else {
            return;
        };
        if let Some(due) = before.record.due() {
            self.current.shifting.remove_mut(&(due, tenant.clone(), id.to_owned()));
        }
        self.tenant_mut(tenant).shifts.remove_mut(id);
    }
}
