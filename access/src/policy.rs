//! The policy: everything that decisions depend on, at one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::model::Revision;

use crate::account::{Account, AccountStatus};
use crate::issuer::ExternalIssuer;
use crate::keys::PublicKey;
use crate::role::{ResourceType, Role};

/// One immutable state of access control. Gateways receive it whole, as JSON.
///
/// It holds no password, no hash and no private key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// The revision that this state is of.
    pub revision: Revision,
    /// False when every request is allowed.
    pub enabled: bool,
    /// The resources that need a token.
    pub scope: Scope,
    /// The keys that sign tokens, the newest first.
    pub keys: Vec<PublicKey>,
    /// The external issuers whose tokens count beside our own.
    pub issuers: Vec<Arc<ExternalIssuer>>,
    /// The accounts by name.
    pub accounts: BTreeMap<String, AccountState>,
    /// The roles by name.
    pub roles: BTreeMap<String, Arc<Role>>,
    /// The revision that stored each role last, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub role_revisions: BTreeMap<String, Revision>,
    /// The ids of revoked tokens, each with the end of its token in seconds since 1970.
    pub revoked: BTreeMap<String, u64>,
    /// The ids of long-lived tokens that count.
    pub service_tokens: BTreeSet<String>,
}

/// The part of an account that decisions depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccountState {
    /// The names of its roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// True when the account cannot be used.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inactive: bool,
    /// Tokens that were issued before this second since 1970 do not count.
    #[serde(skip_serializing_if = "is_default")]
    pub not_before: u64,
    /// The tenants that the account may enter, each as `domain/project` with `*` for any text. None: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// The revision that stored the account last; zero in a policy of an earlier version.
    #[serde(skip_serializing_if = "is_default")]
    pub revision: Revision,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<&Account> for AccountState {
    fn from(account: &Account) -> Self {
        Self {
            roles: account.role_names().map(str::to_owned).collect(),
            inactive: account.status() == AccountStatus::Inactive,
            ..Self::default()
        }
    }
}

/// The types of resources for which a token is needed (setting `rbac.scope`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(BTreeSet<String>);

impl Default for Scope {
    fn default() -> Self {
        Self(BTreeSet::from(["*".to_owned()]))
    }
}

impl Scope {
    /// Reads a comma list of types, or `*`. Accounts and roles always need a token.
    ///
    /// # Errors
    /// The first word that is no type.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut kinds = BTreeSet::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if word != "*" && ResourceType::parse(word).is_none() {
                return Err(word.to_owned());
            }
            kinds.insert(word.to_owned());
        }
        for always in [ResourceType::Role, ResourceType::Account] {
            kinds.insert(always.word().to_owned());
        }
        Ok(Self(kinds))
    }

    /// True when a request for this type of resource needs a token.
    pub fn contains(&self, kind: ResourceType) -> bool {
        self.0.contains("*") || self.0.contains(kind.word())
    }
}
