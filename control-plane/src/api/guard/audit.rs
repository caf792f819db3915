//! The audit log: each write and each refusal while access control is on.
//!
//! In: a request's head, its permit, the status of its reply, and the notes that were made while it was
//! handled. Out: a record. It holds names, ids, digests and the path; never a query, a body or a token.
//!
//! Heartbeats are writes that change nothing that anybody would look up, and there are thousands a second.
//! They are recorded when they are refused.

use access::route;
use axum::body::Body;
use axum::extract::ConnectInfo;
use host::audit::{Audit, Decision, Record, shortened};
use host::proxies::TrustedProxies;
use http::{Method, Request, StatusCode};
use std::net::SocketAddr;

use super::super::client;
use super::super::permit::{Gate, NotAdmitted, Permit};
use crate::trail::{About, Notes};

/// The audit log, and the proxies that are trusted to name the client of a request. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditing {
    pub(crate) log: Audit,
    pub(crate) proxies: TrustedProxies,
}

/// The part of a record that is known before the request is handled.
#[derive(Debug)]
pub(super) struct Entry {
    method: Method,
    record: Record,
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
            Ok(Permit::Of(held)) => Some((held.identity.clone(), held.policy.revision)),
            Ok(Permit::Open) => None,
            // A refusal has no identity with it. The token is verified again, from memory if it is a good
            // one.
            Err(_) => gate.identify(request),
        };
        let path = shortened(request.uri().path());
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
        let mut record = Record {
            plane: "control".to_owned(),
            method: shortened(request.method().as_str()),
            target: path.clone(),
            path,
            source: client::source(&auditing.proxies, request.extensions(), request.headers()).to_string(),
            peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            forwarded: shortened(forwarded.unwrap_or_default()),
            ..Record::default()
        };
        if let Some((identity, revision)) = shown {
            record.account = shortened(identity.account());
            record.token = shortened(identity.token_id());
            record.revision = revision.get();
        } else {
            record.revision = gate.revision().get();
        }
        Some(Self { method: request.method().clone(), record })
    }

    /// Records the request if it is one that the log is for. `operation` is the name of its route.
    pub(super) fn end(self, log: &Audit, operation: &str, status: StatusCode, notes: Notes) {
        let Some(decision) = self.decision(status, log.has_reads()) else { return };
        let Self { method, mut record } = self;
        record.decision = decision;
        record.route = route::pattern_of(&method, &record.path).unwrap_or_default();
        record.operation = operation.to_owned();
        record.status = status.as_u16();
        record.request_id = host::http::request_id().unwrap_or_default();
        record.before = notes.before;
        record.after = notes.after;
        match notes.about {
            Some(About::New(name)) => record.target = format!("{}/{}", record.path, shortened(&name)),
            Some(About::At(path)) => record.target = shortened(&path),
            None => {}
        }
        log.record(record);
    }

    fn decision(&self, status: StatusCode, with_reads: bool) -> Option<Decision> {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Some(Decision::Denied);
        }
        let path = &self.record.path;
        // Finds of many providers have their questions in a body.
        let asks = self.method == Method::GET || path.ends_with("/instances/action");
        let is_heartbeat = path.ends_with("/heartbeat") || path.ends_with("/heartbeats");
        ((!asks || with_reads) && !is_heartbeat).then_some(Decision::Allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(method: &Method, path: &str, status: u16, with_reads: bool) -> Option<Decision> {
        let record = Record { path: path.to_owned(), ..Record::default() };
        let entry = Entry { method: method.clone(), record };
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
