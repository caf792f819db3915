//! Where what one plane knows contradicts what another knows, although changes go on while they are asked.
//!
//! ```text
//! reference asked ─▶ theirs asked, until it has everything up to there ─▶ reference asked again, until it has theirs
//! ```
//!
//! The revision that wrote an entry last tells the rest: what was written before the first look and is still there at
//! the last one was there all the time, so theirs must have it; what theirs has from before the first look, the
//! reference must have had then. What changed in between proves nothing and is left out.

use std::collections::{HashMap, HashSet};

use host::inventory::{Known, Plane};
use serde::Serialize;
use shared::model::Revision;

/// An instance, or with `None` the record of a service.
type Entry<'a> = (&'a str, &'a str, Option<&'a str>);

/// Something that one process knows otherwise than the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Difference {
    /// Who differs.
    pub(super) process: String,
    /// Domain and project.
    pub(super) tenant: String,
    /// Application, name and version; the id where no name is known.
    pub(super) service: String,
    /// `None`: the record of the service.
    pub(super) instance: Option<String>,
    /// The revision that wrote it last, as it knows it; `None` when it does not have it.
    pub(super) has: Option<Revision>,
    /// The same as the reference knows it.
    pub(super) expected: Option<Revision>,
}

/// What `theirs` knows otherwise than the reference, which was asked before (`first`) and after (`last`).
pub(super) fn compare(process: &str, first: &Known, theirs: &Known, last: &Known) -> Vec<Difference> {
    // A gateway knows what its watchers follow: other services are not missing, and records it does not know.
    let partial = [first, theirs].iter().any(|it| it.plane == Plane::EdgeGateway);
    let names = names([first, theirs, last]);
    let [first_all, theirs_all, last_all] = [first, theirs, last].map(|it| entries(it, partial));
    let [of_first, of_theirs, of_last] = [first, theirs, last].map(followed);
    let follows = |followed: &Option<HashSet<(&str, &str)>>, (tenant, id, _): &Entry<'_>| {
        followed.as_ref().is_none_or(|it| it.contains(&(*tenant, *id)))
    };
    let mut found = Vec::new();
    let mut differs = |entry: &Entry<'_>, has: Option<Revision>, expected: Option<Revision>| {
        let (tenant, id, instance) = *entry;
        found.push(Difference {
            process: process.to_owned(),
            tenant: tenant.to_owned(),
            service: names.get(&(tenant, id)).copied().unwrap_or(id).to_owned(),
            instance: instance.map(str::to_owned),
            has,
            expected,
        });
    };
    for (entry, before) in &first_all {
        let (has, after) = (theirs_all.get(entry).copied(), last_all.get(entry).copied());
        let unchanged = after == Some(*before);
        if unchanged && has != Some(*before) && (has.is_some() || follows(&of_theirs, entry)) {
            differs(entry, has, after);
        }
    }
    for (entry, has) in &theirs_all {
        let (before, after) = (first_all.get(entry).copied(), last_all.get(entry).copied());
        if before == after && before.is_some() {
            continue; // Judged above.
        }
        let never_was = *has <= first.revision && before != Some(*has);
        let is_ahead = after.is_some_and(|after| after < *has) && last.revision >= *has;
        if (never_was || is_ahead) && follows(&of_first, entry) && follows(&of_last, entry) {
            differs(entry, Some(*has), after.or(before));
        }
    }
    found.sort_by(|a, b| (&a.service, &a.instance).cmp(&(&b.service, &b.instance)));
    found
}

/// The services that a gateway follows; `None` for a control plane, which knows all.
fn followed(known: &Known) -> Option<HashSet<(&str, &str)>> {
    let all = || known.services.iter().map(|it| (it.tenant.as_str(), it.id.as_str())).collect();
    (known.plane == Plane::EdgeGateway).then(all)
}

fn entries(known: &Known, instances_only: bool) -> HashMap<Entry<'_>, Revision> {
    let mut entries = HashMap::new();
    for service in &known.services {
        let (tenant, id) = (service.tenant.as_str(), service.id.as_str());
        if !instances_only && service.revision > 0 {
            entries.insert((tenant, id, None), service.revision);
        }
        entries.extend(service.instances.iter().map(|(it, rev)| ((tenant, id, Some(it.as_str())), *rev)));
    }
    entries
}

