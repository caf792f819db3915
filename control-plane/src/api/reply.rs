//! Answers in the contract's form: compact JSON without a newline, empty means absent.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::registry::find::Found;

/// What a handler returns.
pub(super) type Answer = Result<Response, Failure>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
const REVISION: &str = "x-resource-revision";

/// 200 with JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(raw_json(body)),
        Err(error) => Err(Failure::new(Code::Internal, error.to_string())),
    }
}

/// 200 with text that is JSON already.
pub(super) fn raw_json(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// 200 without a result.
pub(super) fn empty() -> Answer {
    let mut response = Response::new(Body::empty());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    Ok(response)
}

/// The instances of what was found, or 304, with the revision either way.
pub(super) fn instances(found: &Found) -> Answer {
    let response = if found.not_modified { not_modified() } else { raw_json(instances_body(found)) };
    Ok(with_revision(response, &found.rev))
}

fn instances_body(found: &Found) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    for part in found.services.iter().map(|view| view.instances_json()).filter(|part| !part.is_empty()) {
        body.extend_from_slice(if body.is_empty() { br#"{"instances":["# } else { b"," });
        body.extend_from_slice(part);
    }
    body.extend_from_slice(if body.is_empty() { b"{}" } else { b"]}" });
    body
}

/// 304 without a body.
pub(super) fn not_modified() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// Adds the revision of the result; present on 304 too.
pub(super) fn with_revision(mut response: Response, rev: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(rev) {
        response.headers_mut().insert(REVISION, value);
    }
    response
}
