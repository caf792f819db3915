//! Control planes over the network: pooled connections, streaming bodies, deadlines, one second attempt.
//!
//! A request goes to a ready replica. If that one fails or stays silent for a moment, the request goes once
//! to another replica, provided that it may be sent twice (it is idempotent, or no byte of it was sent) and
//! that its body is small enough to be held. A replica that failed where another succeeded is asked later for
//! requests of that class: without its store, a control plane still serves reads, but no heartbeats.
//!
//! A replica is down at once when no connection to it can be opened, or when a probe fails (`probing`). Any
//! other failure of a request only asks for a probe at once: a client may cause it, with a body that breaks
//! off, stalls or is refused halfway, and clients must not be able to mark control planes as dead.
//!
//! Where one replica has answered with a fault, the other one is waited for no longer than one that is merely slow
//! takes, and hardly at all if it answers no probe: whoever reads is then told to try again, and not kept waiting.
//!
//! A process that hangs accepts connections and answers nothing. As soon as a probe has shown that, requests that may be
//! repeated are given up, and further ones wait a second for it instead of the whole time that an answer may take. So
//! clients are told to try again while connections and places of the gateway are free.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::Either;
use host::http::is_late;
use host::lane::ForEach;
use host::lifecycle::Tasks;
use host::tls::{self, TlsError};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry::metrics::Meter;
use tokio::sync::{Notify, Semaphore, watch};
use tracing::info;

use super::attempt::{Attempt, AttemptError};
use super::config::{ForwardConfig, ForwardError, parse_address};
use super::health::{Health, RequestClass};
use super::upload::Upload;
use super::{BusBehind, Forward, NotForwarded};
use crate::metrics::ForwardMetrics;

/// The time after which idle connections are closed. The control plane closes them after 60 s: closing first
/// avoids sending a request on a connection that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// The most requests that wait for two replicas at once. In an overload, when everything is slow, second
/// tries must not double the load.
const MOST_SECOND_TRIES: usize = 256;

/// Several control planes behind one [`Forward`]. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(pub(super) Arc<ReplicaSet>);

pub(super) struct ReplicaSet {
    pub(super) addresses: Vec<(Scheme, Authority)>,
    pub(super) client: Client<HttpsConnector<HttpConnector>, Body>,
    /// For requests of the slow lane, whose threads also drive its connections: in connections for all, the
    /// others' requests would wait for those threads, and control planes would find both in one connection.
    pub(super) slow: Client<HttpsConnector<HttpConnector>, Body>,
    pub(super) health: Health,
    /// For each replica, a request that failed and asks for a probe.
    pub(super) suspected: Vec<Notify>,
    second_tries: ForEach<Semaphore>,
    pub(super) reachable: watch::Sender<bool>,
    pub(super) bus_behind: watch::Sender<BusBehind>,
    pub(super) config: ForwardConfig,
    pub(super) metrics: ForwardMetrics,
}

impl Replicas {
    /// Begins to probe the control planes; [`Forward::reachable`] shows when one answers.
    ///
    /// # Errors
    /// When an address is wrong, when there is none, or when the files for TLS cannot be used.
    pub fn new(config: ForwardConfig, meter: &Meter, tasks: &Tasks) -> Result<Self, ForwardError> {
        let mut addresses = Vec::new();
        for address in &config.control_planes {
            addresses.push(parse_address(address)?);
        }
        if addresses.is_empty() {
            return Err(ForwardError::NoAddress);
        }
        let set = Arc::new(ReplicaSet {
            health: Health::new(addresses.len()),
            suspected: addresses.iter().map(|_| Notify::new()).collect(),
            second_tries: ForEach::new(|| Semaphore::new(MOST_SECOND_TRIES)),
            addresses,
            client: client(&config)?,
            slow: client(&config)?,
            reachable: watch::Sender::new(false),
            bus_behind: watch::Sender::default(),
            config,
            metrics: ForwardMetrics::new(meter),
        });
        for replica in 0..set.addresses.len() {
            tasks.spawn_named("probe", set.clone().probe_until(replica, tasks.drain().clone()));
        }
        Ok(Self(set))
    }
}

