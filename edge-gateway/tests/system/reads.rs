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
use edge_gateway::settings::{PollsConfig, ReadsConfig, StateFile, UpstreamConfig};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use shared::event::Action::{Create, Update};
use shared::model::Revision;
use tokio::sync::watch;

use crate::call::call;
use crate::control_plane::service;
use crate::tokens::{self, token};
use crate::world::{PATIENCE, World, config};

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

#[tokio::test]
async fn a_find_is_answered_here_once_it_is_followed() {
    let stage = Stage::followed().await;
    let first = stage.find("").await;
    assert!(first.body.starts_with(r#"{"instances":[{"instanceId":"1","#), "{first:?}");
    assert_eq!((first.status, first.rev.len(), first.told), (200, 16, false));
    let list = stage.get("/v4/default/registry/microservices/p/instances", &[("x-consumerid", "c")]).await;
    assert_eq!((list.body, list.rev), (first.body.clone(), first.rev.clone()));
    let one = stage.get("/v4/default/registry/microservices/p/instances/1", &[("x-consumerid", "c")]).await;
    assert!(one.body.starts_with(r#"{"instance":{"#), "{one:?}");

    // A watcher that has been sent a change finds it.
    let mut watcher = stage.world.watch("c").await;
    stage.world.change_reaches(&mut watcher, "p", Create, "2").await;
    let second = stage.find(&first.rev).await;
    assert!(second.status == 200 && second.body.contains(r#""instanceId":"2""#), "{second:?}");
    let unchanged = stage.find(&second.rev).await;
    assert_eq!((unchanged.status, &unchanged.rev, unchanged.stale), (304, &second.rev, false));
    assert!(stage.counted("unchanged") == 1.0 && stage.counted("here") >= 5.0);
}

#[tokio::test]
async fn everything_that_is_not_followed_is_asked() {
    let stage = Stage::followed().await;
    for (path, headers) in [
        (format!("{FIND}&noCache=1"), &[("x-consumerid", "c")][..]),
        (format!("{FIND}&tags=a"), &[("x-consumerid", "c")]),
        (FIND.replace("=p", "=q"), &[("x-consumerid", "c")]),
        (FIND.to_owned(), &[("x-consumerid", "other")]),
        (FIND.to_owned(), &[]),
        ("/v4/default/registry/microservices/q/instances".to_owned(), &[("x-consumerid", "c")]),
        ("/v4/default/registry/microservices/p/instances/9".to_owned(), &[("x-consumerid", "c")]),
    ] {
        let reply = stage.get(&path, headers).await;
        assert_eq!((reply.body.as_str(), reply.told), (ASKED, false), "{path}");
    }
    // A client asks for no services, whatever it sends.
    let asked = *stage.plane.asked.lock().expect("not poisoned");
    stage.get("/v4/default/registry/microservices", &[("x-muster-resolve", "1")]).await;
    stage.get(FIND, &[("x-muster-resolve", "1")]).await;
    assert_eq!(*stage.plane.asked.lock().expect("not poisoned"), asked);
    // The gateway does, for a consumer: a drain waits for clients that have found the service.
    stage.get(&format!("{FIND}&noCache=1"), &[("x-consumerid", "c")]).await;
    assert_eq!(*stage.plane.asked.lock().expect("not poisoned"), asked + 1);
}

#[tokio::test]
async fn nothing_is_called_unchanged_that_has_changed() {
    let stage = Stage::followed().await;
    let known = stage.find("").await;
    assert_eq!(stage.find(&known.rev).await.status, 304);
    // Another gateway may have pushed it already.
    let event = stage.world.control_plane.commit("p", Update, "1");
    let reply = stage.find(&known.rev).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ASKED), "a control plane decides");
    stage.world.control_plane.publish(&event).await;
    stage.world.control_plane.bookmark().await;
    stage.follow().await;
    let reply = stage.find(&known.rev).await;
    assert!(reply.status == 200 && reply.rev != known.rev && reply.body != ASKED, "{reply:?}");
}

#[tokio::test]
async fn unchanged_may_be_one_bookmark_behind_where_nobody_is_asked() {
    let reads =
        ReadsConfig { fresh: Duration::from_secs(60), confirm_unchanged: false, ..ReadsConfig::default() };
    let stage = Stage::with(reads, config()).await;
    stage.follow().await;
    let known = stage.find("").await;
    let batch = batch_of(&known.rev, &[], &[]);
    assert_eq!(stage.batch(&batch).await.body, ASKED);
    // Committed, and not heard of here.
    let event = stage.world.control_plane.commit("p", Update, "1");
    assert_eq!(stage.find(&known.rev).await.status, 304);
    assert_eq!(stage.batch(&batch).await.body, r#"{"services":{"notModified":[0]}}"#);
    assert_eq!(stage.world.metric("muster_edge_barriers_total{outcome=\"ok\"}"), 0.0, "nobody was asked");
    // A client that has written through this gateway finds what it wrote.
    stage.answers(|answer| answer.written = Some(event.at.rev.get()));
    stage.ask("PUT", "/v4/default/registry/microservices/p/instances/1/status?value=DOWN", &[]).await;
    assert_eq!(stage.find(&known.rev).await.body, ASKED);
    assert_eq!(stage.batch(&batch).await.body, ASKED);
    stage.world.control_plane.publish(&event).await;
    stage.world.control_plane.bookmark().await;
    stage.follow().await;
    let reply = stage.find(&known.rev).await;
    assert!(reply.status == 200 && reply.rev != known.rev && reply.body != ASKED, "{reply:?}");
}

#[tokio::test]
async fn a_change_of_the_answer_ends_what_was_resolved() {
    let stage = Stage::followed().await;
    let outdated = stage.world.control_plane.rev();
    stage.world.control_plane.find_changes("c").await;
    stage.world.control_plane.bookmark().await;
    stage.answers(|answer| answer.found = Some((outdated, "p")));
    let waiting = async {
        while stage.find("").await.body != ASKED {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the change arrives");
    // A replica that lags behind says nothing new.
    assert_eq!(stage.find("").await.body, ASKED);
    stage.follow().await;
}

#[tokio::test]
async fn a_client_finds_what_it_wrote_here() {
    let stage = Stage::followed().await;
    let written = stage.world.control_plane.rev().plus(1);
    stage.answers(|answer| answer.written = Some(written.get()));
    let put = |path: &'static str| stage.ask("PUT", path, &[]);
    put("/v4/default/registry/microservices/other/instances/1/status?value=DOWN").await;
    assert_ne!(stage.find("").await.body, ASKED, "nothing of that is in the answer");
    put("/v4/default/registry/microservices/p/instances/1/status?value=DOWN").await;
    assert_eq!(stage.find("").await.body, ASKED);
    let event = stage.world.control_plane.change("p", Update, "1").await;
    assert_eq!(event.at.rev, written);
    stage.follow().await;
    put("/v4/default/registry/microservices/p/properties").await;
    stage.follow().await;
    stage.answers(|answer| answer.written = Some(written.plus(1).get()));
    put("/v4/default/registry/microservices/p/properties").await;
    assert_eq!(stage.find("").await.body, ASKED);
}

#[tokio::test]
async fn without_control_planes_the_last_that_is_known_is_marked() {
    // Never fresh, so that every find asks first.
    let reads = ReadsConfig { fresh: Duration::from_secs(60), ..ReadsConfig::default() };
    let stage = Stage::with(reads, config()).await;
    stage.follow().await;
    let known = stage.find("").await;
    // A loss makes everything uncertain.
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.decline(usize::MAX);
    stage.world.control_plane.change("p", Create, "2").await;
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.bookmark().await;
    for status in [None, Some(StatusCode::SERVICE_UNAVAILABLE)] {
        stage.answers(|answer| answer.status = status);
        let waiting = async {
            loop {
                let reply = stage.find("").await;
                if reply.stale {
                    return reply;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stale = tokio::time::timeout(PATIENCE, waiting).await.expect("is marked");
        assert!(stale.status == 200 && stale.body.starts_with(&known.body[..20]), "{stale:?}");
        assert_eq!(stage.find(&stale.rev).await.status, 304);
        let unknown = stage.get(&FIND.replace("=p", "=q"), &[("x-consumerid", "c")]).await;
        assert_eq!(unknown.status, 503, "no empty list that nobody knows");
    }
    assert!(stage.counted("stale") >= 4.0);
    // A gateway that knows that no control plane answers does not wait for one.
    stage.plane.reachable.send_replace(false);
    assert!(stage.find("").await.stale);
}

#[tokio::test]
async fn a_find_under_way_is_given_up_when_no_control_plane_answers_any_more() {
    let stage = Stage::asking_for(Duration::from_millis(100)).await;
    let (rev, batch) = stage.known_find().await;
    // Nobody says on the bus what has changed, and then nobody answers at all.
    stage.world.control_plane.fall_silent();
    stage.plane.is_silent.store(true, Ordering::SeqCst);
    let lost = async {
        while stage.plane.waiting.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        stage.plane.reachable.send_replace(false);
    };
    let all = async { tokio::join!(stage.find(&rev), stage.batch(&batch), lost) };
    let (single, batch, ()) = tokio::time::timeout(PATIENCE, all).await.expect("the last that is known");
    assert_eq!((single.status, single.stale, batch.status, batch.stale), (304, true, 200, true));
}

#[tokio::test]
async fn nobody_waits_long_for_a_silent_bus_when_no_control_plane_answers() {
    // A question on the bus would be given up after the test.
    let stage = Stage::asking_for(Duration::from_secs(3600)).await;
    let (rev, batch) = stage.known_find().await;
    stage.world.control_plane.fall_silent();
    stage.plane.reachable.send_replace(false);
    let all = async { tokio::join!(stage.find(&rev), stage.batch(&batch)) };
    let (single, batch) = tokio::time::timeout(PATIENCE, all).await.expect("the last that is known");
    assert_eq!((single.status, single.stale, batch.status, batch.stale), (304, true, 200, true));
}

/// A batch of finds of `p`, by a client that has this revision, and of further elements.
fn batch_of(rev: &str, more: &[Value], instances: &[Value]) -> Value {
    let first = json!({"service": {"appId": "app", "serviceName": "p", "version": "0+"}, "rev": rev});
    let services = [std::slice::from_ref(&first), more].concat();
    json!({"services": services, "instances": instances})
}

#[tokio::test]
async fn a_batch_is_answered_here_once_every_element_is_followed() {
    let stage = Stage::followed().await;
    let single = stage.find("").await;
    let instance = json!({"instance": {"serviceId": "p", "instanceId": "1"}});
    let whole = batch_of("", &[], std::slice::from_ref(&instance));
    // A single find may be answered by an alias, so its services say nothing about that of a batch.
    let asked = stage.batch(&whole).await;
    assert_eq!((asked.body.as_str(), asked.told), (ASKED, false));
    let here = stage.batch(&whole).await;
    let of_single: Value = serde_json::from_str(&single.body).expect("JSON");
    let body: Value = serde_json::from_str(&here.body).expect("answered here");
    let updated = json!({"index": 0, "rev": &single.rev, "instances": &of_single["instances"]});
    assert_eq!(body["services"], json!({"updated": [updated]}));
    assert_eq!(body["instances"]["updated"][0]["instances"], of_single["instances"]);
    assert_eq!((here.status, here.rev.as_str(), here.stale), (200, "", false));

    let unchanged = stage.batch(&batch_of(&single.rev, &[], &[])).await;
    assert_eq!(unchanged.body, r#"{"services":{"notModified":[0]}}"#);
    assert_eq!(stage.counted("unchanged"), 1.0);

    // One element that is not known leaves all of them to a control plane.
    let unknown = json!({"service": {"appId": "app", "serviceName": "q", "version": "0+"}});
    let other = json!({"instance": {"serviceId": "p", "instanceId": "9"}});
    for batch in [
        batch_of("", &[unknown], &[]),
        batch_of("", &[], &[instance, other]),
        json!({}),
        json!({"services": 1}),
    ] {
        assert_eq!(stage.batch(&batch).await.body, ASKED, "{batch}");
    }
    let of_another = [("x-consumerid", "other")];
    let body = batch_of("", &[], &[]).to_string();
    assert_eq!(stage.send("POST", BATCH, &of_another, body.clone()).await.body, ASKED);
    let fresh = format!("{BATCH}&noCache=1");
    assert_eq!(stage.send("POST", &fresh, &[("x-consumerid", "c")], body).await.body, ASKED);
}

#[tokio::test]
async fn a_batch_claims_nothing_that_may_have_changed() {
    let stage = Stage::followed().await;
    let known = stage.find("").await;
    let batch = batch_of(&known.rev, &[], &[]);
    assert_eq!(stage.batch(&batch).await.body, ASKED);
    assert_eq!(stage.batch(&batch).await.body, r#"{"services":{"notModified":[0]}}"#);
    let event = stage.world.control_plane.commit("p", Update, "1");
    assert_eq!(stage.batch(&batch).await.body, ASKED, "another gateway may have pushed the change");
    stage.world.control_plane.publish(&event).await;
    stage.world.control_plane.bookmark().await;
    stage.follow().await;
    assert!(stage.batch(&batch).await.body.contains(r#""updated":[{"index":0"#));

    // A client that has written through this gateway finds what it wrote.
    let written = stage.world.control_plane.rev().plus(1);
    stage.answers(|answer| answer.written = Some(written.get()));
    stage.ask("PUT", "/v4/default/registry/microservices/p/instances/1/status?value=DOWN", &[]).await;
    assert_eq!(stage.batch(&batch_of("", &[], &[])).await.body, ASKED);
}

#[tokio::test]
async fn without_control_planes_a_batch_is_answered_by_the_last_that_is_known() {
    let stage = Stage::followed().await;
    let batch = batch_of("", &[], &[]);
    stage.batch(&batch).await;
    let known = stage.batch(&batch).await;
    assert!(known.body != ASKED && !known.stale, "{known:?}");
    // A change of which the gateway only knows that it is missing makes everything uncertain.
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.decline(usize::MAX);
    stage.world.control_plane.change("p", Create, "2").await;
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.bookmark().await;
    for status in [Some(StatusCode::SERVICE_UNAVAILABLE), None] {
        stage.answers(|answer| answer.status = status);
        let waiting = async {
            loop {
                let reply = stage.batch(&batch).await;
                if reply.stale {
                    return reply;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stale = tokio::time::timeout(PATIENCE, waiting).await.expect("is marked");
        assert!(stale.status == 200 && stale.body.starts_with(r#"{"services":{"updated":["#), "{stale:?}");
        let unknown = json!({"service": {"appId": "app", "serviceName": "q", "version": "0+"}});
        assert_eq!(stage.batch(&batch_of("", &[unknown], &[])).await.status, 503, "nothing is made up");
    }
    stage.plane.reachable.send_replace(false);
    assert!(stage.batch(&batch).await.stale, "nobody is asked who cannot answer");
}

#[tokio::test]
async fn a_consumer_that_is_gone_is_not_answered_here() {
    let stage = Stage::followed().await;
    stage.world.control_plane.delete_consumer("c", true).await;
    stage.answers(|answer| {
        answer.status = Some(StatusCode::BAD_REQUEST);
        answer.found = None;
    });
    let waiting = async {
        while stage.find("").await.status != 400 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("its group ends");
    stage.world.until("muster_edge_finds_consumers", |consumers| consumers == 0.0).await;
}

#[tokio::test]
async fn ids_that_nobody_has_fill_nothing() {
    let stage = Stage::start().await;
    stage.answers(|answer| answer.status = Some(StatusCode::BAD_REQUEST));
    stage.resolves();
    for number in 0..50 {
        stage.get(FIND, &[("x-consumerid", &format!("made-up-{number}"))]).await;
    }
    stage.answers(|answer| {
        answer.status = Some(StatusCode::OK);
        answer.found = None;
    });
    stage.get(FIND, &[("x-consumerid", "made-up")]).await;
    assert_eq!(stage.world.metric("muster_edge_groups{selector=\"consumer\"}"), 0.0);
}

#[tokio::test]
async fn a_gateway_may_leave_all_finds_to_control_planes() {
    let polls = PollsConfig { silent_after: Duration::ZERO, ..PollsConfig::default() };
    let reads = ReadsConfig { enabled: false, ..ReadsConfig::default() };
    let stage = Stage::with(reads, Config { polls, ..config() }).await;
    stage.resolves();
    for _ in 0..4 {
        stage.world.control_plane.bookmark().await;
        let reply = stage.find("").await;
        assert_eq!((reply.body.as_str(), reply.told), (ASKED, false));
    }
    assert_eq!(*stage.plane.asked.lock().expect("not poisoned"), 0);
}

#[tokio::test]
async fn an_account_gets_no_answer_that_its_labels_do_not_cover() {
    let stage = Stage::start().await;
    stage.world.control_plane.policy(tokens::policy()).await;
    stage.world.until("muster_edge_policy_revision", |revision| revision > 0.0).await;
    let find = async |account: &str| {
        let token = format!("Bearer {}", token(account, 3600));
        stage.get(FIND, &[("x-consumerid", "c"), ("authorization", &token)]).await
    };
    let waiting = async {
        loop {
            stage.world.control_plane.bookmark().await;
            stage.resolves();
            if find("root").await.body != ASKED {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the gateway follows the consumer");
    stage.answers(|answer| answer.status = Some(StatusCode::FORBIDDEN));
    assert_eq!(find("shop").await.status, 403, "a control plane decides about labels");
    assert_eq!(stage.find("").await.status, 401);
    assert_eq!(find("root").await.status, 200);

    let batch = async |account: &str| {
        let token = format!("Bearer {}", token(account, 3600));
        let headers = [("x-consumerid", "c"), ("authorization", token.as_str())];
        stage.send("POST", BATCH, &headers, batch_of("", &[], &[]).to_string()).await
    };
    stage.answers(|answer| answer.status = Some(StatusCode::OK));
    batch("root").await;
    assert_ne!(batch("root").await.body, ASKED);
    stage.answers(|answer| answer.status = Some(StatusCode::FORBIDDEN));
    assert_eq!(batch("shop").await.status, 403, "a control plane decides about labels");
    assert_eq!(stage.batch(&batch_of("", &[], &[])).await.status, 401);
    assert_eq!(batch("root").await.status, 200);
}

#[tokio::test]
async fn a_restarted_gateway_answers_what_the_last_one_knew() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = StateFile { path: directory.path().join("state"), interval: Duration::from_millis(20) };
    let reads = ReadsConfig { state: Some(file.clone()), ..ReadsConfig::default() };
    let stage = Stage::with(reads.clone(), config()).await;
    stage.follow().await;
    let before = stage.find("").await;
    let targets = stage.get("/prometheus/v1/targets", &[]).await;
    assert!(targets.body.contains("1.example:8080"), "{targets:?}");
    let written = "muster_edge_state_writes_total{outcome=\"ok\"}";
    let so_far = stage.world.metric(written);
    let waiting = async {
        while stage.world.metric(written) < so_far + 2.0 {
            stage.world.control_plane.bookmark().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the state is written again");
    drop(stage);

    // It is ready, although no control plane answers: there is no better gateway.
    let stage = Stage::behind(false, reads.clone(), config()).await;
    stage.world.control_plane.decline(usize::MAX);
    let after = stage.find("").await;
    assert_eq!((after.status, &after.body, &after.rev, after.stale), (200, &before.body, &before.rev, true));
    assert_eq!(stage.find(&before.rev).await.status, 304);
    let last = stage.get("/prometheus/v1/targets", &[]).await;
    assert_eq!((last.status, last.body, last.stale), (200, targets.body, true));
    let other = stage.get(FIND, &[("x-consumerid", "d")]).await;
    assert_eq!(other.status, 503, "nothing is known of it: {other:?}");
    // The state of before the restart is kept: this process has nothing newer.
    let kept = std::fs::read(&file.path).expect("a file");
    drop(stage);
    assert_eq!(std::fs::read(&file.path).expect("a file"), kept);

    // With a control plane again, what holds now is the answer.
    let stage = Stage::with(reads, config()).await;
    stage.world.control_plane.change("p", Update, "1").await;
    stage.follow().await;
    let now = stage.find("").await;
    assert!(now.body != before.body && !now.stale, "{now:?}");
}
