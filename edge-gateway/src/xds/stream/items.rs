//! The names of one kind on a stream, in their order.
//!
//! A sorted list instead of a map: most streams have one name of each kind, and the smallest map takes room for
//! eleven. A name is at most [`MOST_NAMES`](super::MOST_NAMES) places away from its own.

use std::sync::Arc;

use super::Item;

#[derive(Debug, Default)]
pub(super) struct Items(Vec<(Arc<str>, Item)>);

impl Items {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Item> {
        let at = self.place(name).ok()?;
        self.0.get(at).map(|(_, item)| item)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Item> {
        let at = self.place(name).ok()?;
        self.0.get_mut(at).map(|(_, item)| item)
    }

    /// The item of a name, which is new if there was none.
    pub(super) fn entry(&mut self, name: &Arc<str>) -> &mut Item {
        let at = match self.place(name) {
            Ok(at) => at,
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    // A doubled list would be half empty on most streams.
                    self.0.reserve_exact(self.0.len() / 4 + 1);
                }
                self.0.insert(at, (name.clone(), Item::default()));
                at
            }
        };
        &mut self.0[at].1
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Item> {
        let at = self.place(name).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Leaves the items that `stays` says, in one pass.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Arc<str>, &Item) -> bool) {
        self.0.retain(|(name, item)| stays(name, item));
        self.0.shrink_to(self.0.len().saturating_mul(2));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Item)> {
        self.0.iter().map(|(name, item)| (name, item))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        self.0.iter_mut().map(|(_, item)| item)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|(name, _)| name)
    }

    /// The names that begin so, in their order.
    pub(super) fn beginning(&self, with: &str) -> impl Iterator<Item = &Arc<str>> {
        let from = self.place(with).unwrap_or_else(|at| at);
        self.0[from..].iter().map(|(name, _)| name).take_while(move |name| name.starts_with(with))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn items_are_a_map(steps in prop::collection::vec((0..3_u8, 0..24_u8), 0..80)) {
            let mut items = Items::default();
            let mut model: BTreeMap<String, u64> = BTreeMap::new();
            for (number, (what, which)) in (0_u64..).zip(steps) {
                let name = format!("{}{}", "a".repeat(usize::from(which % 3)), which / 3);
                match what {
                    0 => {
                        items.entry(&name.as_str().into()).sent = Some(number);
                        model.insert(name, number);
                    }
                    1 => {
                        let removed = items.remove(&name).map(|item| item.sent);
                        prop_assert_eq!(removed, model.remove(&name).map(Some));
                    }
                    _ => {
                        items.retain(|known, _| !known.starts_with(&name));
                        model.retain(|known, _| !known.starts_with(&name));
                    }
                }
                let all: Vec<_> = items.iter().map(|(name, item)| (name.to_string(), item.sent)).collect();
                let expected: Vec<_> = model.iter().map(|(name, sent)| (name.clone(), Some(*sent))).collect();
                prop_assert_eq!(all, expected);
                let beginning: Vec<_> = items.beginning("a").map(|name| name.to_string()).collect();
                let expected: Vec<_> = model.keys().filter(|name| name.starts_with('a')).cloned().collect();
                prop_assert_eq!(beginning, expected);
            }
        }
    }
}
