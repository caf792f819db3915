//! The audit log: each write and each refusal while access control is on.
//!
//! In: a request's head, its permit, the status of its reply, and the notes that were made while it was
//! handled. Out: a record. It holds names, ids, digests and the path; never a query, a body or a token.
//!
//! Heartbeats are writes that change nothing that anybody would look up, and there are thousands a second.
//! They are recorded when they are refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use access::{Admitted, route};
use axum::body::Body;
use axum::extract::ConnectInfo;
use host::audit::{Audit, Decision, Record, shortened};
use host::proxies::TrustedProxies;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use shared::model::Revision;

use super::super::client;
use super::super::permit::{Gate, NotAdmitted, Permit};
use crate::trail::{About, Notes};

/// The audit log, and the proxies that are trusted to name the client of a request. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditing {
    pub(crate) log: Audit,
    pub(crate) proxies: TrustedProxies,
}

/// The part of a record that is known before the request is handled. Most requests are reads, of which no
/// record is made, so these are references and numbers and no texts.
#[derive(Debug)]
pub(super) struct Entry {
    method: Method,
    uri: Uri,
    account: Option<Arc<Admitted>>,
    /// The revision of the policy that has decided.
    revision: Revision,
    source: IpAddr,
    peer: Option<SocketAddr>,
    forwarded: Option<HeaderValue>,
}

impl Entry {
    /// Notes a request and its permit; `None` while access control is off.
    pub(super) fn begin(
        auditing: &Auditing,
        gate: &Gate,
        request: &Request<Body>,
        admitted: &Result<Permit, NotAdmitted>,
    ) -> Option<Self> {
        if !gate.is_closed() {
            return None;
        }
        let shown = match admitted {
            Ok(Permit::Of(held)) => Some((held.account(), held.policy.revision)),
            Ok(Permit::Open) => None,
            // A refusal has no identity with it. The token is verified again, from memory if it is a good
            // one.
            Err(_) => gate.identify(request),
        };
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let revision = match &shown {
            Some((_, revision)) => *revision,
            None => gate.revision(),
        };
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            account: shown.map(|(account, _)| account),
            revision,
            source: client::source(&auditing.proxies, request.extensions(), request.headers()),
            peer,
            forwarded: request.headers().get("x-forwarded-for").cloned(),
        })
    }

    /// Records the request if it is one that the log is for. `operation` is the name of its route.
    pub(super) fn end(self, log: &Audit, operation: &str, status: StatusCode, notes: Notes) {
        let Some(decision) = self.decision(status, log.has_reads()) else { return };
        let Self { method, uri, account, revision, source, peer, forwarded } = self;
        let path = shortened(uri.path());
        let identity = account.as_deref().map(Admitted::identity);
        let target = match notes.about {
            Some(About::New(name)) => format!("{path}/{}", shortened(&name)),
            Some(About::At(path)) => shortened(&path),
            None => path.clone(),
        };
        log.record(Record {
            plane: "control".to_owned(),
            decision,
            account: identity.map(|identity| shortened(identity.account())).unwrap_or_default(),
            token: identity.map(|identity| shortened(identity.token_id())).unwrap_or_default(),
            revision: revision.get(),
            route: route::pattern_of(&method, &path).unwrap_or_default(),
            operation: operation.to_owned(),
            method: shortened(method.as_str()),
            target,
            path,
            status: status.as_u16(),
            source: source.to_string(),
            peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            forwarded: shortened(
                forwarded.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default(),
            ),
            request_id: host::http::request_id().unwrap_or_default(),
            before: notes.before,
            after: notes.after,
            ..Record::default()
        });
    }

    fn decision(&self, status: StatusCode, with_reads: bool) -> Option<Decision> {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Some(Decision::Denied);
        }
        let path = self.uri.path();
        // Finds of many providers have their questions in a body.
        let asks = self.method == Method::GET || path.ends_with("/instances/action");
        let is_heartbeat = path.ends_with("/heartbeat") || path.ends_with("/heartbeats");
        ((!asks || with_reads) && !is_heartbeat).then_some(Decision::Allowed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn decided(method: &Method, path: &str, status: u16, with_reads: bool) -> Option<Decision> {
        let entry = Entry {
            method: method.clone(),
            uri: path.parse().expect("a path"),
            account: None,
            revision: Revision::ZERO,
            source: Ipv4Addr::LOCALHOST.into(),
            peer: None,
            forwarded: None,
        };
        entry.decision(StatusCode::from_u16(status).expect("a status"), with_reads)
    }

    #[test]
    fn writes_and_refusals_are_recorded_and_nothing_else() {
        let services = "/v4/default/registry/microservices";
        let heartbeat = "/v4/default/registry/microservices/a/instances/b/heartbeat";
        let action = "/v4/default/registry/instances/action";
        for (method, path, status, expected, with_reads) in [
            (Method::POST, services, 200, Some(Decision::Allowed), Some(Decision::Allowed)),
            (Method::POST, services, 400, Some(Decision::Allowed), Some(Decision::Allowed)),
            (Method::DELETE, services, 403, Some(Decision::Denied), Some(Decision::Denied)),
            (Method::POST, "/v4/token", 401, Some(Decision::Denied), Some(Decision::Denied)),
            (Method::GET, services, 200, None, Some(Decision::Allowed)),
            (Method::GET, services, 401, Some(Decision::Denied), Some(Decision::Denied)),
            (Method::POST, action, 200, None, Some(Decision::Allowed)),
            (Method::POST, action, 403, Some(Decision::Denied), Some(Decision::Denied)),
            (Method::PUT, heartbeat, 200, None, None),
            (Method::PUT, heartbeat, 403, Some(Decision::Denied), Some(Decision::Denied)),
        ] {
            assert_eq!(decided(&method, path, status, false), expected, "{method} {path} {status}");
            assert_eq!(decided(&method, path, status, true), with_reads, "{method} {path} {status}");
        }
    }
}
