//! Providers that left a watcher's interest, for clients that resume from an earlier revision.
//!
//! In: the history. Out: the providers that left the interest of a consumer, or the services of a scope or a
//! list that left it, after a revision; each with the revision at which it left last. For a consumer also the
//! providers that came with instances which it does not know.

use std::collections::BTreeMap;

use proto::event::v1 as pb;
use shared::model::{Revision, Scope, ServiceRef};

use super::answer::InterestOf;
use crate::view::History;

/// The departures from one interest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Departures {
    /// Providers, with the revision at which each left last.
    pub providers: BTreeMap<ServiceRef, Revision>,
    /// Providers that came with instances which the consumer does not know, each with the revision of that.
    pub came: BTreeMap<ServiceRef, Revision>,
    /// Every departure after this revision is listed. It is later than the requested one when the history is
    /// short.
    pub complete_after: Revision,
}

/// The departures from an interest in (`since`, `until`].
pub fn of(history: &History, interest: &InterestOf, since: Revision, until: Revision) -> Departures {
    let mut came = BTreeMap::new();
    let providers = match interest {
        InterestOf::Consumer(consumer) => {
            let changes = of_consumer(history, consumer, since, until);
            came = changes.came;
            changes.left
        }
        InterestOf::Scope(scope) => of_scope(history, scope, since, until),
        InterestOf::Listed(tenant, ids) => {
            let mut left = of_scope(history, &Scope::all(tenant.clone()), since, until);
            left.retain(|service, _| ids.contains(&service.id));
            left
        }
    };
    // Read only after the changes: another thread may drop old ones in between, and then they must not count.
    Departures { providers, came, complete_after: since.max(history.complete_since()) }
}

/// The changes of a consumer's interest in (`since`, `until`]; `None` when the history is too short to tell.
pub fn changes(
    history: &History,
    consumer: &ServiceRef,
    since: Revision,
    until: Revision,
) -> Option<ConsumerChanges> {
    let changes = of_consumer(history, consumer, since, until);
    // Read only after the changes, as above.
    (since >= history.complete_since()).then_some(changes)
}

/// The changes of a consumer's interest, each provider with its last.
pub struct ConsumerChanges {
    /// The providers that left.
    pub left: BTreeMap<ServiceRef, Revision>,
    /// The providers that came with instances which the consumer does not know.
    pub came: BTreeMap<ServiceRef, Revision>,
}

fn of_consumer(
    history: &History,
    consumer: &ServiceRef,
    since: Revision,
    until: Revision,
) -> ConsumerChanges {
    let mut left = BTreeMap::new();
    let mut came = BTreeMap::new();
    for change in history.of_consumer(consumer, since, until) {
        let rev = Revision::new(change.rev);
        for provider in &change.removed {
            // A later departure replaces an earlier one: the client has to follow the provider up to the
            // last.
            left.insert(provider.clone().into(), rev);
        }
        came.extend(
            change.added.iter().take(change.shown as usize).cloned().map(|added| (added.into(), rev)),
        );
    }
    ConsumerChanges { left, came }
}

/// A service leaves a scope when it is deleted or renamed. Only services with an event under a name of the
/// scope are listed: a watcher never received anything about the others.
fn of_scope(
    history: &History,
    scope: &Scope,
    since: Revision,
    until: Revision,
) -> BTreeMap<ServiceRef, Revision> {
    let mut departed: BTreeMap<ServiceRef, Revision> = BTreeMap::new();
    for change in history.of_tenant(&scope.tenant, since, until) {
        let renamed = change.added.iter().filter_map(|named| renamed_out_of(scope, named));
        for service in change.removed.iter().cloned().chain(renamed) {
            departed.insert(service.into(), Revision::new(change.rev));
        }
    }
    departed.retain(|service, left_at| {
        let events = history.of_provider(service, since, until.min(*left_at));
        events.iter().any(|event| scope.matches(&event.key))
    });
    departed
}

