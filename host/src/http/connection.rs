//! One connection from accept to end: who may still speak, and until when.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{Builder, UpgradeableConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tower::{Service, ServiceExt as _};
use tracing::debug;

use super::activity::{Activity, Overdue};
use super::metrics::{Ended, ServerMetrics};
use super::request::Noted;
use super::{ServerLimits, Socket, Stream};
use crate::lifecycle::Tasks;
use crate::tls::ServerTls;

/// Everything the connections of a listener have in common.
pub(super) struct Connections<S> {
    service: S,
    builder: Arc<Builder<Streams>>,
    limits: Arc<ServerLimits>,
    metrics: ServerMetrics,
    tasks: Tasks,
}

impl<S> Connections<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    pub(super) fn new(service: S, limits: ServerLimits, metrics: ServerMetrics, tasks: Tasks) -> Self {
        let mut builder = Builder::new(Streams(tasks.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            // Hyper's own timeout also runs between requests; `Activity` tells the two apart.
            .header_read_timeout(None)
            // Bounds the head; hyper refuses less than 8 KiB.
            .max_buf_size(limits.header_bytes.max(8192))
            .title_case_headers(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.http2_ping)
            .keep_alive_timeout(limits.write_timeout)
            .max_concurrent_streams(limits.http2_streams)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
        Self { service, builder: Arc::new(builder), limits: Arc::new(limits), metrics, tasks }
    }

    /// The life of one connection; dropping it closes the connection.
    pub(super) fn run(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (builder, limits) = (self.builder.clone(), self.limits.clone());
        let (service, tasks) = (self.service.clone(), self.tasks.clone());
        let open = self.metrics.open();
        async move {
            // Frames and answers are small and each is written once: waiting for more only delays them.
            if let Err(e) = stream.set_nodelay(true) {
                debug!(error = %e, "the client left at once");
                return open.end(Ended::Failed);
            }
            let stream = match &limits.tls {
                None => Stream::Plain(stream),
                Some(tls) => match tokio::time::timeout(limits.header_timeout, secured(stream, tls)).await {
                    Ok(Some(stream)) => stream,
                    Ok(None) => return open.end(Ended::Failed),
                    Err(_) => return open.end(Ended::HeaderTimeout),
                },
            };
            let activity = Arc::new(Activity::new(Instant::now()));
            let socket = Socket::new(stream, slot, activity.clone(), limits.write_timeout);
            let (shown, name, access_log) = (activity.clone(), limits.name, limits.access_log);
            let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                let running = Running::begin(shown.clone());
                let service = service.clone();
                request.extensions_mut().insert(ConnectInfo(peer));
                let noted = Noted::begin(&mut request, name, access_log);
                // Boxed: an HTTP/2 stream keeps the room of its request's future for as long as its answer streams.
                Box::pin(async move {
                    let answer = noted.answer(service.oneshot(request)).await?;
                    Ok::<_, S::Error>(answer.map(|body| Answer { body, running }))
                })
            });
            let connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(socket), service));
            open.end(drive(connection, &activity, &limits, &tasks).await);
        }
    }
}

/// Shakes hands; none when that fails. Who speaks HTTP to a port that expects TLS is told so in its own language.
async fn secured(mut stream: TcpStream, tls: &ServerTls) -> Option<Stream> {
    let mut first = [0];
    let speaks_http = stream.peek(&mut first).await.is_ok_and(|n| n == 1) && first[0].is_ascii_alphabetic();
    if speaks_http {
        // The request is taken first: what is closed with bytes unread is reset, and the answer lost.
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(PLAIN_ON_TLS).await;
        let _ = stream.shutdown().await;
        return None;
    }
    match tls.accept(stream).await {
        Ok(stream) => Some(Stream::Tls(Box::new(stream))),
        Err(e) => {
            debug!(error = %e, "a client could not be spoken to in TLS");
            None
        }
    }
}

const PLAIN_ON_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n\
    Connection: close\r\n\r\nthis port expects TLS: use https:// or wss://";

/// Polls the connection to its end, and ends it when it is overdue or the process stops.
async fn drive<S, B>(
    mut connection: Pin<&mut UpgradeableConnection<'_, TokioIo<Socket>, S, Streams>>,
    activity: &Activity,
    limits: &ServerLimits,
    tasks: &Tasks,
) -> Ended
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut timer = pin!(tokio::time::sleep(limits.idle_timeout));
    let mut ending = None;
    loop {
        tokio::select! {
            biased;
            () = tasks.abort().cancelled() => return Ended::Aborted,
            () = tasks.drain().cancelled(), if ending.is_none() => {
                ending = Some(Ended::Drained);
                connection.as_mut().graceful_shutdown();
            }
            result = connection.as_mut() => return match (ending, result) {
                (Some(ending), _) => ending,
                (None, Ok(())) => Ended::Done,
                (None, Err(e)) => {
                    debug!(error = %e, "a connection ended with an error");
                    Ended::Failed
                }
            },
            overdue = overdue(activity, limits, timer.as_mut()) => match (overdue, ending) {
                (Overdue::Head, _) => return Ended::HeaderTimeout,
                (Overdue::Idle, None) => {
                    connection.as_mut().graceful_shutdown();
                    // HTTP/2 says goodbye and waits for the peer's; that wait is bounded too.
                    let _ = tokio::time::timeout(limits.write_timeout, connection).await;
                    return Ended::Idle;
                }
                (Overdue::Idle, Some(ending)) => return ending,
            },
        }
    }
}

/// Resolves when the connection is overdue. The timer is only moved to an earlier time at once; when it fires
/// too early it is set again, so that a busy connection costs no timer operations.
async fn overdue(activity: &Activity, limits: &ServerLimits, mut timer: Pin<&mut Sleep>) -> Overdue {
    std::future::poll_fn(|cx| {
        loop {
            let deadline = activity.deadline(limits);
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
                Some((at, what)) if at <= now => return Poll::Ready(what),
                Some((at, _)) => timer.as_mut().reset(at),
                None => timer.as_mut().reset(now + limits.idle_timeout),
            }
        }
    })
    .await
}

/// A request in progress, from the end of its head to the end of its answer.
struct Running(Arc<Activity>);

impl Running {
    fn begin(activity: Arc<Activity>) -> Self {
        activity.begin();
        Self(activity)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

/// An answer's body that keeps its request running until it is dropped.
struct Answer {
    body: Body,
    #[expect(dead_code, reason = "held for its drop")]
    running: Running,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs HTTP/2 streams as tasks of the process; the abort ends them.
#[derive(Clone)]
pub(super) struct Streams(Tasks);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let abort = self.0.abort().clone();
        self.0.spawn(async move {
            let _ = abort.run_until_cancelled(stream).await;
        });
    }
}
