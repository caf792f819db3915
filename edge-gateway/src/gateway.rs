//! The API port: decides what each request is and hands it to the file that does that job.
//!
//! ```text
//! every request ──▶ gate (access control) ──▶ one of these:
//! GET …/watcher ──▶ watch       ─┐
//! GET …/events  ──▶ events      ─┤
//! gRPC watches  ──▶ grpc        ─┼─▶ admission ──▶ a session in a shard
//! GET /console/ ──▶ a page, before the gate
//! GET …/heartbeat, upgraded ──▶ heartbeat ──▶ a connection that carries heartbeats
//! finds ──▶ reads ──▶ answered here, or as everything else
//! everything else ──▶ proxy ──▶ a control plane
//! ```
//!
//! In: requests of the listener. Out: responses, and upgraded sockets or streams for the shards. A watch is
//! answered only after its session has a position in its shard: everything committed after the client has its
//! answer reaches it. If the gateway cannot establish that position, it refuses the watch.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use answer::resolution::ASK;
use axum::body::Body;
use console::Console;
use host::audit::Audit;
use host::certificates::{ACCOUNT, Certificates};
use host::fairness::FairShares;
use host::http::RequestBody;
use host::lifecycle::Tasks;
use host::proxies::TrustedProxies;
use http::{Request, Response};
use tower::{Service, ServiceExt as _};

use crate::fanout::PlainEnd;
use crate::forward::Forward;
use crate::heartbeat::{Batches, HeartbeatConfig};
use crate::limits::Limits;
use crate::metrics::SessionMetrics;
use crate::policy::PolicyHandle;
use crate::rates::Rates;
use crate::upstream::UpstreamHandle;

mod admission;
mod audit;
mod events;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod gate;
mod grpc;
mod handshake;
mod heartbeat;
mod offer;
mod pace;
mod proxy;
mod reads;
mod refusal;
mod route;
mod watch;

use gate::{Caller, Passage};
pub(crate) use reads::EdgeReads;

/// The service behind the API port. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<GatewayParts>);

/// The rooms and settings that requests need.
pub(crate) struct GatewayParts {
    pub(crate) upstream: UpstreamHandle,
    pub(crate) forward: Arc<dyn Forward>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: SessionMetrics,
    /// Access control.
    pub(crate) policy: PolicyHandle,
    /// Paths of the process's own routes that are served beside the API.
    pub(crate) own_paths: &'static [&'static str],
    /// The pages for people.
    pub(crate) console: Console,
    /// A control plane is asked, in the client's name, before a watch is granted.
    pub(crate) authorize: bool,
    /// Watches as server-sent events are served.
    pub(crate) event_streams: bool,
    pub(crate) rates: Arc<Rates>,
    /// The places of requests that are forwarded, by tenant.
    pub(crate) shares: FairShares,
    pub(crate) proxies: TrustedProxies,
    pub(crate) certificates: Certificates,
    pub(crate) plain_end: PlainEnd,
    pub(crate) heartbeat: HeartbeatConfig,
    pub(crate) batches: Arc<Batches>,
    /// gRPC health and reflection.
    pub(crate) grpc_services: axum::Router,
    pub(crate) tasks: Tasks,
    pub(crate) audit: Audit,
    /// Finds that are answered here; `None` if all are forwarded.
    pub(crate) reads: Option<EdgeReads>,
}

/// The connection (on HTTP/2 the stream) ends without a response.
#[derive(Debug)]
pub(crate) struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a heartbeat was left unanswered, because no control plane answered it")
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
    pub(crate) fn new(parts: GatewayParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Service<Request<RequestBody>> for Gateway {
    type Response = Response<Body>;
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, NoAnswer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        // Always ready: the listener bounds the connections, and each kind of request has limits of its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let parts = self.0.clone();
        Box::pin(async move {
            // A control plane believes this gateway, so the gateway believes nobody.
            request.headers_mut().remove(ACCOUNT);
            request.headers_mut().remove(ASK);
            // Files for a browser, which need no account.
            if let Some(page) = parts.console.answer(&request) {
                return Ok(page);
            }
            offer::take_token(&mut request);
            let caller = match parts.pass(&request) {
                Passage::Through(caller) => caller,
                Passage::Answered(answer) => return Ok(answer),
                Passage::Unanswered => return Err(NoAnswer),
            };
            // Here, so that everything that is sent in the client's name has it: questions about a watch, and
            // heartbeats of a WebSocket.
            request.headers_mut().insert(ACCOUNT, caller.certified_header());
            if let Some(refusal) = parts.too_fast(&request, &caller) {
                return Ok(refusal);
            }
            let record = parts.record_of_watch(&request, &caller);
            let answer = parts.answer(request, &caller).await;
            if let (Some(record), Ok(response)) = (record, &answer) {
                parts.audit_watch(record, response);
            }
            answer
        })
    }
}

impl GatewayParts {
    /// Answers a request that has passed the gate.
    async fn answer(
        &self,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, NoAnswer> {
        // First, and for every method: a POST to the path of a watch gets 405 and reaches no control plane.
        if let Some(watch) = route::watch(request.uri(), request.headers()) {
            return Ok(self.watch(watch, request, caller).await);
        }
        if let Some(watch) = route::events(request.uri(), request.headers()) {
            return Ok(self.events(watch, request, caller).await);
        }
        if route::is_heartbeat_channel(request.method(), request.uri().path()) {
            return Ok(self.carry_heartbeats(request, caller));
        }
        let request = request.map(Body::new);
        match request.uri().path() {
            grpc::HISTORICAL_PATH => Ok(self.watch_historical(request, caller).await),
            grpc::WATCH_PATH => Ok(self.watch_grpc(request, caller).await),
            // The packages of gRPC's standard services begin so; no watch service does.
            path if path.starts_with("/grpc.") => {
                self.grpc_services.clone().oneshot(request).await.map_err(NoAnswer::from)
            }
            _ => self.read_or_pass_on(request, caller).await,
        }
    }
}
