//! What is common to all routes: the guard of the request line, CORS, plain-text 404 and 405, compression,
//! and a wall that turns a panic into an answer.

use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::FutureExt;
use host::telemetry::trace::{self, FutureExt as _, SpanKind};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use opentelemetry::KeyValue;
use tower::{Service, ServiceExt};
use tracing::{debug, error};

use crate::failure::{Code, Failure};
use crate::metrics::ApiMetrics;
use crate::registry::alarm::{AlarmId, Alarms};

/// A request target of this length or more is refused.
const TARGET_LIMIT: usize = 2048;
/// Answers of at least this size are compressed for those who ask.
const GZIP_FROM: u64 = 1400;
const SERVER: HeaderValue = HeaderValue::from_static(concat!("SERVICECENTER/", env!("CARGO_PKG_VERSION")));

/// The routes behind what is common to all of them. Cheap to clone.
#[derive(Clone)]
pub struct Guarded {
    router: Router,
    metrics: ApiMetrics,
    alarms: Alarms,
}

impl Guarded {
    /// Puts the guard before the routes.
    pub fn new(router: Router, metrics: ApiMetrics, alarms: Alarms) -> Self {
        Self { router, metrics, alarms }
    }

    /// Answers a request; never fails.
    pub async fn answer(self, request: Request<Body>) -> Response {
        let (started, method) = (Instant::now(), method_label(request.method()));
        let (metrics, alarms) = (self.metrics.clone(), self.alarms.clone());
        let domain = metrics.domain(request.headers());
        let traced = trace::Request::begin(request.headers(), SpanKind::Server, "request");
        let response = match traced.as_ref().filter(|it| it.is_sampled()) {
            None => self.answer_uncounted(request).await,
            Some(traced) => Box::pin(self.answer_uncounted(request)).with_context(traced.context()).await,
        };
        let api = response.extensions().get::<ApiName>().map_or("", |name| name.0);
        if response.status().is_server_error() {
            alarms.raise(
                AlarmId::InternalError,
                format!("{method} {api} was answered with {}", response.status()),
            );
            let (status, id) = (response.status().as_u16(), host::http::request_id());
            debug!(request.id = id, method, api, status, "a request failed for no fault of the client");
        }
        if let Some(traced) = traced {
            let about = vec![KeyValue::new("http.request.method", method), KeyValue::new("muster.api", api)];
            let name = if api.is_empty() { method.to_owned() } else { format!("{method} {api}") };
            traced.answered(name, response.status().as_u16(), about);
        }
        if !api.is_empty() {
            metrics.answered(method, api, domain, response.status().as_u16(), started.elapsed());
        }
        response
    }

    async fn answer_uncounted(self, request: Request<Body>) -> Response {
        let target = request.uri().path_and_query().map_or_else(|| request.uri().path(), |t| t.as_str());
        if !acceptable(target) {
            let shown: String = target.chars().take(TARGET_LIMIT).collect();
            return plain(StatusCode::BAD_REQUEST, format!("Invalid Request URI {shown}"));
        }
        let from_browser = request.headers().contains_key(header::ORIGIN);
        let gzip = accepts_gzip(request.headers());
        let mut response = match *request.method() {
            Method::OPTIONS => Response::new(Body::empty()),
            _ => self.route(request).await,
        };
        if gzip && response.body().size_hint().exact().is_some_and(|size| size >= GZIP_FROM) {
            response = compressed(response).await;
        }
        let headers = response.headers_mut();
        headers.insert(header::SERVER, SERVER);
        if from_browser {
            allow_origins(headers);
        }
        response
    }
}

impl Guarded {
    async fn route(self, mut request: Request<Body>) -> Response {
        if !matches!(*request.method(), Method::GET | Method::POST | Method::PUT | Method::DELETE) {
            // The router would answer HEAD like GET. No route has this one, so that it says what there is.
            *request.method_mut() = Method::TRACE;
        }
        let mut response = match AssertUnwindSafe(self.router.oneshot(request)).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => {
                error!(request.id = host::http::request_id(), "a handler panicked");
                Failure::new(Code::Internal, "").into_response()
            }
        };
        if let Some(allowed) = response.headers().get(header::ALLOW).and_then(|value| value.to_str().ok()) {
            let has = |method: &&str| allowed.split(',').any(|name| name.trim() == *method);
            let methods: Vec<_> = ["GET", "POST", "PUT", "DELETE"].into_iter().filter(has).collect();
            if let Ok(value) = HeaderValue::try_from(methods.join(", ")) {
                response.headers_mut().insert(header::ALLOW, value);
            }
        }
        response
    }
}

/// The name under which the old dashboards know a route; routes put it into their answers' extensions.
#[derive(Clone, Copy, Debug)]
pub struct ApiName(pub &'static str);

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
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

/// Rules of the old server, to the letter; only that it also stops here.
fn acceptable(target: &str) -> bool {
    !target.is_empty()
        && target.len() < TARGET_LIMIT
        && !target.ends_with([';', '&', '?', '+', '@'])
        && !target.starts_with('.')
        && !target.contains("//")
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
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn allow_origins(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Origin, Accept, Content-Type, X-Domain-Name, X-ConsumerId"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, UPDATE"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|q| matches!(q, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

async fn compressed(response: Response) -> Response {
    let ready = response.extensions().get::<super::reply::Ready>().map(super::reply::Ready::gzip);
    let (mut parts, body) = response.into_parts();
    let small = match ready {
        Some(small) => small,
        None => match squeezed(body).await {
            Ok(small) => small,
            Err(failure) => return failure.into_response(),
        },
    };
    // The router has written the length that the answer had.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(small))
}

async fn squeezed(body: Body) -> Result<Bytes, Failure> {
    let broken = |_| Failure::new(Code::Internal, "");
    let body = body.collect().await.map_err(broken)?.to_bytes();
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    let small = encoder.write_all(&body).and_then(|()| encoder.finish());
    small.map(Bytes::from).map_err(|error| Failure::new(Code::Internal, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_follows_the_old_rules() {
        for good in ["/", "/version", "/v4/default/registry/instances?version=0%2B&env="] {
            assert!(acceptable(good), "{good}");
        }
        let long = format!("/{}", "a".repeat(TARGET_LIMIT - 1));
        for bad in ["", "/a?", "/a&", "/a;", "/a?version=1+", "/a@", "./a", "/a//b", long.as_str()] {
            assert!(!acceptable(bad), "{bad}");
        }
        assert!(acceptable(&long[..TARGET_LIMIT - 1]));
    }

    #[test]
    fn compression_is_only_for_those_who_ask() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))])
        };
        assert!(accepts_gzip(&headers("deflate, gzip;q=0.5")));
        assert!(!accepts_gzip(&headers("gzip;q=0")) && !accepts_gzip(&headers("br")));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
