//! Logins and logouts: a name and a password come in, and a token goes out.

use std::net::IpAddr;
use std::time::Duration;

use access::token::{Claims, SERVICE_KIND};
use access::{AccountStatus, Permission, Policy};
use shared::model::Revision;
use tracing::debug;
use uuid::Uuid;

use super::account::{Accounts, Stored, form};
use super::{AccountError, Registry, RegistryError};
use crate::keys;
use crate::store::{LeaseId, Op, Txn};

/// The time of a token for which none is given, and the bounds of the time.
const USUAL: Duration = Duration::from_secs(12 * 3600);
const SHORTEST: Duration = Duration::from_secs(15 * 60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The time for which a revocation outlives its token: the clocks of replicas differ.
const REVOKED_BEYOND: u64 = 60;

impl Accounts {
    /// A token for the account with this name and password. `time` is a duration as Go writes it, or empty.
    pub(crate) async fn login(
        &self,
        name: &str,
        password: &str,
        time: &str,
        client: IpAddr,
    ) -> Result<String, RegistryError> {
        let time = form::token_time(time, USUAL, SHORTEST..=LONGEST)?;
        let Some(stored) = self.verified(name, password, client).await? else {
            return Err(AccountError::WrongLogin.into());
        };
        if stored.account.value.status() != AccountStatus::Active {
            return Err(AccountError::Inactive.into());
        }
        if !self.hashing.is_current(&stored.account.value.password)
            && let Err(error) = self.renew_hash(name, password, &stored).await
        {
            debug!(%error, "the hash of a password could not be renewed; the next login tries again");
        }
        self.sign(self.claims(&stored, time, Uuid::new_v4().simple().to_string(), "")).await
    }

    /// Replaces a hash of an older form, now that its password is known.
    async fn renew_hash(&self, name: &str, password: &str, verified: &Stored) -> Result<(), RegistryError> {
        let old = &verified.account.value.password;
        let hashed = self.hashing.hash(password).await?;
        self.registry
            .until_won(keys::account(name), |_| {
                let hashed = &hashed;
                async move {
                    let mut stored = self.stored(name).await?;
                    if stored.account.value.password != *old {
                        return Ok(Some(()));
                    }
                    stored.account.value.password.clone_from(hashed);
                    self.write(name, stored, Txn::default()).await
                }
            })
            .await
    }

    /// The claims of a new token, whose account is as this replica and the store know it now.
    pub(super) fn claims(&self, stored: &Stored, time: Duration, id: String, kind: &str) -> Claims {
        let account = &stored.account.value;
        let now = self.registry.clock.seconds();
        // The account was read from the store, which may be ahead of the view; its roles were read from the view.
        Claims {
            rev: self.changed().max(stored.revision()),
            account: account.name.clone(),
            roles: account.role_names().map(str::to_owned).collect(),
            exp: now + time.as_secs(),
            // Dated forward after a reset of the account's sessions, so that it counts at once.
            iat: Some(now.max(stored.extra.value.not_before)),
            jti: id,
            kind: kind.to_owned(),
            ..Claims::default()
        }
    }

    /// The revision of the last change that this replica's view has; zero before its first list.
    pub(super) fn changed(&self) -> Revision {
        self.registry.view.now().map_or(Revision::ZERO, |snapshot| snapshot.changed)
    }

    /// Signs a token. It takes some milliseconds, so it waits for its turn among the work on passwords.
    pub(super) async fn sign(&self, claims: Claims) -> Result<String, RegistryError> {
        let issuer = self.issuer.borrow().clone();
        let signed = self.hashing.run(move || issuer.issue(&claims)).await?;
        signed.map_err(|_| AccountError::NotMade.into())
    }

    /// Makes a token worthless.
    pub(crate) async fn revoke(&self, claims: &Claims) -> Result<(), RegistryError> {
        if !form::is_name(&claims.jti) {
            return Err(RegistryError::invalid(
                "the token has no id and cannot be revoked alone; end all sessions of the account instead",
            ));
        }
        let op = if claims.kind == SERVICE_KIND {
            Op::Delete(keys::service_token(&claims.account, &claims.jti))
        } else {
            let left = claims.exp.saturating_sub(self.registry.clock.seconds());
            let lease = self.registry.lease_for(Duration::from_secs(left + REVOKED_BEYOND)).await?;
            let value = claims.exp.to_string().into();
            Op::Put { key: keys::revoked_token(&claims.jti), value, lease: Some(lease) }
        };
        self.registry.commit(Txn { then: vec![op], ..Txn::default() }).await.map(drop)
    }
}

impl Registry {
    /// A lease that ends by itself after a time.
    pub(super) async fn lease_for(&self, time: Duration) -> Result<LeaseId, RegistryError> {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX).max(1);
        self.note_connection(self.store.grant(seconds).await).map_err(RegistryError::GrantLease)
    }
}

/// All permissions of some roles, one after the other.
pub(crate) fn permissions(policy: &Policy, roles: &[&str]) -> Vec<Permission> {
    let roles = roles.iter().filter_map(|name| policy.roles.get(*name));
    roles.flat_map(|role| role.perms.iter().cloned()).collect()
}
