//! The short name of an instance in reports.

use std::fmt;

use aws_lc_rs::digest;
use shared::model::ServiceRef;

/// Bytes of a key.
const LENGTH: usize = 16;

/// The short name of an instance: a hash of its tenant, its service and its id, the same on every process.
///
/// It is half of a SHA-256 hash. With a shorter or weaker one, a client could make up an instance whose
/// heartbeats keep a dead one of another tenant alive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; LENGTH]);

impl Key {
    /// The key of an instance.
    pub fn of(service: &ServiceRef, instance_id: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [&service.tenant.domain, &service.tenant.project, &service.id, instance_id] {
            // The length first, so that no two instances have the same bytes.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let hash = context.finish();
        let mut key = [0; LENGTH];
        for (byte, of_hash) in key.iter_mut().zip(hash.as_ref()) {
            *byte = *of_hash;
        }
        Self(key)
    }

    /// The keys in a text of bytes, one after the other. A remainder that is too short is ignored.
    pub(crate) fn all_in(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.as_chunks::<LENGTH>().0.iter().map(|key| Self(*key))
    }

    /// The keys one after the other.
    pub(crate) fn join(keys: impl Iterator<Item = Self>) -> Vec<u8> {
        keys.flat_map(|key| key.0).collect()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    fn key(domain: &str, project: &str, service: &str, id: &str) -> Key {
        Key::of(&ServiceRef::new(Tenant::new(domain, project), service), id)
    }

    #[test]
    fn instances_that_are_spelt_alike_have_different_keys() {
        let keys = [key("a", "b", "c", "d"), key("ab", "", "c", "d"), key("a", "b", "cd", "")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
        assert_eq!(keys[0], key("a", "b", "c", "d"));
        assert_eq!(Key::all_in(&Key::join(keys.into_iter())).collect::<Vec<_>>(), keys);
    }

    #[test]
    fn the_key_of_an_instance_is_the_same_in_every_version() {
        assert_eq!(format!("{:?}", key("default", "default", "s", "i")).len(), 32);
    }
}
