//! The mark of an answer that nobody could confirm: the last that is known.
//!
//! Gateways set it while no control plane answers, and control planes while their store is silent. A gateway passes a
//! control plane's mark on, so a client need not know which of them has lost what.

use std::time::Duration;

use http::header::{AGE, WARNING};
use http::{HeaderMap, HeaderValue};

/// RFC 9111 has made this header obsolete without another that says the same; caches and people know it.
pub const STALE: HeaderValue = HeaderValue::from_static("110 - \"Response is Stale\"");

/// Marks an answer that was confirmed for the last time this long ago.
pub fn mark(headers: &mut HeaderMap, age: Duration) {
    headers.insert(WARNING, STALE);
    headers.insert(AGE, HeaderValue::from(age.as_secs()));
}

/// The age of an answer that is marked. `None` for one that is not.
pub fn age(headers: &HeaderMap) -> Option<Duration> {
    headers.get_all(WARNING).iter().find(|value| *value == STALE)?;
    let age = headers.get(AGE).and_then(|value| value.to_str().ok()?.parse().ok());
    Some(Duration::from_secs(age.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_the_age() {
        let mut headers = HeaderMap::new();
        headers.insert(WARNING, HeaderValue::from_static("199 - \"Miscellaneous\""));
        assert_eq!(age(&headers), None);
        mark(&mut headers, Duration::from_millis(4_900));
        assert_eq!(age(&headers), Some(Duration::from_secs(4)));
    }
}
