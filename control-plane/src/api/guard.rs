//! The guard: everything that is common to all routes.
//!
//! A request passes, in this order: the check of its target, access control, the router behind a wall that
//! turns a panic into a reply, compression, and the headers for browsers. Figures, alarms and traces are
//! taken around all of that.
//!
//! tower-http has layers for parts of this, and each would change what a client or an operator sees:
//! - its request ids keep any value that a client sends, while `host::http` replaces values that must not
//!   stand in logs;
//! - its compression knows no bodies that are compressed already, adds `Vary` to every response, and drops
//!   the content length of those that it compresses;
//! - its CORS sends other headers than Service-Center does;
//! - its panic wall has nothing but the three lines of [`Guard::route`], and boxes every body once more.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use access::token::POLICY_WAIT;
use answer::shown::{SHOWN, Shown};
use answer::target;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use console::Console;
use futures_util::FutureExt;
use host::admin::access::AccessControl;
use host::fairness;
use host::telemetry::trace::{self, FutureExt as _, SpanKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body::Body as _;
use opentelemetry::KeyValue;
use tower::{Service, ServiceExt};
use tracing::debug;

use super::call::is_read;
use super::failure::Failure;
use super::permit::{Gate, NotAdmitted, Permit};
use crate::metrics::ApiMetrics;
use crate::registry::alarm::{AlarmId, Alarms};
use crate::standing::Doubt;
use crate::trail;
use crate::view::View;

mod audit;
mod gzip;

pub(crate) use audit::Auditing;

/// A revision that contains what a write has changed. A gateway requires it of the reads that follow.
const WRITTEN: HeaderName = HeaderName::from_static("x-muster-revision");
/// The methods that routes may have.
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];

/// The routes behind the guard. Cheap to clone.
#[derive(Clone)]
pub struct Guarded(Arc<Guard>);

/// The routes, and what stands before them.
pub(crate) struct Guard {
    pub(crate) router: Router,
    pub(crate) metrics: ApiMetrics,
    pub(crate) alarms: Alarms,
    pub(crate) view: View,
    /// Tells for how long answers from the view have not been confirmed.
    pub(crate) doubt: Arc<Doubt>,
    pub(crate) gate: Gate,
    pub(crate) auditing: Auditing,
    /// The pages for people.
    pub(crate) console: Console,
}

impl Guarded {
    pub(crate) fn new(guard: Guard) -> Self {
        Self(Arc::new(guard))
    }

    /// Access control, for the admin port.
    pub fn access_control(&self) -> Arc<dyn AccessControl> {
        Arc::new(self.0.gate.clone())
    }

    /// Answers a request; never fails.
    pub async fn answer(self, request: Request<Body>) -> Response {
        self.0.answer(request).await
    }
}

// The futures are parts of each other, and that of a request lives as long as the request: all methods borrow
// the guard, and what few requests need is boxed.
impl Guard {
    async fn answer(&self, request: Request<Body>) -> Response {
        // First: a file for a browser is no call of the API, needs no account and is none of its figures.
        if let Some(page) = self.console.answer(&request) {
            return page;
        }
        let started = Instant::now();
        let method = method_label(request.method());
        // Taken now, because the router consumes the request.
        let domain = self.metrics.domain(request.headers());
        let traced = trace::Request::begin(request.headers(), SpanKind::Server, "request");
        let response = match traced.as_ref().filter(|traced| traced.is_sampled()) {
            None => self.answer_uncounted(request).await,
            // Boxed, because few requests are sampled and the others should not pay for the larger future.
            Some(traced) => Box::pin(self.answer_uncounted(request)).with_context(traced.context()).await,
        };
        let api = response.extensions().get::<ApiName>().map_or("", |name| name.0);
        let status = response.status();
        if status.is_server_error() {
            self.alarms.raise(AlarmId::InternalError, format!("{method} {api} was answered with {status}"));
            let id = host::http::request_id();
            let status = status.as_u16();
            debug!(request.id = id, method, api, status, "a request failed, and not by the client's mistake");
        }
        if let Some(traced) = traced {
            let about = vec![KeyValue::new("http.request.method", method), KeyValue::new("muster.api", api)];
            let name = if api.is_empty() { method.to_owned() } else { format!("{method} {api}") };
            traced.answered(name, status.as_u16(), about);
        }
        // A request that no route took has no name. Clients could make any number of series with such paths.
        if !api.is_empty() {
            self.metrics.answered(method, api, domain, status.as_u16(), started.elapsed());
        }
        response
    }

