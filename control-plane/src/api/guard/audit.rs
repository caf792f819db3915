//! The audit log: each write and each refusal while access control is on, as an event of the target `audit`.
//!
//! In: a request's head, its permit, the status of its reply. Out: an event among the process's log lines, and
//! at the collector where one is configured. It holds names, ids and the path; never a query, a body or a
//! token.
//!
//! Heartbeats are writes that change nothing that anybody would look up, and there are thousands a second. They
//! are recorded when they are refused.

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Method, Request, StatusCode};
use shared::model::Revision;
use std::net::SocketAddr;
use tracing::info;

use super::super::permit::{Gate, NotAdmitted, Permit};

/// The longest text that a client chooses and that is recorded, in bytes.
const LONGEST_TEXT: usize = 512;

/// The part of an event that is known before the request is handled.
#[derive(Debug)]
pub(super) struct Entry {
    method: Method,
    path: String,
    /// The other end of the connection: the client, a gateway or a proxy.
    peer: Option<SocketAddr>,
    /// The header that a proxy writes. Anybody can send one, so it proves nothing by itself.
    forwarded: String,
    account: String,
    token: String,
    /// The revision of the policy that the decision was made by.
    revision: Revision,
}

/// The decision that an event records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Allowed,
    Denied,
}

impl Entry {
    /// Notes a request and its permit; `None` while access control is off.
    pub(super) fn begin(
        gate: &Gate,
        request: &Request<Body>,
        admitted: &Result<Permit, NotAdmitted>,
    ) -> Option<Self> {
        if !gate.is_closed() {
            return None;
        }
        let shown = match admitted {
            Ok(Permit::Of(held)) => Some((held.identity.clone(), held.policy.revision)),
            Ok(Permit::Open) => None,
            // A refusal has no identity with it. The token is verified again, from memory if it is a good one.
            Err(_) => gate.identify(request),
        };
        let (account, token, revision) = match shown {
            Some((identity, revision)) => {
                let claims = &identity.token.claims;
                (shortened(&claims.account), shortened(&claims.jti), revision)
            }
            None => (String::new(), String::new(), Revision::ZERO),
        };
        let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
        Some(Self {
            method: request.method().clone(),
            path: shortened(request.uri().path()),
            peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0),
            forwarded: shortened(forwarded.unwrap_or_default()),
            account,
            token,
            revision,
        })
    }

    /// Records the request if it is one that the log is for. `operation` is the name of its route.
    pub(super) fn end(self, operation: &str, status: StatusCode) {
        let Some(decision) = self.decision(status) else { return };
        let Self { method, path, peer, forwarded, account, token, revision } = self;
        info!(
            target: "audit",
            decision = match decision {
                Decision::Allowed => "allowed",
                Decision::Denied => "denied",
            },
            account,
            token,
            operation,
            %method,
            path,
            status = status.as_u16(),
            peer = peer.map(tracing::field::display),
            forwarded,
            revision = revision.get(),
            request.id = host::http::request_id(),
            "a request was decided"
        );
    }

    fn decision(&self, status: StatusCode) -> Option<Decision> {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Some(Decision::Denied);
        }
        // Finds of many providers have their questions in a body.
        let asks = self.method == Method::GET || self.path.ends_with("/instances/action");
        let is_heartbeat = self.path.ends_with("/heartbeat") || self.path.ends_with("/heartbeats");
        (!asks && !is_heartbeat).then_some(Decision::Allowed)
    }
}

/// A text of bounded length, cut between letters.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(method: Method, path: &str, status: u16) -> Option<Decision> {
        let entry = Entry {
            method,
            path: path.to_owned(),
            peer: None,
            forwarded: String::new(),
            account: String::new(),
            token: String::new(),
            revision: Revision::ZERO,
        };
        entry.decision(StatusCode::from_u16(status).expect("a status"))
    }

    #[test]
    fn writes_and_refusals_are_recorded_and_nothing_else() {
        let services = "/v4/default/registry/microservices";
        let heartbeat = "/v4/default/registry/microservices/a/instances/b/heartbeat";
        let action = "/v4/default/registry/instances/action";
        for (method, path, status, expected) in [
            (Method::POST, services, 200, Some(Decision::Allowed)),
            (Method::POST, services, 400, Some(Decision::Allowed)),
            (Method::DELETE, services, 403, Some(Decision::Denied)),
            (Method::POST, "/v4/token", 401, Some(Decision::Denied)),
            (Method::GET, services, 200, None),
            (Method::GET, services, 401, Some(Decision::Denied)),
            (Method::POST, action, 200, None),
            (Method::POST, action, 403, Some(Decision::Denied)),
            (Method::PUT, heartbeat, 200, None),
            (Method::PUT, heartbeat, 403, Some(Decision::Denied)),
        ] {
            assert_eq!(decided(method.clone(), path, status), expected, "{method} {path} {status}");
        }
    }

    #[test]
    fn recorded_texts_are_bounded() {
        assert_eq!(shortened("short"), "short");
        assert!(shortened(&"ä".repeat(1000)).len() <= LONGEST_TEXT);
    }
}
