//! Heartbeats that come at about the same time, from clients that say the same about themselves, travel in one request.
//!
//! In: one [`Beat`] after the other, each waited for by its own connection. Out: `PUT …/heartbeats` with many, or
//! `PUT …/heartbeat` for one that found no company, and a word for each connection.
//!
//! ```text
//! first beat of a party ──WINDOW or MOST──▶ one request ──▶ lives: a word to each that does
//!      others join ─────┘                                ├─▶ unclear (one of them, or all): asked alone
//!                                                        └─▶ no answer, or an error of the server: all failed
//! ```
//!
//! There is no task of its own: the first beat of a batch waits for the others and sends it. When its connection ends
//! meanwhile, those that waited form a new batch. What is held is bounded by the connections, which have one beat
//! each on the way. Only an answer to one alone says that an instance does not exist, so a client hears no other word
//! than it would without batches.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN,
    PRAGMA, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

use crate::forward::Forward;
use crate::metrics::SessionMetrics;

/// How long the first beat of a batch waits for others. Leases live for seconds.
pub(super) const WINDOW: Duration = Duration::from_millis(100);
/// Beats in a batch: with the longest ids still small enough to be sent again to another replica.
pub(super) const MOST: usize = 256;
/// Bytes of an answer at most.
const ANSWER_BYTES: usize = 1 << 20;
/// The control plane's code for an instance that does not exist.
const NO_INSTANCE: &str = "400017";
/// What is about the connection and not about who sends.
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

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The instance lives on.
    Lives,
    /// There is no such instance.
    NoInstance,
    /// Nobody knows.
    Failed,
}

/// A heartbeat of one connection, the same each time.
#[derive(Debug)]
pub(crate) struct Beat {
    /// The path of the upgrade, which is that of the heartbeat.
    path: Uri,
    /// What the client said about itself.
    headers: HeaderMap,
    /// With whom it may travel, and as what; none when its path is not text.
    shared: Option<(Arc<Party>, Ids)>,
}

/// How a batch names an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ids {
    service_id: String,
    instance_id: String,
}

/// Those who say the same about themselves in the same project.
#[derive(Debug)]
struct Party {
    path: Uri,
    headers: HeaderMap,
    /// The same in a form that compares.
    key: Vec<(String, Vec<u8>)>,
}

impl PartialEq for Party {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.key == other.key
    }
}

impl Eq for Party {}

impl Hash for Party {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
        self.key.hash(state);
    }
}

impl Beat {
    /// The heartbeat that a connection opened at `path` carries.
    pub(crate) fn new(path: Uri, headers: HeaderMap) -> Self {
        let shared = ids(path.path()).map(|(batch, ids)| (Arc::new(Party::new(batch, &headers)), ids));
        Self { path, headers, shared }
    }
}

/// The path of a batch, and the ids of the instance, out of the path of its own heartbeat.
fn ids(path: &str) -> Option<(Uri, Ids)> {
    let segments: Vec<&str> = path.split('/').collect();
    let ["", "v4", project, "registry", "microservices", service, "instances", instance, "heartbeat"] =
        segments[..]
    else {
        return None;
    };
    let text = |segment| percent_decode_str(segment).decode_utf8().ok().map(|text| text.into_owned());
    let ids = Ids { service_id: text(service)?, instance_id: text(instance)? };
    Some((format!("/v4/{project}/registry/heartbeats").parse().ok()?, ids))
}

impl Party {
    fn new(path: Uri, headers: &HeaderMap) -> Self {
        let mut headers = headers.clone();
        for name in &INCIDENTAL {
            headers.remove(name);
        }
        let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.as_bytes().to_vec());
        let mut key: Vec<_> = headers.iter().map(pair).collect();
        key.sort();
        Self { path, headers, key }
    }

    fn request(&self, beats: &[Ids]) -> Option<Request<Body>> {
        #[derive(Serialize)]
        struct Batch<'a> {
            instances: &'a [Ids],
        }
        let mut request = Request::new(Body::from(serde_json::to_vec(&Batch { instances: beats }).ok()?));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Some(request)
    }
}

/// The batches that wait to be sent.
pub(crate) struct Batches {
    forward: Arc<dyn Forward>,
    metrics: SessionMetrics,
    /// Those that may still be joined.
    open: Mutex<HashMap<Arc<Party>, Arc<Gathering>>>,
}

/// A batch before it is sent.
#[derive(Default)]
struct Gathering {
    full: Notify,
    waiting: Mutex<Vec<Waiting>>,
}

/// A beat that somebody else sends.
struct Waiting {
    ids: Ids,
    word: oneshot::Sender<Word>,
}

/// What the one that sent a batch says to one of those in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Is(Outcome),
    AskAlone,
}

/// A place in a batch.
enum Place<'a> {
    First(First<'a>),
    Waits(oneshot::Receiver<Word>),
}

/// The duty to send a batch. Dropped, nobody can join any more, and those that have joined are let go.
struct First<'a> {
    batches: &'a Batches,
    party: &'a Arc<Party>,
    gathering: Arc<Gathering>,
}

