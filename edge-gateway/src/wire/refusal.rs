//! What a client is told when it does not get what it asked for: plain text where old clients know plain text,
//! the registry's JSON elsewhere.

use axum::body::Body;
use host::http::with_request_id;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

/// When to come back after a refusal for lack of room or of a control plane.
const RETRY_AFTER_SECONDS: u64 = 2;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Error<'a> {
    error_code: &'a str,
    error_message: &'a str,
    detail: &'a str,
}

/// 400, for a handshake that is none.
pub(crate) fn bad_handshake() -> Response<Body> {
    let mut answer = plain(StatusCode::BAD_REQUEST, "Bad Request\n");
    answer.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
    answer
}

/// 400, for a query that cannot be understood.
pub(crate) fn bad_request(detail: &str) -> Response<Body> {
    let mut answer = json(StatusCode::BAD_REQUEST, "400001", "Invalid parameter(s)", detail);
    answer.headers_mut().remove(RETRY_AFTER);
    answer
}

/// 405, for another method than GET.
pub(crate) fn method_not_allowed() -> Response<Body> {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    answer
}

/// 503: this node cannot, another may.
pub(crate) fn unavailable(detail: &str) -> Response<Body> {
    let detail = with_request_id(detail);
    json(StatusCode::SERVICE_UNAVAILABLE, "500011", "Registry service is unavailable", &detail)
}

/// 429: the client's own limit; another node would say the same.
pub(crate) fn too_many(detail: &str) -> Response<Body> {
    json(StatusCode::TOO_MANY_REQUESTS, "400100", "Not enough quota", detail)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

fn json(status: StatusCode, error_code: &str, error_message: &str, detail: &str) -> Response<Body> {
    let body = serde_json::to_vec(&Error { error_code, error_message, detail })
        .expect("a struct of texts always serialises");
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    answer
}
