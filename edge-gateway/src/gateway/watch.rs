//! Watches over WebSocket: the upgrade, and the way of the socket to its shard.

use axum::body::Body;
use bytes::Bytes;
use host::http::{RequestBody, Socket, Stream, take_socket};
use http::{Method, Request, Response};
use hyper::upgrade::OnUpgrade;
use tracing::{Instrument as _, debug, debug_span};

use super::admission::{DRAINING, NotAdmitted, UNREACHABLE};
use super::route::WatchRequest;
use super::{GatewayParts, handshake, refusal};
use crate::fanout::{Attached, ToShard};
use crate::limits::Permit;
use crate::push::Encoding;
use crate::upstream::Joined;

/// The value of the label `scheme`, as Service-Center spells it.
const SCHEME: &str = "Websocket";

impl GatewayParts {
    /// Answers a request for a watch; the upgrade goes on in a task.
    pub(super) async fn watch(
        &self,
        watch: Result<WatchRequest, &'static str>,
        mut request: Request<RequestBody>,
    ) -> Response<Body> {
        if request.method() != Method::GET {
            return refusal::method_not_allowed();
        }
        let Some(response) = handshake::accept(request.headers()) else {
            self.metrics.bad_handshake();
            return refusal::bad_handshake();
        };
        let watch = match watch {
            Ok(watch) => watch,
            Err(problem) => return refusal::bad_request(problem),
        };
        let encoding = if watch.since.is_some() { Encoding::Resumable } else { Encoding::Plain };
        let span = debug_span!("watch", service.id = %watch.watcher, transport = "websocket");
        let admitting = self.admit(&watch, encoding, SCHEME, request.headers());
        let (permit, joined) = match admitting.instrument(span.clone()).await {
            Ok(admitted) => admitted,
            Err(not_admitted) => return refuse(not_admitted),
        };
        // Only after the admission: a refused watch is an ordinary answer on a connection that can be used
        // again.
        let upgrade = hyper::upgrade::on(&mut request);
        // In a task, because the upgrade completes only after the response below has been sent.
        self.tasks.spawn(attach(upgrade, permit, joined).instrument(span));
        response
    }
}

fn refuse(not_admitted: NotAdmitted) -> Response<Body> {
    match not_admitted {
        NotAdmitted::Denied(response) => response,
        NotAdmitted::Draining => refusal::unavailable(DRAINING),
        NotAdmitted::Unreachable => refusal::unavailable(UNREACHABLE),
        // 503 when another gateway may have room, 429 when every gateway would refuse.
        NotAdmitted::Full(full) if full.is_here() => refusal::unavailable(&full.to_string()),
        NotAdmitted::Full(full) => refusal::too_many(&full.to_string()),
    }
}

/// Waits for the upgrade and hands the socket to the session that was reserved for it. On a failure nothing
/// has to be undone: the shard releases a reserved session whose socket does not come.
async fn attach(upgrade: OnUpgrade, permit: Permit, joined: Joined) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return debug!(%error, "the client ended the connection before the upgrade"),
    };
    let Ok((socket, read)) = take_socket(upgraded) else {
        return debug!("the upgraded connection was not accepted by this listener");
    };
    let Some(to) = attached(socket, read) else { return };
    joined.shard.send(ToShard::Attach { ticket: joined.ticket, to, permit }).await;
}

fn attached(socket: Socket, read: Bytes) -> Option<Attached> {
    let (stream, slot) = socket.into_parts();
    let (stream, tls) = match stream {
        Stream::Plain(stream) => (stream, None),
        Stream::Tls(stream) => {
            let (stream, tls) = stream.into_inner();
            (stream, Some(Box::new(tls)))
        }
    };
    // The socket leaves this runtime here and is registered with its shard's.
    match stream.into_std() {
        Ok(socket) => Some(Attached::Socket { socket, tls, read, slot }),
        Err(error) => {
            debug!(%error, "the connection broke during the upgrade");
            None
        }
    }
}
