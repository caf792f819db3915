//! The client of a drain, in whose name the requests of the drain are made.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use host::certificates::PeerCertificate;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH, TRANSFER_ENCODING};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request};
use shared::model::Tenant;

use super::target::Target;
use crate::gateway::route::{DEFAULT, DOMAIN};

/// The client of a drain, and the thing that it drains.
pub(super) struct Client {
    headers: HeaderMap,
    extensions: Extensions,
    pub(super) target: Target,
}

impl Client {
    /// The client of a request, and the target that the request names.
    pub(super) fn of(request: &Request<Body>, target: &Target, tenant: &Tenant) -> Self {
        let mut headers = request.headers().clone();
        // These are about the body of the client's own request, and about the form of the answer.
        for name in [CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, ACCEPT_ENCODING, IF_NONE_MATCH] {
            headers.remove(name);
        }
        let mut target = target.clone();
        if !target.base.starts_with("/v4/") {
            // Version 3 of the API has neither overrides nor marks, and names the tenant in another header.
            let service = target.base.rsplit('/').next().unwrap_or_default();
            target.base = format!("/v4/{DEFAULT}/registry/microservices/{service}");
            if let Ok(domain) = HeaderValue::from_str(&tenant.domain) {
                headers.insert(DOMAIN, domain);
            }
        }
        let mut extensions = Extensions::new();
        if let Some(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
            extensions.insert(*peer);
        }
        if let Some(certificate) = request.extensions().get::<PeerCertificate>() {
            extensions.insert(certificate.clone());
        }
        Self { headers, extensions, target }
    }

    pub(super) fn request(&self, method: Method, path: &str) -> Option<Request<Body>> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().ok()?;
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        Some(request)
    }

    /// The path of an instance, by its decoded id.
    pub(super) fn path_of(&self, instance: &str) -> String {
        let id = percent_encoding::utf8_percent_encode(instance, percent_encoding::NON_ALPHANUMERIC);
        format!("{}/instances/{id}", self.target.base)
    }
}
