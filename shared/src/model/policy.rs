//! The version of the access policy.

use super::Revision;

/// The version of an access policy. Policies with the same digest have the same content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyVersion {
    /// The revision of the last change that the replica has seen, or at which it listed the store.
    pub revision: Revision,
    /// A digest of the content. Parts of a policy come from a replica's settings, so replicas may hold
    /// different policies at one revision, and the same one at different revisions.
    pub digest: u64,
}
