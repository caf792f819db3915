//! The way of requests to a control plane.
//!
//! In: a request. Out: the control plane's answer, its body still streaming. There are two ways: over the
//! network to one of several replicas ([`Replicas`]), and within the process ([`InProcess`]).

use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use host::certificates::FromGateway;
use host::lane;
use http::{Method, Request, Response};
use tokio::sync::watch;
use tower::ServiceExt as _;

mod attempt;
mod config;
mod health;
mod probing;
mod replicas;
mod upload;

pub use config::{ForwardConfig, ForwardError};
pub use replicas::Replicas;

/// The reason for which a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForwarded {
    /// No control plane answered. The request may have been carried out all the same.
    #[error("no control plane answered; try again")]
    Unavailable,
    /// The request's body broke off, or was not in a form that HTTP knows. The fault is the client's.
    #[error("the body of the request broke off")]
    BodyBroken,
    /// The request's body is larger than control planes take. The fault is the client's.
    #[error("http: request body too large")]
    BodyTooLarge,
    /// The client had not sent the whole body when the answer was due. The fault is the client's.
    #[error("the body of the request did not arrive in time")]
    BodyLate,
}

/// A way to the control plane.
#[async_trait]
pub trait Forward: Send + Sync + 'static {
    /// Forwards a request and returns the head of the answer. Dropping the future gives the request up.
    ///
    /// # Errors
    /// When no control plane answered, or when the request's own body failed.
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, NotForwarded>;

    /// Sends a request without a body to every control plane, and returns the heads of the answers that came
    /// in time, in any order. `None` stands for each that did not answer. Cancel-safe.
    async fn forward_to_all(
        &self,
        request: Request<Body>,
        patience: Duration,
    ) -> Vec<Option<Response<Body>>> {
        let answer = tokio::time::timeout(patience, self.forward(request)).await;
        vec![answer.ok().and_then(Result::ok)]
    }

    /// True while a control plane answers, false before the first answer; with its changes.
    fn reachable(&self) -> watch::Receiver<bool>;

    /// The bus as the control planes see it, with its changes.
    fn bus_behind(&self) -> watch::Receiver<BusBehind> {
        watch::channel(BusBehind::Unknown).1
    }
}

/// The bus as the control planes see it that answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusBehind {
    /// None of them tells. Those of older versions do not.
    #[default]
    Unknown,
    /// At least one is connected to it.
    Joined,
    /// At least one tells, and none is connected to it.
    Lost,
}

/// True for heartbeats: `PUT …/heartbeat` of one instance and `PUT …/heartbeats` of many.
pub(crate) fn is_heartbeat(method: &Method, path: &str) -> bool {
    method == Method::PUT && (path.ends_with("/heartbeat") || path.ends_with("/heartbeats"))
}

/// The control plane of the same process.
#[derive(Clone, Debug)]
pub struct InProcess {
    router: Router,
    reachable: watch::Sender<bool>,
}

impl InProcess {
    /// Hands every request to `router`.
    pub fn new(router: Router) -> Self {
        Self { router, reachable: watch::Sender::new(true) }
    }
}

#[async_trait]
impl Forward for InProcess {
    async fn forward(&self, mut request: Request<Body>) -> Result<Response<Body>, NotForwarded> {
        request.extensions_mut().insert(FromGateway);
        // The gateway has chosen the lane; the control plane's share is none of the connection's.
        match lane::outside(self.router.clone().oneshot(request)).await {
            Ok(answer) => Ok(answer),
            // The router turns every failure into a response, so its error type has no values.
            Err(never) => match never {},
        }
    }

    fn reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }
}
