//! The addresses that instances are registered with, as DNS tells them.
//!
//! In: the text of an endpoint. Out: its protocol, host and port, or nothing if no client could use it.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use shared::endpoint;

/// The machine of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(Name),
}

/// An endpoint that DNS can tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// The scheme in lower case.
    pub(crate) protocol: Box<str>,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Reads an endpoint.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let endpoint::Endpoint { protocol, host, port, .. } = endpoint::Endpoint::parse(text)?;
        let host = match host {
            endpoint::Host::Address(address) => Host::Address(address),
            endpoint::Host::Name(name) => Host::Name(host_name(&name)?),
        };
        Some(Self { protocol, host, port })
    }

    /// True when the endpoint is on this address.
    pub(crate) fn is_on(&self, address: IpAddr) -> bool {
        self.host == Host::Address(address)
    }
}

/// A name of a machine that clients may go on asking for.
fn host_name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok().filter(|name| !name.is_root())?;
    name.set_fqdn(true);
    Some(name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_whole_name() {
        let host = |text| Endpoint::parse(text).map(|endpoint| endpoint.host);
        let name = Name::from_ascii("node-1.local.").expect("a name");
        assert_eq!(host("http://Node-1.local:80"), Some(Host::Name(name.clone())));
        assert_eq!(host("http://node-1.local.:80"), Some(Host::Name(name)));
        let address = "10.0.0.1".parse().expect("an address");
        assert_eq!(host("highway://[::ffff:10.0.0.1]:7070"), Some(Host::Address(address)));
        assert_eq!(host("rest://0.0.0.0:80"), None);
    }
}
