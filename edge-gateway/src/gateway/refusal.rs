//! The responses of the gateway itself to requests that it refuses: plain text where clients of
//! Service-Center or of Eureka expect plain text, the registry's JSON elsewhere.

use access::Denial;
use access::denial::DenialCode;
use axum::body::Body;
use host::http::{retry_soon, with_request_id};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};

use crate::forward::NotForwarded;

/// Bytes of a refusal that are read to say it in words.
const MAX_REFUSAL: usize = 64 << 10;

/// The parts of a refusal in JSON that are written for people.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Words {
    error_message: String,
    #[serde(default)]
    detail: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    error_code: &'a str,
    error_message: &'a str,
    detail: &'a str,
}

/// 400, for an upgrade whose handshake is incomplete or wrong.
pub(super) fn bad_handshake() -> Response<Body> {
    let mut response = plain(StatusCode::BAD_REQUEST, "Bad Request\n");
    // RFC 6455 §4.4: a refusal names the versions that the server speaks.
    response.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
    response
}

/// 400, for a query that makes no sense.
pub(super) fn bad_request(detail: &str) -> Response<Body> {
    json(StatusCode::BAD_REQUEST, "400001", "Invalid parameter(s)", detail)
}

/// 405, for another method than GET.
pub(super) fn method_not_allowed() -> Response<Body> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

/// 503: this gateway cannot answer now; another may.
pub(super) fn unavailable(detail: &str) -> Response<Body> {
    let detail = with_request_id(detail);
    retry_later(json(StatusCode::SERVICE_UNAVAILABLE, "500011", "Registry service is unavailable", &detail))
}

/// A refusal of access control.
pub(super) fn denied(denial: &Denial) -> Response<Body> {
    if denial.code == DenialCode::Undecided {
        return unavailable(&denial.detail);
    }
    let status = StatusCode::from_u16(denial.code.status()).unwrap_or(StatusCode::FORBIDDEN);
    json_text(status, denial.body().into_bytes())
}

/// 404, as a control plane answers a path that no route has.
pub(super) fn not_found() -> Response<Body> {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The status for a request that was not forwarded.
pub(super) fn status_of(fault: NotForwarded) -> StatusCode {
    match fault {
        NotForwarded::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        NotForwarded::BodyBroken | NotForwarded::BodyTooLarge => StatusCode::BAD_REQUEST,
        NotForwarded::BodyLate => StatusCode::REQUEST_TIMEOUT,
    }
}

/// 503, or 400 and 408 when the client's own body is the reason. A client that has left sees none of them.
pub(super) fn not_forwarded(fault: NotForwarded) -> Response<Body> {
    let detail = fault.to_string();
    match fault {
        NotForwarded::Unavailable => unavailable(&detail),
        NotForwarded::BodyBroken | NotForwarded::BodyTooLarge | NotForwarded::BodyLate => {
            json(status_of(fault), "400001", "Invalid parameter(s)", &detail)
        }
    }
}

/// 429: a limit of the client's own, which every gateway has.
pub(super) fn too_many(detail: &str) -> Response<Body> {
    retry_later(json(StatusCode::TOO_MANY_REQUESTS, "400100", "Not enough quota", detail))
}

/// 429: the client sends more than it is allowed; after so many seconds it may go on.
pub(super) fn too_many_for(detail: &str, seconds: u64) -> Response<Body> {
    let mut response = too_many(detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // Service-Center's plain texts come from Go's `http.Error`, which sets this header too.
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn json(status: StatusCode, error_code: &str, error_message: &str, detail: &str) -> Response<Body> {
    let body = serde_json::to_vec(&ErrorBody { error_code, error_message, detail })
        .expect("a struct of texts always serialises");
    json_text(status, body)
}

fn json_text(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A refusal in the registry's JSON as plain text, with the same status and headers; another response as it
/// is.
///
/// For clients of Eureka: one of them (fargo, in Go) decodes the body of every answer but 404, so a JSON
/// object without instances would be an application without instances to it. Text is an error to all of
/// them.
pub(super) async fn in_words(response: Response<Body>) -> Response<Body> {
    let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/json");
    if response.status().is_success() || !response.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = match Limited::new(body, MAX_REFUSAL).collect().await {
        Ok(body) => serde_json::from_slice::<Words>(&body.to_bytes()).ok(),
        Err(_) => None,
    };
    let text = match text {
        Some(Words { error_message, detail }) => format!("{error_message}: {detail}\n"),
        None => format!("{}\n", head.status.canonical_reason().unwrap_or("Refused")),
    };
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(CONTENT_ENCODING);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Response::from_parts(head, Body::from(text))
}

fn retry_later(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(RETRY_AFTER, retry_soon());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_are_refused_together_do_not_come_back_together() {
        let seconds = |response: Response<Body>| -> u64 {
            response.headers()[RETRY_AFTER].to_str().expect("text").parse().expect("a number")
        };
        let mut told = [0; 4];
        for _ in 0..300 {
            told[usize::try_from(seconds(unavailable("no control plane"))).expect("few")] += 1;
            told[usize::try_from(seconds(too_many("no room"))).expect("few")] += 1;
        }
        assert_eq!(told[0], 0);
        assert!(told[1..].iter().all(|of| *of > 100), "{told:?}");
        assert_eq!(seconds(too_many_for("too often", 7)), 7, "a limit that knows its time says it");
    }
}
