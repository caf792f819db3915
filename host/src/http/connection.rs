//! One connection from its acceptance to its end: TLS, requests, deadlines, drain and abort.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{Builder, UpgradeableConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};
use tracing::{Instrument as _, debug, debug_span};

use super::activity::{Activity, Overdue, Running};
use super::answer::{AnswerBody, StreamEnd, Unread};
use super::held::HeldAnswers;
use super::lines::BodyLength;
use super::metrics::{Ended, ServerMetrics, Slow};
use super::request::IdentifiedRequest;
use super::socket::{SendBuffer, WantedBuffer};
use super::{RequestBody, ServerLimits, Socket, Stream, head};
use crate::lane::Lane;
use crate::lifecycle::Tasks;
use crate::tls::ServerTls;

/// Bytes of each HTTP/2 stream that may be queued for its connection: a few frames.
const SEND_BUFFER: usize = 64 * 1024;

/// The time for which a connection of a listener that closes waits for its first request: its client has connected, and
/// would not know whether a request that is reset was worked on.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// The parts that all connections of a listener share.
pub(super) struct Connections<S> {
    service: S,
    builder: Arc<Builder<Streams>>,
    listener: Arc<Listener>,
    tasks: Tasks,
    stop: CancellationToken,
}

/// The limits and metrics of a listener, which its connections and requests share.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) limits: ServerLimits,
    pub(super) metrics: ServerMetrics,
    pub(super) held: Arc<HeldAnswers>,
}

impl<S> Connections<S>
where
    S: Service<Request<RequestBody>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    S::Future: Send + 'static,
{
    pub(super) fn new(
        service: S,
        limits: ServerLimits,
        metrics: ServerMetrics,
        tasks: Tasks,
        stop: CancellationToken,
    ) -> Self {
        let held = HeldAnswers::new(limits.answer_bytes, metrics.clone());
        let listener = Arc::new(Listener { limits, metrics, held });
        let limits = &listener.limits;
        let mut builder = Builder::new(Streams { listener: listener.clone(), tasks: tasks.clone() });
        builder
            .http1()
            .timer(TokioTimer::new())
            // Off, because hyper's timeout also runs between two requests. `Activity` times heads and
            // pauses apart.
            .header_read_timeout(None)
            // The buffer bounds the head. Hyper panics below 8 KiB.
            .max_buf_size(limits.header_bytes.max(8192))
            .title_case_headers(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.http2_ping)
            .keep_alive_timeout(limits.write_timeout)
            .max_concurrent_streams(limits.http2_streams)
            // Hyper's own is 400 KiB for each stream, which a peer can fill that opens its windows and reads nothing.
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
        Self { service, builder: Arc::new(builder), listener, tasks, stop }
    }

    /// Serves one connection to its end. Dropping the future closes the connection.
    pub(super) fn run(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        activity: Arc<Activity>,
    ) -> impl Future<Output = ()> + Send + 'static {
        // A span that is disabled is one check of a cached level: it allocates nothing and its fields are not
        // evaluated.
        let span = debug_span!("connection", listener = self.listener.limits.name, %peer);
        let open = self.listener.metrics.open(activity.clone());
        let connection = Connection {
            service: self.service.clone(),
            builder: self.builder.clone(),
            listener: self.listener.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        let slow = self.tasks.slow_lane().cloned();
        let serving = Box::pin(connection.serve(stream, peer, permit, activity).instrument(span));
        async move {
            open.end(match slow {
                None => serving.await,
                // The slow lane ends with the process.
                Some(slow) => Lane::default().run(serving, slow).await.unwrap_or(Ended::Aborted),
            });
        }
    }
}

