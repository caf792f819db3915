//! Lists of services: kept by the gateway, confirmed by a control plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use edge_gateway::Config;
use edge_gateway::forward::{Forward, NotForwarded};
use edge_gateway::settings::{ReadsConfig, UpstreamConfig};
use futures_util::future::join_all;
use http::header::{ACCEPT_ENCODING, AGE, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, WARNING};
use http::{HeaderValue, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::call::call;
use crate::tokens::{self, token};
use crate::world::{World, config};

const LIST: &str = "/v4/default/registry/microservices";

/// A control plane with one list, which answers conditional requests as ours do.
#[derive(Clone)]
struct Plane {
    list: Arc<Mutex<String>>,
    /// `None`: no control plane answers.
    status: Arc<Mutex<Option<StatusCode>>>,
    /// The list is the same for everybody who may see all services.
    is_tagged: Arc<AtomicBool>,
    /// The tags that requests have named; empty for none.
    asked: Arc<Mutex<Vec<String>>>,
    /// Each answer takes one of these.
    permits: Arc<Semaphore>,
    reachable: watch::Sender<bool>,
    /// The store has been silent for so long.
    silent: Arc<Mutex<Option<Duration>>>,
}

#[async_trait]
impl Forward for Plane {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, NotForwarded> {
        let named = request.headers().get(IF_NONE_MATCH).map(|tag| tag.to_str().expect("ASCII").to_owned());
        self.asked.lock().push(named.unwrap_or_default());
        self.permits.acquire().await.expect("is open").forget();
        let status = self.status.lock().ok_or(NotForwarded::Unavailable)?;
        let list = self.list.lock().clone();
        let mut response = Response::new(Body::from(list.clone()));
        *response.status_mut() = status;
        if status != StatusCode::OK || !self.is_tagged.load(Ordering::Relaxed) {
            return Ok(response);
        }
        let mut tag = answer::tag::of(list.as_bytes());
        let zips = answer::gzip::is_accepted(request.headers());
        if zips {
            tag = answer::tag::of_gzip(&tag);
        }
        if answer::tag::is_named(request.headers(), &tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
        } else if zips {
            *response.body_mut() = Body::from(answer::gzip::once(list.as_bytes()));
            answer::gzip::mark(response.headers_mut());
        }
        answer::tag::mark(response.headers_mut(), &tag);
        if let Some(age) = *self.silent.lock() {
            answer::stale::mark(response.headers_mut(), age);
        }
        Ok(response)
    }

    fn reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }
}

struct Stage {
    world: World,
    plane: Plane,
}

impl Stage {
    async fn start(is_tagged: bool, reads: ReadsConfig) -> Self {
        let plane = Plane {
            list: Arc::new(Mutex::new("first".into())),
            status: Arc::new(Mutex::new(Some(StatusCode::OK))),
            is_tagged: Arc::new(is_tagged.into()),
            asked: Arc::default(),
            permits: Arc::new(Semaphore::new(1000)),
            reachable: watch::Sender::new(true),
            silent: Arc::default(),
        };
        let upstream = UpstreamConfig { reads, ..config().upstream.clone() };
        let world = World::with_forward(Config { upstream, ..config() }, Arc::new(plane.clone())).await;
        Self { world, plane }
    }

    async fn get(&self, headers: &[(&str, &str)]) -> Response<String> {
        call(&self.world, "GET", LIST, headers, "").await
    }

    async fn list(&self) -> String {
        let answer = self.get(&[]).await;
        assert_eq!(answer.status(), 200);
        answer.into_body()
    }

    /// The tags that were named since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.plane.asked.lock())
    }

    fn counted(&self, answered: &str) -> f64 {
        self.world.metric(&format!("muster_edge_lists_total{{answered=\"{answered}\"}}"))
    }
}

fn tag(list: &str) -> String {
    answer::tag::of(list.as_bytes()).to_str().expect("ASCII").to_owned()
}

#[tokio::test]
async fn a_list_is_sent_again_after_its_tag_was_confirmed() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    assert_eq!([stage.list().await, stage.list().await], ["first", "first"]);
    assert_eq!(stage.asked(), [String::new(), tag("first")]);
    assert_eq!([stage.counted("forwarded"), stage.counted("here")], [1.0, 1.0]);
    *stage.plane.list.lock() = "second".into();
    assert_eq!([stage.list().await, stage.list().await], ["second", "second"]);
    assert_eq!(stage.asked(), [tag("first"), tag("second")]);
    assert!(stage.world.metric("muster_edge_list_bytes") > 0.0);
}

