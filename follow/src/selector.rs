//! The selector of a watch.

use std::collections::BTreeSet;

use shared::model::{Scope, ServiceRef};
use shared::subject;

/// The providers that a watch asks for. All sessions with equal selectors form one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The interest of this consumer.
    Consumer(ServiceRef),
    /// Exactly these providers. The set is never empty.
    Providers(BTreeSet<ServiceRef>),
    /// The services of this scope, including those that are registered later.
    Scope(Scope),
}

impl Selector {
    /// Every value of the metric label `selector`.
    pub const LABELS: [&str; 3] = ["consumer", "providers", "scope"];

    /// The services that the selector names. A scope names none.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRef> {
        let consumer = match self {
            Self::Consumer(consumer) => Some(consumer),
            Self::Providers(_) | Self::Scope(_) => None,
        };
        let providers = match self {
            Self::Providers(providers) => Some(providers),
            Self::Consumer(_) | Self::Scope(_) => None,
        };
        consumer.into_iter().chain(providers.into_iter().flatten())
    }

    /// The value of the metric label `selector`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Consumer(_) => Self::LABELS[0],
            Self::Providers(_) => Self::LABELS[1],
            Self::Scope(_) => Self::LABELS[2],
        }
    }

    /// The subject of the bus that carries changes of the interest.
    pub fn subject(&self) -> String {
        match self {
            Self::Consumer(consumer) => subject::interest(consumer),
            Self::Providers(providers) => subject::interest(first(providers)),
            Self::Scope(scope) => subject::services(&scope.tenant),
        }
    }

    /// The service to name in a request about the interest. `None` for a scope.
    pub fn consumer(&self) -> Option<&ServiceRef> {
        match self {
            Self::Consumer(consumer) => Some(consumer),
            // The list is fixed, so only the revision of the reply matters and any of its services will do.
            Self::Providers(providers) => Some(first(providers)),
            Self::Scope(_) => None,
        }
    }

    /// The scope of a scope selector.
    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Scope(scope) => Some(scope),
            Self::Consumer(_) | Self::Providers(_) => None,
        }
    }
}

fn first(providers: &BTreeSet<ServiceRef>) -> &ServiceRef {
    providers.first().expect("a selector names at least one provider")
}
