//! Which change came before: what lets a gateway see that one was lost when it hears the next.

use std::collections::HashMap;
use std::hash::Hash;

use shared::model::Revision;

/// Links that are remembered; past it all are forgotten, which costs each who hears of the next one a question.
const MOST: usize = 100_000;

/// The last change of each of many things that change apart from each other.
#[derive(Debug)]
pub(super) struct Chain<K> {
    last: HashMap<K, Revision>,
    /// Of those that are not in `last` no change after this revision is known.
    floor: Revision,
}

impl<K: Eq + Hash> Chain<K> {
    /// Nothing is known of what was at or before `floor`.
    pub(super) fn since(floor: Revision) -> Self {
        Self { last: HashMap::new(), floor }
    }

    /// Notes a change at `rev`; the revision of the one before it, or one before which nothing is known.
    pub(super) fn link(&mut self, key: K, rev: Revision) -> Revision {
        if self.last.len() >= MOST && !self.last.contains_key(&key) {
            // Every change of the forgotten ones was before this one.
            *self = Self::since(rev.saturating_sub(1));
        }
        self.last.insert(key, rev).unwrap_or(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_names_the_one_before_it_or_where_knowledge_begins() {
        let mut chain = Chain::since(10);
        assert_eq!([chain.link("a", 11), chain.link("b", 12), chain.link("a", 13)], [10, 10, 11]);
    }

    #[test]
    fn what_is_forgotten_is_never_placed_before_its_last_change() {
        let mut chain = Chain::since(10);
        for n in 0..MOST as u64 {
            chain.link(n, 11 + n);
        }
        let next = 11 + MOST as u64;
        assert_eq!(chain.link(MOST as u64, next), next - 1);
        assert_eq!(chain.link(7, next + 1), next - 1, "not the floor of the beginning");
    }
}
