//! Failures as clients receive them: the contract's codes, HTTP statuses and texts.
//!
//! [`RegistryError`] comes in and is translated in one place. A client receives plain public sentences only.
//! The store's own text goes to the log once, with the id of the request that the client also receives.

use std::borrow::Cow;

use access::Denial;
use access::denial::DenialCode;
use axum::response::{IntoResponse, Response};
use host::fairness::NoPlace;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tracing::{debug, error};

use super::reply;
use crate::registry::{AccountError, RegistryError};
use crate::store::StoreError;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $message:literal;)*) => {
        /// The reason of a refusal. Numbers, statuses and messages are the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Six digits, sent as text.
            pub(crate) fn number(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that is sent with the code.
            pub(crate) fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The constant text that is sent with the code.
            pub(crate) fn message(self) -> &'static str {
                match self { $(Self::$name => $message,)* }
            }
        }
    };
}

codes! {
    /// A field, parameter or body does not have the required form.
    InvalidParams = "400001", 400, "Invalid parameter(s)";
    /// The body did not arrive in time.
    BodyLate = "400001", 408, "Invalid parameter(s)";
    /// This node cannot say anything about its health.
    Unhealthy = "400002", 400, "Server is Unhealthy";
    /// The id belongs to another service.
    ServiceConflict = "400010", 400, "Micro-service already exists";
    /// The service is not registered.
    ServiceNotFound = "400012", 400, "Micro-service does not exist";
    /// The service still has instances.
    HasInstances = "400013", 400, "Micro-service has deployed instance(s)";
    /// The service has no such schema.
    SchemaNotFound = "400016", 400, "Schema does not exist";
    /// The instance is not registered; clients then register again.
    InstanceNotFound = "400017", 400, "Instance does not exist";
    /// The service has no such tag.
    TagNotFound = "400018", 400, "Tag does not exist";
    /// The rules of a service have one type.
    MixedRules = "400020", 400, "Can not have both 'BLACK' and 'WHITE'";
    /// The type of a rule cannot change.
    RuleTypeFixed = "400021", 400, "Not allowed to modify the type of the rule";
    /// The service has no such rule.
    RuleNotFound = "400022", 400, "Rule does not exist";
    /// Other services depend on the service.
    HasConsumers = "400023", 400, "Consumer(s) depends on this micro-service";
    /// The name is registered, but no version of it matches.
    VersionNotFound = "400026", 400, "Micro-service version does not exist";
    /// The tenant or service has as many as its quota allows.
    NotEnoughQuota = "400100", 400, "Not enough quota";
    /// The account does not exist.
    AccountNotFound = "400200", 400, "Account not exists";
    /// The role does not exist.
    RoleNotFound = "400201", 400, "Role not exists";
    /// An account was to get a role that does not exist.
    InvalidRoles = "400202", 400, "Account has invalid role(s)";
    /// There are as many accounts as there may be.
    NoAccountQuota = "400203", 400, "No quota to create account";
    /// There are as many roles as there may be.
    NoRoleQuota = "400204", 400, "No quota to create role";
    /// The role belongs to an account.
    RoleBound = "400205", 400, "Role is bound to some user(s)";
    /// The new password is the old one.
    BadNewPassword = "400206", 400, "New password is bad";
    /// The token is none of ours, or it does not count any more.
    Unauthorized = "401201", 401, "Request unauthorized";
    /// The login is wrong.
    WrongLogin = "401202", 401, "User name or password is wrong";
    /// The request has no token.
    NoToken = "401204", 401, "No authorization header";
    /// The token's time is over.
    TokenExpired = "401205", 401, "Token is expired";
    /// The account of the token does not exist any more.
    AccountDeleted = "401206", 401, "The account that owns the token is deleted";
    /// The current password is wrong.
    WrongPassword = "401207", 401, "Password is wrong";
    /// Too many logins have failed.
    AccountBlocked = "403201", 403, "Account blocked";
    /// Nobody changes `root`.
    RootProtected = "403202", 403, "Forbid to operate build-in account(s)";
    /// Nobody changes the roles that always exist.
    RoleProtected = "403203", 403, "Forbid to operate build-in role(s)";
    /// Nobody changes the account with which the request is made.
    OwnAccount = "403204", 403, "Forbid to operate your own account";
    /// The account's roles do not permit this.
    NoPermission = "403205", 403, "No permission(s)";
    /// The caller may not do this.
    Forbidden = "403001", 403, "Forbidden";
    /// The name of the account is taken.
    AccountExists = "409200", 409, "account name is duplicated";
    /// The name of the role is taken.
    RoleExists = "409201", 409, "role name is duplicated";
    /// A mistake in this program or in its store.
    Internal = "500003", 500, "Internal server error";
    /// The store did not answer a write, which may or may not have happened.
    Unavailable = "500011", 500, "Registry service is unavailable";
    /// The store accepts no writes, until an operator has made room.
    StoreFull = "500011", 507, "Registry service is unavailable";
    /// The store is nearly full, and this tenant has written much of late.
    Rationed = "400100", 429, "Not enough quota";
    /// The tenant has as many requests under way as its share allows, or as many logins wait as may.
    TooMany = "400100", 429, "Not enough quota";
    /// This replica cannot answer now, and has changed nothing. Another one, or this one in a moment, can.
    NotReady = "500011", 503, "Registry service is unavailable";
}

