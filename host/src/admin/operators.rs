//! The requests that may use the routes for operators: `/config`, `/known`, `/access` and `/drain`.
//!
//! With access control an account may use them whose roles permit `ops`. Others need the token `admin-token`
//! where there is one, wherever they come from. Without one, this machine is trusted, and a browser on it may
//! run pages of anybody. So no request is taken that a page of another site can make a browser send: browsers
//! name the page's origin in it, and a page that has its name resolved to this machine cannot but send that
//! name as `Host`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{AUTHORIZATION, FORWARDED, HeaderMap, HeaderName, VIA};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use settings::Secret;
use subtle::ConstantTimeEq as _;

use super::access::{Operator, Planes};
use crate::audit::{Decision, Record, WeakAudit, shortened};
use crate::browser;

/// Headers with which proxies say that a request comes from elsewhere.
const PASSED_ON: [HeaderName; 5] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// The token of the operators, the accounts that may operate the process, and the trust in this machine.
/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Operators {
    token: Arc<Option<Secret>>,
    planes: Planes,
    audit: WeakAudit,
}

/// The reason for which a request is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    AdminToken,
    Account,
    ThisMachine,
}

impl Means {
    fn word(self) -> &'static str {
        match self {
            Self::AdminToken => "admin-token",
            Self::Account => "account",
            Self::ThisMachine => "this-machine",
        }
    }
}

impl Operators {
    pub(crate) fn new(token: Option<Secret>, planes: Planes, audit: WeakAudit) -> Self {
        Self { token: Arc::new(token), planes, audit }
    }

    /// Answers a request by `next` if it is admitted, and records it.
    pub(crate) async fn guard(self, request: Request, next: Next) -> Response {
        let operator = self.planes.operator(request.method(), request.headers());
        let admitted = self.admit(&request, operator.as_ref());
        let record = record_of(&request, operator, admitted);
        let is_read = request.method() == Method::GET;
        // Held until the answer, so that the record of a drain finds the log.
        let audit = self.audit.upgrade();
        let response = match admitted {
            Ok(_) => next.run(request).await,
            Err(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
        };
        if let Some(audit) = audit
            && (admitted.is_err() || !is_read || audit.has_reads())
        {
            audit.record(Record { status: response.status().as_u16(), ..record });
        }
        response
    }

    /// Checks a request, which may show an account.
    ///
    /// # Errors
    /// The reason for a refusal, in words for its sender.
    fn admit(&self, request: &Request, operator: Option<&Operator>) -> Result<Means, &'static str> {
        let headers = request.headers();
        let name = browser::named(headers, request.uri());
        if browser::is_of_another_site(headers, request.uri()) {
            return Err("not from a page of another site");
        }
        if (*self.token).as_ref().is_some_and(|token| has_token(headers, token)) {
            return Ok(Means::AdminToken);
        }
        if operator.is_some_and(|operator| operator.is_permitted) {
            return Ok(Means::Account);
        }
        match &*self.token {
            Some(_) => {
                Err("only with the admin token (`admin-token`), or as an account with the right `ops`")
            }
            None if is_local(request) && name.is_some_and(|name| is_address(name.host())) => {
                Ok(Means::ThisMachine)
            }
            None => Err(
                "only at the admin port (`admin-listen`) from this machine and by its address, or with an admin token \
                 (`admin-token`), or as an account with the right `ops`",
            ),
        }
    }
}

/// The record of a request, still without a status. It holds no token.
fn record_of(request: &Request, operator: Option<Operator>, admitted: Result<Means, &'static str>) -> Record {
    let Operator { account, token, revision, .. } = operator.unwrap_or_default();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let path = shortened(request.uri().path());
    Record {
        plane: "admin".to_owned(),
        decision: if admitted.is_ok() { Decision::Allowed } else { Decision::Denied },
        means: admitted.map(|means| means.word().to_owned()).unwrap_or_default(),
        account: shortened(&account),
        token: shortened(&token),
        method: shortened(request.method().as_str()),
        // The layer stands before the routes of operators alone, so the path is that of one of them.
        route: path.clone(),
        target: path.clone(),
        path,
        source: peer.map(|peer| peer.ip().to_string()).unwrap_or_default(),
        peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
        forwarded: shortened(forwarded.unwrap_or_default()),
        request_id: crate::http::request_id().unwrap_or_default(),
        revision: revision.get(),
        ..Record::default()
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
        let operators =
            Operators::new(token.and_then(Secret::parse), Planes::default(), WeakAudit::default());
        // The token in the header says which account is meant.
        let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let operator = match given {
            Some("Bearer ops") => Some(Operator { is_permitted: true, ..Operator::default() }),
            Some("Bearer developer") => Some(Operator::default()),
            _ => None,
        };
        operators.admit(&request, operator.as_ref()).is_ok()
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
    fn an_account_with_the_right_needs_no_other_token() {
        let ops = ("authorization", "Bearer ops");
        let developer = ("authorization", "Bearer developer");
        for token in [None, Some("hunter2")] {
            assert!(admits(token, Some("10.0.0.9"), &[HERE, ops]));
            assert!(admits(token, None, &[("host", "gateway-1:30101"), ops]));
            assert!(!admits(token, Some("10.0.0.9"), &[HERE, developer]));
            let foreign = [HERE, ops, ("origin", "https://evil.example")];
            assert!(!admits(token, Some("127.0.0.1"), &foreign), "a page of another site");
        }
        assert!(!admits(Some("hunter2"), Some("127.0.0.1"), &[HERE, developer]));
        assert!(admits(None, Some("127.0.0.1"), &[HERE, developer]), "this machine is trusted");
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
