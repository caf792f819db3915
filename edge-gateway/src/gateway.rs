//! The API port: decides what each request is and hands it to the file that does that job.
//!
//! ```text
//! every request ──▶ gate (access control) ──▶ one of these:
//! GET …/watcher ──▶ watch       ─┐
//! GET …/events  ──▶ events      ─┤
//! gRPC watches  ──▶ grpc        ─┼─▶ admission ──▶ a session in a shard
//! GET /console/ ──▶ a page, before the gate
//! GET …/heartbeat, upgraded ──▶ heartbeat ──▶ a connection that carries heartbeats
//! name and password, below /eureka/ ──▶ basic ──▶ the gate, with a token
//! dialects: /eureka/ ──▶ eureka ──▶ the catalogue of a tenant; writes ──▶ proxy
//! dialects: /prometheus/ ──▶ http_sd ──▶ the catalogue of a tenant
//!           /envoy.service.… ──▶ xds ──▶ a stream of the tenant's hub
//! POST …/drain ─▶ drain ──▶ a stream of how many watchers know that an instance takes no more traffic
//! PUT …/heartbeat(s) ──▶ beat ──▶ answered here, or as everything else
//! finds ──▶ reads ──▶ answered here, or as everything else
//! lists of services ──▶ lists ──▶ answered here after a control plane was asked, or as everything else
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

use answer::beats::KNOWN;
use answer::resolution::ASK;
use axum::body::Body;
use console::Console;
use host::audit::Audit;
use host::certificates::{ACCOUNT, Certificates};
use host::fairness::{self, FairShares};
use host::figures::sampler::Sampler;
use host::http::{RequestBody, SendBuffer};
use host::lane;
use host::lifecycle::Tasks;
use host::proxies::TrustedProxies;
use http::{Request, Response};
use tower::{Service, ServiceExt as _};

use crate::beats::Beats;
use crate::catalogue::Catalogue;
use crate::eureka::Feeds;
use crate::fanout::PlainEnd;
use crate::fleet::Peers;
use crate::forward::{self, Forward};
use crate::heartbeat::{Batches, HeartbeatConfig};
use crate::limits::Limits;
use crate::logins::Logins;
use crate::metrics::{DialectMetrics, SessionMetrics, XdsMetrics};
use crate::policy::PolicyHandle;
use crate::polls::Polls;
use crate::rates::Rates;
use crate::survey::Surveys;
use crate::upstream::UpstreamHandle;
use crate::xds::{Discovery, Method as XdsMethod};

mod admission;
mod audit;
mod basic;
mod batch;
mod beat;
mod catalogue;
mod drain;
pub(crate) mod encoding;
mod eureka;
mod events;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod gate;
mod gathering;
mod grpc;
mod handshake;
mod heartbeat;
mod http_sd;
mod lists;
mod offer;
mod pace;
mod polls;
mod processes;
mod proxy;
mod reads;
mod refusal;
mod route;
mod trail;
mod watch;
mod xds;

pub(crate) use drain::Drains;
use gate::{Caller, Passage, Patience};
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
    /// Clients that show a name and a password.
    pub(crate) logins: Logins,
    /// Eureka's REST interface; `None` if it is off.
    pub(crate) eureka: Option<Feeds>,
    /// Discovery for Prometheus is served.
    pub(crate) http_sd: bool,
    /// Makes the lists that are not shared.
    pub(crate) encoding: encoding::Encoding,
    /// Discovery for Envoy and gRPC; `None` when it is switched off.
    pub(crate) xds: Option<Discovery>,
    pub(crate) xds_metrics: XdsMetrics,
    /// The services of whole tenants, for dialects.
    pub(crate) catalogue: Catalogue,
    pub(crate) dialects: DialectMetrics,
    pub(crate) rates: Arc<Rates>,
    /// The places of requests, by tenant: of those that are worked on here, and of those that wait for a control plane.
    pub(crate) shares: FairShares,
    pub(crate) proxies: TrustedProxies,
    pub(crate) certificates: Certificates,
    pub(crate) plain_end: PlainEnd,
    /// The bytes that the kernel may hold for a stream.
    pub(crate) send_buffer: SendBuffer,
    pub(crate) heartbeat: HeartbeatConfig,
    pub(crate) batches: Arc<Batches>,
    /// Heartbeats that are answered here.
    pub(crate) beats: Beats,
    /// gRPC health and reflection.
    pub(crate) grpc_services: axum::Router,
    pub(crate) tasks: Tasks,
    pub(crate) audit: Audit,
    /// The name of this gateway in metrics.
    pub(crate) instance: String,
    /// The figures of this process.
    pub(crate) sampler: Sampler,
    /// The other gateways.
    pub(crate) peers: Peers,
    /// Asks all gateways which watchers have been given a change.
    pub(crate) surveys: Surveys,
    pub(crate) drains: Drains,
    /// Finds that are answered here; `None` if all are forwarded.
    pub(crate) reads: Option<EdgeReads>,
    /// Clients that poll.
    pub(crate) polls: Polls,
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

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let parts = self.0.clone();
        Box::pin(async move {
            let is_eureka = crate::eureka::is_eureka(request.uri().path());
            let response = fairness::holding(parts.serve(request)).await?;
            Ok(if is_eureka { refusal::in_words(response).await } else { response })
        })
    }
}

