//! The gate: every request of every transport passes it before anything else is done with it.
//!
//! In: a request's method, path and headers. Out: the [`Caller`] in whose name the request goes on, or the
//! refusal. The decision is made here, by the policy that the gateway holds, without a question to anybody.
//! Labels of single services are unknown at the gateway. A control plane checks those of a request that is
//! forwarded; [`super::admission`] sees to those of a watch.

use std::sync::Arc;

use access::decision::{authorization, shows_token};
use access::denial::DenialCode;
use access::{Access, Certified, Denial, Grant, Identity, LabelSource, Policy, access_of};
use axum::body::Body;
use host::certificates::PeerCertificate;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use shared::model::Revision;

use super::{GatewayParts, grpc, refusal, route};
use crate::metrics::Decision;
use crate::policy::Standing;
use crate::{eureka, forward};

/// The transport of a request, which decides the form of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Rest,
    WebSocket,
    EventStream,
    Grpc,
}

/// The client in whose name a request goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The account, and the policy that has decided. `None` while access control does not concern the
    /// request.
    pub(super) account: Option<(Identity, Arc<Policy>)>,
    /// The account by the client's certificate. `None` for a client that shows a token, or has no certificate
    /// that stands for an account.
    pub(super) certified: Option<Certified>,
    /// The part of the needed resource that the client may have.
    pub(super) grant: Grant,
}

/// The gate's answer to a request.
#[derive(Debug)]
pub(super) enum Passage {
    /// The request goes on.
    Through(Caller),
    /// It is answered here.
    Answered(Response<Body>),
    /// The connection ends without a response.
    Unanswered,
    /// The client's token is newer than the policy. The request is to be decided again when the policy has
    /// reached this revision.
    Early(Revision),
}

/// The policy by which a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// One that is as new as the client's token.
    Newest,
    /// The present one.
    Present,
}

/// The reason for which a request does not pass.
#[derive(Debug)]
enum Refusal {
    Denied(Denial),
    /// No route has the path. Only clients with a token are told so.
    NoRoute,
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl Caller {
    /// The client of a request that needs no account.
    fn anyone(certified: Option<Certified>) -> Self {
        Self { account: None, certified, grant: Grant::All }
    }

    /// The header by which a control plane is told the account of the client's certificate.
    pub(super) fn certified_header(&self) -> HeaderValue {
        let account =
            self.certified.as_ref().and_then(|certified| HeaderValue::from_str(&certified.account).ok());
        account.unwrap_or(HeaderValue::from_static(""))
    }
}

impl GatewayParts {
    /// Lets a request pass, answers it, or asks for a newer policy. With [`Patience::Present`] it never asks.
    pub(super) fn pass<B>(&self, request: &Request<B>, patience: Patience) -> Passage {
        let method = request.method();
        let path = request.uri().path();
        // The process's own routes have a guard of their own.
        if self.own_paths.contains(&path) {
            return Passage::Through(Caller::anyone(None));
        }
        let access = access_of(method, path);
        if access == Access::Free {
            return Passage::Through(Caller::anyone(None));
        }
        let is_heartbeat = matches!(access, Access::Needs(..)) && forward::is_heartbeat(method, path);
        // Before the policy that decides is taken, so that this policy is as new at least.
        let known = self.policy.known();
        let decided = match self.policy.standing() {
            Standing::Open => return Passage::Through(Caller::anyone(self.certified(request))),
            Standing::Guarded(policy) => self.decide(&policy, access, request),
            // A bus that is away must not make the whole registry expire. The control plane decides about
            // each heartbeat again, by a policy that is not stale.
            Standing::Closed(_, Some(policy)) if is_heartbeat || eureka::is_renewal(method, path) => {
                self.decide(&policy, access, request)
            }
            Standing::Closed(why, _) => Err(Denial::new(DenialCode::Undecided, why).into()),
        };
        if decided.is_err()
            && patience == Patience::Newest
            && let Ok(header) = authorization(request.headers())
            && let Some(revision) = self.policy.owed_to(header, known)
        {
            return Passage::Early(revision);
        }
        let transport = transport_of(method, path, request.headers());
        self.policy.metrics().decided(outcome_of(&decided), transport.label());
        match decided {
            Ok(caller) => Passage::Through(caller),
            // As with a control plane that does not answer: see `pass_on`.
            Err(Refusal::Denied(denial)) if is_heartbeat && denial.code == DenialCode::Undecided => {
                Passage::Unanswered
            }
            Err(refusal) => {
                if let Refusal::Denied(denial) = &refusal {
                    self.audit_refusal(request, transport, denial);
                }
                Passage::Answered(transport.answer(&refusal))
            }
        }
    }

