//! Addresses of this machine that others can connect to.
//!
//! In: the address of a listener. Out: an address of the same port to tell others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use crate::machine::host_name;

/// Destinations reserved for documentation. A route to one of them is a route to everywhere, and no packet is
/// ever sent to them.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 1))];

/// The address under which others reach a listener.
///
/// It is the listener's own, unless that means every address of the machine (`0.0.0.0`, `[::]`). A client
/// that connects to such an address reaches itself. Then it is the address from which this machine would
/// connect to others, else the one that its name stands for, and without a network the loopback address.
pub fn reachable(listening: SocketAddr) -> SocketAddr {
    if !listening.ip().is_unspecified() {
        return listening;
    }
    let loopback = match listening {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let ip = outgoing(listening).or_else(|| named(listening)).unwrap_or(loopback);
    SocketAddr::new(ip, listening.port())
}

/// The address from which this machine would connect to others. A listener on `[::]` accepts IPv4 as well, so
/// an IPv4 address does for it when there is no IPv6 network.
fn outgoing(listening: SocketAddr) -> Option<IpAddr> {
    let mut families = ELSEWHERE;
    families.sort_by_key(|ip| ip.is_ipv4() != listening.is_ipv4());
    let families = families.into_iter().filter(|ip| ip.is_ipv4() || listening.is_ipv6());
    families.map(|elsewhere| source(elsewhere).ok()).find_map(|ip| ip.filter(usable))
}

/// Connecting a UDP socket sends nothing; it only chooses the source address.
fn source(elsewhere: IpAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr =
        if elsewhere.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((elsewhere, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The address of this machine's name. Containers in a network without a way out still have that.
fn named(listening: SocketAddr) -> Option<IpAddr> {
    let mut addresses = (host_name().as_str(), 0).to_socket_addrs().ok()?.map(|address| address.ip());
    addresses.find(|ip| usable(ip) && (ip.is_ipv4() || listening.is_ipv6()))
}

fn usable(ip: &IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_means_all_is_replaced() {
        for plain in ["10.0.0.7:30100", "127.0.0.1:1", "[::1]:30100"] {
            let plain: SocketAddr = plain.parse().expect("an address");
            assert_eq!(reachable(plain), plain);
        }
        for all in ["0.0.0.0:30100", "[::]:30100"] {
            let all: SocketAddr = all.parse().expect("an address");
            let found = reachable(all);
            assert!(!found.ip().is_unspecified() && found.port() == 30100, "{found}");
            assert!(all.is_ipv6() || found.is_ipv4(), "an IPv4 listener has no IPv6 address: {found}");
        }
    }
}
