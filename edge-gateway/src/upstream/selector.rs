//! What a watcher watches.

use std::collections::BTreeSet;

use shared::model::ServiceRef;

/// What a watcher watches. Sessions that watch the same are one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Selector {
    /// The providers that this consumer is interested in.
    Consumer(ServiceRef),
    /// These providers; never empty.
    Providers(BTreeSet<ServiceRef>),
}

impl Selector {
    /// The services it names.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceRef> {
        let (consumer, providers) = match self {
            Self::Consumer(consumer) => (Some(consumer), None),
            Self::Providers(providers) => (None, Some(providers)),
        };
        consumer.into_iter().chain(providers.into_iter().flatten())
    }

    /// Who is asked about: the consumer, or one of the providers, to learn the revision.
    pub(super) fn consumer(&self) -> &ServiceRef {
        match self {
            Self::Consumer(consumer) => consumer,
            Self::Providers(providers) => providers.first().expect("a selector names at least one provider"),
        }
    }
}