impl First<'_> {
    /// Waits for others for a while and takes those that came.
    async fn gather(self) -> Vec<Waiting> {
        tokio::select! {
            () = self.gathering.full.notified() => {}
            () = tokio::time::sleep(WINDOW) => {}
        }
        self.close();
        std::mem::take(&mut self.gathering.waiting.lock())
    }

    fn close(&self) {
        let mut open = self.batches.open.lock();
        if open.get(self.party).is_some_and(|it| Arc::ptr_eq(it, &self.gathering)) {
            open.remove(self.party);
        }
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Batches {
    /// Passes heartbeats on over `forward`.
    pub(crate) fn new(forward: Arc<dyn Forward>, metrics: SessionMetrics) -> Self {
        Self { forward, metrics, open: Mutex::default() }
    }

    /// Passes one heartbeat on, with others if there are any. Dropping the future gives it up.
    pub(crate) async fn beat(&self, beat: &Beat) -> Outcome {
        let outcome = self.pass_on(beat).await;
        self.metrics.heartbeat(match outcome {
            Outcome::Lives => "ok",
            Outcome::NoInstance => "no_instance",
            Outcome::Failed => "failed",
        });
        outcome
    }

    async fn pass_on(&self, beat: &Beat) -> Outcome {
        let Some((party, ids)) = &beat.shared else { return self.alone(beat).await };
        let word = loop {
            match self.join(party, ids) {
                Place::First(first) => match first.gather().await {
                    others if others.is_empty() => break Word::AskAlone,
                    others => break self.together(party, ids, others).await,
                },
                Place::Waits(word) => {
                    // Without a word, who was to send it has left.
                    if let Ok(word) = word.await {
                        break word;
                    }
                }
            }
        };
        match word {
            Word::Is(outcome) => outcome,
            Word::AskAlone => self.alone(beat).await,
        }
    }

    fn join<'a>(&'a self, party: &'a Arc<Party>, ids: &Ids) -> Place<'a> {
        let mut open = self.open.lock();
        let Some(gathering) = open.get(party).cloned() else {
            let gathering = Arc::<Gathering>::default();
            open.insert(party.clone(), gathering.clone());
            return Place::First(First { batches: self, party, gathering });
        };
        let (word, answer) = oneshot::channel();
        let mut waiting = gathering.waiting.lock();
        waiting.push(Waiting { ids: ids.clone(), word });
        // The first one is not among them.
        if waiting.len() + 1 >= MOST {
            open.remove(party);
            gathering.full.notify_one();
        }
        Place::Waits(answer)
    }

    /// Sends a batch and gives each of the others its word; the word for the first is the result.
    async fn together(&self, party: &Party, first: &Ids, others: Vec<Waiting>) -> Word {
        let beats: Vec<Ids> = others.iter().map(|it| it.ids.clone()).chain([first.clone()]).collect();
        let living = self.ask_for_all(party, &beats).await;
        let word = |ids: &Ids| match &living {
            Some(living) if living.contains(ids) => Word::Is(Outcome::Lives),
            Some(_) => Word::AskAlone,
            None => Word::Is(Outcome::Failed),
        };
        for it in others {
            let _ = it.word.send(word(&it.ids)); // its connection may have ended
        }
        word(first)
    }

    /// The instances of a batch that are known to live on. `None` when there is no answer to rely on.
    async fn ask_for_all(&self, party: &Party, beats: &[Ids]) -> Option<HashSet<Ids>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            instances: Vec<One>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct One {
            #[serde(flatten)]
            ids: Ids,
            #[serde(default)]
            err_message: String,
        }
        let answer = self.forward.forward(party.request(beats)?).await.ok()?;
        self.metrics.heartbeats_sent();
        if answer.status().is_server_error() {
            return None;
        }
        if !answer.status().is_success() {
            // Older servers refuse the whole for the sake of one.
            return Some(HashSet::new());
        }
        let answer: Answer = serde_json::from_slice(&body(answer).await?).ok()?;
        let living = answer.instances.into_iter().filter(|it| it.err_message.is_empty());
        Some(living.map(|it| it.ids).collect())
    }

    /// Passes one heartbeat on by itself.
    async fn alone(&self, beat: &Beat) -> Outcome {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = beat.path.clone();
        *request.headers_mut() = beat.headers.clone();
        let answer = self.forward.forward(request).await;
        self.metrics.heartbeats_sent();
        match answer {
            Ok(answer) if answer.status().is_success() => Outcome::Lives,
            Ok(answer) => match says_no_instance(answer).await {
                true => Outcome::NoInstance,
                false => Outcome::Failed,
            },
            Err(_) => Outcome::Failed,
        }
    }
}

/// Whether a refusal says that the instance does not exist. Any other may be gone on another replica.
async fn says_no_instance(answer: Response<Body>) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Refusal {
        error_code: String,
    }
    if answer.status() != StatusCode::BAD_REQUEST {
        return false;
    }
    let Some(body) = body(answer).await else { return false };
    serde_json::from_slice(&body).is_ok_and(|it: Refusal| it.error_code == NO_INSTANCE)
}

async fn body(answer: Response<Body>) -> Option<Bytes> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.ok()?;
    Some(body.to_bytes())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