#[tokio::test]
async fn a_client_that_has_the_list_is_sent_none() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    let first = tag("first");
    for _ in 0..2 {
        let answer = stage.get(&[(IF_NONE_MATCH.as_str(), &first), ("origin", "http://x")]).await;
        assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(answer.headers()[ETAG], first);
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    }
    assert_eq!(stage.asked(), [String::new(), first.clone()], "first the gateway has to get it");
    *stage.plane.list.lock() = "second".into();
    let answer = stage.get(&[(IF_NONE_MATCH.as_str(), &first)]).await;
    assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::OK, "second"));
}

#[tokio::test]
async fn each_form_of_the_list_is_kept_by_itself() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    stage.list().await;
    let zipped = answer::tag::of_gzip(&answer::tag::of(b"first"));
    for _ in 0..2 {
        // A proxy's word about its connection takes nothing away from the question.
        let headers = [(ACCEPT_ENCODING.as_str(), "gzip"), ("connection", "accept-encoding, if-none-match")];
        let answer = stage.get(&headers).await;
        assert_eq!(answer.headers()[CONTENT_ENCODING], HeaderValue::from_static("gzip"));
        assert_eq!(answer.headers()[ETAG], zipped);
    }
    assert_eq!(stage.list().await, "first");
    let zipped = zipped.to_str().expect("ASCII").to_owned();
    assert_eq!(stage.asked(), [String::new(), String::new(), zipped, tag("first")]);
}

#[tokio::test]
async fn requests_of_a_moment_share_a_question() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    stage.list().await;
    stage.asked();
    *stage.plane.list.lock() = "second".into();
    stage.plane.permits.forget_permits(999);
    let all = join_all((0..50).map(|_| stage.list()));
    let release = async {
        while stage.plane.asked.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        stage.plane.permits.add_permits(50);
    };
    let (answers, ()) = tokio::join!(all, release);
    assert!(answers.iter().all(|list| list == "second"));
    assert!(stage.asked().len() < 25, "some arrived after a question had begun");
}

#[tokio::test]
async fn without_control_planes_the_last_list_is_marked() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    stage.list().await;
    for status in [None, Some(StatusCode::SERVICE_UNAVAILABLE)] {
        *stage.plane.status.lock() = status;
        let answer = stage.get(&[]).await;
        assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::OK, "first"));
        assert!(answer.headers().contains_key(WARNING) && answer.headers().contains_key(AGE));
    }
    stage.asked();
    stage.plane.reachable.send_replace(false);
    assert!(stage.get(&[]).await.headers().contains_key(WARNING));
    assert!(stage.asked().is_empty(), "nobody is asked who cannot answer");
    // A list that was never asked for is not made up.
    let other = stage.get(&[("x-domain-name", "other")]).await;
    assert_eq!(other.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stage.counted("stale"), 3.0);
}

#[tokio::test]
async fn those_who_waited_for_a_question_that_failed_get_the_last_list_too() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    stage.list().await;
    stage.asked();
    *stage.plane.status.lock() = Some(StatusCode::SERVICE_UNAVAILABLE);
    stage.plane.permits.forget_permits(999);
    let all = join_all((0..20).map(|_| stage.get(&[])));
    let release = async {
        while stage.plane.asked.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        stage.plane.permits.add_permits(50);
    };
    let (answers, ()) = tokio::join!(all, release);
    assert!(answers.iter().all(|answer| answer.body() == "first" && answer.headers().contains_key(WARNING)));
}

