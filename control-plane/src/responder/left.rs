//! Whom a watcher was told of once and is not any more: for who resumes from before that.
//!
//! In: what happened lately. Out: the providers that left the interest of a consumer or the scope of an observer
//! after a revision, each with when it did last, and from which revision on they are all known.

use std::collections::{BTreeMap, HashSet};

use proto::event::v1 as pb;
use shared::model::{Revision, Scope, ServiceRef};

use super::{chunks, numbered};
use crate::view::{Change, History};

/// Who left, and from where on that is complete.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Providers, with the revision at which each was left last.
    pub providers: BTreeMap<ServiceRef, Revision>,
    /// Everyone who left after this revision is named.
    pub after: Revision,
}

/// The providers that left the consumer's interest in (since, until].
pub fn by_consumer(history: &History, consumer: &ServiceRef, since: Revision, until: Revision) -> Left {
    let told = pb::ServiceRef::from(consumer);
    let changes = history.since(
        since,
        until,
        |change| matches!(change, Change::Interest(change) if change.consumer.as_ref() == Some(&told)),
    );
    let mut left = Left::default();
    for change in changes.changes {
        let Change::Interest(change) = change else { continue };
        for provider in &change.removed {
            left.providers.insert(provider.clone().into(), change.rev);
        }
    }
    left.reaching(history, since)
}

/// The services that left the scope in (since, until] and of which there is something to tell: those whose
/// instances changed under a name that belongs to it.
pub fn by_scope(history: &History, scope: &Scope, since: Revision, until: Revision) -> Left {
    let changes = history.since(since, until, |change| {
        matches!(change, Change::Services(change)
            if change.domain == scope.tenant.domain && change.project == scope.tenant.project)
    });
    let mut candidates: BTreeMap<ServiceRef, Revision> = BTreeMap::new();
    for change in changes.changes {
        let Change::Services(change) = change else { continue };
        let renamed = change.added.iter().filter_map(|it| {
            let key = it.key.clone()?;
            (!scope.matches(&key.into())).then(|| it.service.clone()).flatten()
        });
        for service in change.removed.iter().cloned().chain(renamed) {
            candidates.insert(service.into(), change.rev);
        }
    }
    let events = history.since(since, until, |change| {
        matches!(change, Change::Instance(event)
            if candidates.get(&event.provider).is_some_and(|left| event.at.rev <= *left)
                && scope.matches(&event.key))
    });
    let told: HashSet<&ServiceRef> = events
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Instance(event) => Some(&event.provider),
            Change::Interest(_) | Change::Services(_) => None,
        })
        .collect();
    candidates.retain(|service, _| told.contains(service));
    Left { providers: candidates, after: 0 }.reaching(history, since)
}

impl Left {
    /// Notes how far back the history reached when it had been read: what was forgotten meanwhile counts as
    /// forgotten.
    fn reaching(self, history: &History, since: Revision) -> Self {
        Self { after: since.max(history.complete_since()), ..self }
    }

