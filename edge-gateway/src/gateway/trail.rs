//! The last records of the audit logs, for people: `GET /v4/{project}/admin/audit`.
//!
//! Control planes record changes, and each gateway records its refusals. This gateway asks every control
//! plane, in the client's name, and adds its own records.

use std::time::Duration;

use access::Denial;
use access::decision::audit_needs_an_account;
use axum::body::Body;
use host::audit::{AuditAnswer, Question};
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::gate::{Caller, transport_of};
use super::{GatewayParts, refusal};
use crate::policy::Standing;

/// The time that a control plane has for its answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most bytes of an answer: the records that a process keeps, with the names of their fields.
const LARGEST: usize = 8 << 20;

impl GatewayParts {
    /// Answers with the records, if the caller may operate processes.
    pub(super) async fn trail(&self, request: Request<Body>, caller: &Caller) -> Response<Body> {
        if let Err(denial) = self.may_read_audit(caller) {
            let transport = transport_of(request.method(), request.uri().path(), request.headers());
            self.audit_refusal(&request, transport, &denial);
            return refusal::denied(&denial);
        }
        let query = request.uri().query().unwrap_or_default();
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let question = match Question::read(pairs.iter().map(|(name, value)| (&**name, &**value))) {
            Ok(question) => question,
            Err(problem) => return refusal::bad_request(problem),
        };
        let own = self.audit.recent(&question);
        let mut answer = AuditAnswer::default();
        for replica in self.pass_on_to_all(without_body(request), PATIENCE).await {
            match records_of(replica).await {
                Some(theirs) => answer.processes.extend(theirs.processes),
                None => answer.silent += 1,
            }
        }
        // A control plane of the same process has the same log.
        if answer.processes.iter().all(|theirs| theirs.process != own.process) {
            answer.processes.push(own);
        }
        let bytes = serde_json::to_vec(&answer).expect("texts and numbers always serialise");
        let mut response = Response::new(Body::from(bytes));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn may_read_audit(&self, caller: &Caller) -> Result<(), Denial> {
        match (&caller.account, self.policy.standing()) {
            (Some((identity, policy)), _) => policy.operate(identity, &Method::GET),
            (None, Standing::Open) => Ok(()),
            (None, Standing::Guarded(_) | Standing::Closed(..)) => Err(audit_needs_an_account()),
        }
    }
}

/// The same question, for control planes.
pub(super) fn without_body(request: Request<Body>) -> Request<Body> {
    let mut request = request.map(|_| Body::empty());
    for name in [ACCEPT_ENCODING, IF_NONE_MATCH] {
        request.headers_mut().remove(name);
    }
    request
}

/// The records in an answer of a control plane. `None` if there are none in it.
async fn records_of(answer: Option<Response<Body>>) -> Option<AuditAnswer> {
    let answer = answer.filter(|answer| answer.status() == StatusCode::OK)?;
    let reading = Limited::new(answer.into_body(), LARGEST).collect();
    let bytes = tokio::time::timeout(PATIENCE, reading).await.ok()?.ok()?.to_bytes();
    serde_json::from_slice(&bytes).ok()
}
