//! Admits a watch: the tenant first, then limits, the control plane's consent, and a position in a shard.
//!
//! In: a parsed watch and the client's headers. Out: a permit and the reserved session, or the reason for a
//! refusal, which each transport words in its own way.

use std::sync::Arc;

use access::{Denial, Grant};
use axum::body::Body;
use follow::resume::ResumePoint;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use shared::model::{Scope, ServiceRef, Tenant};

use super::gate::Caller;
use super::proxy::remove_hop_by_hop;
use super::route::{self, WatchRequest};
use super::{GatewayParts, refusal};
use crate::limits::Permit;
use crate::policy::{Client, Right, WATCH};
use crate::push::Encoding;
use crate::upstream::{Joined, Receives};
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
    /// The client's account may not have it.
    Refused(Denial),
}

/// The control plane's error codes for a service that does not exist, and for a name that no service can
/// have: a scope is asked for with such names, and rights are checked before names are.
const NOTHING_THERE: [&str; 2] = ["400012", "400001"];
/// Bytes of a control plane's refusal that are read.
const MAX_REFUSAL: usize = 64 << 10;

impl GatewayParts {
    /// Admits a watch and reserves its session. `scheme` is the label of the transport in metrics.
    pub(super) async fn admit(
        &self,
        watch: &WatchRequest,
        encoding: Encoding,
        scheme: &'static str,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<(Permit, Joined), NotAdmitted> {
        // Here, where every transport has the tenant: a message of gRPC may name it.
        if let Some((identity, policy)) = &caller.account {
            policy.enter(identity, &watch.watcher.tenant).map_err(NotAdmitted::Refused)?;
        }
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
        let asked = self.paths_to_ask(&watch.selector, &caller.grant).map_err(NotAdmitted::Refused)?;
        for path in asked {
            if let Some(denied) = self.denied(&path, &watch.watcher.tenant.domain, headers).await {
                return Err(NotAdmitted::Denied(denied));
            }
        }
        let right = self.right_of(caller, headers).map(Box::new);
        let WatchRequest { watcher, selector, since } = watch.clone();
        // A client that was away did not learn that its rights have changed.
        let is_before_its_rights = |since| {
            let account = caller.account.as_ref();
            account.is_some_and(|(identity, policy)| since < policy.granted_at(identity))
        };
        let resumes = since.map(|since| ResumePoint { since, anew: is_before_its_rights(since) });
        match self.upstream.join(watcher, selector, Receives { encoding, right }, resumes).await {
            Ok(joined) => Ok((permit, joined)),
            Err(Some(full)) => Err(self.full(full)),
            Err(None) => Err(NotAdmitted::Unreachable),
        }
    }

    /// Asks a control plane whether the client may read a whole tenant, where watches are asked for, too.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn consent(
        &self,
        tenant: &Tenant,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<(), NotAdmitted> {
        let everything = Selector::Scope(Scope::all(tenant.clone()));
        for path in self.paths_to_ask(&everything, &caller.grant).map_err(NotAdmitted::Refused)? {
            if let Some(denied) = self.denied(&path, &tenant.domain, headers).await {
                return Err(NotAdmitted::Denied(denied));
            }
        }
        Ok(())
    }

    /// The right with which a session begins.
    pub(super) fn right_of(&self, caller: &Caller, headers: &HeaderMap) -> Option<Right> {
        match &caller.account {
            Some((identity, _)) => Some(Right {
                client: Client::Account(identity.clone()),
                grant: Arc::new(caller.grant.clone()),
            }),
            None => self.policy.shown(headers, caller.certified.as_ref()),
        }
    }

    pub(super) fn full(&self, full: Full) -> NotAdmitted {
        self.metrics.refused(full);
        NotAdmitted::Full(full)
    }

    /// The paths that a control plane is asked for before a watch is granted.
    fn paths_to_ask(&self, selector: &Selector, grant: &Grant) -> Result<Vec<String>, Denial> {
        match (grant, selector) {
            (Grant::All, _) if !self.authorize => Ok(Vec::new()),
            // What the account may not see is left out of the watch, as it is left out of lists. Only a
            // selection of which it may see nothing at all is refused.
            (Grant::Labelled(_), Selector::Scope(scope)) => match &scope.app_id {
                Some(app_id) if !grant.admits_some_of_app(app_id) => {
                    Err(access::decision::no_permission(WATCH, None))
                }
                _ => Ok(Vec::new()),
            },
            // The labels of the services are unknown here.
            _ => Ok(read_paths(selector)),
        }
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
            // Only an explicit yes is one.
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => (!says_nothing_there(answer).await).then(|| refusal::unavailable(UNDECIDED)),
            Err(error) => Some(refusal::unavailable(&error.to_string())),
        }
    }
}

/// True if a refusal says that there is nothing to have a right to. The watch itself answers that.
async fn says_nothing_there(answer: Response<Body>) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RefusalBody {
        error_code: String,
    }
    if answer.status() != StatusCode::BAD_REQUEST {
        return false;
    }
    let Ok(body) = Limited::new(answer.into_body(), MAX_REFUSAL).collect().await else { return false };
    serde_json::from_slice(&body.to_bytes())
        .is_ok_and(|refusal: RefusalBody| NOTHING_THERE.contains(&&*refusal.error_code))
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
    use super::*;

    #[test]
    fn a_scope_is_asked_for_with_its_names_encoded() {
        let tenant = Tenant::new("default", "p");
        let path = scope_path(&Scope { app_id: Some("a&b".into()), ..Scope::all(tenant) });
        assert!(path.ends_with("&appId=a%26b&env=%2A"), "{path}");
    }
}