/// A refusal: the code, and the sentence about this case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.message())]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// A public sentence for people. Clients do not parse it.
    pub(crate) detail: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// A parameter or body that does not have the required form.
    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidParams, detail)
    }

    /// A mistake of this program. `cause` goes to the log; the client receives only the id of its request.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        error!(request.id = host::http::request_id(), %cause, "a request failed because of an internal error");
        Self::new(Code::Internal, "")
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        use RegistryError as E;
        // The match has no wildcard: a new error does not compile before it has a code here.
        let code = match &error {
            // Service-Center knows no overrides and has no code for them.
            E::Invalid(_) | E::TooLarge | E::OverrideNotFound | E::NotDrained | E::ShiftNotFound => {
                Code::InvalidParams
            }
            E::ServiceNotFound(_) => Code::ServiceNotFound,
            E::VersionNotFound(_) => Code::VersionNotFound,
            E::InstanceNotFound => Code::InstanceNotFound,
            E::SchemaNotFound => Code::SchemaNotFound,
            E::TagNotFound => Code::TagNotFound,
            E::RuleNotFound => Code::RuleNotFound,
            E::ServiceConflict => Code::ServiceConflict,
            E::HasConsumers => Code::HasConsumers,
            E::HasInstances => Code::HasInstances,
            E::MixedRules => Code::MixedRules,
            E::RuleTypeFixed => Code::RuleTypeFixed,
            E::QuotaExceeded { .. } => Code::NotEnoughQuota,
            // A part of the instances is released.
            E::ReleaseTimedOut => Code::Unavailable,
            E::Contended | E::Stopping | E::ReadView(_) | E::NotConfirmed => Code::NotReady,
            E::Unreadable => Code::Internal,
            E::Account(error) => code_of_account(error),
            E::ReadSchema(source)
            | E::ReadInstance(source)
            | E::ReadAccount(source)
            | E::GrantLease(source)
            | E::RenewLease(source) => code_of_store(source),
            // Only here may the store have done what it did not answer.
            E::Commit(StoreError::Unavailable(_)) => Code::Unavailable,
            E::Commit(source) => code_of_store(source),
        };
        log(code, &error);
        // These two concern the store, not the operation that happened to meet them.
        match code {
            Code::StoreFull => return Self::new(code, "the store is full; an operator has to make room"),
            Code::Rationed => {
                let detail = "the store is nearly full, and this tenant, or all new ones together, have written much of \
                              late; write less, or later";
                return Self::new(code, detail);
            }
            _ => {}
        }
        match error {
            E::Invalid(detail) | E::ServiceNotFound(detail) | E::VersionNotFound(detail) => {
                Self { code, detail }
            }
            // The messages are public sentences by the rule of `registry::error`; sources are not part of
            // them.
            other => Self { code, detail: other.to_string().into() },
        }
    }
}

impl From<NoPlace> for Failure {
    fn from(none: NoPlace) -> Self {
        Self::new(Code::TooMany, none.to_string())
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        let code = match denial.code {
            DenialCode::Unauthorized => Code::Unauthorized,
            DenialCode::NoHeader => Code::NoToken,
            DenialCode::Expired => Code::TokenExpired,
            DenialCode::AccountDeleted => Code::AccountDeleted,
            DenialCode::NoPermission => Code::NoPermission,
            DenialCode::Undecided => Code::NotReady,
        };
        Self { code, detail: denial.detail }
    }
}

fn code_of_account(error: &AccountError) -> Code {
    use AccountError as E;
    match error {
        E::NotFound(_) => Code::AccountNotFound,
        E::RoleNotFound => Code::RoleNotFound,
        E::InvalidRoles => Code::InvalidRoles,
        E::AccountQuota(_) => Code::NoAccountQuota,
        E::RoleQuota(_) => Code::NoRoleQuota,
        E::RoleBound => Code::RoleBound,
        E::SamePassword => Code::BadNewPassword,
        E::Exists => Code::AccountExists,
        E::RoleExists => Code::RoleExists,
        E::WrongLogin | E::Inactive => Code::WrongLogin,
        E::WrongPassword => Code::WrongPassword,
        E::Blocked => Code::AccountBlocked,
        E::RootProtected => Code::RootProtected,
        E::RoleProtected => Code::RoleProtected,
        E::OwnAccount => Code::OwnAccount,
        E::OthersAccount(_) => Code::Forbidden,
        // Not 503: every replica has the same limit, so a gateway should not pass the crowd on to the next
        // one.
        E::Busy => Code::TooMany,
        E::NotMade => Code::Internal,
    }
}

