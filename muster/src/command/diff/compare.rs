//! Finds contradictions between the inventories of two planes, although changes go on while they are read.
//!
//! ```text
//! read the reference
//!   ─▶ read the other plane, until it has everything that the reference had
//!     ─▶ read the reference again, until it has everything that the other plane had
//! ```
//!
//! Each entry carries the revision that wrote it last, and that decides. An entry that the first and the last
//! reading of the reference show with the same revision was there all the time, so the other plane must have
//! it. An entry of the other plane that is older than the first reading must have been in that reading.
//! Changes in between prove nothing and are left out.

use std::collections::{HashMap, HashSet};

use host::inventory::{Inventory, Plane};
use serde::Serialize;
use shared::model::Revision;

/// Tenant, service id and instance id; without an instance, the record of the service.
type EntryKey<'a> = (&'a str, &'a str, Option<&'a str>);

/// An entry of one process that differs from the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Difference {
    /// The process that differs.
    pub(super) process: String,
    /// Domain and project.
    pub(super) tenant: String,
    /// Application, name and version; the id when no plane has the name.
    pub(super) service: String,
    /// The instance; `None` for the record of the service.
    pub(super) instance: Option<String>,
    /// The entry's revision at the process; `None` when the process does not have the entry.
    pub(super) has: Option<Revision>,
    /// The entry's revision at the reference; `None` when the reference does not have the entry.
    pub(super) expected: Option<Revision>,
}

/// The entries of one inventory, and the scope for which it is complete.
struct Contents<'a> {
    entries: HashMap<EntryKey<'a>, Revision>,
    /// Tenant and id of the services that a gateway follows; `None` for a control plane, which has all.
    followed: Option<HashSet<(&'a str, &'a str)>>,
}

impl<'a> Contents<'a> {
    fn new(known: &'a Inventory, with_records: bool) -> Self {
        let mut entries = HashMap::new();
        let mut followed = HashSet::new();
        for service in &known.services {
            let tenant = service.tenant.as_str();
            let id = service.id.as_str();
            followed.insert((tenant, id));
            if with_records && service.revision > Revision::ZERO {
                entries.insert((tenant, id, None), service.revision);
            }
            for (instance, revision) in &service.instances {
                entries.insert((tenant, id, Some(instance.as_str())), *revision);
            }
        }
        Self { entries, followed: (known.plane == Plane::EdgeGateway).then_some(followed) }
    }

    fn revision(&self, key: &EntryKey<'_>) -> Option<Revision> {
        self.entries.get(key).copied()
    }

    /// The inventory would show the entry if it existed.
    fn covers(&self, (tenant, id, _): &EntryKey<'_>) -> bool {
        self.followed.as_ref().is_none_or(|followed| followed.contains(&(*tenant, *id)))
    }
}

