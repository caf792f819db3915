//! The upgrade of connections that carry heartbeats; [`crate::heartbeat`] does the rest.

use axum::body::Body;
use host::http::{RequestBody, take_socket};
use http::header::{
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use http::{HeaderName, Request, Response};

use super::admission::DRAINING;
use super::gate::Caller;
use super::proxy::remove_hop_by_hop;
use super::{GatewayParts, handshake, refusal, route};
use crate::heartbeat::{self, Heartbeat};

/// Headers of the handshake, which have no place in the heartbeats that follow.
const HANDSHAKE: [HeaderName; 4] =
    [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL];

impl GatewayParts {
    /// Upgrades a connection and carries its heartbeats in a task.
    pub(super) fn carry_heartbeats(
        &self,
        mut request: Request<RequestBody>,
        caller: &Caller,
    ) -> Response<Body> {
        let Some(response) = handshake::accept(request.headers()) else {
            self.metrics.bad_handshake();
            return refusal::bad_handshake();
        };
        if let Err(problem) = route::check_heartbeat_channel(request.uri().path(), request.headers()) {
            return refusal::bad_request(problem);
        }
        if self.tasks.drain().is_cancelled() {
            return refusal::unavailable(DRAINING);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        // The client's other headers stay: they say in whose name each heartbeat is sent.
        let mut headers = std::mem::take(request.headers_mut());
        remove_hop_by_hop(&mut headers);
        for name in HANDSHAKE {
            headers.remove(name);
        }
        let Ok(path) = request.uri().path().parse() else { return refusal::bad_handshake() };
        let tenant = route::tenant_of(request.uri().path(), &headers);
        let heartbeat = Heartbeat::new(path, headers, tenant).of(caller.certified.clone());
        let batches = self.batches.clone();
        let metrics = self.metrics.clone();
        let config = self.heartbeat.clone();
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok((socket, read)) = take_socket(upgraded) else { return };
            let (stream, slot) = socket.into_parts();
            heartbeat::carry(stream, &read, &heartbeat, &batches, &config, &metrics, &tasks).await;
            // The listener counts the connection until here.
            drop(slot);
        });
        response
    }
}
