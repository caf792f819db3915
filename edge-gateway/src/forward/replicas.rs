//! Control planes over the network: pooled connections, streaming bodies, deadlines, one second chance.
//!
//! A request goes to a healthy replica. If that does not answer and the request may be sent twice (it is
//! idempotent, or was not sent at all) and its body is at hand, it goes once to another. Failures and a probe
//! decide who is healthy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::body::Body;
use host::lifecycle::Tasks;
use host::tls::{self, ClientFiles, TlsError};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry::metrics::Meter;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::health::Health;
use super::{Forward, Unavailable};
use crate::metrics::ForwardMetrics;
use crate::wire::route::is_heartbeat;

/// Where control planes are and how long they may take.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// Addresses such as `http://10.0.0.5:30100`.
    pub control_planes: Vec<String>,
    /// What is trusted at those that speak TLS, and shown to those that ask.
    pub tls: ClientFiles,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take.
    pub answer_timeout: Duration,
    /// Between two probes of each replica.
    pub probe_interval: Duration,
    /// Bodies up to this many bytes are held so that the request can be sent again.
    pub replayable_body: usize,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            control_planes: Vec::new(),
            tls: ClientFiles::default(),
            connect_timeout: Duration::from_secs(1),
            // A read that waits for a revision takes a few seconds at most.
            answer_timeout: Duration::from_secs(30),
            probe_interval: Duration::from_secs(2),
            // An instance has 5 KB at most; schemas are larger and rare.
            replayable_body: 64 * 1024,
        }
    }
}

/// A control plane's address that is none.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Not `http://host:port`.
    #[error("`{0}` is not the address of a control plane; expected http://host:port or https://host:port")]
    Address(String),
    /// What is needed for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No address at all.
    #[error("no control plane is given")]
    NoAddress,
}

/// Connections of an idle pool are given up before the control plane does, so that none is used at its end.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Where a replica is asked whether it is well; one that does not know the path is.
const PROBE_PATH: &str = "/v4/default/registry/health/readiness";

/// Several control planes behind one [`Forward`]. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

struct Inner {
    addresses: Vec<(Scheme, Authority)>,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    health: Health,
    reachable: watch::Sender<bool>,
    config: ForwardConfig,
    metrics: ForwardMetrics,
}

impl Replicas {
    /// Starts to probe the control planes; whether one answers is told by [`Forward::reachable`].
    ///
    /// # Errors
    /// When an address is wrong or there is none.
    pub fn new(config: ForwardConfig, meter: &Meter, tasks: &Tasks) -> Result<Self, ForwardError> {
        Self::with(config, ForwardMetrics::new(meter), tasks)
    }

    pub(crate) fn with(
        config: ForwardConfig,
        metrics: ForwardMetrics,
        tasks: &Tasks,
    ) -> Result<Self, ForwardError> {
        let addresses = config.control_planes.iter().map(|it| authority(it));
        let addresses: Vec<(Scheme, Authority)> = addresses.collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(ForwardError::NoAddress);
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client(&config.tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http1_title_case_headers(true)
            .build(connector);
        let health = Health::new(addresses.len());
        let inner =
            Inner { addresses, client, health, reachable: watch::Sender::new(false), config, metrics };
        let it = Self(Arc::new(inner));
        for replica in 0..it.0.addresses.len() {
            let (it, drain) = (it.clone(), tasks.drain().clone());
            tasks.spawn(async move {
                let mut pace = tokio::time::interval(it.0.config.probe_interval);
                while drain.run_until_cancelled(pace.tick()).await.is_some() {
                    it.0.probe(replica).await;
                }
            });
        }
        Ok(it)
    }
}

#[async_trait]
impl Forward for Replicas {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Unavailable> {
        let began = Instant::now();
        let answer = self.0.forward(request).await;
        let outcome = match &answer {
            Ok(answer) if answer.status().is_server_error() => "error",
            Ok(_) => "ok",
            Err(Unavailable) => "unavailable",
        };
        self.0.metrics.forwarded(outcome, began.elapsed());
        answer
    }

