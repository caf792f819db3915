//! The rules for the head of a request that hyper does not check: one `Host`, and whole line ends.
//!
//! A proxy in front may read such a head differently, and then its rules and the answers that it keeps are
//! about another request than ours.

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Version};

/// Checks a head. `is_strict` is false if a line of it ended without a carriage return.
///
/// # Errors
/// The fault, in words for the client.
pub(super) fn check<B>(request: &Request<B>, is_strict: bool) -> Result<(), &'static str> {
    if !is_strict {
        return Err("a line of the head ends without a carriage return");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("there is more than one Host header");
    }
    // HTTP/2 names the host in the request's target, and HTTP/1.0 need not name one.
    match host {
        None if request.version() == Version::HTTP_11 => Err("the Host header is missing"),
        Some(host) if !is_host(host.as_bytes()) => Err("the Host header is not a name or an address"),
        None | Some(_) => Ok(()),
    }
}

/// True for the characters that a name or an address with a port has, and for nothing at all.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(byte))
}

/// The answer to a head with this fault. It ends the connection, whose next bytes nobody can be sure of.
pub(super) fn refusal(version: Version, fault: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::from(fault));
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, text);
    if version != Version::HTTP_2 {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
