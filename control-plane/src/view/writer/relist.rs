//! Starting from a full list: at first, again when the watch's history was compacted away, and when the store was
//! restored from a backup.
//!
//! A list says what is, not how it came to be: between the last revision that was seen and the list's, instances came
//! and went at revisions that only other replicas know. A difference announced at the list's revision would tell those
//! who heard of a change at its own revision of it again. So nothing is announced; the history begins anew, and who
//! needs what was before is answered with the state. A publisher says by its bookmarks that there is a hole.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::chain::Chain;
use super::{Round, Writer};
use crate::keys::Key;
use crate::store::KeyValue;
use crate::view::snapshot::Snapshot;

impl Writer {
    /// Replaces the view by the list `items`, read at revision `at`.
    pub fn reset(&mut self, items: Vec<KeyValue>, at: Revision) {
        self.current = Snapshot::default();
        self.floor = at;
        self.gone.clear();
        (self.interests, self.services) = (Chain::since(at), Chain::since(at));
        self.history.restart(at);
        let mut round = Round { rev: at, committed_at: self.clock.micros(), ..Round::default() };
        self.load(items, &mut round);
        self.current.revision = at;
        self.forget_void(&round);
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
}

fn services(snapshot: &Snapshot) -> BTreeSet<ServiceRef> {
    let ids = |(tenant, view): (&shared::model::Tenant, &Arc<crate::view::TenantView>)| {
        view.services.keys().map(|id| ServiceRef::new(tenant.clone(), id)).collect::<Vec<_>>()
    };
    snapshot.tenants.iter().flat_map(ids).collect()
}