fn client(config: &ForwardConfig) -> Result<Client<HttpsConnector<HttpConnector>, Body>, TlsError> {
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
    Ok(client)
}

#[async_trait]
impl Forward for Replicas {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, NotForwarded> {
        let began = Instant::now();
        let answer = self.0.forward(request).await;
        let outcome = match &answer {
            Ok(answer) if answer.status().is_server_error() => "error",
            Ok(_) => "ok",
            Err(NotForwarded::Unavailable) => "unavailable",
            Err(NotForwarded::BodyBroken | NotForwarded::BodyTooLarge | NotForwarded::BodyLate) => "client",
        };
        self.0.metrics.forwarded(outcome, began.elapsed());
        answer
    }

    async fn forward_to_all(
        &self,
        request: Request<Body>,
        patience: Duration,
    ) -> Vec<Option<Response<Body>>> {
        let (parts, _) = request.into_parts();
        let parts = &parts;
        let each = (0..self.0.addresses.len()).map(async |replica| {
            let upload = Upload::default();
            let attempt = self.0.attempt(replica, copy(parts, &Bytes::new()), &upload);
            tokio::time::timeout(patience, attempt).await.ok()?.ok()
        });
        futures_util::future::join_all(each).await
    }

    fn reachable(&self) -> watch::Receiver<bool> {
        self.0.reachable.subscribe()
    }

    fn bus_behind(&self) -> watch::Receiver<BusBehind> {
        self.0.bus_behind.subscribe()
    }
}

/// The class of a request. A batch find is a read although it is sent by `POST`.
pub(super) fn class_of(method: &Method, path: &str) -> RequestClass {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => RequestClass::Read,
        Method::POST if path.ends_with("/instances/action") => RequestClass::Read,
        _ => RequestClass::Write,
    }
}

/// True for a request that does the same when it is sent twice.
fn is_repeatable(method: &Method, path: &str) -> bool {
    method == Method::PUT || class_of(method, path) == RequestClass::Read
}

