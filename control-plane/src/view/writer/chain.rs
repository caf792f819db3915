//! Links each change to the one before, so that a gateway that receives the later one sees whether it missed
//! one.

use std::collections::HashMap;
use std::hash::Hash;

use shared::model::Revision;

/// The most links that are remembered. Beyond it all of them are dropped; each affected subscriber then sends
/// one replay request when it receives the next change.
const MAX_LINKS: usize = 100_000;

/// The revision of the last change of each key.
#[derive(Debug)]
pub(super) struct Chain<K> {
    last: HashMap<K, Revision>,
    /// A key that is not in `last` may have changed up to this revision, but not after it.
    floor: Revision,
}

impl<K: Eq + Hash> Chain<K> {
    /// A chain without knowledge of changes up to and including `floor`.
    pub(super) fn beginning_at(floor: Revision) -> Self {
        Self { last: HashMap::new(), floor }
    }

    /// Notes a change at `rev`. Returns the revision after which the key had no other change.
    pub(super) fn link(&mut self, key: K, rev: Revision) -> Revision {
        if self.last.len() >= MAX_LINKS && !self.last.contains_key(&key) {
            // Every forgotten change was before this one, so no floor below it could hide a missed one.
            *self = Self::beginning_at(rev.previous());
        }
        self.last.insert(key, rev).unwrap_or(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_linked_to_the_one_before_or_to_the_floor() {
        let mut chain = Chain::beginning_at(10.into());
        let links =
            [("a", 11), ("b", 12), ("a", 13)].map(|(key, rev)| chain.link(key, Revision::new(rev)).get());
        assert_eq!(links, [10, 10, 11]);
    }

    #[test]
    fn a_forgotten_link_never_points_before_its_last_change() {
        let mut chain = Chain::beginning_at(10.into());
        for n in 0..MAX_LINKS as u64 {
            chain.link(n, Revision::new(11 + n));
        }
        let next = Revision::new(11 + MAX_LINKS as u64);
        assert_eq!(chain.link(MAX_LINKS as u64, next), next.previous());
        assert_eq!(
            chain.link(7, next.next()),
            next.previous(),
            "the first floor would hide the change at 18"
        );
    }
}
