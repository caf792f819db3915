//! The selector of a watch.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::model::{Scope, ServiceKey, ServiceRef, Tenant};
use shared::subject;

/// The providers that a watch asks for. All sessions with equal selectors form one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The interest of this consumer.
    Consumer(ServiceRef),
    /// Those of these services that exist, and the others as soon as they are registered. The set is never
    /// empty, and its services belong to one tenant.
    Providers(Arc<BTreeSet<ServiceRef>>),
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
        consumer.into_iter().chain(providers.into_iter().flat_map(|list| list.iter()))
    }

    /// The value of the metric label `selector`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Consumer(_) => Self::LABELS[0],
            Self::Providers(_) => Self::LABELS[1],
            Self::Scope(_) => Self::LABELS[2],
        }
    }

    /// The number of names of the client's choice that the selector holds for as long as it is watched. A
    /// consumer's name is not among them: nothing is held for a consumer that does not exist.
    pub fn names(&self) -> usize {
        match self {
            Self::Consumer(_) => 0,
            Self::Scope(_) => 1,
            Self::Providers(providers) => providers.len(),
        }
    }

    /// The subject of the bus that carries changes of the interest.
    pub fn subject(&self) -> String {
        match self {
            Self::Consumer(consumer) => subject::interest(consumer),
            Self::Providers(_) | Self::Scope(_) => subject::services(self.tenant()),
        }
    }

    /// The tenant of the services.
    pub fn tenant(&self) -> &Tenant {
        match self {
            Self::Consumer(consumer) => &consumer.tenant,
            Self::Providers(providers) => &first(providers).tenant,
            Self::Scope(scope) => &scope.tenant,
        }
    }

    /// The tenant whose services' changes decide the interest. `None` for a consumer, whose interest has
    /// changes of its own.
    pub fn tenant_of_changes(&self) -> Option<&Tenant> {
        match self {
            Self::Consumer(_) => None,
            Self::Providers(_) | Self::Scope(_) => Some(self.tenant()),
        }
    }

    /// The consumer to name in a request about the interest.
    pub fn consumer(&self) -> Option<&ServiceRef> {
        match self {
            Self::Consumer(consumer) => Some(consumer),
            Self::Providers(_) | Self::Scope(_) => None,
        }
    }

    /// The scope of a scope selector.
    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Scope(scope) => Some(scope),
            Self::Consumer(_) | Self::Providers(_) => None,
        }
    }

    /// False for an event under a name outside the selector's scope. The id of a service that was deleted can be registered
    /// again under another name, and once more under the first.
    pub(crate) fn may_tell(&self, key: &ServiceKey) -> bool {
        self.scope().is_none_or(|scope| scope.matches(key))
    }

    /// True if [`Self::may_tell`] can ever be false.
    pub(crate) fn is_narrow(&self) -> bool {
        self.scope().is_some_and(|scope| scope.app_id.is_some() || scope.environment.is_some())
    }

    /// True for a registered service of the selector's tenant that the selector asks for.
    pub(crate) fn asks_for(&self, service: &ServiceRef, key: &ServiceKey) -> bool {
        match self {
            Self::Consumer(_) => true,
            Self::Providers(providers) => providers.contains(service),
            Self::Scope(scope) => scope.matches(key),
        }
    }

    /// False when the selector cannot ask for the service, under whatever name that is registered.
    pub fn may_ask_for(&self, service: &ServiceRef) -> bool {
        match self {
            Self::Consumer(_) | Self::Scope(_) => true,
            Self::Providers(providers) => providers.contains(service),
        }
    }
}

fn first(providers: &BTreeSet<ServiceRef>) -> &ServiceRef {
    providers.first().expect("a selector names at least one provider")
}
