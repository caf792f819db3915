//! Watches over gRPC: requests, statuses, and the response body that streams a session's bytes.
//!
//! tonic's generated server would encode each message once per stream. Here a session's bytes come ready from
//! its shard, encoded once for all streams, so the little of the protocol that a server stream needs is
//! written by hand.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use access::Denial;
use access::denial::DenialCode;
use axum::body::Body;
use bytes::Bytes;
use host::http::SendBuffer;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use proto::servicecenter as historical;
use proto::watch::v1 as current;
use shared::model::Revision;
use tracing::{Instrument as _, debug_span};

use super::GatewayParts;
use super::admission::{DRAINING, NotAdmitted, UNDECIDED, UNREACHABLE};
use super::gate::Caller;
use super::route::{self, Selection, WatchQuery, WatchRequest};
use crate::close::Reason;
use crate::codec::grpc::{Unreadable, read_request};
use crate::fanout::stream::{Next, Reader, stream};
use crate::fanout::{Attached, ToShard};
use crate::push::Encoding;

/// The header, or trailer, with the code of an outcome.
pub(super) const STATUS: &str = "grpc-status";
/// The value of the label `scheme`, as Service-Center spells it.
const SCHEME: &str = "gRPC";

/// The statuses of gRPC that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Aborted = 10,
    Unimplemented = 12,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// The terms of a watch, as a message names them.
struct Terms {
    domain: Option<String>,
    project: Option<String>,
    query: WatchQuery,
    encoding: Encoding,
}

impl GatewayParts {
    /// Opens a watch of Service-Center's contract: a consumer's interest, from now on.
    pub(super) async fn watch_historical(&self, request: Request<Body>, caller: &Caller) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let request = match read_request::<historical::WatchInstanceRequest>(body).await {
            Ok(request) => request,
            Err(reason) => return unreadable(reason, "the request is not one WatchInstanceRequest"),
        };
        if request.self_service_id.is_empty() {
            return refuse(Code::InvalidArgument, "the consumer's service id is missing");
        }
        let query = WatchQuery { consumer: request.self_service_id, ..WatchQuery::default() };
        let terms = Terms { domain: None, project: None, query, encoding: Encoding::Historical };
        self.watch_query(terms, &parts.headers, caller).await
    }

    /// Opens a watch of `muster.watch.v1`.
    pub(super) async fn watch_grpc(&self, request: Request<Body>, caller: &Caller) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let request = match read_request::<current::WatchRequest>(body).await {
            Ok(request) => request,
            Err(reason) => return unreadable(reason, "the request is not one WatchRequest"),
        };
        let query = WatchQuery {
            consumer: request.consumer_id,
            providers: request.providers,
            selection: request
                .selection
                .map(|selection| Selection { app_id: selection.app_id, environment: selection.environment }),
            since: request.rev.map(Revision::new),
        };
        let domain = Some(request.domain).filter(|domain| !domain.is_empty());
        let project = Some(request.project).filter(|project| !project.is_empty());
        let terms = Terms { domain, project, query, encoding: Encoding::Grpc };
        self.watch_query(terms, &parts.headers, caller).await
    }

    /// Opens a watch whose message names these terms, and perhaps the tenant.
    async fn watch_query(&self, terms: Terms, headers: &HeaderMap, caller: &Caller) -> Response<Body> {
        let Terms { domain, project, query, encoding } = terms;
        // A project, named or not, makes the tenant that of the paths of v4, which gRPC has no header for.
        let project = project.unwrap_or_else(|| route::DEFAULT.to_owned());
        let tenant = route::tenant(headers, domain, Some(project));
        match tenant.and_then(|tenant| WatchRequest::new(tenant, query)) {
            Ok(watch) => self.stream(watch, encoding, headers, caller).await,
            Err(problem) => refuse(Code::InvalidArgument, problem),
        }
    }

    async fn stream(
        &self,
        watch: WatchRequest,
        encoding: Encoding,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Response<Body> {
        let span = debug_span!("watch", service.id = %watch.watcher, transport = "grpc");
        let admitting = self.admit(&watch, encoding, SCHEME, headers, caller);
        let (permit, joined) = match admitting.instrument(span).await {
            Ok(admitted) => admitted,
            Err(NotAdmitted::Draining) => return refuse(Code::Unavailable, DRAINING),
            Err(NotAdmitted::Unreachable) => return refuse(Code::Unavailable, UNREACHABLE),
            Err(NotAdmitted::Full(full)) => return refuse(Code::ResourceExhausted, &full.to_string()),
            Err(NotAdmitted::Refused(denial)) => return refuse_denied(&denial),
            Err(NotAdmitted::Denied(answer)) => return refuse_like(answer.status()),
        };
        let (writer, reader) = stream();
        let to = Attached::Stream(writer);
        // Before the response: a client must not see a stream that no session fills.
        joined.shard.send(ToShard::Attach { ticket: joined.ticket, to, permit }).await;
        endless(Body::new(SessionBody { reader: Some(reader) }), self.send_buffer)
    }
}

