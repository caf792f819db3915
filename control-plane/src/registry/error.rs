//! The errors of the registry's operations.
//!
//! A variant names the rule that was broken or the step that failed. Nothing here knows a wire code or an
//! HTTP status; `api::failure` translates. Errors of the store are kept as sources for the log. Their text
//! may name hosts and keys, so it is not part of the message and never reaches a client.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;

use crate::store::StoreError;
use crate::view::ViewError;

/// The reason why an operation of the registry did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// A field or parameter does not have the required form. Carries the field, the value and the rule.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// The service is not registered. Carries a sentence that names it.
    #[error("{0}")]
    ServiceNotFound(Cow<'static, str>),
    /// The name is registered, but no version of it matches the rule. Carries a sentence that names both.
    #[error("{0}")]
    VersionNotFound(Cow<'static, str>),
    /// The instance is not registered, or its lease has ended.
    #[error("Instance does not exist.")]
    InstanceNotFound,
    /// The service has no such schema, or the schema has no content.
    #[error("schema does not exist.")]
    SchemaNotFound,
    /// The service has no such tag.
    #[error("tag does not exist.")]
    TagNotFound,
    /// The service has no such black or white rule.
    #[error("rule does not exist.")]
    RuleNotFound,
    /// No override has this id, or it is of a service that the caller may not see.
    #[error("override does not exist")]
    OverrideNotFound,
    /// No drain of the instance is in force.
    #[error("the instance is not drained")]
    NotDrained,
    /// No shift has this id, or it is of services that the caller may not see.
    #[error("shift does not exist")]
    ShiftNotFound,
    /// The version is registered under another id, or the id belongs to another version.
    #[error("ServiceID conflict or found the same service with different id.")]
    ServiceConflict,
    /// Other services depend on the service that was to be deleted.
    #[error("Can not delete this service, other service rely it.")]
    HasConsumers,
    /// The service that was to be deleted still has instances.
    #[error("Can not delete the service deployed instance(s).")]
    HasInstances,
    /// The service would have black and white rules at the same time.
    #[error("all rules of a service must have the same type")]
    MixedRules,
    /// An update would have changed a rule from black to white or back.
    #[error("the type of a rule cannot be changed")]
    RuleTypeFixed,
    /// The tenant or the service has as many as its quota allows.
    #[error("no quota to create {resource}, max num is {limit}, curNum is {used}, apply num is 1")]
    QuotaExceeded {
        /// The name of the limited thing in Service-Center's words, such as `INSTANCE`.
        resource: &'static str,
        /// The quota.
        limit: usize,
        /// The number that exists.
        used: usize,
    },
    /// A compare-and-swap was repeated as often as it may be and lost each time.
    #[error("too many concurrent changes of the same object; try again")]
    Contended,
    /// Not all held instances of a service could be released within the time that a caller waits.
    #[error("not all held instances were released in time; try again")]
    ReleaseTimedOut,
    /// The replica stops while the operation waits for its view.
    #[error("the registry is about to stop")]
    Stopping,
    /// The replica's view could not be read, or did not catch up in time.
    #[error(transparent)]
    ReadView(#[from] ViewError),
    /// The caller wants the present state, and the store could not be asked for it.
    #[error(
        "the store did not answer, so the present state is not known; without noCache the last known one is"
    )]
    NotConfirmed,
    /// The content of a schema could not be read from the store.
    #[error("the schema could not be read from the store")]
    ReadSchema(#[source] StoreError),
    /// The lease of an instance could not be looked up in the store.
    #[error("the instance could not be read from the store")]
    ReadInstance(#[source] StoreError),
    /// The store did not grant a lease for an instance.
    #[error("no lease could be granted")]
    GrantLease(#[source] StoreError),
    /// The store did not renew the lease of an instance. A lease that ended is [`Self::InstanceNotFound`].
    #[error("the lease could not be renewed")]
    RenewLease(#[source] StoreError),
    /// An account, a role or a lock could not be read from the store.
    #[error("the accounts could not be read from the store")]
    ReadAccount(#[source] StoreError),
    /// An account or a role in the store does not have the form of one.
    #[error("a stored record cannot be read")]
    Unreadable,
    /// An operation on accounts and roles broke a rule.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The change has more bytes than the store takes at once.
    #[error("the request is too large: the object would have more bytes than the store takes")]
    TooLarge,
    /// A transaction that writes to the registry failed.
    #[error("the change could not be written to the store")]
    Commit(#[source] StoreError),
}

/// The rule that an operation on accounts and roles has broken. The texts are Service-Center's, where it has
/// one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The account does not exist.
    #[error("account [{0}] not exist")]
    NotFound(String),
    /// The role does not exist.
    #[error("")]
    RoleNotFound,
    /// An account was to get a role that does not exist.
    #[error("role not exist")]
    InvalidRoles,
    /// There are as many accounts as the quota allows.
    #[error("no quota to create account, max num is {0}")]
    AccountQuota(usize),
    /// There are as many roles as the quota allows.
    #[error("no quota to create role, max num is {0}")]
    RoleQuota(usize),
    /// The role belongs to an account.
    #[error("")]
    RoleBound,
    /// The new password is the old one.
    #[error("the new password is the same as the old one")]
    SamePassword,
    /// The name of the account is taken.
    #[error("account is duplicated")]
    Exists,
    /// The name of the role is taken.
    #[error("role is duplicated")]
    RoleExists,
    /// Name or password of a login is wrong. Nothing says which.
    #[error("")]
    WrongLogin,
    /// The login is right, and the account cannot be used. Only a client that knows the password is told so.
    #[error("the account is not active")]
    Inactive,
    /// The current password is wrong.
    #[error("")]
    WrongPassword,
    /// Too many logins of the account, or from the address, have failed.
    #[error("")]
    Blocked,
    /// Nobody changes or deletes `root`.
    #[error("root can not be operated")]
    RootProtected,
    /// Nobody changes or deletes the roles that always exist.
    #[error("build-in role can not be operated")]
    RoleProtected,
    /// Nobody changes or deletes the account with which the request is made.
    #[error("your account can not be operated")]
    OwnAccount,
    /// Only an administrator does this to the account of another.
    #[error("{0}")]
    OthersAccount(&'static str),
    /// So many passwords are being checked that one more would have to wait for long.
    #[error("too many passwords are being checked; try again")]
    Busy,
    /// The machine did not do its part of making a password or a token.
    #[error("")]
    NotMade,
}

impl RegistryError {
    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(detail.into())
    }

    pub(crate) fn no_service() -> Self {
        Self::ServiceNotFound("Service does not exist.".into())
    }

    /// True when the error claims that something is absent. A lagging replica may not make such a claim.
    pub(super) fn claims_absence(&self) -> bool {
        matches!(
            self,
            Self::ServiceNotFound(_)
                | Self::VersionNotFound(_)
                | Self::InstanceNotFound
                | Self::SchemaNotFound
                | Self::TagNotFound
                | Self::RuleNotFound
                | Self::OverrideNotFound
                | Self::NotDrained
                | Self::ShiftNotFound
                | Self::Account(AccountError::RoleNotFound)
        )
    }

    /// The message followed by the messages of all sources, for the log.
    pub(crate) fn with_sources(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_public_and_the_log_has_the_source() {
        let error = RegistryError::Commit(StoreError::Unavailable("10.0.0.1: connection refused".into()));
        assert_eq!(error.to_string(), "the change could not be written to the store");
        assert!(error.with_sources().ends_with("10.0.0.1: connection refused"), "{}", error.with_sources());
    }
}
