//! The policy on its way to gateways: its version and its JSON text.

use shared::model::PolicyVersion;

use crate::policy::Policy;

/// A policy as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The version.
    pub version: PolicyVersion,
    /// The JSON text.
    pub json: Vec<u8>,
}

/// The reason for which a received bundle is not used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The text is not the one that the version names.
    #[error("the policy's text does not have the digest of its version")]
    Digest,
    /// The text is of another revision than the version.
    #[error("the policy is of another revision than its version")]
    Revision,
    /// The text is no policy.
    #[error("the policy cannot be read")]
    Malformed(#[from] serde_json::Error),
}

impl Bundle {
    /// The bundle of a policy. Equal policies have equal bundles.
    pub fn of(policy: &Policy) -> Self {
        // Maps with text keys and plain fields always serialise; an empty text would be refused by everyone.
        let json = serde_json::to_vec(policy).unwrap_or_default();
        Self { version: PolicyVersion { revision: policy.revision, digest: digest(&json) }, json }
    }

    /// The policy in a received bundle.
    ///
    /// # Errors
    /// When the text is not the policy that the version names.
    pub fn read(&self) -> Result<Policy, BundleError> {
        if digest(&self.json) != self.version.digest {
            return Err(BundleError::Digest);
        }
        let policy: Policy = serde_json::from_slice(&self.json)?;
        if policy.revision == self.version.revision { Ok(policy) } else { Err(BundleError::Revision) }
    }
}

/// The first bytes of a hash of everything but the revision, which is the first member. Replicas that listed
/// the store at different times have the same content at different revisions. Never zero: on the bus zero
/// stands for a replica without policies.
fn digest(json: &[u8]) -> u64 {
    let content = json.iter().position(|byte| *byte == b',').and_then(|comma| json.get(comma..));
    let content = content.unwrap_or(json);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    let first = hash.as_ref().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    first.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::AccountState;

    fn policy() -> Policy {
        let account = AccountState { roles: vec!["developer".to_owned()], ..AccountState::default() };
        let accounts = [("a".to_owned(), account)].into();
        Policy { revision: 7.into(), enabled: true, accounts, ..Policy::default() }
    }

    #[test]
    fn a_bundle_is_read_back_as_the_same_policy() {
        let bundle = Bundle::of(&policy());
        assert_eq!(bundle, Bundle::of(&policy()));
        assert_eq!(bundle.read().expect("a bundle"), policy());
        let off = Bundle::of(&Policy { enabled: false, ..policy() });
        assert_eq!(off.version.revision, bundle.version.revision);
        assert_ne!(off.version.digest, bundle.version.digest, "a setting is part of the content");
        let later = Bundle::of(&Policy { revision: 8.into(), ..policy() });
        assert_eq!(later.version.digest, bundle.version.digest, "the revision is not");
    }

    #[test]
    fn a_bundle_with_another_text_is_refused() {
        let bundle = Bundle::of(&policy());
        let other = Bundle::of(&Policy { revision: 8.into(), enabled: false, ..policy() });
        let mixed = Bundle { version: bundle.version, json: other.json.clone() };
        assert!(matches!(mixed.read(), Err(BundleError::Digest)));
        let version = PolicyVersion { revision: 7.into(), ..other.version };
        assert!(matches!(Bundle { version, json: other.json }.read(), Err(BundleError::Revision)));
        let text = b"{".to_vec();
        let version = PolicyVersion { revision: 7.into(), digest: digest(&text) };
        assert!(matches!(Bundle { version, json: text }.read(), Err(BundleError::Malformed(_))));
    }
}