    /// The account by the certificate of a client that shows no token.
    pub(super) fn certified<B>(&self, request: &Request<B>) -> Option<Certified> {
        let certificate = request.extensions().get::<PeerCertificate>()?;
        if shows_token(authorization(request.headers()).ok()?) {
            return None;
        }
        let certified = self.certificates.of_client(Some(certificate), request.uri(), request.headers())?;
        Some(Certified { account: certified.account, ends: certified.ends })
    }

    fn decide<B>(
        &self,
        policy: &Arc<Policy>,
        access: Access,
        request: &Request<B>,
    ) -> Result<Caller, Refusal> {
        let path = request.uri().path();
        let headers = request.headers();
        let certified = self.certified(request);
        if let Access::Needs(need, _) = access
            && !policy.protects(need.resource)
        {
            return Ok(Caller::anyone(certified));
        }
        let account = self.policy.identify(policy, authorization(headers)?, certified.clone())?;
        let grant = match access {
            Access::Needs(need, source) => {
                match source {
                    // A message may name the tenant, so it is known only when that has been read.
                    LabelSource::Watch | LabelSource::Dialect => {}
                    LabelSource::AllTenants => policy.enter_all(account.identity())?,
                    LabelSource::Path
                    | LabelSource::Query
                    | LabelSource::Registration
                    | LabelSource::Elements
                    | LabelSource::Reply
                    | LabelSource::Nothing => {
                        // A tenant that the registry cannot have is for a control plane to refuse.
                        if account.is_bound()
                            && let Some(tenant) = route::tenant_of(path, headers)
                        {
                            account.enter(policy, &tenant)?;
                        }
                    }
                }
                account.grant(policy, need)?
            }
            Access::Free | Access::Authenticated | Access::OtherMethod => Grant::All,
            Access::Unknown => return Err(Refusal::NoRoute),
        };
        Ok(Caller { account: Some((account.identity().clone(), policy.clone())), certified, grant })
    }
}

fn outcome_of(decided: &Result<Caller, Refusal>) -> Decision {
    match decided {
        Ok(_) => Decision::Allowed,
        Err(Refusal::NoRoute) => Decision::NoRoute,
        Err(Refusal::Denied(denial)) => match denial.code {
            DenialCode::NoPermission => Decision::Forbidden,
            DenialCode::Undecided => Decision::Undecided,
            DenialCode::Unauthorized
            | DenialCode::NoHeader
            | DenialCode::Expired
            | DenialCode::AccountDeleted => Decision::Unauthenticated,
        },
    }
}

pub(super) fn transport_of(method: &Method, path: &str, headers: &HeaderMap) -> Transport {
    let is_grpc =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc || matches!(path, route::HISTORICAL_GRPC | route::WATCH_GRPC) {
        Transport::Grpc
    } else if route::is_event_stream(path) {
        Transport::EventStream
    } else if path.ends_with("/watcher") || route::is_heartbeat_channel(method, path) {
        Transport::WebSocket
    } else {
        Transport::Rest
    }
}

impl Transport {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::WebSocket => "websocket",
            Self::EventStream => "sse",
            Self::Grpc => "grpc",
        }
    }

    fn answer(self, refusal: &Refusal) -> Response<Body> {
        match (self, refusal) {
            (Self::Grpc, Refusal::Denied(denial)) => grpc::refuse_denied(denial),
            (Self::Grpc, Refusal::NoRoute) => grpc::refuse_unknown(),
            // A WebSocket is refused before its upgrade, so this is an ordinary response.
            (Self::Rest | Self::WebSocket | Self::EventStream, Refusal::Denied(denial)) => {
                refusal::denied(denial)
            }
            (Self::Rest | Self::WebSocket | Self::EventStream, Refusal::NoRoute) => refusal::not_found(),
        }
    }
}