    /// The answer, in messages that the bus takes.
    pub(super) fn parts(self, rev: Revision) -> Vec<pb::InterestReply> {
        let left = |(provider, rev): (&ServiceRef, &Revision)| pb::Left {
            provider: Some(provider.into()),
            rev: *rev,
        };
        let left: Vec<pb::Left> = self.providers.iter().map(left).collect();
        numbered(chunks(&left).map(|chunk| pb::InterestReply {
            exists: true,
            rev,
            left: chunk.to_vec(),
            left_after: Some(self.after),
            ..pb::InterestReply::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::event::{Action, InstanceEvent, Position, Via};
    use shared::model::{Instance, ServiceKey, Tenant};

    use super::*;

    fn service(id: &str) -> ServiceRef {
        ServiceRef::new(Tenant::default(), id)
    }

    fn interest(rev: Revision, consumer: &str, added: &[&str], removed: &[&str]) -> Change {
        let named = |ids: &[&str]| ids.iter().map(|id| (&service(id)).into()).collect();
        Change::Interest(Arc::new(pb::InterestChange {
            consumer: Some((&service(consumer)).into()),
            rev,
            added: named(added),
            removed: named(removed),
            ..pb::InterestChange::default()
        }))
    }

    fn key(app: &str) -> ServiceKey {
        ServiceKey { app_id: app.into(), ..ServiceKey::default() }
    }

    fn event(rev: Revision, provider: &str, app: &str) -> Change {
        Change::Instance(Arc::new(InstanceEvent {
            provider: service(provider),
            at: Position::first_of(rev),
            prev: Position::default(),
            action: Action::Delete,
            key: Arc::new(key(app)),
            instance: Arc::new(Instance::default()),
            mod_rev: rev,
            committed_at: 0,
            via: Via::default(),
        }))
    }

    fn services(rev: Revision, renamed: &[(&str, &str)], removed: &[&str]) -> Change {
        let tenant = Tenant::default();
        let named = |(id, app): &(&str, &str)| pb::NamedService {
            service: Some((&service(id)).into()),
            key: Some((&key(app)).into()),
        };
        Change::Services(Arc::new(pb::ServicesChange {
            domain: tenant.domain,
            project: tenant.project,
            rev,
            added: renamed.iter().map(named).collect(),
            removed: removed.iter().map(|id| (&service(id)).into()).collect(),
            ..pb::ServicesChange::default()
        }))
    }

    fn left(providers: &[(&str, Revision)], after: Revision) -> Left {
        Left { providers: providers.iter().map(|(id, rev)| (service(id), *rev)).collect(), after }
    }

    #[test]
    fn who_left_a_consumer_since_is_named_with_the_last_time_and_nobody_elses() {
        let history = History::holding(
            10,
            vec![
                interest(11, "c", &[], &["before"]),
                interest(12, "c", &[], &["p", "q"]),
                interest(13, "other", &[], &["theirs"]),
                interest(14, "c", &["p"], &[]),
                interest(15, "c", &[], &["p"]),
                interest(16, "c", &[], &["after"]),
            ],
        );
        let c = service("c");
        assert_eq!(by_consumer(&history, &c, 11, 15), left(&[("p", 15), ("q", 12)], 11));
        assert_eq!(by_consumer(&history, &c, 15, 15), left(&[], 15));
        let forgotten = by_consumer(&history, &c, 7, 15);
        assert_eq!(forgotten.after, 10, "it is admitted that history does not reach so far");
    }

    #[test]
    fn who_left_a_scope_is_named_when_its_instances_changed_as_part_of_it() {
        let history = History::holding(
            10,
            vec![
                event(11, "gone", "shop"),
                services(11, &[], &["gone", "idle"]),
                event(12, "foreign", "bank"),
                services(12, &[], &["foreign"]),
                event(13, "renamed", "shop"),
                services(14, &[("renamed", "bank")], &[]),
                event(15, "renamed", "bank"),
                services(16, &[("came", "shop")], &[]),
            ],
        );
        let shop = Scope { app_id: Some("shop".into()), ..Scope::all(Tenant::default()) };
        assert_eq!(by_scope(&history, &shop, 10, 16), left(&[("gone", 11), ("renamed", 14)], 10));
        assert_eq!(by_scope(&history, &shop, 13, 16), left(&[], 13), "nothing of it is told after 13");
    }

    #[test]
    fn many_who_left_are_told_in_parts() {
        let providers = (0..2001).map(|n| (service(&n.to_string()), 9)).collect();
        let parts = Left { providers, after: 4 }.parts(12);
        let shape: Vec<_> =
            parts.iter().map(|it| (it.part, it.left.len(), it.more, it.left_after, it.rev)).collect();
        assert_eq!(shape, [(0, 2000, true, Some(4), 12), (1, 1, false, Some(4), 12)]);
        let nobody = Left { after: 4, ..Left::default() }.parts(12);
        assert_eq!(nobody.iter().map(|it| (it.left.len(), it.more)).collect::<Vec<_>>(), [(0, false)]);
    }
}
