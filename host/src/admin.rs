//! What operators and orchestrators ask a process: does it turn, may it be given work, what are its figures.
//!
//! | route | answer |
//! | --- | --- |
//! | `/live` | 200 while the process answers at all |
//! | `/ready` | 200 when every condition of [`Readiness`] holds and no drain began, else 503; JSON with the reasons |
//! | `/metrics` | the text that Prometheus scrapes |

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Tasks;
use crate::telemetry::metrics::{self, Metrics};

/// The named conditions under which a process may be given work. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<watch::Sender<BTreeMap<&'static str, State>>>,
    drain: CancellationToken,
}

/// Whether a condition holds, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// It holds.
    pub met: bool,
    /// Why it does not, or what it means that it does.
    pub reason: String,
}

/// What `/ready` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Work may be given.
    pub ready: bool,
    /// The process is about to stop.
    pub draining: bool,
    /// Each condition by its name.
    pub conditions: BTreeMap<&'static str, State>,
}

impl Readiness {
    /// Ready at once, until a condition is named; not ready any more once the drain of `tasks` began.
    pub fn new(tasks: &Tasks) -> Self {
        Self { conditions: Arc::default(), drain: tasks.drain().clone() }
    }

    /// Names a condition, which does not hold yet. Its owner keeps the handle.
    #[must_use = "a condition whose handle is dropped no longer holds"]
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, conditions: self.conditions.clone() };
        condition.set(false, "not yet");
        condition
    }

    /// The state of all conditions.
    pub fn report(&self) -> Report {
        let conditions = self.conditions.borrow().clone();
        let draining = self.drain.is_cancelled();
        Report { ready: !draining && conditions.values().all(|it| it.met), draining, conditions }
    }

    /// Waits until work may be given. Cancel-safe; never resolves once the drain began.
    pub async fn ready(&self) {
        let mut changes = self.conditions.subscribe();
        while !self.report().ready {
            if self.drain.is_cancelled() {
                std::future::pending::<()>().await;
            }
            changes.changed().await.expect("the sender is held by self");
        }
    }
}

/// The owner's end of a condition. Dropping it means that nobody sees to the condition any more: it ceases to hold.
#[derive(Debug)]
pub struct Condition {
    name: &'static str,
    conditions: Arc<watch::Sender<BTreeMap<&'static str, State>>>,
}

impl Condition {
    /// Says whether the condition holds, and why.
    pub fn set(&self, met: bool, reason: impl Into<String>) {
        let state = State { met, reason: reason.into() };
        self.conditions.send_if_modified(|all| {
            let changed = all.get(self.name) != Some(&state);
            all.insert(self.name, state);
            changed
        });
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.set(false, "its owner ended");
    }
}

/// The routes above, and those of `extra`.
pub fn router(readiness: Readiness, metrics: Metrics, extra: Router) -> Router {
    Router::new()
        .route("/live", get(|| async { "ok" }))
        .route("/ready", get(async move || answer(&readiness.report())))
        .route("/metrics", get(async move || ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.render())))
        .merge(extra)
}

fn answer(report: &Report) -> Response {
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(report).expect("maps with text keys always serialise");
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn get(router: &Router, path: &str) -> (u16, String) {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).expect("is a request");
        let answer = router.clone().oneshot(request).await.expect("answers");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("ends").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("is text"))
    }

    fn routes(readiness: &Readiness) -> Router {
        let extra = Router::new().route("/health", axum::routing::get(|| async { "fine" }));
        router(readiness.clone(), Metrics::new([]).expect("sets up"), extra)
    }

    #[tokio::test]
    async fn a_process_is_ready_when_every_condition_holds() {
        let readiness = Readiness::new(&Tasks::new());
        let routes = routes(&readiness);
        let (view, bus) = (readiness.condition("view"), readiness.condition("bus"));
        bus.set(true, "connected");
        view.set(false, "listing");
        assert_eq!(
            get(&routes, "/ready").await,
            (
                503,
                concat!(
                    r#"{"ready":false,"draining":false,"conditions":{"#,
                    r#""bus":{"met":true,"reason":"connected"},"view":{"met":false,"reason":"listing"}}}"#
                )
                .to_owned()
            )
        );
        view.set(true, "at revision 7");
        assert_eq!(get(&routes, "/ready").await.0, 200);
        drop(bus);
        assert!(!readiness.report().ready, "nobody keeps the bus");
    }

    #[tokio::test]
    async fn a_draining_process_is_not_ready() {
        let tasks = Tasks::new();
        let readiness = Readiness::new(&tasks);
        assert!(readiness.report().ready);
        tasks.drain().cancel();
        let (status, body) = get(&routes(&readiness), "/ready").await;
        assert_eq!(status, 503);
        assert!(body.contains(r#""draining":true"#), "{body}");
    }

    #[tokio::test]
    async fn readiness_can_be_waited_for() {
        let readiness = Readiness::new(&Tasks::new());
        let view = readiness.condition("view");
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        view.set(true, "listed");
        waiting.await.expect("ends");
    }

    #[tokio::test]
    async fn live_metrics_and_further_routes_are_served() {
        let routes = routes(&Readiness::new(&Tasks::new()));
        assert_eq!(get(&routes, "/live").await, (200, "ok".to_owned()));
        assert_eq!(get(&routes, "/health").await, (200, "fine".to_owned()));
        let (status, text) = get(&routes, "/metrics").await;
        assert!(status == 200 && text.contains("# TYPE process_threads gauge"), "{text}");
    }
}
