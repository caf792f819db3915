//! Roles: made, changed and deleted. Each change is one transaction on the store.

use std::sync::Arc;

use access::{Permission, Role};
use tracing::info;
use uuid::Uuid;

use super::account::{Accounts, form, is_built_in};
use super::{AccountError, Caller, RegistryError};
use crate::keys;
use crate::record::{self, Record};
use crate::store::{Compare, Op, RangeRequest, Txn};

/// The largest record of a role in bytes. Every gateway keeps all roles, and every decision reads some.
const LARGEST: usize = 64 << 10;

impl Accounts {
    /// One role.
    pub(crate) async fn role(&self, caller: &Caller, name: &str) -> Result<Arc<Role>, RegistryError> {
        let role = self.registry.answer(caller, |snapshot| {
            snapshot.policy.roles.get(name).cloned().ok_or_else(|| AccountError::RoleNotFound.into())
        });
        role.await
    }

    /// All roles, by their names.
    pub(crate) async fn roles(&self, caller: &Caller) -> Result<Vec<Arc<Role>>, RegistryError> {
        Ok(self.registry.read(caller).await?.policy.roles.values().cloned().collect())
    }

    /// Makes a role. `by` is the account that asks for it, for the log.
    pub(crate) async fn create_role(
        &self,
        by: &str,
        name: &str,
        perms: Vec<Permission>,
    ) -> Result<(), RegistryError> {
        form::name("Role.Name", name)?;
        let key = keys::role(name);
        let now = self.registry.seconds();
        let role = Role {
            id: Uuid::new_v4().simple().to_string(),
            name: name.to_owned(),
            perms,
            create_time: now.clone(),
            update_time: now,
        };
        let value = record::render(&role, None);
        check_size(value.len())?;
        let limit = self.registry.quotas.now().roles;
        // One object for all creations, so that those of this replica count towards the quota.
        self.registry
            .until_won(keys::ROLES.to_owned(), |snapshot| {
                let (key, value) = (key.clone(), value.clone());
                async move {
                    if snapshot.policy.roles.len() >= limit {
                        return Err(AccountError::RoleQuota(limit).into());
                    }
                    let txn = Txn {
                        compare: vec![Compare::Absent(key.clone())],
                        then: vec![Op::put(key, value.clone())],
                        ..Txn::default()
                    };
                    match self.registry.commit_change(txn, None, Some(&value)).await? {
                        true => Ok(Some(())),
                        false => Err(AccountError::RoleExists.into()),
                    }
                }
            })
            .await?;
        info!(role = name, by, "a role has been created");
        Ok(())
    }

    /// Replaces the permissions of a role.
    pub(crate) async fn update_role(
        &self,
        by: &str,
        name: &str,
        perms: Vec<Permission>,
    ) -> Result<(), RegistryError> {
        let key = changeable(name)?;
        self.registry
            .until_won(key.clone(), |_| {
                let (key, perms) = (key.clone(), perms.clone());
                async move {
                    let found = self.registry.read_keys(vec![key.clone()]).await?.pop().flatten();
                    let found = found.ok_or(AccountError::RoleNotFound)?;
                    // One that cannot be read is replaced: this is how it is repaired.
                    let mut record = Record::<Role>::parse(&found.value).unwrap_or_default();
                    record.value.name = name.to_owned();
                    record.value.perms = perms;
                    record.value.update_time = self.registry.seconds();
                    let value = record::render(&record.value, Some(&record.unknown));
                    check_size(value.len())?;
                    let txn = Txn {
                        compare: vec![Compare::ModRev(key.clone(), found.mod_rev)],
                        then: vec![Op::put(key, value.clone())],
                        ..Txn::default()
                    };
                    let changed = self.registry.commit_change(txn, Some(&found.value), Some(&value));
                    Ok(changed.await?.then_some(()))
                }
            })
            .await?;
        info!(role = name, by, "a role has been changed");
        Ok(())
    }

    /// Deletes a role that no account has.
    pub(crate) async fn delete_role(&self, by: &str, name: &str) -> Result<(), RegistryError> {
        let key = changeable(name)?;
        self.registry
            .until_won(key.clone(), |snapshot| {
                let key = key.clone();
                async move {
                    let found = self.registry.read_keys(vec![key.clone()]).await?.pop().flatten();
                    let found = found.ok_or(AccountError::RoleNotFound)?;
                    // Read after the role: an account that gets the role later writes the role again, and
                    // this transaction loses.
                    let range =
                        RangeRequest { limit: 1, ..RangeRequest::prefix(keys::accounts_of_role(name)) };
                    let read = self.registry.store.range(range).await;
                    let bound = self.registry.note_connection(read).map_err(RegistryError::ReadAccount)?;
                    let mut accounts = snapshot.policy.accounts.values();
                    let has_role = accounts.any(|account| account.roles.iter().any(|role| role == name));
                    if has_role || !bound.items.is_empty() {
                        return Err(AccountError::RoleBound.into());
                    }
                    let txn = Txn {
                        compare: vec![Compare::ModRev(key.clone(), found.mod_rev)],
                        then: vec![Op::Delete(key)],
                        ..Txn::default()
                    };
                    let changed = self.registry.commit_change(txn, Some(&found.value), None);
                    Ok(changed.await?.then_some(()))
                }
            })
            .await?;
        info!(role = name, by, "a role has been deleted");
        Ok(())
    }
}

/// The key of a role that may be changed and deleted.
fn changeable(name: &str) -> Result<String, RegistryError> {
    if is_built_in(name) {
        return Err(AccountError::RoleProtected.into());
    }
    // No other text may become a part of a key, and no role has another name.
    if form::is_name(name) { Ok(keys::role(name)) } else { Err(AccountError::RoleNotFound.into()) }
}

fn check_size(bytes: usize) -> Result<(), RegistryError> {
    if bytes <= LARGEST {
        return Ok(());
    }
    Err(RegistryError::invalid(format!("the role has {bytes} bytes, and at most {LARGEST} are allowed")))
}
