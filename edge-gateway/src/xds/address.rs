//! The address of an instance: readers of xDS take addresses, and no names.

use std::net::IpAddr;

use shared::endpoint::Endpoint;

/// The address and port of an endpoint, if it is of the protocol.
pub(crate) fn address(text: &str, protocol: Option<&str>) -> Option<(IpAddr, u16)> {
    let endpoint = Endpoint::parse(text)?;
    if protocol.is_some_and(|protocol| *protocol != *endpoint.protocol) {
        return None;
    }
    Some((endpoint.address()?, endpoint.port))
}