/// The differences of `theirs` from the reference, which was read before (`first`) and after (`last`).
pub(super) fn compare(
    process: &str,
    first: &Inventory,
    theirs: &Inventory,
    last: &Inventory,
) -> Vec<Difference> {
    // Gateways do not have the records of services. Where one takes part, only instances can be compared.
    let with_records = first.plane == Plane::ControlPlane && theirs.plane == Plane::ControlPlane;
    let names = names([first, theirs, last]);
    let first_contents = Contents::new(first, with_records);
    let their_contents = Contents::new(theirs, with_records);
    let last_contents = Contents::new(last, with_records);
    let mut found: Vec<(EntryKey<'_>, Option<Revision>, Option<Revision>)> = Vec::new();
    for (key, before) in &first_contents.entries {
        let has = their_contents.revision(key);
        let after = last_contents.revision(key);
        let unchanged = after == Some(*before);
        // A gateway that does not follow the service need not have it, but an entry that it has must be
        // right.
        if unchanged && has != Some(*before) && (has.is_some() || their_contents.covers(key)) {
            found.push((*key, has, after));
        }
    }
    for (key, has) in &their_contents.entries {
        let before = first_contents.revision(key);
        let after = last_contents.revision(key);
        if before == after && before.is_some() {
            continue; // The loop above has judged this entry.
        }
        let never_existed = *has <= first.revision && before != Some(*has);
        let is_ahead = after.is_some_and(|after| after < *has) && last.revision >= *has;
        if (never_existed || is_ahead) && first_contents.covers(key) && last_contents.covers(key) {
            found.push((*key, Some(*has), after.or(before)));
        }
    }
    let mut differences: Vec<Difference> = found
        .into_iter()
        .map(|((tenant, id, instance), has, expected)| Difference {
            process: process.to_owned(),
            tenant: tenant.to_owned(),
            service: names.get(&(tenant, id)).copied().unwrap_or(id).to_owned(),
            instance: instance.map(str::to_owned),
            has,
            expected,
        })
        .collect();
    differences.sort_by(|a, b| (&a.service, &a.instance).cmp(&(&b.service, &b.instance)));
    differences
}

/// The names of services by tenant and id, as far as any of the inventories has them.
fn names(inventories: [&Inventory; 3]) -> HashMap<(&str, &str), &str> {
    let services = inventories.into_iter().flat_map(|known| &known.services);
    let named = services.filter(|service| !service.name.is_empty());
    named.map(|service| ((service.tenant.as_str(), service.id.as_str()), service.name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use host::inventory::InventoryService;

    use super::*;

    /// A plane at a revision that has the service `s`, written at revision 2, with these instances.
    fn plane(plane: Plane, revision: u64, instances: &[(&str, u64)]) -> Inventory {
        let service = InventoryService {
            tenant: "default/default".to_owned(),
            id: "s".to_owned(),
            name: "shop/order 1.0.0".to_owned(),
            revision: if plane == Plane::ControlPlane { 2.into() } else { Revision::ZERO },
            instances: instances.iter().map(|(id, rev)| ((*id).to_owned(), Revision::new(*rev))).collect(),
        };
        Inventory { plane, revision: revision.into(), services: vec![service] }
    }

    fn control(revision: u64, instances: &[(&str, u64)]) -> Inventory {
        plane(Plane::ControlPlane, revision, instances)
    }

    fn edge(revision: u64, instances: &[(&str, u64)]) -> Inventory {
        plane(Plane::EdgeGateway, revision, instances)
    }

    /// Instance, present revision and expected revision of a difference.
    type Found = (Option<String>, Option<u64>, Option<u64>);

    fn found(first: &Inventory, theirs: &Inventory, last: &Inventory) -> Vec<Found> {
        let differences = compare("them", first, theirs, last);
        differences
            .into_iter()
            .map(|found| (found.instance, found.has.map(Revision::get), found.expected.map(Revision::get)))
            .collect()
    }

    fn one(instance: &str, has: Option<u64>, expected: Option<u64>) -> Vec<Found> {
        vec![(Some(instance.to_owned()), has, expected)]
    }

    #[test]
    fn equal_planes_agree_and_a_gateway_may_follow_less() {
        let all = control(9, &[("a", 4), ("b", 9)]);
        assert_eq!(found(&all, &all, &all), []);
        assert_eq!(found(&all, &edge(9, &[("a", 4), ("b", 9)]), &all), []);
        let nothing = Inventory { services: Vec::new(), ..edge(9, &[]) };
        assert_eq!(found(&all, &nothing, &all), []);
        let nothing = Inventory { plane: Plane::ControlPlane, ..nothing };
        assert_eq!(found(&all, &nothing, &all).len(), 3, "a control plane must have all");
    }

    #[test]
    fn missing_outdated_and_leftover_entries_are_found() {
        let all = control(9, &[("a", 4)]);
        assert_eq!(found(&all, &edge(9, &[]), &all), one("a", None, Some(4)));
        assert_eq!(found(&all, &edge(9, &[("a", 3)]), &all), one("a", Some(3), Some(4)));
        assert_eq!(found(&all, &edge(9, &[("a", 4), ("b", 5)]), &all), one("b", Some(5), None));
    }

    #[test]
    fn changes_made_meanwhile_prove_nothing() {
        let before = control(9, &[("a", 4), ("b", 5)]);
        let after = control(12, &[("a", 11), ("c", 12)]);
        // Each is read in the middle of the changes: `a` is rewritten, `b` removed, `c` added.
        for theirs in [
            edge(9, &[("a", 4), ("b", 5)]),
            edge(9, &[("a", 11)]),
            edge(12, &[("a", 11), ("c", 12)]),
            control(11, &[("a", 11), ("b", 5)]),
        ] {
            assert_eq!(found(&before, &theirs, &after), [], "{theirs:?}");
        }
        // An entry older than the first reading, but absent from it, never existed.
        assert_eq!(found(&before, &edge(9, &[("d", 3)]), &after), one("d", Some(3), None));
    }

    #[test]
    fn records_of_services_are_compared_between_control_planes() {
        let first = control(9, &[]);
        let mut theirs = control(9, &[]);
        theirs.services[0].revision = 1.into();
        assert_eq!(found(&first, &theirs, &first), [(None, Some(1), Some(2))]);
        assert_eq!(found(&first, &edge(9, &[]), &first), [], "a gateway does not have them");
    }
}
