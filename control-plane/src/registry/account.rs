//! Accounts: made, changed and deleted. Each change is one transaction on the store.
//!
//! | part | file |
//! | --- | --- |
//! | forms of names, passwords and times | `form` |
//! | slow work on passwords | `hashing` |
//! | changes of passwords, ends of sessions | `password` |
//! | locks after failed logins | `locks` |
//! | long-lived tokens | `tokens` |
//!
//! A record is read from the store and not from the view, which keeps no hash of a password.
//!
//! An account that may create or change accounts may give them any role, also one with more rights than its
//! own. That is Service-Center's rule: the permission on accounts is an administrator's.

use std::collections::BTreeSet;
use std::time::Duration;

use access::account::ROOT;
use access::password::HashKind;
use access::token::Issuer;
use access::{Account, Role};
use serde::Serialize;
use shared::model::Revision;
use tokio::sync::watch;
use tracing::info;
use uuid::Uuid;

use self::hashing::Hashing;
use self::locks::Locks;
use super::{AccountError, Registry, RegistryError};
use crate::keys;
use crate::record::{self, AccountExtra, Record};
use crate::store::{Compare, KeyValue, Op, RangeRequest, Txn};

pub(crate) mod form;
mod hashing;
mod locks;
mod password;
mod tokens;

/// Seconds by which the clocks of two replicas may differ. A token that the one issued just before the other
/// reset the account's sessions does not survive.
const CLOCK_SKEW: u64 = 2;
/// The time for which a deleted account is remembered: longer than any token lives without a record.
const REMEMBERED: Duration = Duration::from_secs(25 * 3600);

/// The settings of accounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccountConfig {
    /// The form in which new passwords are stored.
    pub(crate) hash: HashKind,
    /// The time for which a lock holds.
    pub(crate) release_lock_after: Duration,
    /// The time for which a failed login counts.
    pub(crate) retain_failures_for: Duration,
}

/// The operations on accounts, roles and tokens, beside those that the registry itself has.
pub(crate) struct Accounts {
    pub(super) registry: Registry,
    /// The present one: keys are replaced while the process runs.
    pub(super) issuer: watch::Receiver<Issuer>,
    pub(super) hashing: Hashing,
    pub(super) locks: Locks,
}

/// An account that is to be made.
#[derive(Clone, Default)]
pub(crate) struct NewAccount {
    /// Empty to have one made.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) roles: Vec<String>,
    pub(crate) status: String,
    pub(crate) tenants: Vec<String>,
}

/// A change of an account. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccountChange {
    pub(crate) roles: Option<Vec<String>>,
    pub(crate) status: Option<String>,
    pub(crate) tenants: Option<Vec<String>>,
}

/// An account as it is shown, without its password.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShownAccount {
    #[serde(flatten)]
    account: Account,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tenants: Vec<String>,
}

/// An account and the rest of what is known of it, as they are stored.
pub(super) struct Stored {
    pub(super) account: Record<Account>,
    account_at: KeyValue,
    pub(super) extra: Record<AccountExtra>,
    extra_at: Option<KeyValue>,
}

impl Accounts {
    pub(crate) fn new(registry: Registry, issuer: watch::Receiver<Issuer>, config: AccountConfig) -> Self {
        Self { registry, issuer, hashing: Hashing::new(config.hash), locks: Locks::new(config) }
    }

    /// The registry behind the accounts.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Makes an account. `by` is the account that asks for it, for the log.
    pub(crate) async fn create(&self, by: &str, new: NewAccount) -> Result<(), RegistryError> {
        self.check_quota()?;
        form::new_account(&new)?;
        let roles: BTreeSet<String> = new.roles.iter().cloned().collect();
        // Before the password is hashed, which is slow. The transaction decides.
        let found = self.registry.read_keys(vec![keys::account(&new.name)]).await?;
        self.roles_to_bind(roles.iter()).await?;
        if found.iter().any(Option::is_some) {
            return Err(AccountError::Exists.into());
        }
        let hashed = self.hashing.hash(&new.password).await?;
        // One object for all creations, so that those of this replica count towards the quota.
        self.registry
            .until_won(keys::ACCOUNTS.to_owned(), |_| {
                let (new, roles, hashed) = (&new, &roles, &hashed);
                async move {
                    self.check_quota()?;
                    self.try_create(new, roles, hashed).await
                }
            })
            .await?;
        info!(account = new.name, by, "an account has been created");
        Ok(())
    }

