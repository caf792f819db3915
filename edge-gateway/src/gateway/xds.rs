//! Streams of xDS: a client's right, the answers that its stream owes, and the end.
//!
//! In: a request for a stream of one of the discovery services. Out: a response whose body is the stream,
//! made only as fast as its client reads. The first message names the tenant, so it is awaited before the
//! response.
//!
//! A stream ends with its right as every watch does, and looks at it before each answer. It has no task of
//! its own: the connection drives it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use host::http::RequestBody;
use http::{HeaderMap, Method as HttpMethod, Request, Response, Version};
use parking_lot::Mutex;
use prost_types::value::Kind as Form;
use proto::envoy::Node;
use shared::model::{MAX_ID, ServiceRef, Tenant};
use tokio::time::timeout;

use super::admission::{DRAINING, NotAdmitted};
use super::gate::Caller;
use super::grpc::{Code, endless, refuse, refuse_denied, refuse_like, refuse_unknown};
use super::{GatewayParts, route};
use crate::catalogue::NotKnown;
use crate::limits::Permit;
use crate::policy::Right;
use crate::xds::Method;
use crate::xds::stream::Stream;
use crate::xds::wire::{Messages, Unreadable};

mod bounds;
mod session;

use bounds::Judge;
use session::{Parts, Session};

/// The value of the label `scheme`.
const SCHEME: &str = "xDS";
/// The time that a client has for its first message.
const FIRST: Duration = Duration::from_secs(60);
/// Keys of the node's metadata that name the tenant.
const DOMAIN: &str = "muster.domain";
const PROJECT: &str = "muster.project";

impl GatewayParts {
    /// Opens a stream.
    pub(super) async fn discover(
        &self,
        method: Method,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Response<Body> {
        // Over HTTP/1 nobody can answer while requests go on.
        let is_stream = request.method() == HttpMethod::POST && request.version() == Version::HTTP_2;
        let Some(discovery) = self.xds.as_ref().filter(|_| is_stream) else { return refuse_unknown() };
        let (head, body) = request.into_parts();
        let mut messages =
            Messages::new(body.without_deadline(), method.variant, discovery.places(), discovery.names());
        let first = match timeout(FIRST, messages.next()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => {
                return refuse(Code::InvalidArgument, "the stream ended before its first request");
            }
            Ok(Err(problem)) => return refuse(code_of(problem), &problem.to_string()),
            Err(_) => return refuse(Code::DeadlineExceeded, "the first request did not arrive in time"),
        };
        let (tenant, client) = match tenant(&head.headers, first.node.as_ref()) {
            Ok(named) => named,
            Err(problem) => return refuse(Code::InvalidArgument, problem),
        };
        let permit = match self.admit_stream(&tenant, client.clone(), &head.headers, caller).await {
            Ok(permit) => permit,
            Err(NotAdmitted::Draining) => return refuse(Code::Unavailable, DRAINING),
            Err(NotAdmitted::Unreachable) => return refuse(Code::Unavailable, &NotKnown::NotYet.to_string()),
            Err(NotAdmitted::Full(full)) => return refuse(Code::ResourceExhausted, &full.to_string()),
            Err(NotAdmitted::Refused(denial)) => return refuse_denied(&denial),
            Err(NotAdmitted::Denied(answer)) => return refuse_like(answer.status()),
        };
        let mut subscription = match discovery.open(&tenant).await {
            Ok(subscription) => subscription,
            Err(reason) => {
                if let NotKnown::Full(full) = reason {
                    self.metrics.refused(full);
                }
                return refuse(Code::Unavailable, &reason.to_string());
            }
        };
        let right = self.right_of(caller, &head.headers).map(Box::new);
        let peer = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let stream = Arc::new(Mutex::new(Stream::new(method.variant)));
        subscription.enter(client, peer, &stream);
        let parts = Parts {
            method,
            grant: Right::grant_of(right.as_deref()),
            judge: Judge::new(self.policy.clone(), tenant, right),
            // After the subscription, which tells of a later drain.
            is_draining: self.tasks.drain().is_cancelled(),
            drain_over: self.heartbeat.drain_over,
            messages,
            subscription,
            stream,
            metrics: self.xds_metrics.clone(),
            permit,
        };
        endless(Body::new(Session::new(parts, first)), self.send_buffer)
    }

    /// The place of a stream, for a client that may have it.
    async fn admit_stream(
        &self,
        tenant: &Tenant,
        client: String,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Permit, NotAdmitted> {
        if let Some((identity, policy)) = &caller.account {
            policy.enter(identity, tenant).map_err(NotAdmitted::Refused)?;
        }
        if self.tasks.drain().is_cancelled() {
            return Err(NotAdmitted::Draining);
        }
        let client = ServiceRef::new(tenant.clone(), client);
        let permit = self.limits.take(&client, SCHEME).map_err(|full| self.full(full))?;
        self.consent(tenant, headers, caller).await?;
        Ok(permit)
    }
}

/// The tenant that a stream is about, and the name of its client for limits.
///
/// # Errors
/// The problem, when the registry can have no such tenant.
fn tenant(headers: &HeaderMap, node: Option<&Node>) -> Result<(Tenant, String), &'static str> {
    let metadata = node.and_then(|node| node.metadata.as_ref());
    let named = |key: &str| match &metadata?.fields.get(key)?.kind {
        Some(Form::StringValue(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let project = named(PROJECT).unwrap_or_else(|| route::DEFAULT.to_owned());
    let tenant = route::tenant(headers, named(DOMAIN), Some(project))?;
    let client = node.map(|node| node.id.chars().take(MAX_ID).collect()).unwrap_or_default();
    Ok((tenant, client))
}

fn code_of(problem: Unreadable) -> Code {
    match problem {
        Unreadable::TooLarge => Code::ResourceExhausted,
        Unreadable::Compressed => Code::Unimplemented,
        Unreadable::Malformed => Code::InvalidArgument,
        Unreadable::Broken => Code::Unavailable,
    }
}
