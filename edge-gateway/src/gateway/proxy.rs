//! The reverse proxy: every request that is not a watch goes to a control plane, and its response comes back.
//!
//! The list of hop-by-hop headers is kept by hand: it is one screen, RFC 9110 §7.6.1 fixes it, and the
//! crates that have it are HTTP proxies of their own.

use std::net::SocketAddr;
use std::time::Duration;

use answer::Shown;
use answer::resolution::FOUND;
use answer::shown::SHOWN;
use axum::body::Body;
use axum::extract::ConnectInfo;
use host::certificates::ACCOUNT;
use host::fairness::{self, NoPlace, Wait};
use host::telemetry::trace::{self, SpanKind};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use opentelemetry::KeyValue;
use shared::model::{Revision, ServiceRef, Tenant};
use tracing::{Instrument as _, debug_span};

use super::{GatewayParts, NoAnswer, refusal, route};
use crate::forward::{self, NotForwarded};

/// A control plane answers a read with this header only after its view has reached the revision in it: the
/// highest that this gateway has pushed, that of the tenant's last write through it, or what the tenant's reads
/// through it have shown. A pull after a push is therefore never older than the push, a read after an answered
/// write sees the write, and of two reads the second is not older, whichever control planes answer them.
const MIN_REVISION: HeaderName = HeaderName::from_static("x-muster-min-revision");
/// A control plane's answer to a write names a revision that contains the write.
const WRITTEN: HeaderName = HeaderName::from_static("x-muster-revision");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The services that answer a find, as the control plane told this gateway.
#[derive(Clone, Debug)]
pub(super) struct FoundServices(pub(super) HeaderValue);

/// The revision that contains a write, as the control plane told this gateway.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenAt(pub(super) Revision);

impl GatewayParts {
    /// Forwards a request, which is not the only one that some clients' requests lead to. So its place is given back
    /// at its end, also where the client's request goes on. The error ends the connection without a response.
    pub(super) async fn pass_on(&self, request: Request<Body>) -> Result<Response<Body>, NoAnswer> {
        let tenant = route::tenant_of(request.uri().path(), request.headers());
        fairness::holding(async {
            if let Some(tenant) = tenant.as_ref().filter(|_| needs_place(&request))
                && let Err(refusal) = self.take_place(tenant).await
            {
                return Ok(refusal);
            }
            self.pass_on_in_place(request, tenant.as_ref()).await
        })
        .await
    }

    /// Waits for a place among the requests of a tenant that are worked on, and holds it until the request that
    /// this task works on has an answer or begins to wait for a control plane.
    pub(super) async fn take_place(&self, tenant: &Tenant) -> Result<(), Response<Body>> {
        fairness::hold(self.shares.enter(tenant).await.map_err(no_place)?);
        Ok(())
    }

    /// Forwards a request that has its place, or needs none. It waits for its answer among those of its tenant that
    /// do the same: as long as control planes hang, whatever needs none of them goes past it, and the connections
    /// of a tenant to control planes have the same bound as the work for it.
    pub(super) async fn pass_on_in_place(
        &self,
        mut request: Request<Body>,
        tenant: Option<&Tenant>,
    ) -> Result<Response<Body>, NoAnswer> {
        let is_heartbeat = forward::is_heartbeat(request.method(), request.uri().path());
        let instances_of = match *request.method() {
            Method::GET => None,
            _ => route::service_of_instances(request.uri().path()),
        };
        let method = request.method().clone();
        // Heartbeats are the many, and end nothing.
        let path = match method {
            Method::DELETE => request.uri().path().to_owned(),
            _ => String::new(),
        };
        if let Err(none) = fairness::wait(Wait::Answer).await {
            return Ok(no_place(none));
        }
        self.prepare(&mut request, tenant);
        match self.forward_traced(request).await {
            // Old Java clients take every answer but 200 as "not registered" and register anew. A connection
            // that ends without an answer they take as a reason to repeat the heartbeat, and that is what it
            // is.
            Ok(answer) if is_heartbeat && answer.status().is_server_error() => Err(NoAnswer),
            Err(NotForwarded::Unavailable) if is_heartbeat => Err(NoAnswer),
            Ok(mut answer) => {
                remove_hop_by_hop(answer.headers_mut());
                let written = answer.headers_mut().remove(WRITTEN);
                let rev = written.and_then(|value| value.to_str().ok()?.parse::<Revision>().ok());
                let shown = answer.headers_mut().remove(SHOWN).and_then(|value| Shown::decode(&value));
                if let Some(rev) = rev {
                    answer.extensions_mut().insert(WrittenAt(rev));
                }
                // A heartbeat writes nothing that a read could miss.
                if let Some(tenant) = tenant.filter(|_| !is_heartbeat) {
                    let service = instances_of.map(|id| ServiceRef::new(tenant.clone(), id));
                    self.upstream.note_answer(tenant, service.as_ref(), rev, shown);
                }
                if method == Method::DELETE && answer.status().is_success() {
                    self.note_end(&path, tenant);
                }
                // Never the client's.
                if let Some(services) = answer.headers_mut().remove(FOUND) {
                    answer.extensions_mut().insert(FoundServices(services));
                }
                Ok(answer)
            }
            Err(fault) => Ok(refusal::not_forwarded(fault)),
        }
    }

