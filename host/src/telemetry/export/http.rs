//! The HTTP client of the exporters. They call it from their own threads; it sends on our runtime.

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// The largest answer of a collector, in bytes. It only lists rejected items.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Sends requests without a deadline: the exporters have their own.
#[derive(Debug)]
pub(super) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

impl Client {
    /// A client on the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(super) fn new() -> Self {
        Self { pool: Pool::builder(TokioExecutor::new()).build_http(), runtime: Handle::current() }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.pool.request(request.map(Full::new));
        let sending = self.runtime.spawn(async move {
            let (head, body) = answer.await?.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        });
        // The exporter drops this future at its deadline. The request must end then, or requests
        // would pile up.
        AbortOnDropHandle::new(sending).await?
    }
}
