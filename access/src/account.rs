//! An account as Service-Center stores it, so that both programs can use the same store.

use serde::{Deserialize, Serialize};

/// The name of the account that can do everything and cannot be removed.
pub const ROOT: &str = "root";

/// The stored record of an account. Empty members are absent, and times are seconds since 1970 as text.
///
/// The password is a hash, and never leaves the process: see [`Account::public`].
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    /// The id.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub id: String,
    /// The unique name.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub name: String,
    /// The hash of the password.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub password: String,
    /// The only role of an account, as very old programs stored it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub role: String,
    /// The names of the account's roles.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "shared::model::null_default")]
    pub roles: Vec<String>,
    /// `active` or `inactive`; empty counts as active.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub status: String,
    /// The time of creation.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub create_time: String,
    /// The time of the last change.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub update_time: String,
}

/// The state of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    /// The account can be used.
    Active,
    /// The account can neither log in nor use a token.
    Inactive,
}

impl Account {
    /// The state. A text that is not understood counts as inactive.
    pub fn status(&self) -> AccountStatus {
        match self.status.as_str() {
            "" | "active" => AccountStatus::Active,
            _ => AccountStatus::Inactive,
        }
    }

    /// The names of all roles, also that of the old form.
    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        let old = Some(self.role.as_str()).filter(|role| !role.is_empty());
        self.roles.iter().map(String::as_str).chain(old)
    }

    /// The record without the password, for replies.
    #[must_use]
    pub fn public(&self) -> Self {
        Self { password: String::new(), ..self.clone() }
    }
}

/// Written by hand, so that no log line ever shows a hash.
impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, roles, status, .. } = self;
        f.debug_struct("Account").field("name", name).field("roles", roles).field("status", status).finish()
    }
}
