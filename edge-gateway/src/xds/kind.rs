//! The kinds of resources, and the methods that serve them.

/// A kind of resource, in the order in which they are sent: a reader must know a cluster before its
/// endpoints, and both before something leads to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
}

/// The two forms of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// State of the world: a request lists all names.
    State,
    /// Incremental: a request adds and removes names.
    Delta,
}

/// A method of a discovery service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    pub(crate) variant: Variant,
    /// The one kind that it serves; `None` for all of them.
    pub(crate) kind: Option<Kind>,
}

impl Kind {
    /// All kinds, in the order in which they are sent.
    pub(crate) const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The name of the kind's message in the contract.
    pub(crate) fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind with this type URL.
    pub(crate) fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The value of the label `type`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Listener => "listener",
            Self::Route => "route",
        }
    }

    /// True when an answer of the state of the world lists every resource, and what it leaves out is gone. An
    /// answer of the other kinds says nothing about resources that it leaves out.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl Method {
    /// The method with this path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix("/envoy.service.")?.split_once('/')?;
        let (kind, plural) = match service {
            "discovery.v3.AggregatedDiscoveryService" => (None, "AggregatedResources"),
            "cluster.v3.ClusterDiscoveryService" => (Some(Kind::Cluster), "Clusters"),
            "endpoint.v3.EndpointDiscoveryService" => (Some(Kind::Endpoint), "Endpoints"),
            "listener.v3.ListenerDiscoveryService" => (Some(Kind::Listener), "Listeners"),
            "route.v3.RouteDiscoveryService" => (Some(Kind::Route), "Routes"),
            _ => return None,
        };
        let variant = match method.strip_suffix(plural)? {
            "Stream" => Variant::State,
            "Delta" => Variant::Delta,
            _ => return None,
        };
        Some(Self { variant, kind })
    }
}

#[cfg(test)]
mod tests {
    use access::{Access, access_of};

    use super::*;

    #[test]
    fn each_method_has_a_line_in_the_table_of_routes() {
        let mut found = 0;
        for (method, path, access) in access::route::all() {
            if Method::of(&path).is_some() {
                assert!(method == "POST" && matches!(access, Access::Needs(..)), "{path}");
                assert_eq!(access_of(&http::Method::POST, &path), access);
                found += 1;
            }
        }
        assert_eq!(found, 10);
        for path in ["/envoy.service.discovery.v3.AggregatedDiscoveryService/Fetch", "/envoy.service.", "/"] {
            assert_eq!(Method::of(path), None, "{path}");
        }
    }
}
