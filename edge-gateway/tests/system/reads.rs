//! Finds that the gateway answers from its own state.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use answer::resolution::{ASK, FOUND, Resolution};
use async_trait::async_trait;
use axum::body::Body;
use edge_gateway::Config;
use edge_gateway::forward::{Forward, NotForwarded};
use edge_gateway::settings::{ReadsConfig, UpstreamConfig};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use shared::event::Action::Create;
use shared::model::Revision;
use tokio::sync::watch;

use crate::call::call;
use crate::control_plane::service;
use crate::world::{PATIENCE, World, config};

mod answers;
mod batches;
mod lost;
mod places;
mod unchanged;

const FIND: &str = "/v4/default/registry/instances?appId=app&serviceName=p&version=0%2B";
const BATCH: &str = "/v4/default/registry/instances/action?type=query";
/// The body with which the control plane of these tests answers.
const ASKED: &str = "asked";

/// The control plane's answer to every request.
#[derive(Clone, Debug)]
struct Answer {
    /// `None`: no control plane answers.
    status: Option<StatusCode>,
    /// The services that answer a find, as of a revision.
    found: Option<(Revision, &'static str)>,
    /// The revision of a write.
    written: Option<u64>,
}

#[derive(Clone)]
struct Plane {
    answer: Arc<Mutex<Answer>>,
    /// The requests that asked for the services.
    asked: Arc<Mutex<usize>>,
    /// Requests are taken, and no answer comes.
    is_silent: Arc<AtomicBool>,
    /// The requests that wait for an answer that does not come.
    waiting: Arc<AtomicUsize>,
    reachable: watch::Sender<bool>,
}

#[async_trait]
impl Forward for Plane {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, NotForwarded> {
        if self.is_silent.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            pending::<()>().await;
        }
        let Answer { status, found, written } = self.answer.lock().expect("not poisoned").clone();
        let mut response = Response::new(Body::from(ASKED));
        *response.status_mut() = status.ok_or(NotForwarded::Unavailable)?;
        if request.headers().contains_key(ASK) {
            *self.asked.lock().expect("not poisoned") += 1;
        }
        if let Some((rev, provider)) = found {
            let resolution = Resolution { rev, services: vec![service(provider)] };
            // Only the first element of a batch has such an answer.
            let header = match request.uri().path().ends_with("/instances/action") {
                true => Resolution::encode_batch([Some(&resolution), None].into_iter()),
                false => resolution.encode(),
            };
            response.headers_mut().insert(FOUND, header.expect("is short"));
        }
        if let Some(rev) = written {
            response.headers_mut().insert("x-muster-revision", rev.into());
        }
        Ok(response)
    }

    fn reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }
}

/// A gateway behind such a control plane, with the consumer `c` of the provider `p`.
struct Stage {
    world: World,
    plane: Plane,
}

/// A reply: its status, revision, marks of staleness and body.
#[derive(Debug)]
struct Reply {
    status: u16,
    rev: String,
    stale: bool,
    told: bool,
    body: String,
}

impl Stage {
    async fn start() -> Self {
        Self::with(ReadsConfig { fresh: Duration::from_secs(60), ..ReadsConfig::default() }, config()).await
    }

    async fn with(reads: ReadsConfig, config: Config) -> Self {
        let stage = Self::behind(true, reads, config).await;
        stage.world.control_plane.consumer("c", &["p"]);
        stage.world.control_plane.change("p", Create, "1").await;
        stage
    }

    /// A gateway of which nothing is known but what its file may tell.
    async fn behind(reachable: bool, reads: ReadsConfig, config: Config) -> Self {
        let answer = Answer { status: Some(StatusCode::OK), found: None, written: None };
        let plane = Plane {
            answer: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
            is_silent: Arc::default(),
            waiting: Arc::default(),
            reachable: watch::Sender::new(reachable),
        };
        if !reachable {
            plane.answer.lock().expect("not poisoned").status = None;
        }
        let upstream = UpstreamConfig { reads, ..config.upstream.clone() };
        let world = World::with_forward(Config { upstream, ..config }, Arc::new(plane.clone())).await;
        Self { world, plane }
    }

    /// A usual stage, on which a find was asked and is answered by the gateway since.
    async fn followed() -> Self {
        let stage = Self::start().await;
        stage.follow().await;
        stage
    }

    /// The same with a gateway that waits so long for an answer on the bus.
    async fn asking_for(request_timeout: Duration) -> Self {
        let upstream = UpstreamConfig { request_timeout, ..config().upstream };
        let reads = ReadsConfig { fresh: Duration::from_secs(60), ..ReadsConfig::default() };
        let stage = Self::with(reads, Config { upstream, ..config() }).await;
        stage.follow().await;
        stage
    }

    /// The revision that a client has of a find which the gateway answers, and a batch of it that the gateway answers
    /// as well.
    async fn known_find(&self) -> (String, Value) {
        let rev = self.find("").await.rev;
        let batch = batch_of(&rev, &[], &[]);
        // The first of them only tells the gateway which services answer.
        assert_eq!(self.batch(&batch).await.body, ASKED);
        (rev, batch)
    }

    fn answers(&self, change: impl FnOnce(&mut Answer)) {
        change(&mut self.plane.answer.lock().expect("not poisoned"));
    }

    /// The control plane tells that `p` answers, as of now.
    fn resolves(&self) {
        let rev = self.world.control_plane.rev();
        self.answers(|answer| answer.found = Some((rev, "p")));
    }

    /// Asks until the gateway answers by itself; each bookmark confirms what it knows.
    async fn follow(&self) {
        let waiting = async {
            loop {
                self.world.control_plane.bookmark().await;
                self.resolves();
                if self.find("").await.body != ASKED {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the gateway follows the consumer");
    }

    async fn find(&self, rev: &str) -> Reply {
        self.get(&format!("{FIND}&rev={rev}"), &[("x-consumerid", "c")]).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("GET", path, headers).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(method, path, headers, String::new()).await
    }

    /// A batch of the consumer `c`.
    async fn batch(&self, body: &Value) -> Reply {
        self.send("POST", BATCH, &[("x-consumerid", "c")], body.to_string()).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Reply {
        let response = call(&self.world, method, path, headers, body).await;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        Reply {
            status: response.status().as_u16(),
            rev: header("x-resource-revision").unwrap_or_default().to_owned(),
            stale: header("warning").is_some_and(|warning| warning.starts_with("110"))
                && header("age").is_some(),
            told: header("x-muster-found").is_some() || header("x-muster-revision").is_some(),
            body: response.body().clone(),
        }
    }

    fn counted(&self, answered: &str) -> f64 {
        self.world.metric(&format!("muster_edge_finds_total{{answered=\"{answered}\"}}"))
    }
}

/// A batch of finds of `p`, by a client that has this revision, and of further elements.
fn batch_of(rev: &str, more: &[Value], instances: &[Value]) -> Value {
    let first = json!({"service": {"appId": "app", "serviceName": "p", "version": "0+"}, "rev": rev});
    let services = [std::slice::from_ref(&first), more].concat();
    json!({"services": services, "instances": instances})
}