fn names(all: [&Known; 3]) -> HashMap<(&str, &str), &str> {
    let services = all.into_iter().flat_map(|known| &known.services);
    let named = services.filter(|it| !it.name.is_empty());
    named.map(|it| ((it.tenant.as_str(), it.id.as_str()), it.name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use host::inventory::KnownService;

    use super::*;

    /// A plane at a revision that knows the service `s`, written at 2, with these instances.
    fn plane(plane: Plane, revision: Revision, instances: &[(&str, Revision)]) -> Known {
        let service = KnownService {
            tenant: "default/default".to_owned(),
            id: "s".to_owned(),
            name: "shop/order 1.0.0".to_owned(),
            revision: if plane == Plane::ControlPlane { 2 } else { 0 },
            instances: instances.iter().map(|(id, rev)| ((*id).to_owned(), *rev)).collect(),
        };
        Known { plane, revision, services: vec![service] }
    }

    fn control(revision: Revision, instances: &[(&str, Revision)]) -> Known {
        plane(Plane::ControlPlane, revision, instances)
    }

    fn edge(revision: Revision, instances: &[(&str, Revision)]) -> Known {
        plane(Plane::EdgeGateway, revision, instances)
    }

    type Short = (Option<String>, Option<Revision>, Option<Revision>);

    fn found(first: &Known, theirs: &Known, last: &Known) -> Vec<Short> {
        let found = compare("them", first, theirs, last);
        found.into_iter().map(|it| (it.instance, it.has, it.expected)).collect()
    }

    fn one(instance: &str, has: Option<Revision>, expected: Option<Revision>) -> Vec<Short> {
        vec![(Some(instance.to_owned()), has, expected)]
    }

    #[test]
    fn the_same_is_no_difference_and_a_gateway_need_not_follow_everything() {
        let all = control(9, &[("a", 4), ("b", 9)]);
        assert_eq!(found(&all, &all, &all), []);
        assert_eq!(found(&all, &edge(9, &[("a", 4), ("b", 9)]), &all), []);
        let nothing = Known { services: Vec::new(), ..edge(9, &[]) };
        assert_eq!(found(&all, &nothing, &all), []);
        let nothing = Known { plane: Plane::ControlPlane, ..nothing };
        assert_eq!(found(&all, &nothing, &all).len(), 3, "a control plane must know all");
    }

    #[test]
    fn what_is_missing_old_or_should_be_gone_is_found() {
        let all = control(9, &[("a", 4)]);
        assert_eq!(found(&all, &edge(9, &[]), &all), one("a", None, Some(4)));
        assert_eq!(found(&all, &edge(9, &[("a", 3)]), &all), one("a", Some(3), Some(4)));
        assert_eq!(found(&all, &edge(9, &[("a", 4), ("b", 5)]), &all), one("b", Some(5), None));
    }

    #[test]
    fn what_changes_meanwhile_proves_nothing() {
        let (before, after) = (control(9, &[("a", 4), ("b", 5)]), control(12, &[("a", 11), ("c", 12)]));
        // Each in the middle of it: `a` rewritten, `b` removed, `c` added.
        for theirs in [
            edge(9, &[("a", 4), ("b", 5)]),
            edge(9, &[("a", 11)]),
            edge(12, &[("a", 11), ("c", 12)]),
            control(11, &[("a", 11), ("b", 5)]),
        ] {
            assert_eq!(found(&before, &theirs, &after), [], "{theirs:?}");
        }
        // But what was not there before the first look cannot be that old.
        assert_eq!(found(&before, &edge(9, &[("d", 3)]), &after), one("d", Some(3), None));
    }

    #[test]
    fn records_of_services_are_compared_between_control_planes() {
        let (first, mut theirs) = (control(9, &[]), control(9, &[]));
        theirs.services[0].revision = 1;
        assert_eq!(found(&first, &theirs, &first), [(None, Some(1), Some(2))]);
        assert_eq!(found(&first, &edge(9, &[]), &first), [], "a gateway does not know them");
    }
}