    /// Asks every control plane in the client's name, by a request without a body. `None` stands for each
    /// that did not answer in time.
    pub(super) async fn pass_on_to_all(
        &self,
        mut request: Request<Body>,
        patience: Duration,
    ) -> Vec<Option<Response<Body>>> {
        let tenant = route::tenant_of(request.uri().path(), request.headers());
        self.prepare(&mut request, tenant.as_ref());
        self.forward.forward_to_all(request, patience).await
    }

    /// A client has ended instances through this gateway, and its next heartbeat is not to find them. Those
    /// that end elsewhere are told of by the publisher.
    fn note_end(&self, path: &str, tenant: Option<&Tenant>) {
        if let (Some((service, instance)), Some(tenant)) = (route::instance_in(path), tenant) {
            self.beats.forget(&ServiceRef::new(tenant.clone(), service), &instance);
        } else if route::is_services(path) {
            self.beats.forget_all();
        }
    }

    /// Makes the client's request one of this gateway's.
    fn prepare(&self, request: &mut Request<Body>, tenant: Option<&Tenant>) {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD)
            // A batch of finds has its questions in a body.
            || (*request.method() == Method::POST && request.uri().path().ends_with("/instances/action"));
        let headers = request.headers_mut();
        // First, so that a client cannot name a header of this gateway in `Connection` and so
        // have it removed.
        remove_hop_by_hop(headers);
        if let Some(peer) = peer {
            add_forwarded_for(headers, peer);
        }
        // Never the client's own value: it could make a control plane wait for a revision that never comes.
        headers.remove(MIN_REVISION);
        let required = self.upstream.required_of_read(tenant);
        if required > Revision::ZERO && is_read {
            headers.insert(MIN_REVISION, HeaderValue::from(required.get()));
        }
    }

    async fn forward_traced(&self, mut request: Request<Body>) -> Result<Response<Body>, NotForwarded> {
        let span = debug_span!("forward", method = %request.method(), path = request.uri().path());
        let Some(traced) = trace::Request::begin(request.headers(), SpanKind::Server, "forward") else {
            return self.forward.forward(request).instrument(span).await;
        };
        let method = request.method().clone();
        traced.pass_on(request.headers_mut());
        let answer = self.forward.forward(request).instrument(span).await;
        let status = match &answer {
            Ok(answer) => answer.status(),
            Err(fault) => refusal::status_of(*fault),
        };
        let about = vec![KeyValue::new("http.request.method", method.to_string())];
        traced.answered(format!("{method} forward"), status.as_u16(), about);
        answer
    }
}

/// The refusal of a request of a tenant that has too many under way.
pub(super) fn no_place(none: NoPlace) -> Response<Body> {
    refusal::too_many(&none.to_string())
}

/// True for a request that needs a place among those of its tenant. Requests with a body get one at the
/// control plane, when the body has arrived: here a client that sends slowly would take places from others
/// of its tenant. Heartbeats never wait.
pub(super) fn needs_place(request: &Request<Body>) -> bool {
    !forward::is_heartbeat(request.method(), request.uri().path()) && request.body().is_end_stream()
}

/// Headers that mean an identity, a tenant or the request itself. A client must not be able to strip what a
/// proxy before this gateway has set, so `Connection` has no power over them.
const END_TO_END: [HeaderName; 18] = [
    AUTHORIZATION,
    ACCOUNT,
    COOKIE,
    HOST,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    FORWARDED,
    FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static(super::route::DOMAIN),
    HeaderName::from_static(super::route::TENANT),
    HeaderName::from_static("x-project-name"),
    HeaderName::from_static("x-consumerid"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Removes the headers that concern one connection only, and those that `Connection` names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Filtered here and not put back later: a header has its place and its values as they came.
        .filter(|name| !END_TO_END.contains(name))
        .collect();
    let always = [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in named.iter().chain(&always) {
        headers.remove(name);
    }
}

/// Adds the peer to the addresses that proxies before have named, in however many headers.
fn add_forwarded_for(headers: &mut HeaderMap, peer: SocketAddr) {
    let mut all: Vec<u8> = Vec::new();
    for before in headers.get_all(FORWARDED_FOR) {
        all.extend_from_slice(before.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(peer.ip().to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_in_front_is_kept() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_static("10.0.0.1, 10.0.0.2"));
        headers.append(FORWARDED_FOR, HeaderValue::from_bytes(b"caf\xe9").expect("a value"));
        add_forwarded_for(&mut headers, SocketAddr::from(([10, 0, 0, 4], 5000)));
        let all: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(all, [&b"10.0.0.1, 10.0.0.2, caf\xe9, 10.0.0.4"[..]]);
    }
}