#[tokio::test]
async fn a_list_that_is_too_old_is_not_told() {
    let reads = ReadsConfig { stale_for: Duration::from_nanos(1), ..ReadsConfig::default() };
    let stage = Stage::start(true, reads).await;
    stage.list().await;
    *stage.plane.status.lock() = None;
    assert_eq!(stage.get(&[]).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    *stage.plane.status.lock() = Some(StatusCode::OK);
    assert_eq!(stage.list().await, "first", "it is kept all the same");
}

#[tokio::test]
async fn a_list_without_a_tag_is_forwarded() {
    let stage = Stage::start(false, ReadsConfig::default()).await;
    assert_eq!([stage.list().await, stage.list().await], ["first", "first"]);
    assert_eq!(stage.asked(), [String::new(), String::new()]);
    assert_eq!(stage.counted("forwarded"), 2.0);
}

#[tokio::test]
async fn a_list_that_another_answer_has_superseded_is_not_told() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    stage.list().await;
    // Control planes that have started anew know nothing of the tenant, and their answer has no tag.
    stage.plane.is_tagged.store(false, Ordering::Relaxed);
    *stage.plane.list.lock() = "{}".into();
    assert_eq!(stage.list().await, "{}");
    *stage.plane.status.lock() = None;
    assert_eq!(stage.get(&[]).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_question_under_way_is_given_up_when_no_control_plane_answers_any_more() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    stage.list().await;
    stage.asked();
    stage.plane.permits.forget_permits(1000);
    let lost = async {
        while stage.plane.asked.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        stage.plane.reachable.send_replace(false);
    };
    let (answers, ()) = tokio::join!(join_all((0..3).map(|_| stage.get(&[]))), lost);
    assert!(answers.iter().all(|answer| answer.body() == "first" && answer.headers().contains_key(WARNING)));
}

#[tokio::test]
async fn an_account_that_sees_some_services_gets_no_list_that_is_kept() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    stage.world.control_plane.policy(tokens::policy()).await;
    stage.world.until("muster_edge_policy_revision", |revision| revision > 0.0).await;
    let list = async |account: &str| {
        let token = format!("Bearer {}", token(account, 3600));
        stage.get(&[("authorization", &token), (IF_NONE_MATCH.as_str(), "\"its own\"")]).await
    };
    assert_eq!(list("root").await.body(), "first");
    *stage.plane.list.lock() = "of the shop".into();
    assert_eq!(list("shop").await.body(), "of the shop");
    assert_eq!(stage.asked(), ["", "\"its own\""], "a control plane answers it as it is");
    assert_eq!(stage.get(&[]).await.status(), StatusCode::UNAUTHORIZED);
    *stage.plane.list.lock() = "first".into();
    assert_eq!(list("root").await.body(), "first");
    assert_eq!(stage.asked(), [tag("first")]);
}

#[tokio::test]
async fn a_list_for_which_there_is_no_memory_is_forwarded() {
    let stage = Stage::start(true, ReadsConfig { memory: 4 * 500, ..ReadsConfig::default() }).await;
    assert_eq!([stage.list().await, stage.list().await], ["first", "first"]);
    assert_eq!(stage.asked(), [String::new(), String::new()]);
    assert_eq!(stage.world.metric("muster_edge_list_bytes"), 0.0);
}

#[tokio::test]
async fn a_client_has_its_own_list_that_is_too_large_to_keep_confirmed() {
    let stage = Stage::start(true, ReadsConfig { memory: 4 * 10_000, ..ReadsConfig::default() }).await;
    let large = "l".repeat(10_000);
    stage.plane.list.lock().clone_from(&large);
    assert_eq!(stage.list().await, large);
    let confirmed = stage.get(&[(IF_NONE_MATCH.as_str(), &tag(&large))]).await;
    assert_eq!((confirmed.status(), confirmed.body().as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(stage.asked(), [String::new(), tag(&large)]);
}

#[tokio::test]
async fn a_list_that_its_store_does_not_confirm_is_kept_and_told_with_its_mark() {
    let stage = Stage::start(true, ReadsConfig::default()).await;
    *stage.plane.silent.lock() = Some(Duration::from_secs(40));
    for named in [String::new(), tag("first")] {
        let answer = stage.get(&[]).await;
        assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::OK, "first"));
        assert!(answer.headers().contains_key(WARNING));
        assert_eq!(answer.headers().get(AGE), Some(&HeaderValue::from_static("40")));
        assert_eq!(stage.asked(), [named], "the second question names the list that is kept");
    }
    assert_eq!(stage.counted("stale"), 2.0);
    *stage.plane.silent.lock() = None;
    assert!(!stage.get(&[]).await.headers().contains_key(WARNING), "it is confirmed again");
}
