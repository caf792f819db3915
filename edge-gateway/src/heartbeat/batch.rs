//! Heartbeats that are due at about the same time, from clients that send the same headers, travel in one
//! request.
//!
//! In: a [`Heartbeat`] of each connection, one at a time, whose outcome the connection waits for. Out:
//! `PUT …/heartbeats` with many instances, or `PUT …/heartbeat` for one that found no company.
//!
//! ```text
//! leader ──WINDOW, or MAX_BATCH are there──▶ one request ──▶ alive: a reply to each instance that is
//! followers join ─────┘                                  ├─▶ unclear (one or all): each sends a request
//!                                                        └─▶ no answer, or a server's error: all have failed
//! ```
//!
//! No task is needed: the first heartbeat of a batch is its leader, waits for the others and sends for all.
//! If the leader's connection ends meanwhile, its followers form a new batch. Batches are bounded by the
//! connections, each of which has one heartbeat on its way. Only the answer to a request of its own says that
//! an instance does not exist, so that a client gets the same outcome as without batches. A heartbeat that
//! [`Beats`] takes is sent to nobody.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use access::Certified;
use answer::beats::take;
use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN,
    PRAGMA, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use liveness::Key;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use shared::clock::Clock;
use shared::model::{ServiceRef, Tenant};
use tokio::sync::{Notify, oneshot};

use crate::beats::{self, Beats, Sender};
use crate::forward::Forward;
use crate::metrics::SessionMetrics;

/// The time that a leader waits for followers; short against leases, which live for seconds.
const WINDOW: Duration = Duration::from_millis(100);
/// Heartbeats in a batch. With the longest ids such a request is still small enough to be sent to a second
/// replica.
const MAX_BATCH: usize = 256;
/// Bytes that the answer to a batch may have.
const MAX_ANSWER: usize = 1 << 20;
/// The control plane's error code for an instance that does not exist.
const NO_INSTANCE: &str = "400017";
/// Headers that belong to a connection or to one request. Clients that differ only in these share batches.
const INCIDENTAL: [HeaderName; 15] = [
    HOST,
    ORIGIN,
    USER_AGENT,
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
    PRAGMA,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// The outcome of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The instance's lease was renewed.
    Alive,
    /// The instance does not exist.
    NoInstance,
    /// No control plane gave a clear answer.
    Failed,
}

/// The heartbeat of one connection, the same each time.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// The path of the upgrade, which is also that of a single heartbeat.
    path: Uri,
    /// The client's headers: its tenant and its credentials among them.
    headers: HeaderMap,
    /// The batches that it may join, and its entry in them; `None` when its path is not valid text.
    batch: Option<(Arc<BatchKey>, InstanceIds)>,
    /// The tenant and the instance as they are known here; `None` for names that the registry cannot have.
    known: Option<(Tenant, Key)>,
    /// The account by the client's certificate, if it acts by one. A control plane judges each token, and
    /// knows of a certificate only the account.
    certified: Option<Certified>,
}

/// The entry of an instance in a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct InstanceIds {
    service_id: String,
    instance_id: String,
}

/// The project and the headers that all heartbeats of a batch have in common.
#[derive(Debug)]
struct BatchKey {
    path: Uri,
    headers: HeaderMap,
    tenant: Option<Tenant>,
    /// The headers in a form that can be compared and hashed.
    sorted: Vec<(String, Vec<u8>)>,
}

impl PartialEq for BatchKey {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.sorted == other.sorted
    }
}

impl Eq for BatchKey {}

impl Hash for BatchKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
        self.sorted.hash(state);
    }
}

impl Heartbeat {
    /// The heartbeat that a connection carries which was upgraded at `path`, of an instance in this tenant.
    pub(crate) fn new(path: Uri, headers: HeaderMap, tenant: Option<Tenant>) -> Self {
        let batch = parse_path(path.path()).map(|(batch_path, instance)| {
            (Arc::new(BatchKey::new(batch_path, &headers, tenant.clone())), instance)
        });
        let known = batch.as_ref().zip(tenant).map(|((_, instance), tenant)| {
            let key = instance.key(&tenant);
            (tenant, key)
        });
        Self { path, headers, batch, known, certified: None }
    }

    /// The same, of a client that acts by this certificate, if it does by any.
    pub(crate) fn of(self, certified: Option<Certified>) -> Self {
        Self { certified, ..self }
    }

    /// True when the certificate by which the client acts has ended.
    fn is_over(&self) -> bool {
        let now = Clock::system().micros() / 1_000_000;
        self.certified.as_ref().is_some_and(|certified| certified.ends <= now)
    }

    /// True if the heartbeat is answered here.
    fn is_taken(&self, beats: &Beats) -> bool {
        let Some((tenant, key)) = &self.known else { return false };
        let sender = Sender {
            path: self.path.path(),
            tenant,
            headers: &self.headers,
            certified: self.certified.as_ref(),
        };
        beats.is_certain() && beats.may_beat(&sender) && beats.take(&[*key])
    }

