//! Tokens of browsers. A page cannot set the headers of a WebSocket, so it offers its token as a
//! sub-protocol.
//!
//! In: a request for a watch with `Sec-WebSocket-Protocol: muster.watch, muster.bearer.<token>`. Out: the
//! same request with the token in `Authorization`, where every gate looks for it, and without the offer that
//! had it. The answer takes `muster.watch` and never repeats the token. Unlike a token in the target, this
//! one stands in no log line, no history and no `Referer`. A page of another site has no token that it could
//! offer.

use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Request};

/// The sub-protocol of watches, which is taken where it is offered.
pub(super) const WATCH: &str = "muster.watch";
/// The beginning of the offer that has a token. Every character that a token may have may stand in an offer.
const TOKEN: &str = "muster.bearer.";

/// True if a client offers the sub-protocol of watches.
pub(super) fn names_watch(headers: &HeaderMap) -> bool {
    offers(headers).any(|offer| offer == WATCH)
}

/// Moves the token that a request for a watch offers to where all clients show theirs.
pub(super) fn take_token<B>(request: &mut Request<B>) {
    let is_watch = request.uri().path().ends_with("/watcher") && request.headers().contains_key(UPGRADE);
    if !is_watch || !offers(request.headers()).any(|offer| offer.starts_with(TOKEN)) {
        return;
    }
    let headers = request.headers_mut();
    let mut tokens = Vec::new();
    let mut kept = Vec::new();
    for offer in offers(headers) {
        match offer.strip_prefix(TOKEN) {
            Some(token) => tokens.push(format!("Bearer {token}")),
            None => kept.push(offer.to_owned()),
        }
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(rest) = HeaderValue::try_from(kept.join(", "))
        && !rest.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    }
    for token in tokens {
        if let Ok(mut value) = HeaderValue::try_from(token) {
            value.set_sensitive(true);
            // Appended: a request that shows two tokens is refused, wherever they stand.
            headers.append(AUTHORIZATION, value);
        }
    }
}

fn offers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|offer| !offer.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/v4/default/registry/watcher?all&rev=0";

    fn request(path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(path).header("upgrade", "websocket").body(()).expect("one");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a value"));
        }
        request
    }

    fn shown(request: &Request<()>, name: &str) -> Vec<String> {
        let values = request.headers().get_all(name).iter();
        values.map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn a_token_that_is_offered_is_shown_as_any_other() {
        let mut request = request(PATH, &[("sec-websocket-protocol", "muster.watch, muster.bearer.a.b-_.c")]);
        take_token(&mut request);
        assert_eq!(shown(&request, "authorization"), ["Bearer a.b-_.c"]);
        assert_eq!(shown(&request, "sec-websocket-protocol"), ["muster.watch"]);
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
        assert!(names_watch(request.headers()));
    }

    #[test]
    fn a_second_token_makes_the_request_show_two() {
        let own = ("authorization", "Bearer x");
        let offered = ("sec-websocket-protocol", "muster.bearer.y");
        for headers in [&[own, offered][..], &[offered, offered]] {
            let mut request = request(PATH, headers);
            take_token(&mut request);
            assert!(access::decision::authorization(request.headers()).is_err(), "{headers:?}");
            assert!(shown(&request, "sec-websocket-protocol").is_empty());
        }
    }

    #[test]
    fn other_requests_and_other_offers_stay_as_they_are() {
        for (path, offer) in [
            (PATH, "chat, muster.watch"),
            (PATH, "MUSTER.BEARER.x"),
            ("/v4/default/registry/microservices", "muster.bearer.x"),
        ] {
            let mut request = request(path, &[("sec-websocket-protocol", offer)]);
            take_token(&mut request);
            assert!(shown(&request, "authorization").is_empty(), "{path} {offer}");
            assert_eq!(shown(&request, "sec-websocket-protocol"), [offer]);
        }
    }
}
