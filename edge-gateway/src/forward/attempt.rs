//! One attempt to have a request answered by a control plane.
//!
//! In: a request and a replica. Out: the replica's answer, or what is known of the request without one. An attempt
//! lasts as long as answers may take, unless the replica is found to answer nothing at all, or another replica has
//! answered with a fault and this one will hardly do better.

use std::pin::pin;
use std::time::{Duration, Instant};

use axum::body::Body;
use host::lane;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, Version};
use http_body::Body as _;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::NotForwarded;
use super::replicas::ReplicaSet;
use super::upload::Upload;

/// A replica that has answered nothing for the time of so many probes is not waited for. One that is
/// overloaded answers something in that time, and is.
const SILENT_PROBES: u32 = 3;
/// The pause after which a waiting request looks again whether its replica is silent.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The time for which a replica that answers nothing is asked where another one has answered with a fault: one that
/// has come back answers in milliseconds.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// The time after which the fault of another replica is the answer. A control plane waits three seconds for its view
/// and five for its store, so one that is merely slow has answered by then, or has the same to say.
const SLOWEST: Duration = Duration::from_secs(5);

/// The end of an attempt that brought no answer.
pub(super) enum AttemptError {
    /// The request was not sent.
    Unsent,
    /// The request may have been sent, and carried out.
    Unknown,
    /// The client's body failed, so another attempt would too.
    Client(NotForwarded),
}

/// No answer has come in the time that it may take.
struct GivenUp;

/// The outcome of one attempt.
pub(super) type Attempt = Result<Response<Body>, AttemptError>;

impl From<AttemptError> for NotForwarded {
    fn from(error: AttemptError) -> Self {
        match error {
            AttemptError::Unsent | AttemptError::Unknown => Self::Unavailable,
            AttemptError::Client(fault) => fault,
        }
    }
}

impl ReplicaSet {
    pub(super) async fn attempt_streaming(&self, replica: usize, parts: Parts, body: Body) -> Attempt {
        let upload = Upload::default();
        // Most requests have no body, and these need no wrapper.
        let body = if body.is_end_stream() { body } else { upload.follow(body, self.config.largest_body) };
        self.attempt(replica, Request::from_parts(parts, body), &upload).await
    }

    pub(super) async fn attempt(
        &self,
        replica: usize,
        mut request: Request<Body>,
        upload: &Upload,
    ) -> Attempt {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = self.uri(replica, path).ok_or(AttemptError::Unsent)?;
        *request.version_mut() = Version::HTTP_11;
        // The HTTP client trusts this header and sets it when it is missing. Requests of the gateway's own
        // carry a client's headers but not its body; with the length of that body the control plane would
        // wait for it, or take the next request on the connection for it.
        request.headers_mut().remove(CONTENT_LENGTH);
        let address = &self.addresses[replica].1;
        let client = if lane::is_slow() { &self.slow } else { &self.client };
        match self.patiently(replica, client.request(request)).await {
            Ok(Ok(answer)) => {
                self.note_answer(replica);
                Ok(answer.map(Body::new))
            }
            Ok(Err(error)) if let Some(fault) = upload.fault() => {
                debug!(control_plane = %address, %error, %fault, "the body of a request failed");
                Err(AttemptError::Client(fault))
            }
            Ok(Err(error)) if error.is_connect() => {
                debug!(control_plane = %address, %error, "no connection to a control plane can be opened");
                self.unreachable(replica, &error);
                Err(AttemptError::Unsent)
            }
            Ok(Err(error)) => {
                debug!(control_plane = %address, %error, "a control plane did not answer a request");
                self.suspect(replica);
                Err(AttemptError::Unknown)
            }
            Err(GivenUp) if let Some(fault) = upload.fault() => Err(AttemptError::Client(fault)),
            Err(GivenUp) if upload.is_awaited() => {
                debug!(control_plane = %address, "the body of a request did not arrive in time");
                Err(AttemptError::Client(NotForwarded::BodyLate))
            }
            Err(GivenUp) => {
                debug!(control_plane = %address, "a control plane took too long to answer a request");
                self.suspect(replica);
                Err(AttemptError::Unknown)
            }
        }
    }

    /// Waits for the answer of a replica for as long as answers may take; for a replica that has been silent
    /// to all probes and requests, only as long as it takes to find that it has come back.
    async fn patiently<A>(&self, replica: usize, answer: impl Future<Output = A>) -> Result<A, GivenUp> {
        let mut answer = pin!(answer);
        let began = Instant::now();
        let silence = self.config.probe_interval * SILENT_PROBES;
        loop {
            let left = self.config.answer_timeout.saturating_sub(began.elapsed());
            let step = left.min(LOOK_AGAIN);
            if let Ok(answer) = tokio::time::timeout(step, answer.as_mut()).await {
                return Ok(answer);
            }
            if step == left || self.health.silent_for(replica, Instant::now()) >= silence {
                return Err(GivenUp);
            }
        }
    }

    /// The outcome of an attempt that began at `began`, after one at another replica. If that one `has_answered`, with
    /// a fault, the client is not to wait long for an answer that may be better: hardly at all for one of a replica
    /// that answers nothing.
    pub(super) async fn beside(
        &self,
        has_answered: bool,
        replica: usize,
        began: Instant,
        attempt: impl Future<Output = Attempt>,
    ) -> Attempt {
        if !has_answered {
            return attempt.await;
        }
        let too_long = async {
            sleep(self.config.second_try_after.saturating_sub(began.elapsed())).await;
            // The probe tells one that hangs from one that is slow.
            self.suspect(replica);
            sleep(SLOWEST.saturating_sub(began.elapsed())).await;
        };
        let mut attempt = pin!(attempt);
        let outcome = tokio::select! {
            biased;
            outcome = &mut attempt => return outcome,
            () = self.health.silence(replica) => timeout(LAST_LOOK, attempt).await.ok(),
            () = too_long => None,
        };
        outcome.unwrap_or_else(|| {
            debug!(control_plane = %self.addresses[replica].1, "a control plane is not waited for: another one has answered");
            Err(AttemptError::Unknown)
        })
    }
}