    /// The request for this heartbeat alone.
    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        beats::ask(request.headers_mut());
        request
    }
}

impl InstanceIds {
    fn key(&self, tenant: &Tenant) -> Key {
        Key::of(&ServiceRef::new(tenant.clone(), &self.service_id), &self.instance_id)
    }
}

/// The path of batches in the same project, and the instance, from the path of a single heartbeat.
fn parse_path(path: &str) -> Option<(Uri, InstanceIds)> {
    let segments: Vec<&str> = path.split('/').collect();
    let ["", "v4", project, "registry", "microservices", service, "instances", instance, "heartbeat"] =
        segments[..]
    else {
        return None;
    };
    let ids = InstanceIds { service_id: decoded(service)?, instance_id: decoded(instance)? };
    Some((format!("/v4/{project}/registry/heartbeats").parse().ok()?, ids))
}

fn decoded(segment: &str) -> Option<String> {
    Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned())
}

impl BatchKey {
    fn new(path: Uri, headers: &HeaderMap, tenant: Option<Tenant>) -> Self {
        let mut headers = headers.clone();
        for name in &INCIDENTAL {
            headers.remove(name);
        }
        let mut sorted: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        sorted.sort();
        Self { path, headers, tenant, sorted }
    }

    /// The request for a batch.
    fn request(&self, instances: &[InstanceIds]) -> Option<Request<Body>> {
        #[derive(Serialize)]
        struct BatchBody<'a> {
            instances: &'a [InstanceIds],
        }
        let body = serde_json::to_vec(&BatchBody { instances }).ok()?;
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        beats::ask(request.headers_mut());
        Some(request)
    }
}

/// Collects heartbeats into batches and sends them.
pub(crate) struct Batches {
    forward: Arc<dyn Forward>,
    /// Heartbeats that are answered here.
    beats: Beats,
    metrics: SessionMetrics,
    /// Batches that can still be joined.
    open: Mutex<HashMap<Arc<BatchKey>, Arc<Pending>>>,
}

/// A batch before it is sent.
#[derive(Default)]
struct Pending {
    full: Notify,
    followers: Mutex<Vec<Follower>>,
}

/// A heartbeat that the leader sends.
struct Follower {
    instance: InstanceIds,
    reply: oneshot::Sender<Reply>,
}

/// The leader's reply to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Is(Outcome),
    /// The batch says nothing certain about this instance: a request of its own must.
    SendAlone,
}

/// The part of a heartbeat in its batch.
enum Slot<'a> {
    Leader(Leader<'a>),
    Follower(oneshot::Receiver<Reply>),
}

/// The duty to send a batch. When it is dropped nobody can join any more, and the followers' receivers fail.
struct Leader<'a> {
    batches: &'a Batches,
    key: &'a Arc<BatchKey>,
    pending: Arc<Pending>,
}

