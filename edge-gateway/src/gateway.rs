//! The API port: a watch is upgraded, or answered with a stream, and moved to a shard; everything else is passed on.
//!
//! The order of a watch matters: its place in the shard is reserved *before* the client has its answer, so that
//! whatever is committed after the client knows it watches, is in its view. A gateway that cannot say from when
//! on that is, refuses.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::ConnectInfo;
use host::http::{Stream, take_socket};
use host::lifecycle::Tasks;
use host::telemetry::trace::{self, SpanKind};
use http::header::{
    CONNECTION, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use opentelemetry::KeyValue;
use shared::model::{ServiceRef, Tenant};
use tower::{Service, ServiceExt as _};
use tracing::debug;

use crate::forward::Forward;
use crate::heartbeat::{self, Batches, Beat, HeartbeatConfig};
use crate::hub::stream::stream;
use crate::hub::{Attached, ToShard};
use crate::limits::{Limits, Permit};
use crate::metrics::SessionMetrics;
use crate::push::Encoding;
use crate::upstream::{Joined, UpstreamHandle};
use crate::watch::Full;
use crate::wire::grpc::{self, Code};
use crate::wire::{refusal, route, ws};

/// Reads wait for this revision: the highest that a watcher of this gateway was told of.
const MIN_REVISION: HeaderName = HeaderName::from_static("x-muster-min-revision");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Values of the label `scheme`, as Service-Center spells them.
const WEBSOCKET: &str = "Websocket";
const GRPC: &str = "gRPC";
const NO_WORD: &str = "this node has no word from a control plane";

/// The service behind the API port. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Inner>);

/// What it is made of.
pub(crate) struct Inner {
    pub(crate) upstream: UpstreamHandle,
    pub(crate) forward: Arc<dyn Forward>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: SessionMetrics,
    pub(crate) authorize: bool,
    pub(crate) heartbeat: HeartbeatConfig,
    pub(crate) batches: Arc<Batches>,
    /// Health and reflection.
    pub(crate) grpc_services: axum::Router,
    pub(crate) tasks: Tasks,
}

/// The connection ends without an answer.
#[derive(Debug)]
pub(crate) struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a heartbeat is better not answered than answered with an error of ours")
    }
}

impl Error for NoAnswer {}

impl From<Infallible> for NoAnswer {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Gateway {
    /// A gateway of these parts.
    pub(crate) fn new(parts: Inner) -> Self {
        Self(Arc::new(parts))
    }
}

impl Service<Request<Incoming>> for Gateway {
    type Response = Response<Body>;
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, NoAnswer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let it = self.0.clone();
        Box::pin(async move {
            if let Some(watch) = route::watch(request.uri(), request.headers()) {
                return Ok(it.watch(watch, request).await);
            }
            if route::is_heartbeat_channel(request.method(), request.uri().path()) {
                return Ok(it.carry_heartbeats(request));
            }
            let request = request.map(Body::new);
            match request.uri().path() {
                grpc::HISTORICAL => Ok(it.watch_historical(request).await),
                grpc::WATCH => Ok(it.watch_grpc(request).await),
                path if path.starts_with("/grpc.") => {
                    it.grpc_services.clone().oneshot(request).await.map_err(NoAnswer::from)
                }
                _ => it.pass_on(request).await,
            }
        })
    }
}

/// Why a watch is not granted.
enum Refused {
    Full(Full),
    /// Nobody can say from when on it would be.
    NoWord,
    /// The control plane says so.
    Answer(Response<Body>),
}