/// True for an answer that another replica may improve: this one fails, or cannot reach its store.
fn is_fault(answer: &Response<Body>) -> bool {
    matches!(
        answer.status(),
        StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Copies a request whose body is held.
fn copy(parts: &Parts, body: &Bytes) -> Request<Body> {
    let mut copy = Request::new(Body::from(body.clone()));
    *copy.method_mut() = parts.method.clone();
    *copy.uri_mut() = parts.uri.clone();
    *copy.headers_mut() = parts.headers.clone();
    copy
}

impl ReplicaSet {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, NotForwarded> {
        let (parts, body) = request.into_parts();
        // Not left to a control plane: one that stops reading closes the connection, and its refusal is lost.
        if body.size_hint().lower() > self.config.largest_body as u64 {
            return Err(NotForwarded::BodyTooLarge);
        }
        let class = class_of(&parts.method, parts.uri.path());
        let order = self.health.order(class, Instant::now());
        let first = order.first().copied().unwrap_or(0);
        let second = match order.get(1) {
            Some(second) if self.can_hold(&body) => *second,
            // The body streams through, so there is one attempt only.
            _ => return Ok(self.attempt_streaming(first, parts, body).await?),
        };
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if is_late(&error) => return Err(NotForwarded::BodyLate),
            Err(_) => return Err(NotForwarded::BodyBroken),
        };
        let attempt =
            async |replica: usize| self.attempt(replica, copy(&parts, &body), &Upload::default()).await;
        if !is_repeatable(&parts.method, parts.uri.path()) {
            return match attempt(first).await {
                Err(AttemptError::Unsent) => {
                    self.metrics.retried();
                    Ok(attempt(second).await?)
                }
                Ok(answer) => {
                    if is_fault(&answer) {
                        self.suspect(first);
                    }
                    Ok(answer)
                }
                Err(error) => Err(error.into()),
            };
        }
        let first_began = Instant::now();
        let mut first_attempt = pin!(attempt(first));
        let patience = self.config.second_try_after;
        let mut first_outcome = tokio::time::timeout(patience, first_attempt.as_mut()).await.ok();
        // Beyond the bound a late request waits for its first replica alone.
        let second_try =
            if first_outcome.is_none() { self.second_tries.here().try_acquire().ok() } else { None };
        if first_outcome.is_none() && second_try.is_none() {
            first_outcome = Some(first_attempt.as_mut().await);
        }
        match first_outcome {
            Some(Ok(answer)) if !is_fault(&answer) => return Ok(answer),
            Some(Err(AttemptError::Client(fault))) => return Err(fault),
            _ => self.suspect(first),
        }
        self.metrics.retried();
        let Some(first_outcome) = first_outcome else {
            let late = (first, first_began, first_attempt);
            return self.race(class, late, (second, attempt(second))).await;
        };
        let has_told = class == RequestClass::Read && first_outcome.is_ok();
        match self.beside(has_told, second, Instant::now(), attempt(second)).await {
            Ok(answer) if !is_fault(&answer) => {
                self.note_fault(first, class);
                Ok(answer)
            }
            // The first replica's answer says as much as the second one's.
            outcome => first_outcome.or(outcome).map_err(NotForwarded::from),
        }
    }

    /// The better outcome of two attempts, of which the first one is late already.
    async fn race(
        &self,
        class: RequestClass,
        (first, began, late): (usize, Instant, Pin<&mut impl Future<Output = Attempt>>),
        (second, fresh): (usize, impl Future<Output = Attempt>),
    ) -> Result<Response<Body>, NotForwarded> {
        let began_again = Instant::now();
        let has_told = |outcome: &Attempt| class == RequestClass::Read && outcome.is_ok();
        match futures_util::future::select(late, pin!(fresh)).await {
            // The fresh attempt is given up: the late one was merely slow.
            Either::Left((Ok(answer), _)) if !is_fault(&answer) => Ok(answer),
            Either::Right((Ok(answer), _)) if !is_fault(&answer) => {
                // A replica that is silent about one class has lost its store, so its reads grow old too.
                self.note_fault(first, RequestClass::Read);
                self.note_fault(first, RequestClass::Write);
                Ok(answer)
            }
            Either::Left((outcome, fresh)) => {
                match self.beside(has_told(&outcome), second, began_again, fresh).await {
                    Ok(answer) if !is_fault(&answer) => {
                        self.note_fault(first, class);
                        Ok(answer)
                    }
                    other => outcome.or(other).map_err(NotForwarded::from),
                }
            }
            Either::Right((outcome, late)) => match self.beside(has_told(&outcome), first, began, late).await
            {
                Ok(answer) if !is_fault(&answer) => Ok(answer),
                other => other.or(outcome).map_err(NotForwarded::from),
            },
        }
    }

    /// Notes that a replica failed or was late where another one was not. That another one answered the same
    /// request shows that the fault is not the request's.
    fn note_fault(&self, replica: usize, class: RequestClass) {
        if self.health.faulty(replica, class, Instant::now()) {
            let address = &self.addresses[replica].1;
            info!(control_plane = %address, ?class, "a control plane fails at requests that others answer");
        }
    }

    /// True if the body's size is known and small enough to be held.
    fn can_hold(&self, body: &Body) -> bool {
        body.size_hint().upper().is_some_and(|size| size <= self.config.replayable_body as u64)
    }

    /// Has the replica probed now. Requests that fail meanwhile ask for one further probe, however many they
    /// are.
    pub(super) fn suspect(&self, replica: usize) {
        self.suspected[replica].notify_one();
    }

    pub(super) fn uri(&self, replica: usize, path: PathAndQuery) -> Option<Uri> {
        let (scheme, authority) = self.addresses[replica].clone();
        Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok()
    }
}
