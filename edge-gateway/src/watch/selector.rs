//! What a watcher watches.

use std::collections::BTreeSet;

use shared::model::{Scope, ServiceRef};
use shared::subject;

/// What a watcher watches. Sessions that watch the same are one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Selector {
    /// The providers that this consumer is interested in.
    Consumer(ServiceRef),
    /// These providers; never empty.
    Providers(BTreeSet<ServiceRef>),
    /// The services of this scope, those that come later included.
    Scope(Scope),
}

impl Selector {
    /// The services it names.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceRef> {
        let (consumer, providers) = match self {
            Self::Consumer(consumer) => (Some(consumer), None),
            Self::Providers(providers) => (None, Some(providers)),
            Self::Scope(_) => (None, None),
        };
        consumer.into_iter().chain(providers.into_iter().flatten())
    }

    /// The value of the label `selector`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Consumer(_) => Self::LABELS[0],
            Self::Providers(_) => Self::LABELS[1],
            Self::Scope(_) => Self::LABELS[2],
        }
    }

    /// All values of the label.
    pub(crate) const LABELS: [&str; 3] = ["consumer", "providers", "scope"];

    /// Where changes of what it means are told.
    pub(crate) fn subject(&self) -> String {
        match self {
            Self::Consumer(consumer) => subject::interest(consumer),
            Self::Providers(providers) => subject::interest(first(providers)),
            Self::Scope(scope) => subject::services(&scope.tenant),
        }
    }

    /// Who is asked about, unless it is a scope: the consumer, or one of the providers, to learn the
    /// revision.
    pub(crate) fn consumer(&self) -> Option<&ServiceRef> {
        match self {
            Self::Consumer(consumer) => Some(consumer),
            Self::Providers(providers) => Some(first(providers)),
            Self::Scope(_) => None,
        }
    }

    /// The scope, if it is one.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Scope(scope) => Some(scope),
            Self::Consumer(_) | Self::Providers(_) => None,
        }
    }
}

fn first(providers: &BTreeSet<ServiceRef>) -> &ServiceRef {
    providers.first().expect("a selector names at least one provider")
}
