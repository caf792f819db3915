//! The WebSocket handshake, the server's side: no sub-protocol but the one of browsers ([`super::offer`]), no
//! extension, any origin.

use axum::body::Body;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::offer;

/// The response that completes a client's handshake; `None` when the headers are not those of a handshake.
pub(super) fn accept(headers: &HeaderMap) -> Option<Response<Body>> {
    let is_handshake = has_token(headers, &CONNECTION, "upgrade")
        && has_token(headers, &UPGRADE, "websocket")
        && has_token(headers, &SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
    if !is_handshake || key.is_empty() {
        return None;
    }
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is a header value");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let is_offered = offer::names_watch(headers);
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if is_offered {
        // A browser gives the connection up unless one of its offers is taken.
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer::WATCH));
    }
    Some(response)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    // A list may be spread over several lines of the same header.
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    /// The good handshake's headers without one, and perhaps with another in its place.
    fn headers(left_out: &str, instead: Option<(&'static str, &'static str)>) -> HeaderMap {
        let kept = GOOD.into_iter().filter(|(name, _)| *name != left_out);
        let mut headers = HeaderMap::new();
        for (name, value) in kept.chain(instead) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_handshake_is_completed_as_the_standard_says() {
        let response = accept(&headers("", None)).expect("a handshake");
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers().len(), 3);
    }

    #[test]
    fn no_sub_protocol_is_taken_but_that_of_watches() {
        for (offered, taken) in
            [("muster.watch", true), ("chat, muster.watch", true), ("chat", false), ("Muster.Watch", false)]
        {
            let response =
                accept(&headers("", Some(("sec-websocket-protocol", offered)))).expect("a handshake");
            let answer = response.headers().get(SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes);
            assert_eq!(answer, taken.then_some(&b"muster.watch"[..]), "{offered}");
        }
    }

    #[test]
    fn a_request_that_lacks_a_part_is_no_handshake() {
        for (left_out, _) in GOOD {
            assert!(accept(&headers(left_out, None)).is_none(), "without {left_out}");
        }
        for (name, value) in [("sec-websocket-version", "8"), ("sec-websocket-key", " "), ("upgrade", "h2c")]
        {
            assert!(accept(&headers(name, Some((name, value)))).is_none(), "{name}: {value}");
        }
    }
}
