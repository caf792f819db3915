//! The names that streams ask for, each once in this process: thousands of streams name the same few services.
//!
//! In: texts of clients. Out: shared names. A name that no stream has any more goes with a later look through
//! all of them.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

/// Names below which nothing is looked through.
const FEW: usize = 1024;

/// Shared names.
pub(crate) struct Names {
    known: Mutex<Known>,
    /// Seeded at random, so that nobody can make two lists of names look alike on purpose.
    hasher: RandomState,
}

struct Known {
    names: HashSet<Arc<str>>,
    /// The number of names at which those that nobody has go.
    most: usize,
}

impl Default for Names {
    fn default() -> Self {
        let known = Known { names: HashSet::new(), most: FEW };
        Self { known: Mutex::new(known), hasher: RandomState::new() }
    }
}

impl Names {
    /// These names, in their order.
    pub(crate) fn share<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
        let known = &mut *self.known.lock();
        let shared = texts.map(|text| match known.names.get(text) {
            Some(name) => name.clone(),
            None => {
                let name: Arc<str> = text.into();
                known.names.insert(name.clone());
                name
            }
        });
        let shared = shared.collect();
        if known.names.len() > known.most {
            known.names.retain(|name| Arc::strong_count(name) > 1);
            known.names.shrink_to(known.names.len().saturating_mul(2));
            // The next look comes after as many new names as there are now, so a look is cheap for each name.
            known.most = FEW.max(known.names.len().saturating_mul(2));
        }
        shared
    }

    /// A digest of a list of names: equal for equal lists, and only for these with all but no probability.
    /// Never 0.
    pub(crate) fn digest<'a>(&self, texts: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for text in texts {
            hasher.write_usize(text.len());
            hasher.write(text);
        }
        hasher.finish().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shared_while_somebody_has_it() {
        let names = Names::default();
        let kept = names.share(["a/kept"].into_iter());
        for round in 0..10 {
            let others: Vec<String> = (0..FEW).map(|number| format!("a/{round}-{number}")).collect();
            names.share(others.iter().map(String::as_str));
        }
        assert!(names.known.lock().names.len() <= 4 * FEW, "{}", names.known.lock().names.len());
        assert!(Arc::ptr_eq(&names.share(["a/kept"].into_iter())[0], &kept[0]));
    }

    #[test]
    fn lists_of_names_differ_by_their_borders() {
        let names = Names::default();
        let digest = |texts: &[&str]| names.digest(texts.iter().map(|text| text.as_bytes()));
        assert_eq!(digest(&["a", "bc"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["a", "bc"]), digest(&["ab", "c"]));
        assert_ne!(digest(&[]), digest(&[""]));
    }
}
