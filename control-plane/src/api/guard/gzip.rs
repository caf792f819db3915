//! Compression of responses for clients that accept gzip.

use std::io::Write;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;

use crate::api::failure::Failure;
use crate::api::reply::{Prepared, PreparedList};

/// The smallest body that is compressed. A smaller one fits into one packet anyway.
pub(super) const FROM_BYTES: u64 = 1400;

/// True when the client accepts gzip, by its name or by `*`.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut by_wildcard = false;
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let accepted = parts.all(|parameter| !is_zero_weight(parameter));
        // The name has precedence over the wildcard, wherever the two stand.
        if name.eq_ignore_ascii_case("gzip") {
            return accepted;
        }
        if name == "*" {
            by_wildcard = accepted;
        }
    }
    by_wildcard
}

/// True for a parameter such as `q=0`, with which a client refuses a coding.
fn is_zero_weight(parameter: &str) -> bool {
    let Some(weight) = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")) else {
        return false;
    };
    weight.parse().is_ok_and(|weight: f32| weight <= 0.0)
}

/// The same response with its body compressed.
pub(super) async fn compressed(response: Response) -> Response {
    let extensions = response.extensions();
    let prepared = extensions
        .get::<Prepared>()
        .map(Prepared::gzip)
        .or_else(|| extensions.get::<PreparedList>().map(PreparedList::gzip));
    let (mut parts, body) = response.into_parts();
    let compressed = match prepared {
        Some(compressed) => compressed,
        None => match compress(body).await {
            Ok(compressed) => compressed,
            Err(failure) => return failure.into_response(),
        },
    };
    // The router has set the length of the plain body.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(compressed))
}

async fn compress(body: Body) -> Result<Bytes, Failure> {
    let body = body.collect().await.map_err(|error| Failure::internal(&error))?.to_bytes();
    // JSON of instances shrinks to less than a quarter, so the buffer rarely grows.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
    compressed.map(Bytes::from).map_err(|error| Failure::internal(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_that_accept_gzip_get_it() {
        for (value, accepted) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("GZIP", true),
            ("*", true),
            ("br, *;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip;q=0.", false),
            ("gzip; q=0.000", false),
            ("*, gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("*;q=0, gzip", true),
            ("br", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]);
            assert_eq!(is_accepted(&headers), accepted, "{headers:?}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }
}