/// True for heartbeats, which no share bounds, and for what goes on for long: it would stay in the slow lane
/// when its tenant has long ceased to take more than its share.
fn never_waits<B>(request: &Request<B>) -> bool {
    let (method, path) = (request.method(), request.uri().path());
    forward::is_heartbeat(method, path)
        || crate::eureka::is_renewal(method, path)
        || route::is_heartbeat_channel(method, path)
        || route::is_watch(path)
}

impl GatewayParts {
    /// Answers a request, or refuses it.
    async fn serve(self: &Arc<Self>, mut request: Request<RequestBody>) -> Result<Response<Body>, NoAnswer> {
        // A control plane believes this gateway, so the gateway believes nobody.
        request.headers_mut().remove(ACCOUNT);
        request.headers_mut().remove(ASK);
        request.headers_mut().remove(KNOWN);
        // Files for a browser, which need no account.
        if let Some(page) = self.console.answer(&request) {
            return Ok(page);
        }
        offer::take_token(&mut request);
        if let Some(refusal) = self.log_in(&mut request).await {
            return Ok(refusal);
        }
        let mut passage = self.pass(&request, Patience::Newest);
        if let Passage::Early(revision) = passage {
            self.policy.reached(revision).await;
            passage = self.pass(&request, Patience::Present);
        }
        let caller = match passage {
            Passage::Through(caller) => caller,
            Passage::Answered(answer) => return Ok(answer),
            // With the present policy it is never early.
            Passage::Unanswered | Passage::Early(_) => return Err(NoAnswer),
        };
        // Here, so that everything that is sent in the client's name has it: questions about a watch, and
        // heartbeats of a WebSocket.
        request.headers_mut().insert(ACCOUNT, caller.certified_header());
        if let Some(refusal) = self.too_fast(&request, &caller) {
            return Ok(refusal);
        }
        let record = self.record_of_watch(&request, &caller);
        let answer = self.answer(request, &caller).await;
        if let (Some(record), Ok(response)) = (record, &answer) {
            self.audit_watch(record, response);
        }
        answer
    }

    /// Answers a request that has passed the gate.
    async fn answer(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, NoAnswer> {
        if lane::is_slow() && never_waits(&request) {
            lane::leave_slow().await;
        }
        // The future of a request is as large as the largest that it contains, and is allocated for each. So
        // all that are not those of heartbeats and finds are boxed.
        // First, and for every method: a POST to the path of a watch gets 405 and reaches no control plane.
        if let Some(watch) = route::watch(request.uri(), request.headers()) {
            return Ok(Box::pin(self.watch(watch, request, caller)).await);
        }
        if let Some(watch) = route::events(request.uri(), request.headers()) {
            return Ok(Box::pin(self.events(watch, request, caller)).await);
        }
        if route::is_heartbeat_channel(request.method(), request.uri().path()) {
            return Ok(self.carry_heartbeats(request, caller));
        }
        if let Some(method) = XdsMethod::of(request.uri().path()) {
            return Ok(Box::pin(self.discover(method, request, caller)).await);
        }
        let request = request.map(Body::new);
        if forward::is_heartbeat(request.method(), request.uri().path()) {
            let is_covered = self.beats.is_covered(&caller.grant);
            return self.beat(request, is_covered).await;
        }
        if let Some(target) = drain::target_of(request.method(), request.uri().path()) {
            return Box::pin(self.drain(target, request, caller)).await;
        }
        if let Some(target) = drain::watched_of(request.method(), request.uri().path()) {
            return Box::pin(self.watchers(target, request)).await;
        }
        if route::is_audit(request.method(), request.uri().path()) {
            return Ok(Box::pin(self.trail(request, caller)).await);
        }
        if route::is_processes(request.method(), request.uri().path()) {
            return Ok(Box::pin(self.processes(request)).await);
        }
        match request.uri().path() {
            route::HISTORICAL_GRPC => Ok(Box::pin(self.watch_historical(request, caller)).await),
            route::WATCH_GRPC => Ok(Box::pin(self.watch_grpc(request, caller)).await),
            path if crate::eureka::is_eureka(path) => Ok(Box::pin(self.eureka(request, caller)).await),
            http_sd::PATH => Ok(Box::pin(self.targets(request, caller)).await),
            // The packages of gRPC's standard services begin so; no watch service does.
            path if path.starts_with("/grpc.") => {
                self.grpc_services.clone().oneshot(request).await.map_err(NoAnswer::from)
            }
            _ => self.read_or_pass_on(request, caller).await,
        }
    }
}
