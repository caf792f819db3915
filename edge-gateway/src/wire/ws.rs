//! The WebSocket handshake, the server's side: no sub-protocol, no extension, any origin.

use axum::body::Body;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The answer that completes a client's handshake; `None` when what it sent is not one.
pub(crate) fn accept(headers: &HeaderMap) -> Option<Response<Body>> {
    let is_handshake = has_token(headers, &CONNECTION, "upgrade")
        && has_token(headers, &UPGRADE, "websocket")
        && has_token(headers, &SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
    if !is_handshake || key.is_empty() {
        return None;
    }
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is a header value");
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Some(answer)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case(token))
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

    fn headers<'a>(pairs: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).expect("a name"), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.into_iter().map(pair).collect()
    }

    #[test]
    fn a_handshake_is_answered_as_the_standard_says() {
        let answer = accept(&headers(&GOOD)).expect("is a handshake");
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers().len(), 3);
    }

    #[test]
    fn what_lacks_anything_is_no_handshake() {
        for (left_out, _) in GOOD {
            let rest = GOOD.iter().filter(|(name, _)| *name != left_out);
            assert!(accept(&headers(rest)).is_none(), "without {left_out}");
        }
        for (name, value) in [("sec-websocket-version", "8"), ("sec-websocket-key", " "), ("upgrade", "h2c")]
        {
            let changed: Vec<_> =
                GOOD.iter().filter(|pair| pair.0 != name).copied().chain([(name, value)]).collect();
            assert!(accept(&headers(&changed)).is_none(), "{name}: {value}");
        }
    }
}
