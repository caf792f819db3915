//! Endpoints of instances, read: `rest://10.2.3.4:8080?sslEnabled=true` becomes protocol, host and port.
//!
//! The registry passes endpoints through untouched, so any text may stand there. A text that no client could
//! call is no endpoint: one without a port, with the address of no machine such as `0.0.0.0`, or with a host
//! that is no name of a machine. Every dialect leaves it out, so all of them read endpoints here.

use std::net::IpAddr;

/// The longest name of a machine, in DNS's terms.
const LONGEST_NAME: usize = 253;
/// The longest part of a name.
const LONGEST_LABEL: usize = 63;

/// The address of an instance for one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The protocol in lower case, such as `rest`, `highway` or `grpc`.
    pub protocol: Box<str>,
    /// The machine.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
    /// The instance expects TLS.
    pub is_secure: bool,
}

/// The machine of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address. IPv4 in the form of IPv6 is IPv4.
    Address(IpAddr),
    /// A name as it was registered: letters, digits, `-`, `_` and dots.
    Name(Box<str>),
}

impl Endpoint {
    /// Reads an endpoint. `None` when nobody could call it.
    pub fn parse(text: &str) -> Option<Self> {
        let (protocol, rest) = text.trim().split_once("://")?;
        let is_protocol = protocol.starts_with(|c: char| c.is_ascii_alphabetic())
            && protocol.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'));
        if !is_protocol {
            return None;
        }
        let protocol: Box<str> = protocol.to_ascii_lowercase().into();
        let authority = rest.split(['/', '?', '#']).next()?;
        let (host, port) = authority.rsplit_once(':')?;
        // The parser of numbers would take a sign.
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_number && *port != 0)?;
        let is_secure = matches!(&*protocol, "https" | "grpcs") || says_tls(rest);
        Some(Self { protocol, host: Host::parse(host)?, port, is_secure })
    }

    /// The address of the machine. `None` when it is a name.
    pub fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Address(address) => Some(address),
            Host::Name(_) => None,
        }
    }

    /// Host and port as one text, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            host => format!("{host}:{}", self.port),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(text) = text.strip_prefix('[') {
            let address: IpAddr = text.strip_suffix(']')?.parse().ok()?;
            return callable(address);
        }
        match text.parse::<IpAddr>() {
            // Without brackets, nobody knows where the address ends and the port begins.
            Ok(IpAddr::V6(_)) => None,
            Ok(address) => callable(address),
            Err(_) => is_name(text).then(|| Self::Name(text.into())),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Clients that call 0.0.0.0 call themselves.
fn callable(address: IpAddr) -> Option<Host> {
    let address = address.to_canonical();
    (!address.is_unspecified() && !address.is_multicast()).then_some(Host::Address(address))
}

/// True for a name of a machine. It must look like one, because a text of one client stands in the answers to
/// others.
fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // Names do not end in a number. Resolvers read such a text as an address, some of them as another one
    // than was meant.
    let ends_in_number =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= LONGEST_NAME && name.split('.').all(is_label) && !ends_in_number
}

/// Java SDKs say it in the query, everybody else by the protocol.
fn says_tls(rest: &str) -> bool {
    let rest = rest.split('#').next().unwrap_or_default();
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.any(|(name, value)| name == "sslEnabled" && value.eq_ignore_ascii_case("true"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_of_all_sdks_are_read() {
        for (text, protocol, authority, is_secure) in [
            ("rest://10.2.3.4:8080", "rest", "10.2.3.4:8080", false),
            ("rest://10.0.0.9:9090?sslEnabled=true", "rest", "10.0.0.9:9090", true),
            ("rest://10.0.0.9:9090/?a=b&sslEnabled=TRUE", "rest", "10.0.0.9:9090", true),
            ("rest://10.0.0.9:9090?sslEnabled=false&u=/a", "rest", "10.0.0.9:9090", false),
            ("rest://10.0.0.9:9090#?sslEnabled=true", "rest", "10.0.0.9:9090", false),
            ("highway://[fd00::1]:7070?login=true", "highway", "[fd00::1]:7070", false),
            ("GRPC://[2001:db8::1]:1/path", "grpc", "[2001:db8::1]:1", false),
            ("highway://[::ffff:10.0.0.1]:7070", "highway", "10.0.0.1:7070", false),
            (" http://Node-1.local:80 ", "http", "Node-1.local:80", false),
            ("my_rpc://node_1.:80", "my_rpc", "node_1.:80", false),
            ("https://n:443", "https", "n:443", true),
            ("grpcs://n:443/path", "grpcs", "n:443", true),
        ] {
            let read = Endpoint::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((&*read.protocol, &*read.authority()), (protocol, authority), "{text}");
            assert_eq!(read.is_secure, is_secure, "{text}");
            assert_eq!(read.address().is_none(), matches!(read.host, Host::Name(_)), "{text}");
        }
    }

    #[test]
    fn an_endpoint_that_nobody_can_call_is_none() {
        let long = format!("rest://{}:1", "a".repeat(64));
        let longer = format!("rest://{}a:1", "a.".repeat(127));
        for text in [
            "",
            "::",
            "10.0.0.1:80",
            "://10.0.0.1:80",
            "1rest://10.0.0.1:80",
            "re st://10.0.0.1:80",
            "rest://",
            "rest://10.0.0.1",
            "rest://10.0.0.1:",
            "rest://10.0.0.1:0",
            "rest://10.0.0.1:+80",
            "rest://10.0.0.1:70000",
            "https://shop.example/",
            "rest://0.0.0.0:80",
            "rest://[::]:80",
            "rest://[::ffff:0.0.0.0]:80",
            "rest://224.0.0.1:80",
            "rest://[ff02::1]:80",
            "rest://fd00::1:80",
            "rest://[fd00::1:80",
            "rest://[fe80::1%eth0]:80",
            "rest://[node]:80",
            "rest://:80",
            "rest://a b:80",
            "rest://user@host:80",
            "rest://.:80",
            "rest://a..b:80",
            "rest://größe:80",
            "rest://010.0.0.1:80",
            "rest://10.0.0.256:80",
            &long,
            &longer,
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_endpoint_is_read_again_as_the_same(text in "[a-z]{1,4}://[\\[\\]a-fA-F0-9:._%@-]{0,24}:[0-9]{1,5}") {
            if let Some(read) = Endpoint::parse(&text) {
                let again = format!("{}://{}", read.protocol, read.authority());
                prop_assert_eq!(Endpoint::parse(&again), Some(read));
            }
        }
    }
}
