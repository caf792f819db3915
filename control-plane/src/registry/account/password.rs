//! Changes of passwords, and ends of sessions.

use std::net::IpAddr;

use tracing::info;

use super::{Accounts, form};
use crate::keys;
use crate::registry::{AccountError, RegistryError};
use crate::store::{Op, Txn};

impl Accounts {
    /// Gives an account a new password. Its owner must know the present one.
    pub(crate) async fn change_own_password(
        &self,
        name: &str,
        current: &str,
        new: &str,
        client: IpAddr,
    ) -> Result<(), RegistryError> {
        if current.is_empty() {
            return Err(RegistryError::invalid("current password should not be empty"));
        }
        form::new_password(name, new)?;
        // A stolen token must not be a way to guess the password, so failures count as those of logins do.
        let verified = self.verified(name, current, client).await?;
        let Some(stored) = verified else { return Err(AccountError::WrongPassword.into()) };
        if current == new {
            return Err(AccountError::SamePassword.into());
        }
        self.set_password(name, new, Some(&stored.account.value.password)).await?;
        info!(account = name, "an account has changed its password");
        Ok(())
    }

    /// Gives an account a password. `by` is the administrator that asks for it, for the log.
    pub(crate) async fn change_others_password(
        &self,
        by: &str,
        name: &str,
        new: &str,
    ) -> Result<(), RegistryError> {
        form::new_password(name, new)?;
        self.stored(name).await?;
        self.set_password(name, new, None).await?;
        info!(account = name, by, "the password of an account has been changed");
        Ok(())
    }

    /// Writes a password, and ends all sessions. With `verified` the stored hash must still be this one.
    async fn set_password(&self, name: &str, new: &str, verified: Option<&str>) -> Result<(), RegistryError> {
        let hashed = self.hashing.hash(new).await?;
        self.registry
            .until_won(keys::account(name), |_| {
                let hashed = &hashed;
                async move {
                    let mut stored = self.stored(name).await?;
                    if verified.is_some_and(|verified| verified != stored.account.value.password) {
                        return Err(AccountError::WrongPassword.into());
                    }
                    stored.account.value.password.clone_from(hashed);
                    self.end_sessions(&mut stored);
                    self.write(name, stored, without_tokens(name)).await
                }
            })
            .await
    }

    /// Makes every token worthless that an account has, also the long-lived ones.
    pub(crate) async fn reset_sessions(&self, by: &str, name: &str) -> Result<(), RegistryError> {
        self.registry
            .until_won(keys::account(name), |_| async move {
                let mut stored = self.stored(name).await?;
                self.end_sessions(&mut stored);
                self.write(name, stored, without_tokens(name)).await
            })
            .await?;
        info!(account = name, by, "the sessions of an account have been ended");
        Ok(())
    }
}

/// A transaction that forgets the long-lived tokens of an account, which do not count any more.
fn without_tokens(name: &str) -> Txn {
    Txn { then: vec![Op::DeletePrefix(keys::service_tokens_of(name))], ..Txn::default() }
}
