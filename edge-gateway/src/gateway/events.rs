//! Watches as server-sent events: for browsers, scripts, and everything that reads HTTP line by line.
//!
//! In: a request for a resumable watch. Out: a response whose body never ends by itself. Each event carries
//! the revision from which its reader resumes, so a client that repeats the id of its last event misses
//! nothing.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use host::http::{RequestBody, SendBuffer};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Frame;
use tracing::{Instrument as _, debug_span};

use super::gate::Caller;
use super::route::WatchRequest;
use super::watch::refuse;
use super::{GatewayParts, refusal};
use crate::fanout::stream::{Next, Reader, stream};
use crate::fanout::{Attached, ToShard};
use crate::push::Encoding;

/// The value of the label `scheme`.
const SCHEME: &str = "SSE";
/// Proxies that know this header hand on each event as it comes.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

impl GatewayParts {
    /// Answers a request for a stream of events.
    pub(super) async fn events(
        &self,
        watch: Result<WatchRequest, &'static str>,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Response<Body> {
        if !self.event_streams {
            return refusal::not_found();
        }
        if request.method() != Method::GET {
            return refusal::method_not_allowed();
        }
        let watch = match watch {
            Ok(watch) => watch,
            Err(problem) => return refusal::bad_request(problem),
        };
        let span = debug_span!("watch", service.id = %watch.watcher, transport = "sse");
        let admitting = self.admit(&watch, Encoding::EventStream, SCHEME, request.headers(), caller);
        let (permit, joined) = match admitting.instrument(span).await {
            Ok(admitted) => admitted,
            Err(not_admitted) => return refuse(not_admitted),
        };
        let (writer, reader) = stream();
        // Before the response: a client must not see a stream that no session fills.
        let to = Attached::Stream(writer);
        joined.shard.send(ToShard::Attach { ticket: joined.ticket, to, permit }).await;
        response(reader, self.send_buffer)
    }
}

fn response(reader: Reader, send_buffer: SendBuffer) -> Response<Body> {
    let mut response = Response::new(Body::new(Events(Some(reader))));
    response.extensions_mut().insert(send_buffer);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // A cache must neither keep the stream nor answer another client from it.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    response
}

/// The body of a stream: the session's bytes. `None` once the session has ended.
struct Events(Option<Reader>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(reader) = &self.0 else { return Poll::Ready(None) };
        match ready!(reader.poll_next(cx)) {
            Next::Chunk(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            // The reason stands in the last event.
            Next::End(_) => {
                self.0 = None;
                Poll::Ready(None)
            }
        }
    }
}
