//! Mass-expiry protection: when many instances of a service expire together, the registry, not the instances,
//! is probably at fault.
//!
//! A partition or a stalled registry lets the leases of healthy instances run out. Therefore a service keeps
//! a part of its instances no matter how many expire. Below that part, further expired instances are *held*:
//! they are shown as before, and not announced as deleted. A hold ends when the instance registers again or
//! unregisters, when an operator releases it, or when its time is over. An unregistration is never held. A
//! service with few instances is not protected, because the crash of one of them must be announced at once.
//!
//! Every replica comes to the same conclusion, because it follows from the store alone. The usual size of a
//! service is a key that registrations and unregistrations write in their transactions, which also tells an
//! unregistration from an expiry. The conclusion is then recorded as keys on a lease (see
//! `crate::protector`). The end of the lease ends the protection, no matter which replicas live then.

use serde::{Deserialize, Serialize};
use shared::model::{Instance, Revision};

/// The rule by which expired instances are held. It must be the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protection {
    /// Services with fewer instances are not protected; 0 protects none.
    pub from_size: usize,
    /// The percentage of its instances that a service keeps at least.
    pub keep_percent: usize,
}

impl Default for Protection {
    fn default() -> Self {
        // When half of a service falls silent within one lease, the network or this registry is the likelier
        // cause.
        Self { from_size: 4, keep_percent: 50 }
    }
}

impl Protection {
    /// True when a service holds the next instance that expires. The service has `size` instances in normal
    /// operation, of which `living` are not held.
    pub fn holds(&self, size: usize, living: usize) -> bool {
        // Rounded up: half of five instances are three.
        let floor = (size * self.keep_percent).div_ceil(100);
        self.from_size > 0 && size >= self.from_size && living <= floor
    }
}

/// The value of a service's size key. The field names in the store must not change: other versions of this
/// program read them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSize {
    /// The number of instances in normal operation.
    #[serde(rename = "size")]
    pub usual: usize,
    /// The id of the instance that the same transaction unregisters, or empty.
    #[serde(rename = "left", skip_serializing_if = "String::is_empty")]
    pub unregistered: String,
}

/// The value of a held instance's key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeldRecord {
    /// The instance as it was.
    pub instance: Instance,
    /// The revision that had written the instance.
    pub mod_rev: Revision,
    /// The revision at which the instance expired.
    pub since: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_keeps_its_part_and_a_small_one_does_not() {
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

    #[test]
    fn the_stored_form_of_a_size_is_fixed() {
        let size = ServiceSize { usual: 3, unregistered: "i".into() };
        assert_eq!(serde_json::to_string(&size).expect("plain fields"), r#"{"size":3,"left":"i"}"#);
        let usual = ServiceSize { usual: 3, ..ServiceSize::default() };
        assert_eq!(serde_json::to_string(&usual).expect("plain fields"), r#"{"size":3}"#);
    }
}