    fn check_quota(&self) -> Result<(), RegistryError> {
        let limit = self.registry.quotas.now().accounts;
        let count = self.registry.view.now()?.policy.accounts.len();
        if count >= limit { Err(AccountError::AccountQuota(limit).into()) } else { Ok(()) }
    }

    async fn try_create(
        &self,
        new: &NewAccount,
        roles: &BTreeSet<String>,
        hashed: &str,
    ) -> Result<Option<()>, RegistryError> {
        let key = keys::account(&new.name);
        let extra_key = keys::account_extra(&new.name);
        let bindings = self.roles_to_bind(roles.iter()).await?;
        let mut found = self.registry.read_keys(vec![key.clone(), extra_key.clone()]).await?;
        let left_behind = found.pop().flatten();
        if found.pop().flatten().is_some() {
            return Err(AccountError::Exists.into());
        }
        let now = self.registry.seconds();
        let account = Account {
            id: if new.id.is_empty() { Uuid::new_v4().simple().to_string() } else { new.id.clone() },
            name: new.name.clone(),
            password: hashed.to_owned(),
            roles: roles_in_order(&new.roles),
            status: if new.status.is_empty() { "active".to_owned() } else { new.status.clone() },
            create_time: now.clone(),
            update_time: now,
            ..Account::default()
        };
        // Tokens of an earlier account of this name would otherwise be tokens of this one.
        let earlier = left_behind.as_ref().and_then(|kv| Record::<AccountExtra>::parse(&kv.value).ok());
        let not_before = self.not_before(&earlier.unwrap_or_default().value);
        let extra = AccountExtra { not_before, tenants: new.tenants.clone() };
        let value = record::render(&account, None);
        let mut txn = Txn {
            compare: vec![Compare::Absent(key.clone()), unchanged(&extra_key, left_behind.as_ref())],
            then: vec![Op::put(key, value.clone()), Op::put(extra_key, record::render(&extra, None))],
            ..Txn::default()
        };
        bindings.add(&new.name, &mut txn);
        Ok(self.registry.commit_change(txn, None, Some(&value)).await?.then_some(()))
    }

    /// Changes roles, state and tenants of an account.
    pub(crate) async fn update(
        &self,
        by: &str,
        name: &str,
        change: AccountChange,
    ) -> Result<(), RegistryError> {
        protect_root(name)?;
        form::change(&change)?;
        self.registry
            .until_won(keys::account(name), |_| {
                let change = &change;
                async move { self.try_update(name, change).await }
            })
            .await?;
        let AccountChange { roles, status, tenants } = change;
        info!(account = name, by, ?roles, ?status, ?tenants, "an account has been changed");
        Ok(())
    }

    async fn try_update(&self, name: &str, change: &AccountChange) -> Result<Option<()>, RegistryError> {
        let mut stored = self.stored(name).await?;
        let mut txn = Txn::default();
        if let Some(roles) = &change.roles {
            let old: BTreeSet<String> = stored.account.value.role_names().map(str::to_owned).collect();
            let new: BTreeSet<String> = roles.iter().cloned().collect();
            self.roles_to_bind(new.difference(&old)).await?.add(name, &mut txn);
            for gone in old.difference(&new) {
                txn.then.push(Op::Delete(keys::role_of_account(gone, name)));
            }
            stored.account.value.roles = roles_in_order(roles);
            stored.account.value.role.clear();
        }
        if let Some(status) = &change.status {
            stored.account.value.status.clone_from(status);
            if status == "inactive" {
                // Its tokens stay worthless when it becomes active again.
                self.end_sessions(&mut stored);
                txn.then.push(Op::DeletePrefix(keys::service_tokens_of(name)));
            }
        }
        if let Some(tenants) = &change.tenants {
            stored.extra.value.tenants.clone_from(tenants);
        }
        self.write(name, stored, txn).await
    }

