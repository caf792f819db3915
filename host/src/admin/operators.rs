//! The requests that may use the routes for operators: `/config`, `/known` and `/drain`.
//!
//! With a token (`admin-token`) a request needs it, wherever it comes from. Without one, this machine is
//! trusted, and a browser on it may run pages of anybody. So no request is taken that a page of another site
//! can make a browser send: browsers name the page's origin in it, and a page that has its name resolved to
//! this machine cannot but send that name as `Host`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{AUTHORIZATION, FORWARDED, HeaderMap, HeaderName, VIA};
use settings::Secret;
use subtle::ConstantTimeEq as _;

use crate::browser;

/// Headers with which proxies say that a request comes from elsewhere.
const PASSED_ON: [HeaderName; 5] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// The token of the operators, or the trust in this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Operators(Arc<Option<Secret>>);

impl Operators {
    pub(crate) fn new(token: Option<Secret>) -> Self {
        Self(Arc::new(token))
    }

    /// Checks a request.
    ///
    /// # Errors
    /// The reason for a refusal, in words for its sender.
    pub(crate) fn admit(&self, request: &Request) -> Result<(), &'static str> {
        let headers = request.headers();
        let name = browser::named(headers, request.uri());
        if browser::is_of_another_site(headers, request.uri()) {
            return Err("not from a page of another site");
        }
        match &*self.0 {
            Some(token) if has_token(headers, token) => Ok(()),
            Some(_) => Err("only with the admin token (`admin-token`)"),
            None if is_local(request) && name.is_some_and(|name| is_address(name.host())) => Ok(()),
            None => Err("only from this machine, through an address and the admin port (`admin-listen`), \
                 or with an admin token (`admin-token`)"),
        }
    }
}

fn has_token(headers: &HeaderMap, token: &Secret) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // An early return would let an attacker find a token byte by byte, by timing the answers.
    given.is_some_and(|given| given.as_bytes().ct_eq(token.expose().as_bytes()).into())
}

/// True for a request from this machine that no proxy has passed on.
fn is_local(request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    // A proxy on this machine makes every request look local.
    let passed_on = PASSED_ON.iter().any(|name| request.headers().contains_key(name));
    !passed_on && peer.is_some_and(|peer| peer.to_canonical().is_loopback())
}

/// True for an IP address and for `localhost`, which no attacker can have resolved to this machine.
fn is_address(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use settings::Setting as _;

    use super::*;

    fn admits(token: Option<&str>, peer: Option<&str>, headers: &[(&'static str, &str)]) -> bool {
        let mut request = Request::new(Body::empty());
        if let Some(peer) = peer {
            let peer: IpAddr = peer.parse().expect("an address");
            request.extensions_mut().insert(ConnectInfo(SocketAddr::from((peer, 4000))));
        }
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a value"));
        }
        Operators::new(token.and_then(Secret::parse)).admit(&request).is_ok()
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:30101");
    const TOKEN: (&str, &str) = ("authorization", "Bearer hunter2");

    #[test]
    fn without_a_token_this_machine_is_trusted() {
        for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(admits(None, Some(peer), &[HERE]), "{peer}");
        }
        assert!(!admits(None, Some("10.0.0.9"), &[HERE]) && !admits(None, None, &[HERE]));
        for name in ["x-forwarded-for", "forwarded", "via", "x-real-ip", "x-forwarded-host"] {
            assert!(!admits(None, Some("127.0.0.1"), &[HERE, (name, "10.0.0.9")]), "a proxy: {name}");
        }
        assert!(!admits(None, Some("10.0.0.9"), &[HERE, ("authorization", "Bearer ")]));
    }

    #[test]
    fn a_token_is_needed_from_everywhere() {
        let token = Some("hunter2");
        for peer in [Some("127.0.0.1"), Some("10.0.0.9"), None] {
            assert!(!admits(token, peer, &[HERE]), "{peer:?}");
            assert!(!admits(token, peer, &[HERE, ("authorization", "Bearer hunter3")]), "{peer:?}");
            assert!(admits(token, peer, &[HERE, TOKEN]), "{peer:?}");
            assert!(admits(token, peer, &[("host", "gateway-1:30101"), TOKEN]), "{peer:?}");
        }
    }

    #[test]
    fn a_name_that_others_can_resolve_is_not_this_machine() {
        for (host, admitted) in [
            ("localhost:30101", true),
            ("[::1]:30101", true),
            ("192.168.1.7", true),
            ("rebound.example:30101", false),
            ("127.0.0.1.rebound.example", false),
            ("", false),
        ] {
            assert_eq!(admits(None, Some("127.0.0.1"), &[("host", host)]), admitted, "{host}");
        }
        assert!(!admits(None, Some("127.0.0.1"), &[]), "no name at all");
    }

    #[test]
    fn pages_of_other_sites_are_refused_token_or_not() {
        for (name, value, admitted) in [
            ("origin", "http://127.0.0.1:30101", true),
            ("origin", "https://evil.example", false),
            ("origin", "http://127.0.0.1:8080", false),
            ("origin", "null", false),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "cross-site", false),
        ] {
            assert_eq!(admits(None, Some("127.0.0.1"), &[HERE, (name, value)]), admitted, "{name}: {value}");
            let with_token = admits(Some("hunter2"), None, &[HERE, TOKEN, (name, value)]);
            assert_eq!(with_token, admitted, "{name}: {value}");
        }
        let twice = [HERE, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        assert!(!admits(None, Some("127.0.0.1"), &twice));
    }
}
