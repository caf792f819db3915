//! The address of the client of a request.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use host::proxies::TrustedProxies;
use http::request::Parts;
use http::{Extensions, HeaderMap};

use super::state::Api;

/// The address of the client of a request, as far as trusted proxies say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client(pub(super) IpAddr);

impl FromRequestParts<Api> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Infallible> {
        Ok(Self(source(api.proxies(), &parts.extensions, &parts.headers)))
    }
}

/// The address of the client of a request, by its extensions and headers.
pub(super) fn source(proxies: &TrustedProxies, extensions: &Extensions, headers: &HeaderMap) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    // Without a peer the request comes from the gateway in this process, which has written its own peer at
    // the end of the list.
    let peer = peer.or_else(|| last_forwarded(headers)).unwrap_or(Ipv4Addr::LOCALHOST.into());
    proxies.client(peer, headers)
}

fn last_forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_is_that_of_the_gateway() {
        let mut headers = HeaderMap::new();
        assert_eq!(last_forwarded(&headers), None);
        headers.append("x-forwarded-for", "198.51.100.1".parse().expect("a value"));
        headers.append("x-forwarded-for", "198.51.100.2, 203.0.113.7".parse().expect("a value"));
        assert_eq!(last_forwarded(&headers), Some(IpAddr::from([203, 0, 113, 7])));
        headers.append("x-forwarded-for", "unknown".parse().expect("a value"));
        assert_eq!(last_forwarded(&headers), None);
    }
}
