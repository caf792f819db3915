//! The admin port's routes for orchestrators and Prometheus: liveness, readiness, metrics.
//!
//! | route | answer |
//! | --- | --- |
//! | `/live` | 200 while the process can answer |
//! | `/ready` | 200 when every condition of [`Readiness`] holds and the process does not leave, else 503; JSON |
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

use crate::lifecycle::Tasks;
use crate::telemetry::metrics::{self, Metrics};

pub mod access;
pub(crate) mod operators;

/// The paths of every route of the admin port, for programs that serve it beside another port's routes.
pub const PATHS: &[&str] =
    &["/live", "/ready", "/metrics", "/config", crate::inventory::PATH, access::PATH, "/drain"];

/// The named conditions that must hold before a process is given work. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<watch::Sender<BTreeMap<&'static str, ConditionState>>>,
    tasks: Tasks,
}

/// The state of one condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConditionState {
    /// The condition holds.
    pub met: bool,
    /// The reason that it does not hold, or a description of the state in which it does. For people.
    pub reason: String,
}

/// The answer of `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    /// The process may be given work.
    pub ready: bool,
    /// The process drains, or will after its delay, and stops when it has finished its work.
    pub draining: bool,
    /// The conditions by name.
    pub conditions: BTreeMap<&'static str, ConditionState>,
}

impl Readiness {
    /// Conditions for the process with these tasks. Without any condition it is ready; once it
    /// leaves, it is not.
    pub fn new(tasks: &Tasks) -> Self {
        Self { conditions: Arc::default(), tasks: tasks.clone() }
    }

    /// Adds a condition, which does not hold yet. The caller must keep the handle and update it.
    #[must_use = "a condition whose handle is dropped no longer holds"]
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, conditions: self.conditions.clone() };
        condition.set(false, "not yet");
        condition
    }

    /// The state of all conditions.
    pub fn report(&self) -> ReadinessReport {
        let conditions = self.conditions.borrow().clone();
        let draining = self.tasks.is_leaving();
        let ready = !draining && conditions.values().all(|condition| condition.met);
        ReadinessReport { ready, draining, conditions }
    }

    /// Waits until the process is ready. Cancel-safe. Never resolves once it leaves.
    pub async fn ready(&self) {
        let mut changes = self.conditions.subscribe();
        while !self.report().ready {
            // The order to leave cannot be taken back, so nothing will change any more.
            if self.tasks.is_leaving() {
                std::future::pending::<()>().await;
            }
            changes.changed().await.expect("the sender is held by self");
        }
    }
}

/// The handle by which its owner updates a condition. When it is dropped, the condition no longer holds.
#[derive(Debug)]
pub struct Condition {
    name: &'static str,
    conditions: Arc<watch::Sender<BTreeMap<&'static str, ConditionState>>>,
}

impl Condition {
    /// Updates the condition.
    pub fn set(&self, met: bool, reason: impl Into<String>) {
        let state = ConditionState { met, reason: reason.into() };
        // Owners set the same state again and again; only changes may wake the waiting tasks.
        self.conditions.send_if_modified(|all| {
            let changed = all.get(self.name) != Some(&state);
            all.insert(self.name, state);
            changed
        });
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        // Also when the owner panics: a condition without an owner would stay true for ever.
        self.set(false, "its owner ended");
    }
}

/// The routes of this module, and those of `extra`.
pub fn router(readiness: Readiness, metrics: Metrics, extra: Router) -> Router {
    Router::new()
        .route("/live", get(|| async { "ok" }))
        .route("/ready", get(async move || readiness_response(&readiness.report())))
        .route("/metrics", get(async move || ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.render())))
        .merge(extra)
}

fn readiness_response(report: &ReadinessReport) -> Response {
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
        let view = readiness.condition("view");
        let bus = readiness.condition("bus");
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
        assert!(!readiness.report().ready, "the condition of the bus has no owner");
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
    #[expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]
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
