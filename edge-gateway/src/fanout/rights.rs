//! The rights of an audience: the grants of its members, which have led to the same decisions so far.
//!
//! Most roles differ in services that a group does not watch. Sessions share an audience, and with it the
//! bytes of each push, until a change comes that some of them may be sent and others may not. A decision is
//! made once for each provider, and not for each push or session.

use std::collections::HashMap;
use std::sync::Arc;

use access::Grant;
use shared::model::ServiceKey;

use crate::policy::labels_of;

/// Providers whose decision is remembered. Beyond it all are forgotten.
const REMEMBERED: usize = 4096;

/// The decision whether the members of an audience are sent a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Admitted,
    Denied,
    /// Some grants admit the change and others do not: the audience must be divided.
    Divided,
}

/// The grants of an audience's members.
#[derive(Debug, Default)]
pub(super) enum Rights {
    /// All members may see everything, or there are none.
    #[default]
    Whole,
    /// At least one member may not.
    Some(Box<Grants>),
}

/// Grants, each with the number of members that have it.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    members: HashMap<Arc<Grant>, usize>,
    /// The last decision for each topic, and the name for which it was made.
    decided: HashMap<u32, (Arc<ServiceKey>, bool)>,
}

impl Rights {
    /// True if a member has this grant. Of an audience whose members all see everything, that is the grant
    /// for everything.
    pub(super) fn has(&self, grant: &Grant) -> bool {
        match self {
            Self::Whole => *grant == Grant::All,
            Self::Some(grants) => grants.members.contains_key(grant),
        }
    }

    /// True if a member with this grant would have been sent the same changes, as far as is known.
    pub(super) fn agree_with(&self, grant: &Grant) -> bool {
        match self {
            // Services that were sent to accounts with a view of everything are not remembered.
            Self::Whole => true,
            Self::Some(grants) => {
                grants.decided.values().all(|(key, admitted)| grant.admits(labels_of(key)) == *admitted)
            }
        }
    }

    /// Counts a new member; `others` are there already.
    pub(super) fn add(&mut self, grant: &Arc<Grant>, others: usize) {
        if matches!(self, Self::Whole) && **grant == Grant::All {
            return;
        }
        if matches!(self, Self::Whole) {
            let mut grants = Grants::default();
            if others > 0 {
                grants.members.insert(Arc::default(), others);
            }
            *self = Self::Some(Box::new(grants));
        }
        if let Self::Some(grants) = self {
            *grants.members.entry(grant.clone()).or_default() += 1;
        }
    }

    /// Counts a member less.
    pub(super) fn remove(&mut self, grant: &Grant) {
        // The map stays if it is empty: what was decided may count for the next member.
        if let Self::Some(grants) = self
            && let Some(members) = grants.members.get_mut(grant)
        {
            *members -= 1;
            if *members == 0 {
                grants.members.remove(grant);
            }
        }
    }

    /// Decides whether the members may be sent changes of a provider.
    pub(super) fn decide(&mut self, topic: u32, of: &Arc<ServiceKey>) -> Decision {
        let Self::Some(grants) = self else { return Decision::Admitted };
        if let Some((key, admitted)) = grants.decided.get(&topic)
            && (Arc::ptr_eq(key, of) || labels_of(key) == labels_of(of))
        {
            return if *admitted { Decision::Admitted } else { Decision::Denied };
        }
        let mut all = grants.members.keys().map(|grant| grant.admits(labels_of(of)));
        let Some(admitted) = all.next() else { return Decision::Denied };
        if all.any(|other| other != admitted) {
            return Decision::Divided;
        }
        grants.remember(topic, of, admitted);
        if admitted { Decision::Admitted } else { Decision::Denied }
    }

    /// Takes away the grants that do not admit a provider, and returns them.
    pub(super) fn divide(&mut self, topic: u32, of: &Arc<ServiceKey>) -> Self {
        let Self::Some(grants) = self else { return Self::Whole };
        let mut denied = Grants { members: HashMap::new(), decided: grants.decided.clone() };
        denied.members.extend(grants.members.extract_if(|grant, _| !grant.admits(labels_of(of))));
        denied.remember(topic, of, false);
        grants.remember(topic, of, true);
        Self::Some(Box::new(denied))
    }
}

impl Grants {
    fn remember(&mut self, topic: u32, of: &Arc<ServiceKey>, admitted: bool) {
        if self.decided.len() >= REMEMBERED {
            self.decided.clear();
        }
        self.decided.insert(topic, (of.clone(), admitted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(pattern: &str) -> Arc<Grant> {
        Arc::new(Grant::Labelled([[("serviceName".to_owned(), pattern.to_owned())].into()].into()))
    }

    fn named(name: &str) -> Arc<ServiceKey> {
        Arc::new(ServiceKey { service_name: name.to_owned(), ..ServiceKey::default() })
    }

    #[test]
    fn a_renamed_service_is_decided_about_anew() {
        let mut rights = Rights::default();
        rights.add(&grant("shop*"), 0);
        for (topic, name, decision) in [
            (1, "shop-a", Decision::Admitted),
            (2, "bank", Decision::Denied),
            (1, "shop-a", Decision::Admitted),
            (1, "bank", Decision::Denied),
            (2, "shop-b", Decision::Admitted),
            (1, "shop-a", Decision::Admitted),
        ] {
            assert_eq!(rights.decide(topic, &named(name)), decision, "{topic} {name}");
        }
        assert!(rights.has(&grant("shop*")) && !rights.has(&Grant::All));
        for topic in 0..2 * REMEMBERED as u32 {
            rights.decide(topic, &named("bank"));
        }
        let Rights::Some(grants) = rights else { panic!("labels cost a decision") };
        assert!(grants.decided.len() <= REMEMBERED);
    }

    #[test]
    fn grants_part_where_they_differ_and_meet_only_where_they_agree() {
        let mut rights = Rights::default();
        rights.add(&Arc::default(), 0);
        assert_eq!(rights.decide(1, &named("bank")), Decision::Admitted, "whole rights cost nothing");
        rights.add(&grant("shop*"), 1);
        rights.add(&grant("*-a"), 2);
        assert_eq!(rights.decide(2, &named("shop-a")), Decision::Admitted);
        assert_eq!(rights.decide(1, &named("bank")), Decision::Divided);
        let mut denied = rights.divide(1, &named("bank"));
        assert_eq!(rights.decide(1, &named("bank")), Decision::Admitted);
        assert_eq!(denied.decide(1, &named("bank")), Decision::Denied);
        assert!(rights.has(&Grant::All) && !denied.has(&Grant::All));
        assert!(denied.has(&grant("shop*")) && denied.has(&grant("*-a")) && !rights.has(&grant("*-a")));
        assert!(rights.agree_with(&grant("*")) && !denied.agree_with(&grant("*")));
        assert!(denied.agree_with(&grant("s*")) && !rights.agree_with(&grant("s*")));
        assert_eq!(denied.decide(3, &named("bank-a")), Decision::Divided);
        denied.remove(&grant("shop*"));
        assert_eq!(denied.decide(3, &named("bank-a")), Decision::Admitted, "only the other grant is left");
    }
}