impl Inner {
    async fn watch(
        &self,
        watch: Result<route::WatchRoute, &'static str>,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        if request.method() != Method::GET {
            return refusal::method_not_allowed();
        }
        let Some(answer) = ws::accept(request.headers()) else {
            self.metrics.bad_handshake();
            return refusal::bad_handshake();
        };
        let watch = match watch {
            Ok(watch) => watch,
            Err(words) => return refusal::bad_request(words),
        };
        let encoding = if watch.since.is_some() { Encoding::Resumable } else { Encoding::Plain };
        let admitted = self.admit(&watch, encoding, WEBSOCKET, request.headers()).await;
        let (permit, Joined { shard, ticket }) = match admitted {
            Ok(admitted) => admitted,
            Err(Refused::Answer(answer)) => return answer,
            Err(Refused::NoWord) => return refusal::unavailable(NO_WORD),
            // Another node may have room.
            Err(Refused::Full(full)) if full.is_here() => return refusal::unavailable(&full.to_string()),
            Err(Refused::Full(full)) => return refusal::too_many(&full.to_string()),
        };
        let upgrade = hyper::upgrade::on(&mut request);
        self.tasks.spawn(async move {
            // On any failure the shard lets the reserved place go after a while.
            let Ok(upgraded) = upgrade.await else { return };
            let Ok((socket, read)) = take_socket(upgraded) else {
                return debug!("an upgraded connection is not one that was accepted here");
            };
            let (stream, slot) = socket.into_parts();
            let (stream, tls) = match stream {
                Stream::Plain(stream) => (stream, None),
                Stream::Tls(stream) => {
                    let (stream, tls) = stream.into_inner();
                    (stream, Some(Box::new(tls)))
                }
            };
            match stream.into_std() {
                Ok(socket) => {
                    let to = Attached::Socket { socket, tls, read, slot };
                    shard.send(ToShard::Attach { ticket, to, permit }).await;
                }
                Err(error) => debug!(%error, "an upgraded connection broke"),
            }
        });
        answer
    }

    fn carry_heartbeats(&self, mut request: Request<Incoming>) -> Response<Body> {
        let Some(answer) = ws::accept(request.headers()) else {
            self.metrics.bad_handshake();
            return refusal::bad_handshake();
        };
        if self.tasks.drain().is_cancelled() {
            return refusal::unavailable("this node is being drained");
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let mut headers = std::mem::take(request.headers_mut());
        remove_hop_by_hop(&mut headers);
        for name in
            [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL]
        {
            headers.remove(name);
        }
        let Ok(path) = request.uri().path().parse() else { return refusal::bad_handshake() };
        let (beat, batches) = (Beat::new(path, headers), self.batches.clone());
        let (metrics, config, tasks) = (self.metrics.clone(), self.heartbeat.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok((socket, read)) = take_socket(upgraded) else { return };
            let (stream, slot) = socket.into_parts();
            heartbeat::carry(stream, &read, (beat, &batches), &config, &metrics, &tasks).await;
            drop(slot);
        });
        answer
    }

    async fn watch_historical(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Some(asked) = grpc::request::<proto::servicecenter::WatchInstanceRequest>(body).await else {
            return grpc::refuse(Code::InvalidArgument, "not a request");
        };
        if asked.self_service_id.is_empty() {
            return grpc::refuse(Code::InvalidArgument, "the consumer's service id is missing");
        }
        let consumer = ServiceRef::new(route::tenant(&parts.headers), asked.self_service_id);
        let watch = route::WatchRoute::of(consumer);
        self.stream(watch, Encoding::Historical, &parts.headers).await
    }

    async fn watch_grpc(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Some(asked) = grpc::request::<proto::watch::v1::WatchRequest>(body).await else {
            return grpc::refuse(Code::InvalidArgument, "not a request");
        };
        let default = route::tenant(&parts.headers);
        let or = |given: String, default: String| if given.is_empty() { default } else { given };
        let tenant = Tenant::new(or(asked.domain, default.domain), or(asked.project, default.project));
        let selection =
            asked.selection.map(|it| route::Selection { app_id: it.app_id, environment: it.environment });
        let asked = route::Asked {
            consumer: asked.consumer_id,
            providers: asked.providers,
            selection,
            since: asked.rev,
        };
        match route::WatchRoute::new(tenant, asked) {
            Ok(watch) => self.stream(watch, Encoding::Grpc, &parts.headers).await,
            Err(words) => grpc::refuse(Code::InvalidArgument, words),
        }
    }

    async fn stream(
        &self,
        watch: route::WatchRoute,
        encoding: Encoding,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let (permit, Joined { shard, ticket }) = match self.admit(&watch, encoding, GRPC, headers).await {
            Ok(admitted) => admitted,
            Err(Refused::NoWord) => return grpc::refuse(Code::Unavailable, NO_WORD),
            Err(Refused::Full(full)) => return grpc::refuse(Code::ResourceExhausted, &full.to_string()),
            Err(Refused::Answer(answer)) => return grpc::refuse_like(answer.status()),
        };
        let (writer, reader) = stream();
        shard.send(ToShard::Attach { ticket, to: Attached::Stream(writer), permit }).await;
        grpc::stream(reader)
    }

    /// Lets a watch in: limits, the control plane's consent, a place in its shard.
    async fn admit(
        &self,
        watch: &route::WatchRoute,
        encoding: Encoding,
        scheme: &'static str,
        headers: &HeaderMap,
    ) -> Result<(Permit, Joined), Refused> {
        if self.tasks.drain().is_cancelled() {
            return Err(Refused::NoWord);
        }
        let permit = self.limits.take(&watch.who, scheme).map_err(|full| {
            self.metrics.refused(full);
            Refused::Full(full)
        })?;
        if self.authorize {
            for path in route::read_paths(&watch.selector) {
                if let Some(refused) = self.unauthorized(&path, headers).await {
                    return Err(Refused::Answer(refused));
                }
            }
        }
        let joined = self.upstream.join(watch.selector.clone(), encoding, watch.since).await;
        let joined = joined.map_err(|refused| match refused {
            Some(full) => {
                self.metrics.refused(full);
                Refused::Full(full)
            }
            None => Refused::NoWord,
        })?;
        Ok((permit, joined))
    }

    /// Asks the control plane, in the client's name, whether it may read what it watches.
    async fn unauthorized(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let mut question = Request::new(Body::empty());
        let Ok(uri) = path.parse() else { return Some(refusal::bad_handshake()) };
        *question.uri_mut() = uri;
        *question.headers_mut() = headers.clone();
        remove_hop_by_hop(question.headers_mut());
        match self.forward.forward(question).await {
            Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Some(answer)
            }
            Ok(answer) if answer.status().is_server_error() => {
                Some(refusal::unavailable("nobody can say whether this watch is allowed"))
            }
            Ok(_) => None,
            Err(error) => Some(refusal::unavailable(&error.to_string())),
        }
    }

    async fn pass_on(&self, mut request: Request<Body>) -> Result<Response<Body>, NoAnswer> {
        let is_heartbeat = route::is_heartbeat(request.method(), request.uri().path());
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let pushed = self.upstream.pushed();
        let headers = request.headers_mut();
        remove_hop_by_hop(headers);
        if let Some(peer) = peer {
            add_forwarded_for(headers, peer);
        }
        headers.remove(MIN_REVISION);
        if pushed > 0 && matches!(*request.method(), Method::GET | Method::HEAD) {
            request.headers_mut().insert(MIN_REVISION, HeaderValue::from(pushed));
        }
        let traced = trace::Request::begin(request.headers(), SpanKind::Server, "forward");
        let method = traced.as_ref().map(|it| {
            it.pass_on(request.headers_mut());
            request.method().clone()
        });
        let answer = self.forward.forward(request).await;
        if let (Some(traced), Some(method)) = (traced, method) {
            let status = answer.as_ref().map_or(StatusCode::SERVICE_UNAVAILABLE, Response::status);
            let about = vec![KeyValue::new("http.request.method", method.to_string())];
            traced.answered(format!("{method} forward"), status.as_u16(), about);
        }
        match answer {
            // Old Java clients take any answer but 200 as "not registered" and start over; none at all they
            // take as a reason to try again, which is what it is.
            Ok(answer) if is_heartbeat && answer.status().is_server_error() => Err(NoAnswer),
            Ok(mut answer) => {
                remove_hop_by_hop(answer.headers_mut());
                Ok(answer)
            }
            Err(_) if is_heartbeat => Err(NoAnswer),
            Err(error) => Ok(refusal::unavailable(&error.to_string())),
        }
    }
}

/// Removes what concerns one connection only, and what `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
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

fn add_forwarded_for(headers: &mut HeaderMap, peer: SocketAddr) {
    let before = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let value = match before {
        Some(before) => format!("{before}, {}", peer.ip()),
        None => peer.ip().to_string(),
    };
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(FORWARDED_FOR, value);
    }
}