/// The code for a step that has changed nothing of the registry. A lease that was granted or renewed without
/// a reply is no such change: nothing lives on it, or what does lives a little longer.
fn code_of_store(error: &StoreError) -> Code {
    match error {
        // A lease that ended while a request was handled says nothing about the instance that the client
        // means: a claim that it is absent would make the client register again. Trying again is right.
        StoreError::Unavailable(_) | StoreError::Compacted(_) | StoreError::LeaseNotFound => Code::NotReady,
        StoreError::Refused(_) | StoreError::TooLarge(_) => Code::Internal,
        StoreError::Full(_) => Code::StoreFull,
        StoreError::Rationed => Code::Rationed,
        StoreError::Busy => Code::NotReady,
    }
}

/// Writes an error with its sources to the log, unless it is the client's mistake.
fn log(code: Code, error: &RegistryError) {
    match code {
        Code::Internal => {
            let cause = error.with_sources();
            error!(
                request.id = host::http::request_id(),
                cause, "a request failed because the store refused it"
            );
        }
        // During an outage every request fails, and the alarm and the store's room report the outage already.
        // A line for each request is worth its place only at this level.
        Code::Unavailable | Code::NotReady | Code::StoreFull => {
            let cause = error.with_sources();
            debug!(request.id = host::http::request_id(), cause, "a request could not be answered");
        }
        _ => {}
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        // With the id of the request an operator finds the cause in the log. It is of no use to a client that
        // made the mistake itself.
        let detail = match self.code.status() {
            500.. => host::http::with_request_id(&self.detail),
            _ => self.detail.into_owned(),
        };
        let mut body = json!({ "errorCode": self.code.number(), "errorMessage": self.code.message() });
        if !detail.is_empty() {
            body["detail"] = detail.into();
        }
        let mut response = reply::raw_json(body.to_string());
        *response.status_mut() = StatusCode::from_u16(self.code.status()).unwrap_or_default();
        let retry_after = match self.code {
            Code::Unavailable | Code::NotReady | Code::TooMany => Some(host::http::retry_soon()),
            Code::Rationed => Some(HeaderValue::from_static("30")),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_first_digits_with_few_exceptions() {
        for code in Code::ALL {
            let thousands: u16 = code.number()[..3].parse().expect("digits");
            let expected = match code {
                Code::NotReady => 503,
                Code::StoreFull => 507,
                Code::Rationed | Code::TooMany => 429,
                Code::BodyLate => 408,
                _ => thousands,
            };
            assert_eq!(code.status(), expected, "{code:?}");
        }
    }

    #[test]
    fn a_denial_keeps_its_code_status_and_words() {
        for code in DenialCode::ALL {
            let failure = Failure::from(Denial::new(code, "why"));
            let ours = (failure.code.number(), failure.code.status(), failure.code.message());
            assert_eq!(ours, (code.number(), code.status(), code.message()));
        }
    }

    #[test]
    fn a_crowd_is_told_to_come_back() {
        let away = || StoreError::Unavailable("etcd did not answer within 5s".into());
        for (error, status) in [
            (RegistryError::from(AccountError::Busy), 429),
            (RegistryError::GrantLease(away()), 503),
            (RegistryError::RenewLease(away()), 503),
            (RegistryError::ReadInstance(away()), 503),
            (RegistryError::NotConfirmed, 503),
            (RegistryError::Contended, 503),
            (RegistryError::Commit(StoreError::Busy), 503),
            (RegistryError::Commit(away()), 500),
            (RegistryError::ReleaseTimedOut, 500),
        ] {
            let text = error.to_string();
            let response = Failure::from(error).into_response();
            assert_eq!(response.status(), status, "{text}");
            // By chance, so that a crowd does not come back as one.
            let seconds = response.headers()[header::RETRY_AFTER].to_str().expect("text");
            assert!(matches!(seconds, "1" | "2" | "3"), "{text} {seconds}");
        }
    }

    #[test]
    fn no_text_of_the_store_reaches_a_client() {
        let secret = "10.0.0.1:2379: /cse-sr/inst/files";
        for (source, code) in [
            (StoreError::Unavailable(secret.into()), Code::NotReady),
            (StoreError::Refused(secret.into()), Code::Internal),
            (StoreError::Compacted(shared::model::Revision::default()), Code::NotReady),
            (StoreError::LeaseNotFound, Code::NotReady),
            (StoreError::Full(secret.into()), Code::StoreFull),
            (StoreError::Rationed, Code::Rationed),
        ] {
            for wrap in [
                RegistryError::ReadSchema,
                RegistryError::ReadInstance,
                RegistryError::ReadAccount,
                RegistryError::GrantLease,
                RegistryError::RenewLease,
                RegistryError::Commit,
            ] {
                let failure = Failure::from(wrap(source.clone()));
                // A write that was not answered may have happened.
                let is_uncertain = matches!(source, StoreError::Unavailable(_))
                    && failure.detail == RegistryError::Commit(source.clone()).to_string();
                let code = if is_uncertain { Code::Unavailable } else { code };
                assert_eq!(failure.code, code, "{failure}");
                assert!(!failure.detail.contains("10.0.0.1") && !failure.detail.is_empty(), "{failure}");
            }
        }
    }
}