    fn reachable(&self) -> watch::Receiver<bool> {
        self.0.reachable.subscribe()
    }
}

/// How an attempt ended that brought no answer.
enum Failed {
    /// The request was not sent.
    Unsent,
    /// Nobody knows what became of it.
    Unknown,
}

impl Inner {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Unavailable> {
        let (parts, body) = request.into_parts();
        let idempotent = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS)
            || is_heartbeat(&parts.method, parts.uri.path());
        let order = self.health.order();
        let (first, second) = (order.first().copied().unwrap_or(0), order.get(1).copied());
        let Some(small) = self.is_small(&body).then_some(second).flatten() else {
            let attempt = self.attempt(first, Request::from_parts(parts, body)).await;
            return attempt.map_err(|_| Unavailable);
        };
        // A body that breaks off is the client's end; there is nothing to pass on.
        let body = body.collect().await.map_err(|_| Unavailable)?.to_bytes();
        let copy = || {
            let mut copy = Request::new(Body::from(body.clone()));
            *copy.method_mut() = parts.method.clone();
            *copy.uri_mut() = parts.uri.clone();
            *copy.headers_mut() = parts.headers.clone();
            copy
        };
        let refused = match self.attempt(first, copy()).await {
            Ok(answer) if idempotent && answer.status() == StatusCode::SERVICE_UNAVAILABLE => Some(answer),
            Ok(answer) => return Ok(answer),
            Err(Failed::Unknown) if !idempotent => return Err(Unavailable),
            Err(Failed::Unsent | Failed::Unknown) => None,
        };
        self.metrics.retried();
        match (self.attempt(small, copy()).await, refused) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Some(refused)) => Ok(refused),
            (Err(_), None) => Err(Unavailable),
        }
    }

    /// The body is known to be small enough to be held.
    fn is_small(&self, body: &Body) -> bool {
        body.size_hint().upper().is_some_and(|size| size <= self.config.replayable_body as u64)
    }

    async fn attempt(&self, replica: usize, mut request: Request<Body>) -> Result<Response<Body>, Failed> {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let (scheme, authority) = self.addresses[replica].clone();
        let uri = Uri::builder().scheme(scheme).authority(authority);
        *request.uri_mut() = uri.path_and_query(path).build().map_err(|_| Failed::Unsent)?;
        *request.version_mut() = Version::HTTP_11;
        let answer = tokio::time::timeout(self.config.answer_timeout, self.client.request(request)).await;
        match answer {
            Ok(Ok(answer)) => {
                self.note(replica, true);
                Ok(answer.map(Body::new))
            }
            Ok(Err(error)) => {
                debug!(control_plane = %self.addresses[replica].1, %error, "a control plane did not answer");
                self.note(replica, false);
                Err(if error.is_connect() { Failed::Unsent } else { Failed::Unknown })
            }
            Err(_) => {
                debug!(control_plane = %self.addresses[replica].1, "a control plane took too long");
                self.note(replica, false);
                Err(Failed::Unknown)
            }
        }
    }

    async fn probe(&self, replica: usize) {
        let (scheme, authority) = self.addresses[replica].clone();
        let uri = Uri::builder().scheme(scheme).authority(authority);
        let Ok(uri) = uri.path_and_query(PROBE_PATH).build() else { return };
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri;
        let answer = tokio::time::timeout(self.config.probe_interval, self.client.request(request)).await;
        let well =
            matches!(&answer, Ok(Ok(it)) if it.status().is_success() || it.status() == StatusCode::NOT_FOUND);
        self.note(replica, well);
    }

    fn note(&self, replica: usize, well: bool) {
        let news = if well { self.health.answered(replica) } else { self.health.failed(replica) };
        let address = &self.addresses[replica].1;
        match (news, well) {
            (false, _) => {}
            (true, true) => info!(control_plane = %address, "a control plane answers again"),
            (true, false) => warn!(control_plane = %address, "a control plane does not answer"),
        }
        let healthy = self.health.healthy();
        self.metrics.healthy(healthy);
        // The first word is a success or a failure; before it nothing is claimed.
        let reachable = healthy > 0 && (well || *self.reachable.borrow());
        self.reachable.send_if_modified(|now| std::mem::replace(now, reachable) != reachable);
    }
}

fn authority(address: &str) -> Result<(Scheme, Authority), ForwardError> {
    let wrong = || ForwardError::Address(address.to_owned());
    let uri: Uri = address.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let parts = uri.into_parts();
    let scheme = parts.scheme.unwrap_or(Scheme::HTTP);
    let is_known = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
    let has_path = parts.path_and_query.is_some_and(|path| path != "/");
    match parts.authority {
        Some(authority) if is_known && !has_path => Ok((scheme, authority)),
        _ => Err(wrong()),
    }
}
