//! The API port: a watch is upgraded and moved to a shard, everything else is passed on.
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
use http::header::{
    CONNECTION, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use shared::http::take_socket;
use shared::lifecycle::Tasks;
use tower::Service;
use tracing::debug;

use crate::forward::Forward;
use crate::hub::ToShard;
use crate::hub::push::Encoding;
use crate::limits::{Full, Limits};
use crate::metrics::SessionMetrics;
use crate::upstream::{Joined, Selector, UpstreamHandle};
use crate::wire::{refusal, route, ws};

/// Reads wait for this revision: the highest that a watcher of this gateway was told of.
const MIN_REVISION: HeaderName = HeaderName::from_static("x-muster-min-revision");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Value of the label `scheme`, as Service-Center spells it.
const SCHEME: &str = "Websocket";

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
            match route::watch(request.uri().path(), request.headers()) {
                Some(watch) => Ok(it.watch(Selector::Consumer(watch.consumer.clone()), watch, request).await),
                None => it.pass_on(request.map(Body::new)).await,
            }
        })
    }
}

impl Inner {
    async fn watch(
        &self,
        selector: Selector,
        watch: route::WatchRoute,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        if request.method() != Method::GET {
            return refusal::method_not_allowed();
        }
        let Some(answer) = ws::accept(request.headers()) else {
            self.metrics.bad_handshake();
            return refusal::bad_handshake();
        };
        if self.tasks.drain().is_cancelled() {
            return refusal::unavailable("this node is being drained");
        }
        let permit = match self.limits.take(&watch.consumer, SCHEME) {
            Ok(permit) => permit,
            Err(full) => {
                self.metrics.refused(full);
                return match full {
                    Full::Node => refusal::unavailable(&full.to_string()),
                    Full::Domain | Full::Consumer => refusal::too_many(&full.to_string()),
                };
            }
        };
        if self.authorize
            && let Some(refused) = self.unauthorized(&request).await
        {
            return refused;
        }
        let Some(Joined { shard, ticket }) = self.upstream.join(selector, Encoding::Plain).await else {
            return refusal::unavailable("this node has no word from a control plane");
        };
        let upgrade = hyper::upgrade::on(&mut request);
        self.tasks.spawn(async move {
            // On any failure the shard lets the reserved place go after a while.
            let Ok(upgraded) = upgrade.await else { return };
            let Ok((socket, read)) = take_socket(upgraded) else {
                return debug!("an upgraded connection is not one that was accepted here");
            };
            let (stream, slot) = socket.into_parts();
            match stream.into_std() {
                Ok(socket) => {
                    shard.send(ToShard::Attach { ticket, socket, read, slot, permit }).await;
                }
                Err(error) => debug!(%error, "an upgraded connection broke"),
            }
        });
        answer
    }

    /// Asks the control plane, in the client's name, whether it may read the service it watches for.
    async fn unauthorized(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let mut question = Request::new(Body::empty());
        let path = request.uri().path().trim_end_matches("/watcher");
        *question.uri_mut() = path.parse().ok()?;
        *question.headers_mut() = request.headers().clone();
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
        match self.forward.forward(request).await {
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
