//! The HTTP client of the exporters. They call from threads of their own; the work is done on our runtime.

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a collector's answer at most: it has nothing to say but what it did not take.
const ANSWER: usize = 64 * 1024;

/// Sends what it is given; deadlines are the exporter's.
#[derive(Debug)]
pub(super) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

impl Client {
    /// A client on the runtime that this is called on.
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
            let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        });
        // Who gives up waiting gives up the request.
        AbortOnDropHandle::new(sending).await?
    }
}
