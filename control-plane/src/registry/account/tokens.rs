//! Long-lived tokens, for programs that cannot log in. Each has a record in the store, and counts only while
//! the record is there. The token itself is shown once and kept nowhere.

use std::time::Duration;

use access::AccountStatus;
use access::token::SERVICE_KIND;
use serde::{Deserialize, Serialize};
use shared::model::null_default;
use tracing::info;
use uuid::Uuid;

use super::{Accounts, form, unchanged};
use crate::keys;
use crate::record;
use crate::registry::{AccountError, RegistryError};
use crate::store::{Compare, KeyValue, Op, RangeRequest, Txn};

/// The shortest and the longest time of a long-lived token.
const SHORTEST: Duration = Duration::from_secs(15 * 60);
const LONGEST: Duration = Duration::from_secs(8760 * 3600);
/// The time of one for which none is given: thirty days.
const USUAL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most that an account may have.
const MOST: usize = 20;
/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 256;

/// The record of a long-lived token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TokenRecord {
    /// The id, which is the last segment of the record's key.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub(crate) id: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub(crate) description: String,
    /// Seconds since 1970, as text like the times of accounts.
    #[serde(deserialize_with = "null_default")]
    pub(crate) create_time: String,
    /// The end in seconds since 1970.
    #[serde(deserialize_with = "null_default")]
    pub(crate) exp: u64,
}

/// A new long-lived token.
#[derive(Serialize)]
pub(crate) struct Issued {
    pub(crate) id: String,
    pub(crate) token: String,
}

impl Accounts {
    /// Makes a long-lived token of an account.
    pub(crate) async fn create_token(
        &self,
        by: &str,
        name: &str,
        description: &str,
        time: &str,
    ) -> Result<Issued, RegistryError> {
        let time = form::token_time(time, USUAL, SHORTEST..=LONGEST)?;
        if description.chars().count() > LONGEST_DESCRIPTION || description.chars().any(char::is_control) {
            return Err(RegistryError::invalid(
                "field 'description' has more than 256 characters, or a control character",
            ));
        }
        let issued = self
            .registry
            .until_won(keys::account(name), |_| self.try_create_token(name, description, time))
            .await?;
        info!(account = name, token = issued.id, by, "a long-lived token has been made");
        Ok(issued)
    }

    async fn try_create_token(
        &self,
        name: &str,
        description: &str,
        time: Duration,
    ) -> Result<Option<Issued>, RegistryError> {
        let stored = self.stored(name).await?;
        if stored.account.value.status() != AccountStatus::Active {
            return Err(RegistryError::invalid("the account is not active"));
        }
        if self.stored_tokens(name).await?.len() >= MOST {
            return Err(RegistryError::invalid(format!("an account may have {MOST} long-lived tokens")));
        }
        let id = Uuid::new_v4().simple().to_string();
        let mut claims = self.claims(&stored, time, id.clone(), SERVICE_KIND);
        let record = TokenRecord {
            id: String::new(),
            description: description.to_owned(),
            create_time: self.registry.seconds(),
            exp: claims.exp,
        };
        let lease = self.registry.lease_for(time).await?;
        let value = record::render(&record, None);
        let txn = Txn {
            compare: vec![
                Compare::ModRev(keys::account(name), stored.account_at.mod_rev),
                // A reset of the sessions has come between, and this token would be dead.
                unchanged(&keys::account_extra(name), stored.extra_at.as_ref()),
            ],
            then: vec![Op::Put {
                key: keys::service_token(name, &id),
                value: value.clone(),
                lease: Some(lease),
            }],
            ..Txn::default()
        };
        if !self.registry.commit_change(txn, None, Some(&value)).await? {
            return Ok(None);
        }
        // Signed after the commit, because the token names a revision by which its record is there.
        claims.rev = claims.rev.max(self.changed());
        match self.sign(claims).await {
            Ok(token) => Ok(Some(Issued { id, token })),
            Err(error) => {
                self.delete_token(&stored.account.value.name, name, &id).await?;
                Err(error)
            }
        }
    }

    /// The long-lived tokens of an account, by their ids.
    pub(crate) async fn tokens(&self, name: &str) -> Result<Vec<TokenRecord>, RegistryError> {
        self.stored(name).await?;
        let prefix = keys::service_tokens_of(name);
        let records = self.stored_tokens(name).await?.into_iter().filter_map(|kv| {
            let id = kv.key.strip_prefix(&prefix)?.to_owned();
            let record: TokenRecord = serde_json::from_slice(&kv.value).unwrap_or_default();
            // Shown even if it cannot be read, because the token counts.
            Some(TokenRecord { id, ..record })
        });
        Ok(records.collect())
    }

    /// Takes a long-lived token back.
    pub(crate) async fn delete_token(&self, by: &str, name: &str, id: &str) -> Result<(), RegistryError> {
        let unknown = || RegistryError::invalid("the account has no such token");
        if !form::is_name(name) {
            return Err(AccountError::NotFound(form::shown(name)).into());
        }
        if !form::is_name(id) {
            return Err(unknown());
        }
        let key = keys::service_token(name, id);
        let txn = Txn {
            compare: vec![Compare::Exists(key.clone())],
            then: vec![Op::Delete(key.clone())],
            ..Txn::default()
        };
        // An error, because a token with a mistyped id would otherwise be believed gone.
        if !self.registry.commit_noting(txn, &[key]).await?.succeeded {
            return Err(unknown());
        }
        info!(account = name, token = id, by, "a long-lived token has been taken back");
        Ok(())
    }

    async fn stored_tokens(&self, name: &str) -> Result<Vec<KeyValue>, RegistryError> {
        let range = RangeRequest::prefix(keys::service_tokens_of(name));
        let read = self.registry.store.range(range).await;
        Ok(self.registry.note_connection(read).map_err(RegistryError::ReadAccount)?.items)
    }
}