impl Leader<'_> {
    /// Waits for followers and takes those that came.
    async fn gather(self) -> Vec<Follower> {
        tokio::select! {
            () = self.pending.full.notified() => {}
            () = tokio::time::sleep(WINDOW) => {}
        }
        self.close();
        std::mem::take(&mut self.pending.followers.lock())
    }

    fn close(&self) {
        let mut open = self.batches.open.lock();
        // A full batch has been removed already, and another one may have its place.
        if open.get(self.key).is_some_and(|pending| Arc::ptr_eq(pending, &self.pending)) {
            open.remove(self.key);
        }
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Batches {
    /// Batches that are sent over `forward`.
    pub(crate) fn new(forward: Arc<dyn Forward>, beats: Beats, metrics: SessionMetrics) -> Self {
        Self { forward, beats, metrics, open: Mutex::default() }
    }

    /// Sends a heartbeat, with others if there are any. Dropping the future gives it up.
    pub(crate) async fn send(&self, heartbeat: &Heartbeat) -> Outcome {
        let outcome = if heartbeat.is_over() {
            Outcome::Failed
        } else if heartbeat.is_taken(&self.beats) {
            Outcome::Alive
        } else {
            self.beats.passed_on();
            self.send_in_batch(heartbeat).await
        };
        self.metrics.heartbeat(match outcome {
            Outcome::Alive => "ok",
            Outcome::NoInstance => "no_instance",
            Outcome::Failed => "failed",
        });
        outcome
    }

    async fn send_in_batch(&self, heartbeat: &Heartbeat) -> Outcome {
        let Some((key, instance)) = &heartbeat.batch else { return self.send_alone(heartbeat).await };
        let reply = loop {
            match self.join(key, instance) {
                Slot::Leader(leader) => {
                    let followers = leader.gather().await;
                    if followers.is_empty() {
                        break Reply::SendAlone;
                    }
                    break self.send_batch(key, instance, followers).await;
                }
                Slot::Follower(reply) => {
                    // No reply means that the leader's connection ended before it sent: join again.
                    if let Ok(reply) = reply.await {
                        break reply;
                    }
                }
            }
        };
        match reply {
            Reply::Is(outcome) => outcome,
            Reply::SendAlone => self.send_alone(heartbeat).await,
        }
    }

    fn join<'a>(&'a self, key: &'a Arc<BatchKey>, instance: &InstanceIds) -> Slot<'a> {
        // Held until the follower is listed: the leader takes the list only after it has closed the batch
        // under this lock.
        let mut open = self.open.lock();
        let Some(pending) = open.get(key).cloned() else {
            let pending = Arc::<Pending>::default();
            open.insert(key.clone(), pending.clone());
            return Slot::Leader(Leader { batches: self, key, pending });
        };
        let (sender, receiver) = oneshot::channel();
        let mut followers = pending.followers.lock();
        followers.push(Follower { instance: instance.clone(), reply: sender });
        // The leader is not in the list, but in the batch.
        if followers.len() + 1 >= MAX_BATCH {
            open.remove(key);
            pending.full.notify_one();
        }
        Slot::Follower(receiver)
    }

    /// Sends a batch and replies to the followers; the leader's own reply is the result.
    async fn send_batch(&self, key: &BatchKey, leader: &InstanceIds, followers: Vec<Follower>) -> Reply {
        let instances: Vec<InstanceIds> =
            followers.iter().map(|follower| follower.instance.clone()).chain([leader.clone()]).collect();
        let alive = self.ask_for_all(key, &instances).await;
        for follower in followers {
            // Fails when the follower's connection has ended; then nobody waits for the reply.
            let _ = follower.reply.send(reply_for(&follower.instance, alive.as_ref()));
        }
        reply_for(leader, alive.as_ref())
    }

    /// The instances of a batch that are certainly alive. `None` when there is no answer to rely on.
    async fn ask_for_all(&self, key: &BatchKey, instances: &[InstanceIds]) -> Option<HashSet<InstanceIds>> {
        #[derive(Deserialize)]
        struct BatchAnswer {
            #[serde(default)]
            instances: Vec<InstanceAnswer>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct InstanceAnswer {
            #[serde(flatten)]
            ids: InstanceIds,
            #[serde(default)]
            err_message: String,
        }
        let mut answer = self.forward.forward(key.request(instances)?).await.ok()?;
        self.metrics.heartbeats_sent();
        // No instance tries alone after this: a control plane in trouble must not get one more request for
        // each.
        if answer.status().is_server_error() {
            return None;
        }
        if !answer.status().is_success() {
            // Older servers refuse a whole batch because of one instance.
            return Some(HashSet::new());
        }
        if let (Some(rev), Some(tenant)) = (take(answer.headers_mut()), &key.tenant) {
            let keys: Vec<Key> = instances.iter().map(|instance| instance.key(tenant)).collect();
            self.beats.learn(&keys, rev);
        }
        let answer: BatchAnswer = serde_json::from_slice(&read_body(answer).await?).ok()?;
        let alive = answer.instances.into_iter().filter(|instance| instance.err_message.is_empty());
        Some(alive.map(|instance| instance.ids).collect())
    }

    async fn send_alone(&self, heartbeat: &Heartbeat) -> Outcome {
        let answer = self.forward.forward(heartbeat.request()).await;
        self.metrics.heartbeats_sent();
        let Ok(mut answer) = answer else { return Outcome::Failed };
        if answer.status().is_success() {
            if let (Some(rev), Some((_, key))) = (take(answer.headers_mut()), &heartbeat.known) {
                self.beats.learn(&[*key], rev);
            }
            Outcome::Alive
        } else if says_no_instance(answer).await {
            Outcome::NoInstance
        } else {
            Outcome::Failed
        }
    }
}

fn reply_for(instance: &InstanceIds, alive: Option<&HashSet<InstanceIds>>) -> Reply {
    match alive {
        Some(alive) if alive.contains(instance) => Reply::Is(Outcome::Alive),
        Some(_) => Reply::SendAlone,
        None => Reply::Is(Outcome::Failed),
    }
}

/// True if a refusal says that the instance does not exist. After any other refusal another replica may
/// accept the heartbeat.
async fn says_no_instance(answer: Response<Body>) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RefusalBody {
        error_code: String,
    }
    if answer.status() != StatusCode::BAD_REQUEST {
        return false;
    }
    let Some(body) = read_body(answer).await else { return false };
    serde_json::from_slice(&body).is_ok_and(|refusal: RefusalBody| refusal.error_code == NO_INSTANCE)
}

async fn read_body(answer: Response<Body>) -> Option<Bytes> {
    // Another process sends the answer and may be broken, so its size is bounded here.
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.ok()?;
    Some(body.to_bytes())
}

#[cfg(test)]
mod tests;
