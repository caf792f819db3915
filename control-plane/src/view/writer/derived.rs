//! Changes that follow from a revision: of consumers' interest and of tenants' services.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use proto::event::v1 as pb;
use shared::model::{ServiceKey, ServiceRef, Tenant};

use super::{Applying, ViewWriter};
use crate::view::history::Change;
use crate::view::interest::{self, Answer};
use crate::view::snapshot::Snapshot;

impl ViewWriter {
    /// Adds the changes of interest between `before` and the current state. Only consumers that the revision
    /// may concern are compared.
    pub(super) fn push_interest_changes(&mut self, before: &Snapshot, applying: &mut Applying) {
        for consumer in self.concerned_consumers(before, applying) {
            if let Some(mut change) = self.interest_change(before, &consumer, applying) {
                change.prev_rev = (self.interest_chain.link(consumer, applying.rev)).get();
                applying.changes.push(Change::Interest(Arc::new(change)));
            }
        }
    }

    /// The consumers whose interest the revision may have changed. Both states are searched: a rule that has
    /// just gone concerned consumers, and so does one that has just come.
    fn concerned_consumers(&self, before: &Snapshot, applying: &mut Applying) -> BTreeSet<ServiceRef> {
        let mut consumers = std::mem::take(&mut applying.affected.consumers);
        for (tenant, name) in &applying.affected.names {
            consumers.extend(interest::concerned(before, tenant, name));
            consumers.extend(interest::concerned(&self.current, tenant, name));
        }
        for (tenant, name, version) in &applying.affected.consumer_names {
            for snapshot in [before, &self.current] {
                let versions = snapshot.versions(tenant, name).iter().filter(|entry| entry.text == *version);
                consumers.extend(versions.map(|entry| ServiceRef::new(tenant.clone(), &entry.id)));
            }
        }
        consumers
    }

    fn interest_change(
        &self,
        before: &Snapshot,
        consumer: &ServiceRef,
        applying: &Applying,
    ) -> Option<pb::InterestChange> {
        let old = interest::answers(before, consumer);
        let new = interest::answers(&self.current, consumer);
        let consumer_deleted = old.is_some() && new.is_none();
        let old = old.unwrap_or_default();
        let new = new.unwrap_or_default();
        // A deleted consumer is a change even without providers: its watches have to end.
        if old == new && !consumer_deleted {
            return None;
        }
        // Gateways keep the answer of each recorded find. One that is answered otherwise, or is not recorded
        // any more, is a change even if the providers together are the same.
        let still: HashSet<&Answer> = new.iter().collect();
        let is_kept = old.iter().all(|answer| still.contains(answer));
        let old = interest::union(&old);
        let new = interest::union(&new);
        if is_kept && old == new && !consumer_deleted {
            return None;
        }
        let added: BTreeSet<ServiceRef> = new.difference(&old).cloned().collect();
        let shown = interest::shown(before, &self.current, consumer, &added);
        Some(pb::InterestChange {
            consumer: Some(consumer.into()),
            rev: applying.rev.get(),
            added: shown.iter().chain(added.difference(&shown)).map(Into::into).collect(),
            shown: u32::try_from(shown.len()).unwrap_or(u32::MAX),
            removed: old.difference(&new).map(Into::into).collect(),
            consumer_deleted,
            committed_at: applying.committed_at,
            ..pb::InterestChange::default()
        })
    }

    /// Adds, for each tenant, the services that came, went or got another name since `before`. Watchers of a
    /// scope need them.
    pub(super) fn push_services_changes(&mut self, before: &Snapshot, applying: &mut Applying) {
        let mut changes: BTreeMap<Tenant, pb::ServicesChange> = BTreeMap::new();
        for service in std::mem::take(&mut applying.affected.records) {
            let old = key_of(before, &service);
            let new = key_of(&self.current, &service);
            if old == new {
                continue;
            }
            let change = changes.entry(service.tenant.clone()).or_insert_with(|| pb::ServicesChange {
                domain: service.tenant.domain.clone(),
                project: service.tenant.project.clone(),
                rev: applying.rev.get(),
                committed_at: applying.committed_at,
                ..pb::ServicesChange::default()
            });
            match new {
                Some(key) => change
                    .added
                    .push(pb::NamedService { service: Some((&service).into()), key: Some((&*key).into()) }),
                None => change.removed.push((&service).into()),
            }
        }
        for (tenant, change) in changes {
            let prev_rev = self.services_chain.link(tenant, applying.rev);
            applying
                .changes
                .push(Change::Services(Arc::new(pb::ServicesChange { prev_rev: prev_rev.get(), ..change })));
        }
    }
}

fn key_of(snapshot: &Snapshot, service: &ServiceRef) -> Option<Arc<ServiceKey>> {
    snapshot.service(service).map(|(view, _)| view.key.clone())
}
