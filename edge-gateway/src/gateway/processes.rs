//! The figures of all processes, for people: `GET /v4/{project}/admin/processes`.
//!
//! Control planes answer for themselves: this gateway asks each of them, in the client's name. Gateways tell
//! each other their figures with the announcements of the fleet, so that nobody has to be asked.

use axum::body::Body;
use host::figures::sampler::{FleetFigures, ProcessFigures};
use http::{Request, Response, StatusCode};

use super::GatewayParts;
use super::gathering::{contents, told};

/// The most bytes of an answer: that of one process has less than two thousand.
const LARGEST: usize = 64 << 10;
/// The most processes that one answer of a control plane tells of.
const MOST: usize = 4;

impl GatewayParts {
    /// Answers with the figures of this gateway, of the others that are heard, and of all control planes.
    pub(super) async fn processes(&self, request: Request<Body>) -> Response<Body> {
        let own = ProcessFigures { address: self.instance.clone(), ..self.sampler.figures() };
        let mut answer = FleetFigures::default();
        for replica in self.gather(request).await {
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
        told(&answer)
    }
}

/// The figures in an answer of a control plane. `None` if there are none in it, as in that of an older version.
async fn figures_of(answer: Option<Response<Body>>) -> Option<Vec<ProcessFigures>> {
    let theirs: FleetFigures = contents(answer, LARGEST).await?;
    Some(theirs.processes.into_iter().take(MOST).map(ProcessFigures::bounded).collect())
}
