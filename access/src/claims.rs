//! The claims of a token, before and after its signature was verified.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::model::Revision;

/// The value of [`Claims::kind`] of a long-lived token, which counts only while its record exists.
pub const SERVICE_KIND: &str = "service";

/// The claims of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The name of the account.
    #[serde(default)]
    pub account: String,
    /// The names of the roles that the account had. They are for other programs, and decide nothing here.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The end, in seconds since 1970.
    pub exp: u64,
    /// The start, in seconds since 1970. Tokens of Service-Center have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// The id, by which a token is revoked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// The program that made the token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub iss: String,
    /// [`SERVICE_KIND`] for a long-lived token; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The revision of the registry by which the account and its roles were there. A process whose policy is
    /// of an earlier one waits for it before it refuses the token. Tokens of Service-Center have none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rev: Revision,
}

fn is_zero(revision: &Revision) -> bool {
    *revision == Revision::ZERO
}

/// A token whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The claims.
    pub claims: Arc<Claims>,
    /// The id of the key that signed the token.
    pub kid: Arc<str>,
    /// The external issuer of the token. `None` for one of ours.
    pub issuer: Option<Arc<str>>,
}
