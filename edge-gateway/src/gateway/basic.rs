//! Names and passwords of clients of Eureka, which are given an address (`http://name:password@host/eureka/`)
//! and can show nothing else.
//!
//! In: a request below `/eureka/` with `Authorization: Basic`. Out: the same request with a token in its
//! place. The registry's own login decides, with its limits and locks, by the address of the client; the
//! token is kept for some minutes ([`crate::logins`]), so that not every heartbeat is a login. A wrong
//! password is never kept, so each one is a login that fails.

use std::net::SocketAddr;
use std::sync::Arc;

use access::decision::authorization;
use access::denial::DenialCode;
use access::{Denial, Policy};
use axum::body::Body;
use axum::extract::ConnectInfo;
use data_encoding::BASE64;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::json;

use super::proxy::FORWARDED_FOR;
use super::{GatewayParts, refusal};
use crate::eureka::is_eureka;
use crate::logins::Kept;
use crate::policy::Standing;
use crate::rates::Kind;

/// The life of the tokens that are asked for.
const LIFE: &str = "15m";
/// Bytes of a name and a password.
const MAX_SHOWN: usize = 1024;
/// Bytes of the answer to a login.
const MAX_ANSWER: usize = 64 << 10;

impl GatewayParts {
    /// Replaces a name and a password by a token. Returns the refusal if they are wrong.
    pub(super) async fn log_in<B>(&self, request: &mut Request<B>) -> Option<Response<Body>> {
        if !is_eureka(request.uri().path()) || self.eureka.is_none() {
            return None;
        }
        let shown = shown(request)?;
        let policy = match self.policy.standing() {
            // Nobody needs to be known, and a client that shows more than it has to is welcome.
            Standing::Open => {
                request.headers_mut().remove(AUTHORIZATION);
                return None;
            }
            Standing::Guarded(policy) | Standing::Closed(_, Some(policy)) => policy,
            Standing::Closed(_, None) => return None,
        };
        let Some((name, password)) = read(&shown) else { return Some(wrong()) };
        let login = self.logins.of(&shown);
        let mut kept = login.lock().await;
        let usable = kept.as_ref().filter(|kept| self.still_counts(kept, &policy)).cloned();
        let bearer = match usable {
            Some(kept) => kept.bearer,
            None => {
                *kept = None;
                match Box::pin(self.ask_for_token(request, &name, &password)).await {
                    Ok(bearer) => {
                        *kept = Some(Kept::now(bearer.clone()));
                        bearer
                    }
                    Err(refused) => return Some(refused),
                }
            }
        };
        request.headers_mut().insert(AUTHORIZATION, bearer);
        None
    }

    /// True for a token that is young enough, and that the policy takes: it may have been revoked.
    fn still_counts(&self, kept: &Kept, policy: &Arc<Policy>) -> bool {
        kept.is_young() && self.policy.identify(policy, Some(kept.bearer.as_bytes()), None).is_ok()
    }

    async fn ask_for_token<B>(
        &self,
        request: &Request<B>,
        name: &str,
        password: &str,
    ) -> Result<HeaderValue, Response<Body>> {
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().copied();
        // Heartbeats have no limit. The passwords that they show do.
        let source = peer.map(|peer| self.proxies.client(peer.0.ip(), request.headers()));
        if let Err(too_fast) = self.rates.take(Kind::Request, source, None, None) {
            self.metrics.too_fast(too_fast.party.as_str());
            return Err(refusal::too_many_for(&too_fast.to_string(), too_fast.seconds()));
        }
        let body = json!({ "name": name, "password": password, "tokenExpirationTime": LIFE });
        let mut login = Request::new(Body::from(body.to_string()));
        *login.method_mut() = Method::POST;
        *login.uri_mut() = Uri::from_static("/v4/token");
        login.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A control plane locks out by the client's address.
        for value in request.headers().get_all(FORWARDED_FOR) {
            login.headers_mut().append(FORWARDED_FOR, value.clone());
        }
        if let Some(peer) = peer {
            login.extensions_mut().insert(peer);
        }
        let unanswered = || refusal::unavailable("no control plane answered; try again");
        let answer = self.pass_on(login).await.map_err(|_| unanswered())?;
        let (mut head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| unanswered())?.to_bytes();
        if head.status.is_success() {
            let answer: Option<Answer> = serde_json::from_slice(&body).ok();
            let bearer = answer.map(|answer| HeaderValue::try_from(format!("Bearer {}", answer.token)));
            let Some(Ok(mut bearer)) = bearer else { return Err(unanswered()) };
            bearer.set_sensitive(true);
            return Ok(bearer);
        }
        if head.status == StatusCode::UNAUTHORIZED {
            head.headers.insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        Err(Response::from_parts(head, Body::from(body)))
    }
}

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"muster\", charset=\"UTF-8\"");

/// The encoded name and password of a request that shows them. More than one header is for the gate to
/// refuse.
fn shown<B>(request: &Request<B>) -> Option<Vec<u8>> {
    let header = authorization(request.headers()).ok()??;
    let (scheme, rest) = header.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| rest.trim_ascii().to_vec())
}

/// The name and the password. `None` for anything that is none.
fn read(shown: &[u8]) -> Option<(String, String)> {
    if shown.len() > MAX_SHOWN {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(shown).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// 401, for what is no name and password.
fn wrong() -> Response<Body> {
    let denial = Denial::new(DenialCode::Unauthorized, "the header Authorization has no name and password");
    let mut response = refusal::denied(&denial);
    response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> Request<()> {
        Request::builder().header(AUTHORIZATION, value).body(()).expect("a request")
    }

    #[test]
    fn a_name_and_a_password_are_read() {
        let of = |value: &str| shown(&header(value)).map(|shown| read(&shown));
        assert_eq!(of("Basic cGV0ZXI6YTpi"), Some(Some(("peter".into(), "a:b".into()))));
        assert_eq!(of("basic  cGV0ZXI6"), Some(Some(("peter".into(), String::new()))));
        assert_eq!(of("Bearer cGV0ZXI6YTpi"), None);
        assert_eq!(of("Bas"), None);
        for none in ["Basic !", "Basic cGV0ZXI=", "Basic /w==", &format!("Basic {}", "A".repeat(2000))] {
            assert_eq!(of(none), Some(None), "{none}");
        }
    }
}
