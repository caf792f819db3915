//! Compression of replies for clients that accept gzip.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};

/// The smallest body that is compressed. A smaller one fits into one packet anyway.
pub const FROM_BYTES: u64 = 1400;

/// True when the client accepts gzip, by its name or by `*`.
pub fn is_accepted(headers: &HeaderMap) -> bool {
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

/// Marks a reply as compressed.
pub fn mark(headers: &mut HeaderMap) {
    // That of the plain body.
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A compressed body that is used once.
pub fn once(plain: &[u8]) -> Bytes {
    compress(plain, Compression::fast())
}

/// A compressed body that is kept and sent often.
pub fn kept(plain: &[u8]) -> Bytes {
    compress(plain, Compression::default())
}

fn compress(plain: &[u8], level: Compression) -> Bytes {
    // JSON of instances shrinks to less than a quarter, so the buffer rarely grows.
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), level);
    let compressed = encoder.write_all(plain).and_then(|()| encoder.finish());
    compressed.expect("memory takes what is written").into()
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
