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
    /// The change has more bytes than the store takes at once.
    #[error("the request is too large: the object would have more bytes than the store takes")]
    TooLarge,
    /// A transaction that writes to the registry failed.
    #[error("the change could not be written to the store")]
    Commit(#[source] StoreError),
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
