//! One answer made of those of all control planes, for people.
//!
//! In: a request that a control plane answers for its own process. Out: the answers of all of them, and the
//! response that tells them together.

use std::time::Duration;

use axum::body::Body;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::GatewayParts;

/// The time that a control plane has for its answer.
const PATIENCE: Duration = Duration::from_secs(3);

impl GatewayParts {
    /// Asks every control plane, in the client's name. `None` stands for each that did not answer in time.
    pub(super) async fn gather(&self, request: Request<Body>) -> Vec<Option<Response<Body>>> {
        let mut request = request.map(|_| Body::empty());
        for name in [ACCEPT_ENCODING, IF_NONE_MATCH] {
            request.headers_mut().remove(name);
        }
        self.pass_on_to_all(request, PATIENCE).await
    }
}

/// The contents of a control plane's answer. `None` if there is none, it refuses, it has more than `largest`
/// bytes, or it cannot be read.
pub(super) async fn contents<T: DeserializeOwned>(
    answer: Option<Response<Body>>,
    largest: usize,
) -> Option<T> {
    let answer = answer.filter(|answer| answer.status() == StatusCode::OK)?;
    let reading = Limited::new(answer.into_body(), largest).collect();
    let bytes = tokio::time::timeout(PATIENCE, reading).await.ok()?.ok()?.to_bytes();
    serde_json::from_slice(&bytes).ok()
}

/// The response with everything that was gathered. It tells of the moment, so nobody keeps it.
pub(super) fn told(gathered: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(gathered).expect("texts and numbers always serialise");
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
