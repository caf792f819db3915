//! The address under which clients reach the registry.
//!
//! In: the setting `advertise`, and the address of the listener. Out: the endpoint of the registry's own
//! instance, `rest://host:port/`, from which SDKs take the registries to talk to.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;

use host::address::reachable;
use settings::{Setting, Url};

/// The query of an endpoint whose clients speak TLS, as SDKs know it.
const TLS: &str = "sslEnabled=true";

/// The value of the setting `advertise`: `host:port`, or `host:port?sslEnabled=true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// `host:port`, with brackets around an IPv6 address.
    address: String,
    query: Option<String>,
}

impl Setting for Advertise {
    const NAME: &'static str = "HOST:PORT";

    fn expected() -> String {
        "host:port that clients can connect to, such as registry.example:30100 or [2001:db8::7]:30100, and with \
         ?sslEnabled=true behind it if they speak TLS"
            .to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        // Some copy the endpoint of an instance, which has a scheme.
        let text = text.trim();
        let url: Url = format!("rest://{}", text.strip_prefix("rest://").unwrap_or(text)).parse().ok()?;
        let url = url.parts();
        let host = url.host_str().filter(|host| !host.is_empty())?;
        let port = url.port().filter(|port| *port != 0)?;
        // A client that connects to such an address reaches itself.
        let all = IpAddr::from_str(host.trim_matches(['[', ']'])).is_ok_and(|ip| ip.is_unspecified());
        let only_an_address = matches!(url.path(), "" | "/")
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        (!all && only_an_address)
            .then(|| Self { address: format!("{host}:{port}"), query: url.query().map(str::to_owned) })
    }

    fn show(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.address),
            None => self.address.clone(),
        }
    }
}

/// The address that is told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// `host:port`.
    pub address: String,
    /// The endpoint of the registry's own instance.
    pub endpoint: String,
    /// The listener is on every address of the machine, and this one was chosen for lack of a setting.
    pub is_guessed: bool,
}

impl Advertised {
    /// The address for a listener that speaks TLS if `secure`.
    pub fn new(setting: Option<&Advertise>, listening: SocketAddr, secure: bool) -> Self {
        let address = setting.map_or_else(|| reachable(listening).to_string(), |set| set.address.clone());
        let of_listener = secure.then_some(TLS);
        let query = setting.and_then(|set| set.query.as_deref()).or(of_listener);
        let endpoint = match query {
            Some(query) => format!("rest://{address}/?{query}"),
            None => format!("rest://{address}/"),
        };
        Self { address, endpoint, is_guessed: setting.is_none() && listening.ip().is_unspecified() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_nobody_can_connect_to_is_refused() {
        for good in ["registry.example:30100", "10.0.0.7:80", "[2001:db8::7]:30100", "lb:443?sslEnabled=true"]
        {
            assert_eq!(Advertise::parse(good).expect(good).show(), good);
        }
        assert_eq!(Advertise::parse("rest://lb:80/").map(|set| set.show()), Some("lb:80".to_owned()));
        let wrong = [
            "",
            "registry.example",
            "0.0.0.0:30100",
            "[::]:30100",
            "host:0",
            "2001:db8::7:30100",
            "a:1/b",
            "u@a:1",
        ];
        for text in wrong.into_iter().chain(["http://a:1", "host:99999"]) {
            assert_eq!(Advertise::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_wildcard_listener_is_told_by_a_reachable_address() {
        let told = |setting: Option<&str>, listening: &str, secure| {
            let setting = setting.map(|text| Advertise::parse(text).expect("an address"));
            Advertised::new(setting.as_ref(), listening.parse().expect("an address"), secure)
        };
        for listening in ["0.0.0.0:30100", "[::]:30100"] {
            let found = told(None, listening, false);
            let address: SocketAddr = found.address.parse().expect("an address");
            assert!(found.is_guessed && !address.ip().is_unspecified(), "{found:?}");
            assert!(!told(Some("lb:443"), listening, false).is_guessed);
        }
        assert_eq!(told(None, "[::1]:30100", false).endpoint, "rest://[::1]:30100/");
        assert_eq!(told(None, "10.0.0.7:30100", true).endpoint, "rest://10.0.0.7:30100/?sslEnabled=true");
        let plain = told(Some("lb:80?sslEnabled=false"), "10.0.0.7:30100", true);
        assert_eq!(plain.endpoint, "rest://lb:80/?sslEnabled=false");
    }
}
