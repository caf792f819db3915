//! Watches over WebSocket: the upgrade, and the way of the socket to its shard.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use host::http::{RequestBody, Socket, Stream, take_socket};
use http::{Method, Request, Response};
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::{Instrument as _, debug, debug_span};

use super::admission::{DRAINING, NotAdmitted, UNREACHABLE};
use super::gate::Caller;
use super::route::WatchRequest;
use super::{GatewayParts, handshake, refusal};
use crate::close::VIOLATION;
use crate::fanout::{Attached, PlainEnd, ToShard};
use crate::limits::Permit;
use crate::push::Encoding;
use crate::upstream::Joined;
use crate::watch::Selector;

/// The value of the label `scheme`, as Service-Center spells it.
const SCHEME: &str = "Websocket";
/// The time that a client may take to end its side of a watch that is turned away.
const LINGER: Duration = Duration::from_secs(2);

impl GatewayParts {
    /// Answers a request for a watch; the upgrade goes on in a task.
    pub(super) async fn watch(
        &self,
        watch: Result<WatchRequest, &'static str>,
        mut request: Request<RequestBody>,
        caller: &Caller,
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
        let admitting = self.admit(&watch, encoding, SCHEME, request.headers(), caller);
        let (permit, joined) = match admitting.instrument(span.clone()).await {
            Ok(admitted) => admitted,
            Err(not_admitted) => {
                return match self.reason_to_turn_away(&watch, encoding, &not_admitted) {
                    Some(reason) => self.turn_away(reason, request, response),
                    None => refuse(not_admitted),
                };
            }
        };
        // Only after the admission: a refused watch is an ordinary answer on a connection that can be used
        // again.
        let upgrade = hyper::upgrade::on(&mut request);
        // In a task, because the upgrade completes only after the response below has been sent.
        self.tasks.spawn(attach(upgrade, permit, joined).instrument(span));
        response
    }
}

impl GatewayParts {
    /// The label of the reason for which a consumer's plain watch is taken and ended with an error. `None`
    /// when the watch is refused before the upgrade.
    ///
    /// Clients of such watches take a refusal as the end of watching, like every proper end. This concerns
    /// refusals that another gateway, or this one a moment later, would not repeat.
    fn reason_to_turn_away(
        &self,
        watch: &WatchRequest,
        encoding: Encoding,
        not_admitted: &NotAdmitted,
    ) -> Option<&'static str> {
        let is_of_old_client = encoding == Encoding::Plain && matches!(watch.selector, Selector::Consumer(_));
        if !is_of_old_client || self.plain_end == PlainEnd::Close {
            return None;
        }
        match not_admitted {
            NotAdmitted::Draining => Some("draining"),
            NotAdmitted::Unreachable => Some("unreachable"),
            NotAdmitted::Full(full) => full.is_here().then_some("full"),
            // The client's own account: another gateway would refuse it too.
            NotAdmitted::Refused(_) => None,
            NotAdmitted::Denied(answer) => answer.status().is_server_error().then_some("undecided"),
        }
    }

    /// Completes the upgrade and ends the connection with an error.
    fn turn_away(
        &self,
        reason: &'static str,
        mut request: Request<RequestBody>,
        response: Response<Body>,
    ) -> Response<Body> {
        self.metrics.turned_away(reason);
        let upgrade = hyper::upgrade::on(&mut request);
        let end = async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok((socket, _)) = take_socket(upgraded) else { return };
            let (stream, slot) = socket.into_parts();
            // A client that does not read or does not end its side is left after a while. Whatever fails, the
            // connection ends.
            let _ = timeout(LINGER, say_error(stream)).await;
            // The listener counts the connection until here.
            drop(slot);
        };
        self.tasks.spawn(end);
        response
    }
}

/// Sends the frame that breaks the protocol, and waits for the client to end its side: a connection that is
/// dropped earlier may be reset, and the frame lost.
async fn say_error(mut stream: Stream) -> std::io::Result<()> {
    stream.write_all(&VIOLATION).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// The answer to a watch that is not admitted.
pub(super) fn refuse(not_admitted: NotAdmitted) -> Response<Body> {
    match not_admitted {
        NotAdmitted::Denied(response) => response,
        NotAdmitted::Refused(denial) => refusal::denied(&denial),
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
