//! The audit log at the gateway: each request that its gate refuses, and each watch that is refused later, as
//! a control plane records its own.
//!
//! In: a request and the decision about it. Out: a record; never a query, a message or a token. Requests that
//! are forwarded are recorded by the control plane that answers them.

use std::net::SocketAddr;

use access::decision::authorization;
use access::{Admitted, Denial, Identity, route as table};
use axum::body::Body;
use axum::extract::ConnectInfo;
use host::audit::{Decision, Record, shortened};
use http::{Request, Response, StatusCode};

use super::gate::{Caller, Transport, transport_of};
use super::{GatewayParts, grpc, route};
use crate::policy::Standing;

impl GatewayParts {
    /// Records a refusal of the gate.
    pub(super) fn audit_refusal<B>(&self, request: &Request<B>, transport: Transport, denial: &Denial) {
        let policy = match self.policy.standing() {
            Standing::Guarded(policy) | Standing::Closed(_, Some(policy)) => Some(policy),
            Standing::Open | Standing::Closed(_, None) => None,
        };
        // Verified again, from memory if the token is a good one: a refusal has no account with it.
        let account = policy.as_ref().and_then(|policy| {
            let header = authorization(request.headers()).ok()?;
            self.policy.identify(policy, header, self.certified(request)).ok()
        });
        let revision = policy.map_or(0, |policy| policy.revision.get());
        self.audit.record(Record {
            status: denial.code.status(),
            code: denial.code.number().to_owned(),
            ..self.record_of(request, transport, account.as_deref().map(Admitted::identity), revision)
        });
    }

    /// The record of a watch that an account wants to open; `None` for other requests.
    pub(super) fn record_of_watch<B>(&self, request: &Request<B>, caller: &Caller) -> Option<Record> {
        let path = request.uri().path();
        let is_watch = route::is_watch(path);
        let (identity, policy) = caller.account.as_ref().filter(|_| is_watch)?;
        let transport = transport_of(request.method(), path, request.headers());
        Some(self.record_of(request, transport, Some(identity), policy.revision.get()))
    }

    /// Records the outcome of the opening of a watch.
    pub(super) fn audit_watch(&self, record: Record, response: &Response<Body>) {
        let status = match response.headers().get(grpc::STATUS).and_then(|status| status.to_str().ok()) {
            Some(status) if status == (tonic::Code::PermissionDenied as u16).to_string() => {
                StatusCode::FORBIDDEN
            }
            Some(status) if status == (tonic::Code::Unauthenticated as u16).to_string() => {
                StatusCode::UNAUTHORIZED
            }
            _ => response.status(),
        };
        let decision = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Decision::Denied,
            _ if self.audit.has_reads() => Decision::Allowed,
            _ => return,
        };
        self.audit.record(Record { decision, status: status.as_u16(), ..record });
    }

    pub(super) fn record_of<B>(
        &self,
        request: &Request<B>,
        transport: Transport,
        identity: Option<&Identity>,
        revision: u64,
    ) -> Record {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let source = peer.map(|peer| self.proxies.client(peer.ip(), request.headers()));
        let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
        let path = shortened(request.uri().path());
        Record {
            plane: "edge".to_owned(),
            decision: Decision::Denied,
            account: identity.map(|identity| shortened(identity.account())).unwrap_or_default(),
            token: identity.map(|identity| shortened(identity.token_id())).unwrap_or_default(),
            method: shortened(request.method().as_str()),
            route: table::pattern_of(request.method(), request.uri().path()).unwrap_or_default(),
            target: path.clone(),
            path,
            transport: transport.label().to_owned(),
            source: source.map(|source| source.to_string()).unwrap_or_default(),
            peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            forwarded: shortened(forwarded.unwrap_or_default()),
            request_id: host::http::request_id().unwrap_or_default(),
            revision,
            ..Record::default()
        }
    }
}
