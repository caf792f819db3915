//! Opaque revisions of replies, by which a client asks whether something has changed.

use shared::event::digest_of;
use shared::model::Revision;

/// The revision of a set of services in the order of the reply, by the digests of their instances: a hash
/// over everything that a client sees of them. A service without instances adds nothing to the reply, so it
/// must not be among them.
pub fn revision_of(digests: impl Iterator<Item = u64>) -> String {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for digest in digests {
        // The digest covers the ids and revisions of the instances, which tells both states and services
        // apart.
        hash = (hash.rotate_left(23) ^ digest).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    format!("{hash:016x}")
}

/// The revision of one instance that was written at `mod_rev`.
pub fn instance_revision(id: &str, mod_rev: Revision) -> String {
    format!("{:016x}", digest_of(id, mod_rev))
}

/// True when the client has sent the revision of what it would be sent.
pub fn is_current(sent: &str, rev: &str) -> bool {
    !sent.is_empty() && sent == rev
}
