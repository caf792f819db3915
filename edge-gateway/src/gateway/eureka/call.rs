//! Requests to the registry's own API, in the name of a client that speaks Eureka.

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::model::ServiceRef;

use super::super::{refusal, route};
use super::{Answered, Asking, Client};
use crate::beats::Sender;
use crate::forward;

/// Bytes of a control plane's answer that are read: an instance with its overrides, or a refusal.
const MAX_ANSWER: usize = 4 << 20;
/// The registry's codes for a service or an instance that does not exist.
const ABSENT: [&str; 2] = ["400012", "400017"];

/// The refusal of a control plane.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Refused {
    error_code: String,
}

impl Asking<'_> {
    /// Sends a request and reads its answer. `None` when the service or the instance does not exist.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answered<Option<T>> {
        let Some(bytes) = self.send(client, method, path, body).await? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|_| refusal::unavailable("a control plane's answer could not be read"))
    }

    /// Sends a request whose answer says nothing. False when the service or the instance does not exist.
    pub(super) async fn order(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answered<bool> {
        Ok(self.send(client, method, path, body).await?.is_some())
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answered<Option<Bytes>> {
        let request = self.request(client, method, path, body);
        let request = request.ok_or_else(|| refusal::bad_request("the request names what nothing can be"))?;
        // A heartbeat that nobody answers ends the connections of the registry's own clients. Those of Eureka
        // take 503 as a reason to try another address.
        let sent = match forward::is_heartbeat(request.method(), request.uri().path()) {
            true => {
                let is_covered = self.parts.beats.may_beat(&Sender {
                    path: request.uri().path(),
                    tenant: &self.tenant,
                    headers: request.headers(),
                    certified: self.caller.certified.as_ref(),
                });
                self.parts.beat(request, is_covered).await
            }
            false => self.parts.pass_on(request).await,
        };
        let Ok(answer) = sent else {
            return Err(refusal::unavailable("no control plane answered; try again"));
        };
        let (head, body) = answer.into_parts();
        let Ok(collected) = Limited::new(body, MAX_ANSWER).collect().await else {
            return Err(refusal::unavailable("a control plane's answer broke off; try again"));
        };
        let bytes = collected.to_bytes();
        if head.status.is_success() {
            return Ok(Some(bytes));
        }
        let refused: Refused = serde_json::from_slice(&bytes).unwrap_or_default();
        if head.status == StatusCode::BAD_REQUEST && ABSENT.contains(&&*refused.error_code) {
            return Ok(None);
        }
        Err(Response::from_parts(head, Body::from(bytes)))
    }

    fn request(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Request<Body>> {
        let project = encoded(&self.tenant.project);
        let uri: Uri = format!("/v4/{project}/registry{path}").parse().ok()?;
        let body = body.map(|body| serde_json::to_vec(body).expect("a value always serialises"));
        let mut request = Request::new(body.map_or_else(Body::empty, Body::from));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let mut headers = client.headers.clone();
        // Those of the client's own body and of the answer that it wants.
        for name in [
            ACCEPT,
            ACCEPT_ENCODING,
            CONTENT_ENCODING,
            CONTENT_LENGTH,
            CONTENT_TYPE,
            EXPECT,
            TRANSFER_ENCODING,
        ] {
            headers.remove(name);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The tenant is the one that was decided about, whatever header or path named it.
        headers.remove(route::TENANT);
        headers.insert(route::DOMAIN, HeaderValue::from_str(&self.tenant.domain).ok()?);
        *request.headers_mut() = headers;
        if let Some(peer) = client.peer {
            request.extensions_mut().insert(peer);
        }
        Some(request)
    }
}

/// The path of a service's instances.
pub(super) fn instances_of(service: &str) -> String {
    format!("/microservices/{}/instances", encoded(service))
}

/// The path of an instance.
pub(super) fn instance(service: &ServiceRef, id: &str) -> String {
    format!("{}/{}", instances_of(&service.id), encoded(id))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
