//! The judgement: were the deliveries what happened in the store?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control_plane::keys;
use control_plane::store::KvEvent;
use follow::Push;
use shared::event::{Action, Position};
use shared::model::{Revision, ServiceRef};

use super::{SERVICES, Sim, service};

impl Sim {
    /// Everything is in order, nothing comes twice, and the end is the store's state. When all questions were
    /// answered with events, each change of the store was delivered, except changes of services that were
    /// deleted: they may have come and gone unnoticed, with all of their instances.
    pub(super) fn judge(&self) -> Result<(), String> {
        if let Some(consumer) = &self.consumer {
            consumer.judge_stayed(self.merged)?;
            consumer.judge_reads()?;
            self.judge_once()?;
            return self.resumed.iter().try_for_each(|session| session.judge_known(consumer, self.merged));
        }
        let opened = self.opened.ok_or("the group never opened")?;
        self.judge_order(&self.delivered, opened, !self.merged)?;
        if !self.merged {
            self.judge_complete(&self.delivered, opened)?;
        }
        for session in &self.resumed {
            self.judge_resumed(session)?;
        }
        Ok(())
    }

    /// Judges that no event was delivered twice, even of a provider that left and came back.
    fn judge_once(&self) -> Result<(), String> {
        let mut told = BTreeSet::new();
        for push in self.delivered.iter().filter(|push| !push.is_difference()) {
            let instance = &push.instance;
            if !told.insert((&instance.service_id, push.at)) {
                let id = &instance.instance_id;
                return Err(format!("{}/{id}: the event at {:?} came twice", instance.service_id, push.at));
            }
        }
        Ok(())
    }

    /// Judges the order of the deliveries to a client that has everything up to `from`, and the state that
    /// they lead to. The state at `from` only counts if `knows_state`: a gateway whose first replies were
    /// states does not know what its clients have, and cannot report an instance that was there before and is
    /// not in the first state.
    pub(super) fn judge_order(
        &self,
        delivered: &[Arc<Push>],
        from: Revision,
        knows_state: bool,
    ) -> Result<(), String> {
        for number in 0..SERVICES {
            let provider = service(number);
            let pushes: Vec<&Push> = delivered
                .iter()
                .map(|push| &**push)
                .filter(|push| push.instance.service_id == provider.id)
                .collect();
            check_positions(&pushes).map_err(|error| format!("{provider}: {error}"))?;
            let before = if knows_state { self.state_at(&provider, from) } else { BTreeMap::new() };
            let known = apply(&pushes, &before).map_err(|error| format!("{provider}/{error}"))?;
            self.compare_with_store(&provider, &known, from, knows_state)?;
        }
        Ok(())
    }

    fn compare_with_store(
        &self,
        provider: &ServiceRef,
        known: &BTreeMap<&str, &str>,
        from: Revision,
        knows_state: bool,
    ) -> Result<(), String> {
        // At rest every replica has followed the whole store, so any of them stands for it.
        let view = self.replicas[0].view.now().expect("the replica has listed the store");
        let stored = view.service(provider).map(|(view, _)| view.instances.clone()).unwrap_or_default();
        // The dice only ever write these two instances.
        for id in ["0", "1"] {
            let stored = stored.get(id).map(|stored| (stored.mod_rev, stored.instance.unpack().host_name));
            let is_right = match &stored {
                // Written before the watch began, it may or may not have been delivered.
                Some((written_at, host)) if !knows_state && *written_at <= from => {
                    known.get(id).is_none_or(|known| *known == host)
                }
                _ => stored.as_ref().map(|(_, host)| host.as_str()) == known.get(id).copied(),
            };
            if !is_right {
                return Err(format!(
                    "{provider}/{id}: the store has {stored:?}, the client {:?}",
                    known.get(id)
                ));
            }
        }
        Ok(())
    }

    /// The instances of a provider at a revision, each with the host name that was written.
    fn state_at(&self, provider: &ServiceRef, rev: Revision) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for event in self.log.iter().flatten().take_while(|event| event.rev() <= rev) {
            let keys::Key::Instance(service, id) = keys::Key::parse(event.key()) else { continue };
            if service == *provider {
                match event {
                    KvEvent::Put(_) => _ = state.insert(id, event.rev().to_string()),
                    KvEvent::Delete { .. } => _ = state.remove(&id),
                }
            }
        }
        state
    }

    /// Judges that each change after `from` was delivered, except changes of services that were deleted.
    pub(super) fn judge_complete(&self, delivered: &[Arc<Push>], from: Revision) -> Result<(), String> {
        let delivered: BTreeSet<(Revision, &str)> =
            delivered.iter().map(|push| (push.at.rev, &*push.instance.instance_id)).collect();
        for event in self.log.iter().flatten().filter(|event| event.rev() > from) {
            let keys::Key::Instance(service, id) = keys::Key::parse(event.key()) else { continue };
            let was_delivered = delivered.contains(&(event.rev(), &*id));
            if !was_delivered && !self.is_deleted_since(&service, event.rev()) {
                return Err(format!("{} at {} was not delivered", event.key(), event.rev()));
            }
        }
        Ok(())
    }

    /// True when the service was deleted at or after a revision.
    fn is_deleted_since(&self, service: &ServiceRef, rev: Revision) -> bool {
        let record = keys::service(service);
        self.log.iter().flatten().any(|event| {
            event.rev() >= rev && event.key() == record && matches!(event, KvEvent::Delete { .. })
        })
    }
}

/// Positions never go back, and no event comes twice. Differences may share a position.
fn check_positions(pushes: &[&Push]) -> Result<(), String> {
    let positions: Vec<Position> = pushes.iter().map(|push| push.at).collect();
    if !positions.is_sorted() {
        return Err(format!("out of order: {positions:?}"));
    }
    let events: Vec<Position> =
        pushes.iter().filter(|push| !push.is_difference()).map(|push| push.at).collect();
    if !events.is_sorted_by(|a, b| a < b) {
        return Err(format!("delivered twice: {events:?}"));
    }
    Ok(())
}

/// Applies pushes to a state, as a client does. No push may repeat what the client has.
fn apply<'a>(
    pushes: &[&'a Push],
    before: &'a BTreeMap<String, String>,
) -> Result<BTreeMap<&'a str, &'a str>, String> {
    let mut known: BTreeMap<&str, &str> = before.iter().map(|(id, host)| (&**id, &**host)).collect();
    let mut mentioned: BTreeSet<&str> = BTreeSet::new();
    for push in pushes {
        let id = &*push.instance.instance_id;
        let host = &*push.instance.host_name;
        let previous = match push.action {
            Action::Delete => known.remove(id),
            Action::Create | Action::Update => known.insert(id, host),
        };
        // The state before the first push about an instance may be unknown, so the first delete proves
        // nothing.
        let is_repeated = match push.action {
            Action::Delete => previous.is_none() && mentioned.contains(id),
            Action::Create | Action::Update => previous == Some(host),
        };
        if is_repeated {
            return Err(format!("{id}: {:?} {host} repeated at {:?}", push.action, push.at));
        }
        mentioned.insert(id);
    }
    Ok(known)
}