    /// Deletes an account with its tokens.
    pub(crate) async fn delete(&self, by: &str, name: &str) -> Result<(), RegistryError> {
        protect_root(name)?;
        self.registry
            .until_won(keys::account(name), |_| async move {
                let mut stored = self.stored(name).await?;
                self.end_sessions(&mut stored);
                stored.extra.value.tenants.clear();
                let value = record::render(&stored.extra.value, None);
                let lease = Some(self.registry.lease_for(REMEMBERED).await?);
                let mut then = vec![
                    Op::Delete(keys::account(name)),
                    // Stays as long as tokens of the account may live: a new one of the same name is not
                    // theirs.
                    Op::Put { key: keys::account_extra(name), value, lease },
                    Op::DeletePrefix(keys::service_tokens_of(name)),
                ];
                let roles: BTreeSet<&str> = stored.account.value.role_names().collect();
                then.extend(roles.iter().map(|role| Op::Delete(keys::role_of_account(role, name))));
                let compare = vec![Compare::ModRev(keys::account(name), stored.account_at.mod_rev)];
                let txn = Txn { compare, then, ..Txn::default() };
                let before = Some(&stored.account_at.value);
                Ok(self.registry.commit_change(txn, before, None).await?.then_some(()))
            })
            .await?;
        info!(account = name, by, "an account has been deleted");
        Ok(())
    }

    /// One account.
    pub(crate) async fn account(&self, name: &str) -> Result<ShownAccount, RegistryError> {
        Ok(self.stored(name).await?.shown())
    }

    /// All accounts, by their names.
    pub(crate) async fn accounts(&self) -> Result<Vec<ShownAccount>, RegistryError> {
        let read = self.registry.store.range(RangeRequest::prefix(keys::ACCOUNTS)).await;
        let found = self.registry.note_connection(read).map_err(RegistryError::ReadAccount)?;
        let policy = self.registry.view.now()?.policy.clone();
        let mut accounts = Vec::with_capacity(found.items.len());
        for kv in &found.items {
            // One record that cannot be read does not hide the others. The view counts such records.
            let Ok(record) = Record::<Account>::parse(&kv.value) else { continue };
            let state = policy.accounts.get(&record.value.name);
            let tenants = state.map(|state| state.tenants.clone()).unwrap_or_default();
            accounts.push(ShownAccount { account: record.value.public(), tenants });
        }
        Ok(accounts)
    }

    /// An account as it is stored now.
    pub(super) async fn stored(&self, name: &str) -> Result<Stored, RegistryError> {
        let absent = || RegistryError::from(AccountError::NotFound(form::shown(name)));
        if !form::is_name(name) {
            return Err(absent());
        }
        let keys = vec![keys::account(name), keys::account_extra(name)];
        let mut found = self.registry.read_keys(keys).await?;
        let extra_at = found.pop().flatten();
        let account_at = found.pop().flatten().ok_or_else(absent)?;
        Stored::parse(account_at, extra_at)
    }

    /// Writes an account, if it is still as it was read, together with the rest of the transaction.
    pub(super) async fn write(
        &self,
        name: &str,
        mut stored: Stored,
        mut txn: Txn,
    ) -> Result<Option<()>, RegistryError> {
        stored.account.value.update_time = self.registry.seconds();
        let key = keys::account(name);
        let extra_key = keys::account_extra(name);
        txn.compare.push(Compare::ModRev(key.clone(), stored.account_at.mod_rev));
        txn.compare.push(unchanged(&extra_key, stored.extra_at.as_ref()));
        let account = record::render(&stored.account.value, Some(&stored.account.unknown));
        txn.then.push(Op::put(key, account.clone()));
        let extra = record::render(&stored.extra.value, Some(&stored.extra.unknown));
        txn.then.push(Op::put(extra_key, extra));
        let before = Some(&stored.account_at.value);
        Ok(self.registry.commit_change(txn, before, Some(&account)).await?.then_some(()))
    }

    /// Makes every token worthless that was issued so far.
    pub(super) fn end_sessions(&self, stored: &mut Stored) {
        stored.extra.value.not_before = self.not_before(&stored.extra.value);
    }

    /// The second from which on tokens count after a reset in this moment.
    ///
    /// Tokens have whole seconds, so one that was issued in this second must not count, whichever part of the
    /// second came first. Those that are issued later in it are dated forward: see `Accounts::issue`. Each
    /// reset moves further than the one before, so it also ends sessions that were dated forward.
    fn not_before(&self, extra: &AccountExtra) -> u64 {
        (self.registry.clock.seconds() + 1 + CLOCK_SKEW).max(extra.not_before + 1)
    }