/// One connection's share of [`Connections`].
struct Connection<S> {
    service: S,
    builder: Arc<Builder<Streams>>,
    listener: Arc<Listener>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl<S> Connection<S>
where
    S: Service<Request<RequestBody>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    S::Future: Send + 'static,
{
    async fn serve(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        activity: Arc<Activity>,
    ) -> Ended {
        let Self { service, builder, listener, tasks, stop } = self;
        let limits = &listener.limits;
        // Frames and answers are small and each is written once: waiting for more only delays them.
        if let Err(e) = stream.set_nodelay(true) {
            debug!(error = %e, "a client disconnected at once");
            return Ended::Failed;
        }
        let stream = match &limits.tls {
            None => Stream::Plain(stream),
            // A handshake precedes the head, and a client can be as slow in it.
            Some(tls) => match tokio::time::timeout(limits.header_timeout, accept_tls(stream, tls)).await {
                Ok(Some(stream)) => stream,
                Ok(None) => return Ended::Failed,
                Err(_) => return Ended::HeaderTimeout,
            },
        };
        let certificate = stream.peer_certificate();
        let wanted_buffer = Arc::<WantedBuffer>::default();
        let socket =
            Socket::new(stream, permit, activity.clone(), limits.write_timeout, wanted_buffer.clone());
        let activity_of_requests = activity.clone();
        let listener_of_requests = listener.clone();
        let drain = tasks.drain().clone();
        let slow = tasks.slow_lane().cloned();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (running, is_strict) =
                Running::begin(activity_of_requests.clone(), length_of(request.body()));
            let service = service.clone();
            let listener = listener_of_requests.clone();
            let drain = drain.clone();
            let wanted_buffer = wanted_buffer.clone();
            let activity = activity_of_requests.clone();
            let (head, body) = request.into_parts();
            let waits_for_consent = head.headers.contains_key(EXPECT);
            let version = head.version;
            let is_head = head.method == Method::HEAD;
            let (body, unread) = RequestBody::new(body, version, listener.clone(), activity.clone());
            let mut request = Request::from_parts(head, body);
            request.extensions_mut().insert(ConnectInfo(peer));
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(certificate.clone());
            }
            let checked = head::check(&request, is_strict);
            let limits = &listener.limits;
            let identified = IdentifiedRequest::begin(&mut request, limits.name, limits.access_log);
            let span = identified.span(&request);
            // Boxed: an HTTP/2 stream keeps the memory of its request's future for as long as its
            // answer streams.
            let answering = Box::pin(
                async move {
                    let answering = async {
                        match checked {
                            Ok(()) => service.oneshot(request).await,
                            Err(fault) => Ok(head::refusal(version, fault)),
                        }
                    };
                    let mut answer = identified.answer(answering).await?;
                    if let Some(wish) = answer.extensions().get::<SendBuffer>() {
                        wanted_buffer.note(*wish);
                    }
                    let is_upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
                    let is_read = match unread {
                        Some(unread) if !is_upgraded => {
                            unread.finish(&listener, &activity, waits_for_consent).await
                        }
                        _ => true,
                    };
                    // Clients of a process that drains find another one with their next connection.
                    let must_close = !is_read || drain.is_cancelled();
                    if must_close && !is_upgraded && version != Version::HTTP_2 {
                        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, S::Error>((answer, running))
                }
                .instrument(span),
            );
            // Outside of the lane: the answer belongs to the stream, whose task this is.
            let held = listener_of_requests.held.clone();
            let finish = move |answered: Result<(Response<Body>, Running), S::Error>| {
                let (answer, running) = answered?;
                // Hyper leaves the body out on HTTP/1 alone.
                let answer =
                    if is_head && version == Version::HTTP_2 { without_body(answer) } else { answer };
                Ok::<_, S::Error>(AnswerBody::of(answer, running, &held))
            };
            match &slow {
                // Requests of several tenants may share a connection of HTTP/2, so each has a lane of its own.
                Some(slow) if version == Version::HTTP_2 => {
                    let answering = Lane::default().run(answering, slow.clone());
                    Either::Left(Box::pin(async move {
                        match answering.await {
                            Some(answered) => finish(answered),
                            // The slow lane ends with the process, and this connection does.
                            None => std::future::pending().await,
                        }
                    }))
                }
                _ => Either::Right(answering.map(finish)),
            }
        });
        let connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(socket), service));
        drive(connection, &activity, limits, &tasks, &stop).await
    }
}

