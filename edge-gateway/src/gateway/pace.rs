//! Keeps clients to their rates: after the gate, so that the account is known, and before any work.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};

use super::gate::{Caller, Transport, transport_of};
use super::{GatewayParts, refusal, route};
use crate::rates::Kind;
use crate::{eureka, forward};

impl GatewayParts {
    /// The refusal for a request of a client that sends too many. Heartbeats are never refused: a provider
    /// would expire for what another client at the same address does.
    pub(super) fn too_fast<B>(&self, request: &Request<B>, caller: &Caller) -> Option<Response<Body>> {
        let method = request.method();
        let path = request.uri().path();
        if forward::is_heartbeat(method, path)
            || eureka::is_renewal(method, path)
            || route::is_heartbeat_channel(method, path)
        {
            return None;
        }
        let is_watch = route::is_watch(path);
        let kind = if is_watch { Kind::Watch } else { Kind::Request };
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let source = peer.map(|peer| self.proxies.client(peer, request.headers()));
        let tenant = route::tenant_of(path, request.headers());
        let account = caller.account.as_ref().map(|(identity, _)| identity.account());
        let too_fast = self.rates.take(kind, source, tenant.as_ref(), account).err()?;
        self.metrics.too_fast(too_fast.party.as_str());
        let detail = too_fast.to_string();
        Some(match transport_of(method, path, request.headers()) {
            Transport::Grpc => tonic::Status::resource_exhausted(detail).into_http(),
            Transport::Rest | Transport::WebSocket | Transport::EventStream => {
                refusal::too_many_for(&detail, too_fast.seconds())
            }
        })
    }
}
