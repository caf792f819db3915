//! Starts the view from a full list: at first, after the watch's history was compacted away, and after the
//! store was restored from a backup.
//!
//! The list comes page by page, and each page is taken into a view beside the present one. Only a whole list
//! replaces the present view; one that breaks off leaves no trace.
//!
//! A list shows a state, not the changes that led to it. Between the last revision of the view and the
//! list's, instances came and went at revisions that only other replicas know. If differences were announced
//! at the list's revision, clients that have received such a change at its own revision would receive it
//! twice. Therefore nothing is announced and the history begins anew. Requests for earlier events are
//! answered with the state, and a publisher's bookmarks show that there is a hole.

use std::sync::Arc;

use shared::model::{Revision, ServiceRef};
use tokio::sync::watch;

use super::chain::Chain;
use super::{Affected, Applying, ViewWriter};
use crate::keys::Key;
use crate::store::KeyValue;
use crate::view::history::History;
use crate::view::snapshot::Snapshot;

/// A view that is being made of a list, beside the one in use.
pub struct ListedView {
    /// A writer of its own, whose view nobody reads.
    writer: ViewWriter,
    applying: Applying,
    /// The records of held instances.
    held: Vec<KeyValue>,
    /// The newest revision that wrote one of the keys.
    changed: Revision,
}

impl ViewWriter {
    /// An empty view, to be filled with a list that is read at revision `at`.
    pub fn list_at(&self, at: Revision) -> ListedView {
        let nobody = watch::Sender::new(Revision::ZERO);
        let (clock, skipped) = (self.clock.clone(), self.skipped.clone());
        let history = Arc::new(History::new(1));
        let mut writer = Self::new(Arc::default(), nobody, history, clock, self.protection, skipped);
        writer.access = self.access.clone();
        let policy = Arc::new(writer.access.policy(at));
        writer.current = Snapshot { shared: self.current.shared.clone(), policy, ..Snapshot::default() };
        writer.floor = at;
        let applying = Applying { rev: at, is_list: true, ..Applying::default() };
        ListedView { writer, applying, held: Vec::new(), changed: Revision::ZERO }
    }

    /// Replaces the view by the one that was made of a list.
    pub fn replace(&mut self, list: ListedView) {
        let at = list.applying.rev;
        let listed = list.finish();
        self.current = listed.current;
        // The keys of tokens come from the settings, which may have changed since the list began.
        Arc::make_mut(&mut self.current.policy).keys = self.access.keys().to_vec();
        self.access.take_extras(listed.access);
        self.floor = at;
        self.gone = listed.gone;
        self.interest_chain = Chain::beginning_at(at);
        self.services_chain = Chain::beginning_at(at);
        self.history.restart(at);
        self.timeline.restart(at);
        self.publish();
    }

    /// Replaces the view by the list `items`, read at revision `at`.
    pub fn reset(&mut self, items: Vec<KeyValue>, at: Revision) {
        let mut list = self.list_at(at);
        items.into_iter().for_each(|kv| list.add(kv));
        self.replace(list);
    }
}

impl ListedView {
    /// Takes in a key of the list. Keys come in their order, each once.
    pub fn add(&mut self, kv: KeyValue) {
        let Self { writer, applying, held, changed } = self;
        let key = Key::parse(&kv.key);
        if key == Key::Other {
            return;
        }
        *changed = kv.mod_rev.max(*changed);
        match key {
            Key::Held(..) => held.push(kv),
            Key::Instance(service, id) => {
                let Some(reported) = writer.parse_instance(&service, &id, &kv) else { return };
                if writer.service_mut(&service).put_instance(reported).before.is_none() {
                    writer.tenant_mut(&service.tenant).instance_count += 1;
                }
            }
            Key::Override(service, id) => writer.apply_override(&service, &id, &kv, applying),
            key => writer.apply_put(&key, &kv, applying),
        }
        // Changes that would follow from all others of the revision follow from a list as well, and are not
        // wanted. Kept, they would take as much memory as the names of all services.
        let overridden = std::mem::take(&mut applying.affected).overridden;
        applying.affected = Affected { overridden, ..Affected::default() };
    }

    fn finish(self) -> ViewWriter {
        let Self { mut writer, mut applying, held, changed } = self;
        // Held instances come last: an instance that has registered again takes precedence over its record.
        for kv in held {
            writer.apply_put(&Key::parse(&kv.key), &kv, &mut applying);
        }
        // The keys of overrides come after those of instances, so only now each instance meets all of its
        // own.
        for service in std::mem::take(&mut applying.affected.overridden).into_keys() {
            writer.service_mut(&service).merge_again(None, None);
        }
        writer.current.revision = applying.rev;
        writer.current.changed = changed;
        applying.affected.services = void_services(&writer.current).collect();
        writer.drop_empty_services(&applying);
        writer
    }
}

fn void_services(snapshot: &Snapshot) -> impl Iterator<Item = ServiceRef> {
    snapshot.tenants.iter().flat_map(|(tenant, view)| {
        let void = view.services.iter().filter(|(_, service)| service.is_void());
        void.map(|(id, _)| ServiceRef::new(tenant.clone(), id))
    })
}

#[cfg(test)]
mod tests {
    use shared::clock::Clock;

    use super::*;
    use crate::view::{self, Protection};

    #[test]
    fn a_list_makes_no_event_of_what_it_shows() {
        let (writer, _view) = view::empty(History::new(10), Protection::default(), Clock::manual(1));
        let mut list = writer.list_at(9.into());
        let held = r#"{"instance":{"status":"UP"},"modRev":2,"since":3}"#;
        let records = [
            ("/cse-sr/inst/files/default/default/s/i", r#"{"status":"UP"}"#),
            ("/cse-sr/ms/files/default/default/s", r#"{"serviceName":"s","version":"1.0.0"}"#),
            ("/cse-sr/muster/held/default/default/s/h", held),
        ];
        for (key, value) in records {
            list.add(KeyValue {
                key: key.into(),
                value: value.into(),
                create_rev: 4.into(),
                mod_rev: 4.into(),
                version: 1,
                lease: None,
            });
        }
        assert!(list.applying.changes.is_empty(), "a million instances would take as many events");
        let listed = list.finish();
        assert_eq!(listed.timeline.len(), 0);
        let tenant = listed.current.tenants.values().next().expect("a tenant");
        assert_eq!((tenant.instance_count, tenant.services.size()), (2, 1));
    }
}
