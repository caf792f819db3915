//! Requests that a browser sends for a page of another site.
//!
//! A browser adds what it has for a server by itself: its place in the network, its certificate. So what such
//! a request may do must not follow from these.

use http::header::{HOST, HeaderMap, HeaderName, ORIGIN};
use http::uri::{Authority, Uri};

/// The header in which browsers say how a request's page and its target are related.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The name under which a client has reached this process. HTTP/2 has it in the request's target.
pub fn named(headers: &HeaderMap, uri: &Uri) -> Option<Authority> {
    match headers.get(HOST) {
        Some(host) => host.to_str().ok().and_then(|host| host.parse().ok()),
        None => uri.authority().cloned(),
    }
}

/// True if a browser says that a page of another origin has sent the request.
pub fn is_of_another_site(headers: &HeaderMap, uri: &Uri) -> bool {
    let is_ours = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let name = named(headers, uri);
        authority.is_some_and(|authority| name.is_some_and(|name| name.as_str() == authority))
    };
    let foreign_origin = headers.get_all(ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(is_ours));
    // `none` is a person's own doing, such as a bookmark.
    let foreign_fetch =
        headers.get_all(FETCH_SITE).iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    foreign_origin || foreign_fetch
}
