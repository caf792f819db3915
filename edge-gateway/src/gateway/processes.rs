//! The figures of all processes, for people: `GET /v4/{project}/admin/processes`.
//!
//! Control planes answer for themselves: this gateway asks each of them, in the client's name. Gateways tell
//! each other their figures with the announcements of the fleet, so that nobody has to be asked.

use std::time::Duration;

use axum::body::Body;
use host::figures::sampler::{FleetFigures, ProcessFigures};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::GatewayParts;
use super::trail::without_body;

/// The time that a control plane has for its answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most bytes of an answer: that of one process has less than two thousand.
const LARGEST: usize = 64 << 10;
/// The most processes that one answer of a control plane tells of.
const MOST: usize = 4;

impl GatewayParts {
    /// Answers with the figures of this gateway, of the others that are heard, and of all control planes.
    pub(super) async fn processes(&self, request: Request<Body>) -> Response<Body> {
        let own = ProcessFigures { address: self.instance.clone(), ..self.sampler.figures() };
        let mut answer = FleetFigures::default();
        for replica in self.pass_on_to_all(without_body(request), PATIENCE).await {
            match replica {
                // A tenant that is none, which they all refuse.
                Some(refusal) if refusal.status() == StatusCode::BAD_REQUEST => return refusal,
                replica => match figures_of(replica).await {
                    Some(theirs) => answer.processes.extend(theirs),
                    None => answer.silent += 1,
                },
            }
        }
        // A control plane of the same process has the same figures.
        if answer.processes.iter().all(|theirs| theirs.process != own.process) {
            answer.processes.push(own);
        }
        answer.processes.extend(self.peers.figures());
        let bytes = serde_json::to_vec(&answer).expect("texts and numbers always serialise");
        let mut response = Response::new(Body::from(bytes));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// The figures in an answer of a control plane. `None` if there are none in it, as in that of an older version.
async fn figures_of(answer: Option<Response<Body>>) -> Option<Vec<ProcessFigures>> {
    let answer = answer.filter(|answer| answer.status() == StatusCode::OK)?;
    let reading = Limited::new(answer.into_body(), LARGEST).collect();
    let bytes = tokio::time::timeout(PATIENCE, reading).await.ok()?.ok()?.to_bytes();
    let theirs: FleetFigures = serde_json::from_slice(&bytes).ok()?;
    Some(theirs.processes.into_iter().take(MOST).map(ProcessFigures::bounded).collect())
}
