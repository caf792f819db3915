//! Whether what the model's watchers were told is what happened in its store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control_plane::keys;
use control_plane::store::KvEvent;
use shared::event::{Action, Position};
use shared::model::{Revision, ServiceRef};

use super::{SERVICES, Sim, service};
use crate::push::Push;

impl Sim {
    /// In order, nothing twice, and the end is the store's state. When all questions were answered by events,
    /// each change that the store made is told, but of services that were deleted: they may have come and gone
    /// unheard, with all that they had.
    pub(super) fn judge(&self) -> Result<(), String> {
        let opened = self.opened.ok_or("never opened")?;
        self.judge_told(&self.told, opened, !self.merged)?;
        if !self.merged {
            self.judge_complete(&self.told, opened)?;
        }
        self.resumed.iter().try_for_each(|it| self.judge_resumed(it))
    }

    /// What was told to one that had everything up to `from`; whether what it had is held against it.
    pub(super) fn judge_told(&self, told: &[Arc<Push>], from: Revision, knows: bool) -> Result<(), String> {
        for number in 0..SERVICES {
            let provider = service(number);
            let told: Vec<&Push> = told
                .iter()
                .map(|push| &**push)
                .filter(|push| push.instance.service_id == provider.id)
                .collect();
            let places: Vec<Position> = told.iter().map(|push| push.at).collect();
            if !places.is_sorted() {
                return Err(format!("{provider}: out of order: {places:?}"));
            }
            let changes: Vec<Position> =
                told.iter().filter(|push| push.committed_at > 0).map(|push| push.at).collect();
            if !changes.is_sorted_by(|a, b| a < b) {
                return Err(format!("{provider}: told twice: {changes:?}"));
            }
            // What was there before, a client has pulled, or been told before it went away. A gateway that was answered
            // by states from the beginning does not know what that was: an instance that was there then, and is not in
            // the first state, it cannot tell of.
            let had = if knows { self.at(&provider, from) } else { BTreeMap::new() };
            let mut known: BTreeMap<&str, &str> = had.iter().map(|(id, host)| (&**id, &**host)).collect();
            let mut heard: BTreeSet<&str> = BTreeSet::new();
            for push in &told {
                let (id, host) = (&*push.instance.instance_id, &*push.instance.host_name);
                let before = match push.action {
                    Action::Delete => known.remove(id),
                    _ => known.insert(id, host),
                };
                // Of the first that is told of it, it is not known what was before.
                let again = match push.action {
                    Action::Delete => before.is_none() && heard.contains(id),
                    _ => before == Some(host),
                };
                if again {
                    return Err(format!(
                        "{provider}/{id}: {:?} {host} told again at {:?}",
                        push.action, push.at
                    ));
                }
                heard.insert(id);
            }
            let view = self.replicas[0].view.now().expect("listed");
            let there = view.service(&provider).map(|(view, _)| view.instances.clone()).unwrap_or_default();
            for id in ["0", "1"] {
                let is = there.get(id).map(|it| (it.mod_rev, it.instance.host_name.as_str()));
                let right = match is {
                    // Written before the watch began: not told, or told again.
                    Some((rev, host)) if !knows && rev <= from => {
                        known.get(id).is_none_or(|told| *told == host)
                    }
                    _ => is.map(|(_, host)| host) == known.get(id).copied(),
                };
                if !right {
                    return Err(format!("{provider}/{id}: is {is:?}, told {:?}", known.get(id)));
                }
            }
        }
        Ok(())
    }

    /// The instances of a provider at a revision, each with the host that was written.
    fn at(&self, provider: &ServiceRef, rev: Revision) -> BTreeMap<String, String> {
        let mut there = BTreeMap::new();
        for event in self.log.iter().flatten().take_while(|event| event.rev() <= rev) {
            let keys::Key::Instance(service, id) = keys::Key::parse(event.key()) else { continue };
            if service == *provider {
                match event {
                    KvEvent::Put(_) => _ = there.insert(id, event.rev().to_string()),
                    KvEvent::Delete { .. } => _ = there.remove(&id),
                }
            }
        }
        there
    }

    /// Each change after `from` was told, but of services that were deleted.
    pub(super) fn judge_complete(&self, told: &[Arc<Push>], from: Revision) -> Result<(), String> {
        let told: BTreeSet<(Revision, &str)> =
            told.iter().map(|push| (push.at.rev, &*push.instance.instance_id)).collect();
        for event in self.log.iter().flatten().filter(|event| event.rev() > from) {
            let keys::Key::Instance(_, id) = keys::Key::parse(event.key()) else { continue };
            if !told.contains(&(event.rev(), &*id)) && !self.ends_after(event) {
                return Err(format!("{} at {} was not told", event.key(), event.rev()));
            }
        }
        Ok(())
    }

    /// The service that it is of is deleted then or later.
    fn ends_after(&self, event: &KvEvent) -> bool {
        let keys::Key::Instance(service, _) = keys::Key::parse(event.key()) else { return false };
        let record = keys::service(&service);
        let ends = |it: &KvEvent| {
            it.rev() >= event.rev() && it.key() == record && matches!(it, KvEvent::Delete { .. })
        };
        self.log.iter().flatten().any(ends)
    }
}
