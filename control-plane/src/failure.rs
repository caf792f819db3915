//! What clients are told when something cannot be done: the contract's codes and texts.

use std::borrow::Cow;

use crate::store::StoreError;
use crate::view::ViewError;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $message:literal;)*) => {
        /// Why a request was refused. The numbers are the contract; the texts are for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, for documents and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Six digits, sent as text.
            pub fn number(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The constant text that goes with it.
            pub fn message(self) -> &'static str {
                match self { $(Self::$name => $message,)* }
            }
        }
    };
}

codes! {
    /// A field, parameter or body does not have the form asked for.
    InvalidParams = "400001", 400, "Invalid parameter(s)";
    /// This node cannot vouch for itself.
    Unhealthy = "400002", 400, "Server is Unhealthy";
    /// The id belongs to another service.
    ServiceConflict = "400010", 400, "Micro-service already exists";
    /// No such service.
    ServiceNotFound = "400012", 400, "Micro-service does not exist";
    /// The service still has instances.
    HasInstances = "400013", 400, "Micro-service has deployed instance(s)";
    /// The schema's id was not declared.
    UndefinedSchema = "400014", 400, "Undefined schema id";
    /// The schema may not be changed.
    SchemaLocked = "400015", 400, "Not allowed to modify schema";
    /// No such schema.
    SchemaNotFound = "400016", 400, "Schema does not exist";
    /// No such instance; clients register again.
    InstanceNotFound = "400017", 400, "Instance does not exist";
    /// No such tag.
    TagNotFound = "400018", 400, "Tag does not exist";
    /// Rules of a service have one type.
    MixedRules = "400020", 400, "Can not have both 'BLACK' and 'WHITE'";
    /// A rule keeps its type.
    RuleTypeFixed = "400021", 400, "Not allowed to modify the type of the rule";
    /// No such rule.
    RuleNotFound = "400022", 400, "Rule does not exist";
    /// Others depend on the service.
    HasConsumers = "400023", 400, "Consumer(s) depends on this micro-service";
    /// The name exists, but no such version of it.
    VersionNotFound = "400026", 400, "Micro-service version does not exist";
    /// The tenant has as many as it may.
    NotEnoughQuota = "400100", 400, "Not enough quota";
    /// Not for this caller.
    Forbidden = "403001", 403, "Forbidden";
    /// Our own mistake.
    Internal = "500003", 500, "Internal server error";
    /// The store did not answer; whether a write happened is unknown.
    Unavailable = "500011", 500, "Registry service is unavailable";
    /// This replica cannot say; another one, or this one in a moment, can.
    NotReady = "500011", 503, "Registry service is unavailable";
}

/// A refusal with what was wrong in this case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.message())]
pub struct Failure {
    /// Why.
    pub code: Code,
    /// What in particular; clients do not parse it.
    pub detail: Cow<'static, str>,
}

impl Failure {
    /// A refusal.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// A parameter or body that does not have the form asked for.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidParams, detail)
    }

    /// The service is not there.
    pub fn no_service() -> Self {
        Self::new(Code::ServiceNotFound, "Service does not exist.")
    }

    /// The instance is not there.
    pub fn no_instance() -> Self {
        Self::new(Code::InstanceNotFound, "Instance does not exist.")
    }

    /// The refusal claims that something is not there: a claim that a lagging replica may not make.
    pub fn claims_absence(&self) -> bool {
        matches!(
            self.code,
            Code::ServiceNotFound
                | Code::InstanceNotFound
                | Code::VersionNotFound
                | Code::SchemaNotFound
                | Code::TagNotFound
                | Code::RuleNotFound
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => Self::new(Code::Unavailable, reason),
            StoreError::LeaseNotFound => Self::new(Code::InstanceNotFound, "leaseId not exist"),
            StoreError::Compacted(_) => {
                Self::new(Code::Unavailable, "the store's history moved on; try again")
            }
            StoreError::Refused(reason) => Self::new(Code::Internal, reason),
        }
    }
}

impl From<ViewError> for Failure {
    fn from(reason: ViewError) -> Self {
        Self::new(Code::NotReady, reason.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_codes_thousands_except_for_a_replica_that_cannot_say() {
        for code in Code::ALL {
            let thousands: u16 = code.number()[..3].parse().expect("digits");
            let expected = if *code == Code::NotReady { 503 } else { thousands };
            assert_eq!(code.status(), expected, "{code:?}");
        }
    }
}