/// The response of a stream that ends with its client or its gateway.
pub(super) fn endless(body: Body, send_buffer: SendBuffer) -> Response<Body> {
    let mut response = response(body);
    response.extensions_mut().insert(send_buffer);
    response
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A response that is only a status. gRPC calls this "trailers only": the status stands among the headers.
pub(super) fn refuse(code: Code, message: &str) -> Response<Body> {
    let mut response = response(Body::empty());
    response.headers_mut().extend(status(code, message));
    response
}

fn unreadable(reason: Unreadable, not_one: &str) -> Response<Body> {
    match reason {
        Unreadable::NotOneMessage => refuse(Code::InvalidArgument, not_one),
        Unreadable::Late => refuse(Code::DeadlineExceeded, "the request did not arrive in time"),
    }
}

/// The gRPC status for a refusal of access control.
pub(super) fn refuse_denied(denial: &Denial) -> Response<Body> {
    let code = match denial.code {
        DenialCode::NoPermission => Code::PermissionDenied,
        DenialCode::Undecided => Code::Unavailable,
        DenialCode::Unauthorized
        | DenialCode::NoHeader
        | DenialCode::Expired
        | DenialCode::AccountDeleted => Code::Unauthenticated,
    };
    // Names of services and accounts may be in the sentence, and a header takes no such text.
    refuse(code, denial.code.message())
}

/// The status for a method that no service has.
pub(super) fn refuse_unknown() -> Response<Body> {
    refuse(Code::Unimplemented, "there is no such method")
}

/// The gRPC status for a refusal that the control plane gave over HTTP.
pub(super) fn refuse_like(status: StatusCode) -> Response<Body> {
    match status {
        StatusCode::UNAUTHORIZED => refuse(Code::Unauthenticated, "unauthorized"),
        StatusCode::FORBIDDEN => refuse(Code::PermissionDenied, "forbidden"),
        _ => refuse(Code::Unavailable, UNDECIDED),
    }
}

pub(super) fn status(code: Code, message: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(STATUS, HeaderValue::from(code as u16));
    // The code must arrive even if its words were no header value.
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert("grpc-message", message);
    }
    headers
}

/// The trailers of a stream whose session closed for this reason.
pub(super) fn status_of(reason: Reason) -> HeaderMap {
    // Exhaustive on purpose, as in `Reason::close_code`: a new reason must decide if clients watch again.
    match reason {
        Reason::NoService => status(Code::NotFound, "service does not exist"),
        Reason::ClientClosed | Reason::ClientGone => status(Code::Ok, ""),
        Reason::TokenExpired
        | Reason::TokenRevoked
        | Reason::AccountDeleted
        | Reason::AccountInactive
        | Reason::TokenMissing => status(Code::Unauthenticated, reason.words()),
        Reason::RightLost => status(Code::PermissionDenied, reason.words()),
        Reason::RightChanged => status(Code::Aborted, reason.words()),
        Reason::WriteTimeout => {
            status(Code::ResourceExhausted, "the client read nothing for too long; watch again")
        }
        Reason::Drained
        | Reason::ReadTimeout
        | Reason::Broken
        | Reason::Protocol
        | Reason::TooBig
        | Reason::NotText
        | Reason::NeverAttached
        | Reason::NoInstance
        | Reason::HeartbeatFailed
        | Reason::Restored => status(Code::Unavailable, "watch again"),
    }
}

/// The response body of a watch: the session's bytes, then the status as trailers.
struct SessionBody {
    /// `None` once the trailers are out.
    reader: Option<Reader>,
}

impl http_body::Body for SessionBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(reader) = &self.reader else { return Poll::Ready(None) };
        match ready!(reader.poll_next(cx)) {
            Next::Chunk(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Next::End(reason) => {
                self.reader = None;
                Poll::Ready(Some(Ok(Frame::trailers(status_of(reason)))))
            }
        }
    }
}
