//! The address of a client behind proxies.
//!
//! In: the peer of a connection, its headers, and the proxies that are trusted. Out: the address of the
//! client. `X-Forwarded-For` is a list that everybody on the way may have written. It is read from its end,
//! and only as far as trusted proxies have written it, so a client cannot choose its own address.

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use settings::{Kind, Setting, Settings};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A network, as `10.0.0.0/8`; an address alone is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Setting for Network {
    const NAME: &'static str = "NETWORK";
    const KIND: Kind = Kind::Text;

    fn expected() -> String {
        "a network such as 10.0.0.0/8 or fd00::/8, or an address".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let network = IpNet::from_str(text).ok().or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))?;
        Some(Self(network.trunc()))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// The proxies that are trusted to name their client.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// The proxies of these networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Declares `http.trusted-proxies`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let networks: Option<Vec<Network>> = settings.optional(
            "http.trusted-proxies",
            "Networks of proxies, and for control planes of gateways, whose X-Forwarded-For is believed. Default: none.",
        );
        Self::new(networks.unwrap_or_default())
    }

    /// The address of the client whose request came from `peer`.
    ///
    /// It is the peer itself, unless that is a trusted proxy: then it is the last address in
    /// `X-Forwarded-For` that is no trusted proxy. An entry that is no address ends the search, because what
    /// stands before it may be anybody's.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.contains(client) {
            return client;
        }
        for line in headers.get_all(FORWARDED_FOR).iter().rev() {
            let Ok(line) = line.to_str() else { return client };
            for entry in line.rsplit(',') {
                let Ok(address) = entry.trim().parse::<IpAddr>() else { return client };
                client = address.to_canonical();
                if !self.contains(client) {
                    return client;
                }
            }
        }
        client
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.0.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"].map(|text| Network::parse(text).expect("one"));
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).expect("a value"));
        }
        let peer = peer.parse().expect("an address");
        TrustedProxies::new(networks.to_vec()).client(peer, &headers).to_string()
    }

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        assert_eq!(client("203.0.113.1", &["198.51.100.1"]), "203.0.113.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.9, 203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.9", "203.0.113.1, 10.0.0.2"]), "203.0.113.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.9, unknown, 192.0.2.7"]), "192.0.2.7");
    }

    #[test]
    fn a_proxy_without_a_client_stands_for_itself() {
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(client("fd00::1", &["fd00::2"]), "fd00::2");
    }

    #[test]
    fn networks_are_read_and_shown() {
        for (text, shown) in
            [("10.1.2.3/8", "10.0.0.0/8"), ("192.0.2.7", "192.0.2.7/32"), (" ::1 ", "::1/128")]
        {
            assert_eq!(Network::parse(text).map(|network| network.show()).as_deref(), Some(shown));
        }
        for bad in ["", "10.0.0.0/33", "localhost", "10.0.0"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
