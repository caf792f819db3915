//! The version of the access policy.

use super::Revision;

/// The version of an access policy: two policies with the same version are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyVersion {
    /// The revision of the policy's last change in the store.
    pub revision: Revision,
    /// A digest of the content. Parts of a policy come from a replica's settings, so replicas may hold
    /// different policies at one revision.
    pub digest: u64,
}
