//! Answers in the contract's form: compact JSON without a newline, empty means absent.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::registry::find::Found;
use crate::view::{FindBody, ServiceView};

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
    if found.not_modified {
        return Ok(with_revision(not_modified(), &found.rev));
    }
    let bodies: Vec<_> = found.services.iter().filter(|view| view.answer().is_some()).collect();
    let response = match bodies.as_slice() {
        [] => raw_json("{}"),
        [only] => {
            let plain = only.answer().map_or_else(Bytes::new, |body| body.plain().clone());
            let mut response = raw_json(plain);
            response.extensions_mut().insert(Ready((*only).clone()));
            response
        }
        several => raw_json(FindBody::joined(several.iter().filter_map(|view| view.answer()))),
    };
    Ok(with_revision(response, &found.rev))
}

/// The service whose answer a response carries; its compressed form is kept there.
#[derive(Clone)]
pub(super) struct Ready(Arc<ServiceView>);

impl Ready {
    pub(super) fn gzip(&self) -> Bytes {
        self.0.answer().map_or_else(Bytes::new, |body| body.gzip().clone())
    }
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
