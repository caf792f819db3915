//! Starts the view from a full list: at first, after the watch's history was compacted away, and after the
//! store was restored from a backup.
//!
//! A list shows a state, not the changes that led to it. Between the last revision of the view and the
//! list's, instances came and went at revisions that only other replicas know. If differences were announced
//! at the list's revision, clients that have received such a change at its own revision would receive it
//! twice. Therefore nothing is announced and the history begins anew. Requests for earlier events are
//! answered with the state, and a publisher's bookmarks show that there is a hole.

use std::sync::Arc;

use shared::model::{Revision, ServiceRef};

use super::chain::Chain;
use super::{Applying, ViewWriter};
use crate::keys::Key;
use crate::store::KeyValue;
use crate::view::snapshot::Snapshot;

impl ViewWriter {
    /// Replaces the view by the list `items`, read at revision `at`.
    pub fn reset(&mut self, items: Vec<KeyValue>, at: Revision) {
        let policy = Arc::new(self.access.policy(at));
        self.current = Snapshot { shared: self.current.shared.clone(), policy, ..Snapshot::default() };
        self.floor = at;
        self.gone.clear();
        self.interest_chain = Chain::beginning_at(at);
        self.services_chain = Chain::beginning_at(at);
        self.history.restart(at);
        let mut applying = Applying { rev: at, committed_at: self.clock.micros(), ..Applying::default() };
        let changed = items.iter().map(|kv| kv.mod_rev).max();
        self.load(items, &mut applying);
        self.current.revision = at;
        self.current.changed = changed.unwrap_or_default();
        self.drop_empty_services(&applying);
        self.publish();
    }

    /// Applies the list. The changes collected in `applying` are discarded by the caller.
    fn load(&mut self, items: Vec<KeyValue>, applying: &mut Applying) {
        let mut held = Vec::new();
        // Items are dropped one by one, each as soon as its part of the view exists. Together with the view
        // they would need twice the memory.
        for kv in items {
            match Key::parse(&kv.key) {
                Key::Held(..) => held.push(kv),
                Key::Instance(service, id) => {
                    let Some(view) = self.parse_instance(&service, &id, &kv) else { continue };
                    if self.service_mut(&service).put_instance(view).is_none() {
                        self.tenant_mut(&service.tenant).instance_count += 1;
                    }
                }
                key => self.apply_put(&key, &kv, applying),
            }
        }
        // Held instances come last: an instance that has registered again takes precedence over its record.
        for kv in held {
            self.apply_put(&Key::parse(&kv.key), &kv, applying);
        }
        // Loading has moved the positions as if events had been announced, which none were.
        for service in all_services(&self.current) {
            let last = self.last_position_of_absent(&service);
            self.service_mut(&service).last = last;
        }
    }
}

fn all_services(snapshot: &Snapshot) -> Vec<ServiceRef> {
    let mut services = Vec::new();
    for (tenant, view) in snapshot.tenants.iter() {
        services.extend(view.services.keys().map(|id| ServiceRef::new(tenant.clone(), id)));
    }
    services
}