    async fn answer_uncounted(&self, request: Request<Body>) -> Response {
        let uri = request.uri();
        let target = uri.path_and_query().map_or_else(|| uri.path(), |target| target.as_str());
        if !target::is_acceptable(target) {
            return plain(StatusCode::BAD_REQUEST, target::refusal(target));
        }
        let may_write = !is_read(request.method(), uri.path()) && request.method() != Method::OPTIONS;
        let from_browser = request.headers().contains_key(header::ORIGIN);
        let accepts_gzip = answer::gzip::is_accepted(request.headers());
        let known = answer::tag::known(request.headers());
        let mut response = match *request.method() {
            // Browsers ask before they send. Every path is answered alike, so the router is not needed.
            Method::OPTIONS => Response::new(Body::empty()),
            _ => self.admit(request).await,
        };
        let size = response.body().size_hint().exact();
        if accepts_gzip && size.is_some_and(|size| size >= answer::gzip::FROM_BYTES) {
            response = Box::pin(gzip::compressed(response)).await;
        }
        // The forms have different tags.
        spare_body(&known, &mut response);
        if !may_write
            && is_of_registry(&response)
            && let Some(age) = self.doubt.age()
        {
            answer::stale::mark(response.headers_mut(), age);
        }
        let is_denied = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let headers = response.headers_mut();
        answer::reply::finish(headers, from_browser);
        // A write is answered when the view has it, so the last change in the view is late enough. It is sent
        // with refusals too: "it exists already" may be the first word about somebody else's write.
        // A read may have been answered from an earlier view, which only means that the next one is required to
        // show a little more.
        // A client that is not let in learns nothing of the store.
        if !is_denied && let Ok(snapshot) = self.view.now() {
            let shown = Shown { incarnation: snapshot.incarnation, rev: snapshot.changed };
            if let Some(shown) = shown.encode() {
                headers.insert(SHOWN, shown);
            }
            if may_write {
                headers.insert(WRITTEN, HeaderValue::from(snapshot.changed.get()));
            }
        }
        response
    }

    /// Lets a request through to the router with its permit.
    async fn admit(&self, request: Request<Body>) -> Response {
        let known = self.gate.known();
        let mut admitted = self.gate.admit(&request);
        if admitted.is_err()
            && let Some(revision) = self.gate.owed_to(&request, known)
        {
            // A view that does not come so far decides all the same, and refuses.
            let _ = Box::pin(self.view.at(revision, POLICY_WAIT)).await;
            admitted = self.gate.admit(&request);
        }
        let entry = audit::Entry::begin(&self.auditing, &self.gate, &request, &admitted);
        match entry {
            None => self.handle(admitted, request).await,
            Some(entry) => {
                let (response, notes) = Box::pin(trail::noting(self.handle(admitted, request))).await;
                let operation = response.extensions().get::<ApiName>().map_or("", |name| name.0);
                entry.end(&self.auditing.log, operation, response.status(), notes);
                response
            }
        }
    }

    async fn handle(&self, admitted: Result<Permit, NotAdmitted>, mut request: Request<Body>) -> Response {
        match admitted {
            Ok(permit) => {
                request.extensions_mut().insert(permit);
                fairness::holding(self.route(request)).await
            }
            Err(NotAdmitted::Refused(failure)) => failure.into_response(),
            Err(NotAdmitted::NoRoute) => not_found().await,
            Err(NotAdmitted::OtherMethod) => method_not_allowed().await,
        }
    }

    async fn route(&self, mut request: Request<Body>) -> Response {
        if !matches!(*request.method(), Method::GET | Method::POST | Method::PUT | Method::DELETE) {
            // The router would answer HEAD like GET, which Service-Center does not. No route has the method
            // TRACE, so the router refuses it with 405 and the methods that there are.
            *request.method_mut() = Method::TRACE;
        }
        // A handler shares nothing mutable with other requests but locks without poisoning and whole
        // snapshots, so a panic cannot leave anything half done that they would see.
        let mut response = match AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => Failure::internal(&"a handler panicked").into_response(),
        };
        if let Some(allowed) = response.headers().get(header::ALLOW).and_then(|value| value.to_str().ok())
            && let Ok(value) = HeaderValue::try_from(without_unanswered(allowed))
        {
            response.headers_mut().insert(header::ALLOW, value);
        }
        response
    }
}

/// The name of a route in the old dashboards. Routes put it into the extensions of their responses.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiName(pub(super) &'static str);

/// In the extensions of responses that tell nothing of the registry, but of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfNoTenant;

/// True for a response that tells what is registered.
fn is_of_registry(response: &Response) -> bool {
    let extensions = response.extensions();
    matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED)
        && extensions.get::<ApiName>().is_some()
        && extensions.get::<OfNoTenant>().is_none()
}

/// Makes a response with a body that the client has already one without.
fn spare_body(known: &HeaderMap, response: &mut Response) {
    let tag = response.headers().get(header::ETAG);
    if response.status() == StatusCode::OK && tag.is_some_and(|tag| answer::tag::is_named(known, tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
            response.headers_mut().remove(name);
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

/// The router's list of allowed methods without HEAD, which is never answered.
fn without_unanswered(allowed: &str) -> String {
    let names: Vec<&str> = allowed.split(',').map(str::trim).collect();
    METHODS.into_iter().filter(|method| names.contains(method)).collect::<Vec<_>>().join(", ")
}

impl<B> Service<Request<B>> for Guarded
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request.map(Body::new)).await) })
    }
}

pub(super) async fn not_found() -> Response {
    let mut response = plain(StatusCode::NOT_FOUND, "404 page not found\n".into());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

pub(super) async fn method_not_allowed() -> Response {
    plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".into())
}

fn plain(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