/// The answer to HEAD: it says how long its body would be.
fn without_body(mut answer: Response<Body>) -> Response<Body> {
    let body = std::mem::take(answer.body_mut());
    if let Some(length) = HttpBody::size_hint(&body).exact() {
        answer.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    answer
}

fn length_of(body: &Incoming) -> BodyLength {
    match body.size_hint().exact() {
        _ if body.is_end_stream() => BodyLength::Known(0),
        Some(length) => BodyLength::Known(length),
        None => BodyLength::Chunked,
    }
}

/// Accepts TLS; `None` when that fails. A client that speaks plain HTTP to the port receives an answer
/// in plain HTTP.
async fn accept_tls(mut stream: TcpStream, tls: &ServerTls) -> Option<Stream> {
    let mut first = [0];
    // A TLS handshake begins with the byte 22, a method with a letter.
    let speaks_http = stream.peek(&mut first).await.is_ok_and(|n| n == 1) && first[0].is_ascii_alphabetic();
    if speaks_http {
        // The request is read first. Closing a socket with unread bytes resets it, and the client would
        // lose the answer.
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(PLAIN_ON_TLS).await;
        let _ = stream.shutdown().await;
        return None;
    }
    match tls.accept(stream).await {
        Ok(stream) => Some(Stream::Tls(Box::new(stream))),
        Err(e) => {
            debug!(error = %e, "the TLS handshake with a client failed");
            None
        }
    }
}

const PLAIN_ON_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n\
    Connection: close\r\n\r\nthis port expects TLS: use https:// or wss://";

/// Polls the connection to its end. Ends it earlier when it is overdue or the process stops.
async fn drive<S, B>(
    mut connection: Pin<&mut UpgradeableConnection<'_, TokioIo<Socket>, S, Streams>>,
    activity: &Activity,
    limits: &ServerLimits,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Ended
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut timer = pin!(tokio::time::sleep(limits.idle_timeout));
    let mut stopped = pin!(async {
        stop.cancelled().await;
        let _ = tokio::time::timeout(FIRST_REQUEST, activity.first_byte()).await;
    });
    let mut ending = None;
    let mut announced = false;
    loop {
        tokio::select! {
            biased;
            () = tasks.cut().cancelled() => return Ended::Aborted,
            () = activity.given_up() => return Ended::Evicted,
            () = &mut stopped, if ending.is_none() => {
                ending = Some(Ended::Drained);
                connection.as_mut().graceful_shutdown();
            }
            () = tasks.drain().cancelled(), if !announced && ending.is_none() => {
                announced = true;
                // HTTP/1 is told with its next answer. A connection of HTTP/2 that is shut down finishes its
                // streams, and its client opens the next ones on another connection.
                if activity.is_http2() {
                    connection.as_mut().graceful_shutdown();
                }
            }
            result = connection.as_mut() => return match (ending, result) {
                (Some(ending), _) => ending,
                (None, Ok(())) => Ended::Done,
                (None, Err(e)) => {
                    debug!(error = %e, "a connection ended with an error");
                    Ended::Failed
                }
            },
            () = activity.kept_waiting(), if ending.is_some() => return Ended::Aborted,
            overdue = overdue(activity, limits, timer.as_mut()) => match (overdue, ending) {
                (Overdue::Head, _) => return Ended::HeaderTimeout,
                (Overdue::Idle, None) => {
                    connection.as_mut().graceful_shutdown();
                    // HTTP/2 announces the end and waits for the peer to close. That wait has a
                    // bound as well.
                    let shutdown = tokio::time::timeout(limits.write_timeout, connection);
                    tokio::select! {
                        biased;
                        () = tasks.cut().cancelled() => return Ended::Aborted,
                        () = activity.given_up() => return Ended::Evicted,
                        _ = shutdown => return Ended::Idle,
                    }
                }
                (Overdue::Idle, Some(ending)) => return ending,
            },
        }
    }
}

/// Resolves when the connection is overdue.
async fn overdue(activity: &Activity, limits: &ServerLimits, mut timer: Pin<&mut Sleep>) -> Overdue {
    std::future::poll_fn(|cx| {
        loop {
            let deadline = activity.deadline(limits);
            // A timer is moved at once only to an earlier time. To a later one it is moved when it fires too
            // early. So a busy connection costs no timer operation for each request.
            if let Some((at, _)) = deadline
                && at < timer.deadline()
            {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match deadline {
                Some((at, overdue)) if at <= now => return Poll::Ready(overdue),
                Some((at, _)) => timer.as_mut().reset(at),
                // While requests run there is no deadline; the timer is only put off.
                None => timer.as_mut().reset(now + limits.idle_timeout),
            }
        }
    })
    .await
}

/// Runs HTTP/2 streams as tasks of the process. An abort ends them, and so does a peer that reads nothing.
#[derive(Clone)]
pub(super) struct Streams {
    listener: Arc<Listener>,
    tasks: Tasks,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self.tasks.cut().clone();
        let listener = self.listener.clone();
        // Boxed: each of the futures around it keeps the room in which it was handed over, besides the room in
        // which it runs.
        let stream = Box::pin(stream);
        self.tasks.spawn(async move {
            let timed = Unread::default().end_if_stalled(stream, listener.limits.write_timeout);
            // Dropping the stream resets it, and frees what its answer holds.
            if cut.run_until_cancelled(timed).await == Some(StreamEnd::Stalled) {
                listener.metrics.slow(Slow::Answer);
            }
        });
    }
}