/// The service, if its new name does not belong to the scope. It need not have belonged to it before.
fn renamed_out_of(scope: &Scope, named: &pb::NamedService) -> Option<pb::ServiceRef> {
    let key = named.key.clone()?.into();
    if scope.matches(&key) { None } else { named.service.clone() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::event::{Action, InstanceEvent, Position, Via};
    use shared::model::{Instance, ServiceKey, Tenant};

    use super::*;
    use crate::view::Change;

    fn service(id: &str) -> ServiceRef {
        ServiceRef::new(Tenant::default(), id)
    }

    fn refs(ids: &[&str]) -> Vec<pb::ServiceRef> {
        ids.iter().map(|id| (&service(id)).into()).collect()
    }

    fn interest(rev: Revision, consumer: &str, added: &[&str], removed: &[&str]) -> Change {
        Change::Interest(Arc::new(pb::InterestChange {
            consumer: Some((&service(consumer)).into()),
            rev: rev.get(),
            added: refs(added),
            removed: refs(removed),
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

    fn named(id: &str, app: &str) -> pb::NamedService {
        pb::NamedService { service: Some((&service(id)).into()), key: Some((&key(app)).into()) }
    }

    fn services(rev: Revision, renamed: &[(&str, &str)], removed: &[&str]) -> Change {
        let tenant = Tenant::default();
        Change::Services(Arc::new(pb::ServicesChange {
            domain: tenant.domain,
            project: tenant.project,
            rev: rev.get(),
            added: renamed.iter().map(|(id, app)| named(id, app)).collect(),
            removed: refs(removed),
            ..pb::ServicesChange::default()
        }))
    }

    fn departures(providers: &[(&str, Revision)], complete_after: Revision) -> Departures {
        let providers = providers.iter().map(|(id, rev)| (service(id), *rev)).collect();
        Departures { providers, came: BTreeMap::new(), complete_after }
    }

    #[test]
    fn each_provider_that_left_a_consumer_is_listed_once() {
        let history = History::holding(
            10.into(),
            vec![
                interest(11.into(), "c", &[], &["before"]),
                interest(12.into(), "c", &[], &["p", "q"]),
                interest(13.into(), "other", &[], &["theirs"]),
                interest(14.into(), "c", &["p"], &[]),
                interest(15.into(), "c", &[], &["p"]),
                interest(16.into(), "c", &[], &["after"]),
            ],
        );
        let of_c = InterestOf::Consumer(service("c"));
        assert_eq!(
            of(&history, &of_c, 11.into(), 15.into()),
            departures(&[("p", 15.into()), ("q", 12.into())], 11.into())
        );
        assert_eq!(of(&history, &of_c, 15.into(), 15.into()), departures(&[], 15.into()));
        let too_old = of(&history, &of_c, 7.into(), 15.into());
        assert_eq!(too_old.complete_after, 10.into(), "the history begins only here");
    }

    #[test]
    fn only_listed_services_are_listed_as_departed_from_a_list() {
        let changes = vec![
            event(11.into(), "mine", "shop"),
            event(11.into(), "theirs", "shop"),
            services(12.into(), &[], &["mine", "theirs"]),
        ];
        let history = History::holding(10.into(), changes);
        let of_list = InterestOf::Listed(Tenant::default(), ["mine".into(), "other".into()].into());
        let left = of(&history, &of_list, 10.into(), 12.into());
        assert_eq!(left, departures(&[("mine", 12.into())], 10.into()));
    }

    #[test]
    fn only_announced_services_are_listed_as_departed_from_a_scope() {
        let history = History::holding(
            10.into(),
            vec![
                event(11.into(), "gone", "shop"),
                services(11.into(), &[], &["gone", "idle"]),
                event(12.into(), "foreign", "bank"),
                services(12.into(), &[], &["foreign"]),
                event(13.into(), "renamed", "shop"),
                services(14.into(), &[("renamed", "bank")], &[]),
                event(15.into(), "renamed", "bank"),
                services(16.into(), &[("came", "shop")], &[]),
            ],
        );
        let shop = Scope { app_id: Some("shop".into()), ..Scope::all(Tenant::default()) };
        let of_shop = InterestOf::Scope(shop);
        assert_eq!(
            of(&history, &of_shop, 10.into(), 16.into()),
            departures(&[("gone", 11.into()), ("renamed", 14.into())], 10.into())
        );
        assert_eq!(
            of(&history, &of_shop, 13.into(), 16.into()),
            departures(&[], 13.into()),
            "no event after 13 was under a name of the scope"
        );
    }
}
