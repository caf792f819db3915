//! When many instances of a service expire at once, is it they who are gone, or we?
//!
//! A partition or a stalled registry lets leases run out of instances that are well. So a service keeps a part of
//! its instances whatever expires: below that, further expired ones are *held* — shown as before, not announced
//! as deleted — until they register again, unregister, are released by an operator, or the time is over. Who
//! unregisters is never held, and a service with few instances is not protected: a crash is to be told at once.
//!
//! Every replica comes to the same conclusion, because it follows from the store alone: the service's size is a
//! key that registrations and unregistrations write in their transactions (which also tells an unregistration
//! from an expiry). The conclusion is then recorded as keys on a lease (see [`crate::protector`]); the end of the
//! lease is the end of the protection, whoever is alive then.

use serde::{Deserialize, Serialize};
use shared::model::{Instance, Revision};

/// When expired instances are held. The same on every replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protection {
    /// Services with fewer instances are not protected; 0 protects none.
    pub from_size: usize,
    /// The part of its instances, in percent, that a service keeps whatever expires.
    pub keep_percent: usize,
}

impl Default for Protection {
    fn default() -> Self {
        // Half of a service going silent within one lease is more likely our trouble than theirs.
        Self { from_size: 4, keep_percent: 50 }
    }
}

impl Protection {
    /// Whether a service of `size` instances, `living` of which live, holds the next one that expires.
    pub fn holds(&self, size: usize, living: usize) -> bool {
        let floor = (size * self.keep_percent).div_ceil(100);
        self.from_size > 0 && size >= self.from_size && living <= floor
    }
}

/// The value of a service's size key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Size {
    /// Instances of the service when nothing is wrong.
    pub size: usize,
    /// The instance that the same transaction unregisters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub left: String,
}

/// The value of a held instance's key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeldRecord {
    /// The instance as it was.
    pub instance: Instance,
    /// The revision that had written it.
    pub mod_rev: Revision,
    /// The revision at which it expired.
    pub since: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_keeps_its_part_and_a_small_one_is_let_go() {
        let protection = Protection { from_size: 4, keep_percent: 50 };
        for (size, living, held) in [
            (10, 10, false),
            (10, 6, false),
            (10, 5, true),
            (10, 1, true),
            (4, 3, false),
            (4, 2, true),
            (3, 1, false),
            (0, 1, false),
        ] {
            assert_eq!(protection.holds(size, living), held, "{size} {living}");
        }
        assert!(!Protection { from_size: 0, keep_percent: 50 }.holds(10, 1));
    }
}
