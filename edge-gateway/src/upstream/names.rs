//! Bounds the names that clients choose and that groups hold: the services of a list, the parts of a scope.
//!
//! Nobody has to register a service to name it, so the number of names is bounded for each client and each
//! tenant, and for the node. They are counted once for each group, as they are held, until the group is gone.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use shared::model::ServiceRef;

use super::config::NamesConfig;
use crate::watch::{Full, GroupId};

/// The names that are held.
#[derive(Debug, Default)]
pub(super) struct Names {
    config: NamesConfig,
    groups: HashMap<GroupId, Held>,
    node: usize,
    domains: HashMap<String, usize>,
    consumers: HashMap<ServiceRef, usize>,
}

/// The names of one group, on the account of the client that opened it.
#[derive(Debug)]
struct Held {
    watcher: ServiceRef,
    names: usize,
}

impl Names {
    pub(super) fn new(config: NamesConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Checks that `watcher` may open a group that holds this many names.
    ///
    /// # Errors
    /// The limit that would be exceeded.
    pub(super) fn check(&self, watcher: &ServiceRef, names: usize) -> Result<(), Full> {
        let of_consumer = self.consumers.get(watcher).copied().unwrap_or(0);
        let of_domain = self.domains.get(&watcher.tenant.domain).copied().unwrap_or(0);
        // The client's own come first: a refusal by the node would send it to the next gateway.
        for (limit, held, full) in [
            (self.config.consumer, of_consumer, Full::ConsumerNames),
            (self.config.domain, of_domain, Full::DomainNames),
            (self.config.node, self.node, Full::NodeNames),
        ] {
            if names > 0 && limit != 0 && held.saturating_add(names) > limit {
                return Err(full);
            }
        }
        Ok(())
    }

    /// A group has been opened.
    pub(super) fn hold(&mut self, group: GroupId, watcher: ServiceRef, names: usize) {
        if names == 0 {
            return;
        }
        self.node += names;
        *self.domains.entry(watcher.tenant.domain.clone()).or_default() += names;
        *self.consumers.entry(watcher.clone()).or_default() += names;
        self.groups.insert(group, Held { watcher, names });
    }

    /// A group has gone.
    pub(super) fn free(&mut self, group: GroupId) {
        let Some(Held { watcher, names }) = self.groups.remove(&group) else { return };
        self.node = self.node.saturating_sub(names);
        subtract(&mut self.domains, &watcher.tenant.domain, names);
        subtract(&mut self.consumers, &watcher, names);
    }

    /// The number of names.
    pub(super) fn total(&self) -> usize {
        self.node
    }
}

/// Entries go with their last name, because clients choose the keys too.
fn subtract<K: Eq + Hash + Borrow<Q>, Q: Eq + Hash + ?Sized>(
    counts: &mut HashMap<K, usize>,
    key: &Q,
    names: usize,
) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(names);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    fn client(domain: &str, id: &str) -> ServiceRef {
        ServiceRef::new(Tenant::new(domain, "p"), id)
    }

    #[test]
    fn names_are_bounded_by_client_domain_and_node() {
        let mut names = Names::new(NamesConfig { consumer: 10, domain: 15, node: 20 });
        let first = GroupId::FIRST;
        assert_eq!(names.check(&client("a", "1"), 11), Err(Full::ConsumerNames));
        names.hold(first, client("a", "1"), 10);
        assert_eq!(names.check(&client("a", "1"), 1), Err(Full::ConsumerNames));
        assert_eq!(names.check(&client("a", "1"), 0), Ok(()), "a consumer's own interest holds no name");
        assert_eq!(names.check(&client("a", "2"), 6), Err(Full::DomainNames));
        let second = first.next();
        names.hold(second, client("a", "2"), 5);
        assert_eq!(names.check(&client("b", "1"), 6), Err(Full::NodeNames));
        assert_eq!(names.check(&client("b", "1"), 5), Ok(()));
        names.free(first);
        names.free(first);
        names.free(second);
        assert_eq!(names.total(), 0);
        assert!(names.groups.is_empty() && names.domains.is_empty() && names.consumers.is_empty());
    }
}
