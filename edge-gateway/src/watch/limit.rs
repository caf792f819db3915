//! The limits that may refuse a session.

/// The limit that a session met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The node's: another may have room.
    #[error("this node holds as many watchers as it may")]
    Node,
    /// The domain's.
    #[error("the domain has as many watchers as it may")]
    Domain,
    /// The node's for services that are watched: another may watch this one already.
    #[error("this node watches as many services as it may")]
    Topics,
    /// The node's for memory: another may have some.
    #[error("this node uses as much memory as it may")]
    Memory,
    /// The consumer's.
    #[error("the service has as many watchers as it may")]
    Consumer,
    /// The node's for names of services and selections in watches: another may have room.
    #[error("the watches of this node name as many services and selections as they may")]
    NodeNames,
    /// The domain's for such names.
    #[error("the domain's watches name as many services and selections as they may")]
    DomainNames,
    /// The consumer's for such names.
    #[error("the service's watches name as many services and selections as they may")]
    ConsumerNames,
    /// The node's for tenants that are followed as a whole: another may follow this one already.
    #[error("this node follows as many tenants as it may")]
    Tenants,
}

impl Full {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Node,
        Self::Domain,
        Self::Consumer,
        Self::Topics,
        Self::Memory,
        Self::NodeNames,
        Self::DomainNames,
        Self::ConsumerNames,
        Self::Tenants,
    ];

    /// It is this node's own: another may have room.
    pub(crate) fn is_here(self) -> bool {
        matches!(self, Self::Node | Self::Topics | Self::Memory | Self::NodeNames | Self::Tenants)
    }

    /// The value of the label `limit`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Domain => "domain",
            Self::Consumer => "consumer",
            Self::Topics => "topics",
            Self::Memory => "memory",
            Self::NodeNames => "node_names",
            Self::DomainNames => "domain_names",
            Self::ConsumerNames => "consumer_names",
            Self::Tenants => "tenants",
        }
    }
}
