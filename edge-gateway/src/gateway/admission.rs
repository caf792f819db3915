//! Admits a watch: limits first, then the control plane's consent, then a position in a shard.
//!
//! In: a parsed watch and the client's headers. Out: a permit and the reserved session, or the reason for a
//! refusal, which each transport words in its own way.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use shared::model::{Scope, ServiceRef};

use super::proxy::remove_hop_by_hop;
use super::route::{self, WatchRequest};
use super::{GatewayParts, refusal};
use crate::limits::Permit;
use crate::push::Encoding;
use crate::upstream::Joined;
use crate::watch::Full;
use crate::watch::Selector;

/// The words for a client when no start position can be established.
pub(super) const UNREACHABLE: &str = "no control plane is reachable, so the watch cannot begin; try again";
/// The words for a client when the control plane cannot be asked for its consent.
pub(super) const UNDECIDED: &str = "no control plane could decide whether this watch is allowed; try again";
/// The words for a client of a gateway that is about to end.
pub(super) const DRAINING: &str = "this gateway is draining; connect to another one";

/// The reason for which a watch is not admitted.
pub(super) enum NotAdmitted {
    /// A limit is reached.
    Full(Full),
    /// The gateway takes no new sessions.
    Draining,
    /// No control plane answered in time, so nobody knows from which revision the watch would see everything.
    Unreachable,
    /// The control plane denies the watch, with this response.
    Denied(Response<Body>),
}

impl GatewayParts {
    /// Admits a watch and reserves its session. `scheme` is the label of the transport in metrics.
    pub(super) async fn admit(
        &self,
        watch: &WatchRequest,
        encoding: Encoding,
        scheme: &'static str,
        headers: &HeaderMap,
    ) -> Result<(Permit, Joined), NotAdmitted> {
        // A session that begins during a drain would soon be ended again.
        if self.tasks.drain().is_cancelled() {
            return Err(NotAdmitted::Draining);
        }
        // The limits come first because they cost nothing: a flood of watches must not become a flood of
        // questions.
        let permit = match self.limits.take(&watch.watcher, scheme) {
            Ok(permit) => permit,
            Err(full) => return Err(self.full(full)),
        };
        // Before the join: a client without rights must not make this gateway follow a service.
        if self.authorize {
            for path in read_paths(&watch.selector) {
                if let Some(denied) = self.denied(&path, &watch.watcher.tenant.domain, headers).await {
                    return Err(NotAdmitted::Denied(denied));
                }
            }
        }
        match self.upstream.join(watch.watcher.clone(), watch.selector.clone(), encoding, watch.since).await {
            Ok(joined) => Ok((permit, joined)),
            Err(Some(full)) => Err(self.full(full)),
            Err(None) => Err(NotAdmitted::Unreachable),
        }
    }

    fn full(&self, full: Full) -> NotAdmitted {
        self.metrics.refused(full);
        NotAdmitted::Full(full)
    }

    /// Asks a control plane, with the client's own headers, for something that the watch would show in
    /// `domain`. Returns the response to refuse with, or `None` when the client may read it.
    async fn denied(&self, path: &str, domain: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let mut question = Request::new(Body::empty());
        let Ok(uri) = path.parse() else { return Some(refusal::bad_handshake()) };
        *question.uri_mut() = uri;
        *question.headers_mut() = headers.clone();
        remove_hop_by_hop(question.headers_mut());
        // The tenant that is asked for is the one that is watched, whatever header, path or message named it.
        let Ok(domain) = HeaderValue::from_str(domain) else { return Some(refusal::bad_handshake()) };
        question.headers_mut().remove(route::TENANT);
        question.headers_mut().insert(route::DOMAIN, domain);
        match self.forward.forward(question).await {
            Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Some(answer)
            }
            Ok(answer) if answer.status().is_server_error() => Some(refusal::unavailable(UNDECIDED)),
            // Any other refusal, such as "no such service", says nothing about rights: the watch itself
            // answers it.
            Ok(_) => None,
            Err(error) => Some(refusal::unavailable(&error.to_string())),
        }
    }
}

/// The control plane's paths that a client must be allowed to read to watch this.
fn read_paths(selector: &Selector) -> Vec<String> {
    match selector {
        Selector::Scope(scope) => vec![scope_path(scope)],
        Selector::Consumer(_) | Selector::Providers(_) => selector.services().map(service_path).collect(),
    }
}

fn service_path(service: &ServiceRef) -> String {
    let project = encoded(&service.tenant.project);
    format!("/v4/{project}/registry/microservices/{}", encoded(&service.id))
}

/// The path at which a control plane says whether a client may read the services of a scope. A part that
/// matches everything is asked for as `*`, which is no name: a client that may read only some of it is
/// refused.
fn scope_path(scope: &Scope) -> String {
    let project = encoded(&scope.tenant.project);
    let app_id = encoded(scope.app_id.as_deref().unwrap_or("*"));
    let environment = encoded(scope.environment.as_deref().unwrap_or("*"));
    format!(
        "/v4/{project}/registry/existence?type=microservice&serviceName=%2A&version=0%2B&appId={app_id}&env={environment}"
    )
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    #[test]
    fn a_scope_is_asked_for_with_its_names_encoded() {
        let tenant = Tenant::new("default", "p");
        let path = scope_path(&Scope { app_id: Some("a&b".into()), ..Scope::all(tenant) });
        assert!(path.ends_with("&appId=a%26b&env=%2A"), "{path}");
    }
}
