//! Replies: 200 with JSON, 304, and the headers that every reply has.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use shared::model::Instance;

use crate::{FindBody, gzip};

/// The type of JSON.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
const REVISION: HeaderName = HeaderName::from_static("x-resource-revision");
const SERVER: HeaderValue = HeaderValue::from_static(concat!("SERVICECENTER/", env!("CARGO_PKG_VERSION")));

/// 200 with text that is JSON already.
pub fn json<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// The body of a find's reply with the instances of several services, each of which has some.
pub fn body_of(bodies: &[&FindBody]) -> Bytes {
    match bodies {
        // An empty list is absent from the reply.
        [] => Bytes::from_static(b"{}"),
        [only] => only.plain().clone(),
        several => FindBody::joined(several.iter().copied()).into(),
    }
}

/// The body of a reply with one instance.
pub fn body_of_one(instance: &Instance) -> Bytes {
    body_of_text(&serde_json::to_string(instance).expect("plain fields always serialise"))
}

/// The body of a reply with one instance, which is JSON already.
pub fn body_of_text(instance: &str) -> Bytes {
    format!(r#"{{"instance":{instance}}}"#).into()
}

/// 304 without a body.
pub fn not_modified<B: Default>() -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// Adds the revision of the reply.
pub fn with_revision<B>(mut response: Response<B>, rev: &str) -> Response<B> {
    if let Ok(value) = HeaderValue::from_str(rev) {
        response.headers_mut().insert(REVISION, value);
    }
    response
}

/// Compresses a reply that is large enough, for a client that accepts it. `kept` is the body in compressed
/// form, where somebody keeps that.
pub fn compressed(response: Response<Bytes>, kept: Option<&FindBody>) -> Response<Bytes> {
    if (response.body().len() as u64) < gzip::FROM_BYTES {
        return response;
    }
    let (mut parts, plain) = response.into_parts();
    let body = kept.map_or_else(|| gzip::once(&plain), |kept| kept.gzip().clone());
    gzip::mark(&mut parts.headers);
    Response::from_parts(parts, body)
}

/// Adds the headers that every reply has. Browsers get some more.
pub fn finish(headers: &mut HeaderMap, from_browser: bool) {
    headers.insert(header::SERVER, SERVER);
    if from_browser {
        allow_origins(headers);
    }
}

/// Adds the headers that Service-Center sends to browsers, which are the same for every origin and request.
fn allow_origins(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Origin, Accept, Content-Type, X-Domain-Name, X-ConsumerId"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, UPDATE"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
