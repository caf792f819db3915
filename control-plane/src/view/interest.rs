//! Interest: the providers whose changes concern a consumer.
//!
//! They are the services that would answer the finds that the consumer has made. A find is recorded as a
//! dependency rule or, where no rule can stand for it, as a wanted name.

use std::collections::BTreeSet;

use shared::model::{Scope, Service, ServiceKey, ServiceRef, Tenant};

use super::finds::{Asker, Find};
use super::snapshot::{Snapshot, select};
use crate::keys::Name;
use crate::version::VersionRule;

/// The interest of a consumer, or `None` when the consumer does not exist.
pub fn providers(snapshot: &Snapshot, consumer: &ServiceRef) -> Option<BTreeSet<ServiceRef>> {
    let answers = answers(snapshot, consumer)?;
    Some(answers.into_iter().filter_map(|answer| answer.services).flatten().collect())
}

/// A recorded find with the services that answer it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The find.
    pub find: Find,
    /// The services that answer, newest version first. `None` for a find that is refused.
    pub services: Option<Vec<ServiceRef>>,
}

/// The answers to the recorded finds of a consumer, or `None` when the consumer does not exist.
pub fn answers(snapshot: &Snapshot, consumer: &ServiceRef) -> Option<Vec<Answer>> {
    let (view, service) = snapshot.service(consumer)?;
    let asker = Asker { service, tags: &view.tags };
    let answer = |find: Find| {
        let services = find.is_answered(snapshot).then(|| {
            let services = find.services(snapshot, Some(asker));
            services.map(|(provider, _)| provider).collect()
        });
        Answer { find, services }
    };
    Some(recorded(snapshot, consumer, service).into_iter().map(answer).collect())
}

/// True when the consumer has recorded a find that is answered as `given` is, so that its interest changes
/// with that answer.
pub fn vouches_for(snapshot: &Snapshot, consumer: &ServiceRef, given: &Answer) -> bool {
    let Some((view, service)) = snapshot.service(consumer) else { return false };
    let asker = Asker { service, tags: &view.tags };
    recorded(snapshot, consumer, service).into_iter().any(|find| {
        let Find { tenant, name, versions, by_alias } = &given.find;
        let is_same = find.tenant == *tenant && find.name == *name && find.versions == *versions;
        // One may look for an alias and the other not, as long as both are answered by name. With nothing
        // they would not go on to be: when the name goes, a find that looks for an alias may still be
        // answered with nothing, and one that does not is refused.
        let is_by_name =
            *by_alias || !find.by_alias || given.services.as_ref().is_some_and(|s| !s.is_empty());
        is_same
            && is_by_name
            && find.is_answered(snapshot) == given.services.is_some()
            && find.services(snapshot, Some(asker)).map(|(provider, _)| provider).eq(given
                .services
                .iter()
                .flatten()
                .cloned())
    })
}

/// The providers that some finds answer.
pub fn union(answers: &[Answer]) -> BTreeSet<ServiceRef> {
    answers.iter().filter_map(|answer| answer.services.as_ref()).flatten().cloned().collect()
}

/// Those of the providers in `added` whose instances the consumer does not know: they were there in `before`,
/// and a find that was recorded then answers them only now. What a new find answers, its reply has shown.
pub fn shown(
    before: &Snapshot,
    now: &Snapshot,
    consumer: &ServiceRef,
    added: &BTreeSet<ServiceRef>,
) -> BTreeSet<ServiceRef> {
    // The instances of all others have events that the consumer is told of anyway.
    let had_instances =
        |provider: &&ServiceRef| before.service(provider).is_some_and(|(view, _)| !view.instances.is_empty());
    let candidates: BTreeSet<&ServiceRef> = added.iter().filter(had_instances).collect();
    let mut found = BTreeSet::new();
    let (Some((_, earlier)), Some((view, service))) = (before.service(consumer), now.service(consumer))
    else {
        return found;
    };
    if candidates.is_empty() {
        return found;
    }
    let known = recorded(before, consumer, earlier);
    let asker = Asker { service, tags: &view.tags };
    for find in recorded(now, consumer, service) {
        let services = find.services(now, Some(asker)).map(|(provider, _)| provider);
        let answered: Vec<ServiceRef> = services.filter(|provider| candidates.contains(provider)).collect();
        if !answered.is_empty() && known.contains(&find) {
            found.extend(answered);
        }
    }
    found
}