    /// The roles that an account is to get, as they are stored now.
    async fn roles_to_bind(&self, names: impl Iterator<Item = &String>) -> Result<Bindings, RegistryError> {
        let names: Vec<String> = names.cloned().collect();
        let keys: Vec<String> = names.iter().map(|name| keys::role(name)).collect();
        let found = if keys.is_empty() { Vec::new() } else { self.registry.read_keys(keys).await? };
        let mut bindings = Bindings(Vec::new());
        for (name, kv) in names.into_iter().zip(found) {
            // The two that always exist need no record.
            if kv.is_none() && !is_built_in(&name) {
                return Err(AccountError::InvalidRoles.into());
            }
            bindings.0.push((name, kv));
        }
        Ok(bindings)
    }
}

/// Roles that an account is to get.
struct Bindings(Vec<(String, Option<KeyValue>)>);

impl Bindings {
    fn add(self, account: &str, txn: &mut Txn) {
        for (role, kv) in self.0 {
            txn.then.push(Op::put(keys::role_of_account(&role, account), ""));
            let Some(kv) = kv.filter(|_| !is_built_in(&role)) else { continue };
            // Written again as it is: a deletion of the role that began before this then loses, and finds the
            // account when it tries again.
            txn.compare.push(Compare::ModRev(kv.key.clone(), kv.mod_rev));
            txn.then.push(Op::put(kv.key, kv.value));
        }
    }
}

impl Stored {
    /// The revision of the last change of the account.
    pub(super) fn revision(&self) -> Revision {
        let extra_at = self.extra_at.as_ref().map_or(Revision::ZERO, |extra_at| extra_at.mod_rev);
        self.account_at.mod_rev.max(extra_at)
    }

    pub(super) fn parse(account_at: KeyValue, extra_at: Option<KeyValue>) -> Result<Self, RegistryError> {
        let account = Record::<Account>::parse(&account_at.value).map_err(|_| RegistryError::Unreadable)?;
        let extra = match &extra_at {
            Some(kv) => Record::parse(&kv.value).map_err(|_| RegistryError::Unreadable)?,
            None => Record::default(),
        };
        Ok(Self { account, account_at, extra, extra_at })
    }

    fn shown(&self) -> ShownAccount {
        ShownAccount { account: self.account.value.public(), tenants: self.extra.value.tenants.clone() }
    }
}

fn unchanged(key: &str, kv: Option<&KeyValue>) -> Compare {
    match kv {
        Some(kv) => Compare::ModRev(key.to_owned(), kv.mod_rev),
        None => Compare::Absent(key.to_owned()),
    }
}

fn protect_root(name: &str) -> Result<(), RegistryError> {
    if name == ROOT { Err(AccountError::RootProtected.into()) } else { Ok(()) }
}

pub(super) fn is_built_in(role: &str) -> bool {
    Role::built_in().iter().any(|built_in| built_in.name == role)
}

/// The roles as they were given, each once.
fn roles_in_order(roles: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    roles.iter().filter(|role| seen.insert(*role)).cloned().collect()
}

/// A password for an account whose creator gives none: sixteen characters of all kinds, some 90 bits.
pub(crate) fn generated_password() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    loop {
        // Random bytes of the system. Two of the sixteen in an id are partly fixed, so two ids are needed.
        let ids = [Uuid::new_v4(), Uuid::new_v4()];
        let bytes = ids.iter().flat_map(|id| id.as_bytes()[8..].iter().skip(1).chain(&id.as_bytes()[..6]));
        let password: String = bytes
            .take(16)
            .filter_map(|byte| LETTERS.get(usize::from(byte % 64)))
            .map(|letter| char::from(*letter))
            .collect();
        if form::is_strong(&password) {
            return password;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_password_is_strong_and_its_own() {
        let made: BTreeSet<String> = (0..100).map(|_| generated_password()).collect();
        assert_eq!(made.len(), 100);
        assert!(made.iter().all(|password| password.len() == 16 && form::is_strong(password)));
    }
}
