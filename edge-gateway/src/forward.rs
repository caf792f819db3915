//! Everything that is not a watch goes to a control plane.
//!
//! In: a request. Out: the control plane's answer, its body still streaming. Two ways: over the network to one
//! of several replicas ([`Replicas`]) and within the process ([`InProcess`]).

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use tokio::sync::watch;
use tower::ServiceExt as _;

mod health;
mod replicas;

pub use replicas::{ForwardConfig, ForwardError, Replicas};

/// No control plane answered.
#[derive(Debug, thiserror::Error)]
#[error("no control plane answered")]
pub struct Unavailable;

/// A way to the control plane.
#[async_trait]
pub trait Forward: Send + Sync + 'static {
    /// Passes a request on and hands back the head of the answer. Dropping the future gives the request up.
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Unavailable>;

    /// Whether a control plane is known to answer, and its changes.
    fn reachable(&self) -> watch::Receiver<bool>;
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
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Unavailable> {
        match self.router.clone().oneshot(request).await {
            Ok(answer) => Ok(answer),
            Err(never) => match never {},
        }
    }

    fn reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }
}