/// The finds that a consumer's dependency rules and wanted names stand for.
fn recorded(snapshot: &Snapshot, consumer: &ServiceRef, service: &Service) -> Vec<Find> {
    let Some(tenant) = snapshot.tenant(&consumer.tenant) else { return Vec::new() };
    let name = Name::new(&service.environment, &service.app_id, &service.service_name);
    let rules = tenant.consumer_rules.get(&(name, service.version.clone()));
    let wanted = tenant.wanted.get(&consumer.id);
    let mut finds = Vec::new();
    for rule in rules.into_iter().flat_map(|rules| rules.keys.iter()) {
        let tenant = Tenant::parse(&rule.tenant).unwrap_or_else(|| consumer.tenant.clone());
        if rule.service_name == "*" {
            // A rule for all services means those of the consumer's own environment.
            let names = snapshot.tenant(&tenant).into_iter().flat_map(|view| view.names.keys());
            for name in names.filter(|name| name.environment == service.environment) {
                let (tenant, name) = (tenant.clone(), name.clone());
                finds.push(Find { tenant, name, versions: VersionRule::ALL, by_alias: false });
            }
            continue;
        }
        let name = Name::new(&rule.environment, &rule.app_id, &rule.service_name);
        finds.push(Find { tenant, name, versions: version_rule(&rule.version), by_alias: true });
    }
    for ((tenant, name), versions) in wanted.into_iter().flat_map(|wanted| wanted.iter()) {
        let (tenant, name) = (tenant.clone(), name.clone());
        finds.push(Find { tenant, name, versions: version_rule(versions), by_alias: true });
    }
    finds
}

/// A stored version rule. Newer Service-Center nodes leave the version out of a rule for all versions.
fn version_rule(text: &str) -> VersionRule {
    VersionRule::parse(text).unwrap_or(VersionRule::ALL)
}

/// The services of a scope.
pub fn scoped(snapshot: &Snapshot, scope: &Scope) -> BTreeSet<ServiceRef> {
    let services = snapshot.tenant(&scope.tenant).into_iter().flat_map(|tenant| tenant.services.iter());
    services
        .filter(|(_, view)| view.service.is_some() && scope.matches(&view.key))
        .map(|(id, _)| ServiceRef::new(scope.tenant.clone(), id))
        .collect()
}

/// Those of some services of a tenant that are registered.
pub fn listed(snapshot: &Snapshot, tenant: &Tenant, ids: &BTreeSet<String>) -> BTreeSet<ServiceRef> {
    let services = ids.iter().map(|id| ServiceRef::new(tenant.clone(), id));
    services.filter(|service| snapshot.service(service).is_some()).collect()
}

/// The services that a dependency rule of `consumer` names, regardless of access. `own` is the consumer's
/// tenant.
pub fn matching(
    snapshot: &Snapshot,
    own: &Tenant,
    consumer: &Service,
    rule: &ServiceKey,
) -> BTreeSet<ServiceRef> {
    let mut found = BTreeSet::new();
    let tenant = Tenant::parse(&rule.tenant).unwrap_or_else(|| own.clone());
    if rule.service_name == "*" {
        let Some(view) = snapshot.tenant(&tenant) else { return found };
        for (name, versions) in view.names.iter() {
            // A rule for all services means those of the consumer's own environment.
            if name.environment == consumer.environment {
                found.extend(versions.iter().map(|v| ServiceRef::new(tenant.clone(), &v.id)));
            }
        }
        return found;
    }
    let name = Name::new(&rule.environment, &rule.app_id, &rule.service_name);
    let version = version_rule(&rule.version);
    let versions = snapshot.versions(&tenant, &name);
    found.extend(select(versions, &version).map(|v| ServiceRef::new(tenant.clone(), &v.id)));
    found
}

/// The consumers that a change of the versions of `name`, or of access to them, may concern.
pub fn concerned(snapshot: &Snapshot, tenant: &Tenant, name: &Name) -> BTreeSet<ServiceRef> {
    let mut found = BTreeSet::new();
    // Regardless of versions: a consumer too many costs one comparison, one too few would miss a change.
    if let Some(view) = snapshot.tenant(tenant) {
        let by_name = view.provider_rules.get(name).into_iter().flat_map(|rules| rules.values());
        let by_all = view.provider_rules_all.get(&name.environment);
        for set in by_name.chain(by_all) {
            found.extend(set.keys.iter().filter_map(|consumer| snapshot.by_key(consumer)));
        }
    }
    if let Some(wanting) = snapshot.wanted.get(&(tenant.clone(), name.clone())) {
        found.extend(wanting.iter().cloned());
    }
    found
}
