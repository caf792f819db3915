//! The last records of the audit logs, for people: `GET /v4/{project}/admin/audit`.
//!
//! Control planes record changes, and each gateway records its refusals. This gateway asks every control
//! plane, in the client's name, and adds its own records.

use access::Denial;
use access::decision::audit_needs_an_account;
use axum::body::Body;
use host::audit::{AuditAnswer, Question};
use http::{Method, Request, Response};

use super::gate::{Caller, transport_of};
use super::gathering::{contents, told};
use super::{GatewayParts, refusal};
use crate::policy::Standing;

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
        for replica in self.gather(request).await {
            match contents::<AuditAnswer>(replica, LARGEST).await {
                Some(theirs) => answer.processes.extend(theirs.processes),
                None => answer.silent += 1,
            }
        }
        // A control plane of the same process has the same log.
        if answer.processes.iter().all(|theirs| theirs.process != own.process) {
            answer.processes.push(own);
        }
        told(&answer)
    }

    fn may_read_audit(&self, caller: &Caller) -> Result<(), Denial> {
        match (&caller.account, self.policy.standing()) {
            (Some((identity, policy)), _) => policy.operate(identity, &Method::GET),
            (None, Standing::Open) => Ok(()),
            (None, Standing::Guarded(_) | Standing::Closed(..)) => Err(audit_needs_an_account()),
        }
    }
}
