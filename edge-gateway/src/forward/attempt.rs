//! One attempt to have a request answered by a control plane.
//!
//! In: a request and a replica. Out: the replica's answer, or what is known of the request without one. An attempt
//! lasts as long as answers may take, unless the replica is found to answer nothing at all, or another replica has
//! answered with a fault and this one will hardly do better.

use std::pin::pin;
use std::time::{Duration, Instant};

use axum::body::Body;
use host::http::HeldBytes;
use host::lane;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, Version};
use http_body::Body as _;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::NotForwarded;
use super::health::RequestClass;
use super::replicas::{ReplicaSet, class_of};
use super::upload::Upload;

/// For a write, a replica is not waited for that has answered nothing for the time of so many probes after the one that
/// found it silent.
const SILENT_PROBES: u32 = 3;
/// The time in which a replica that was silent when it was asked shows that it has come back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The time for which a replica that answers nothing is asked where another one has answered with a fault: one that
/// has come back answers in milliseconds.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// The time in which a replica answers that is merely slow. A control plane waits three seconds for its view
/// and five for its store. After it the fault of another replica is the answer, and a probe that is late shows nothing.
pub(super) const SLOWEST: Duration = Duration::from_secs(5);

/// The end of an attempt that brought no answer.
pub(super) enum AttemptError {
    /// The request was not sent.
    Unsent,
    /// The request may have been sent, and carried out.
    Unknown,
    /// The client's body failed, so another attempt would too.
    Client(NotForwarded),
}

/// The reason for which an answer is not waited for any longer.
enum GivenUp {
    /// None has come in the time that it may take.
    Late,
    /// The replica answers nothing.
    Silent,
}

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
        let class = class_of(request.method(), request.uri().path());
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
        match self.patiently(replica, class, client.request(request)).await {
            Ok(Ok(answer)) => {
                self.note_answer(replica);
                // Its body comes as the client reads it. The control plane counts what waits there.
                Ok(HeldBytes::none().on(answer.map(Body::new)))
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
            Err(_) if let Some(fault) = upload.fault() => Err(AttemptError::Client(fault)),
            Err(GivenUp::Late) if upload.is_awaited() => {
                debug!(control_plane = %address, "the body of a request did not arrive in time");
                Err(AttemptError::Client(NotForwarded::BodyLate))
            }
            Err(GivenUp::Late | GivenUp::Silent) => {
                debug!(control_plane = %address, "a control plane took too long to answer a request");
                self.suspect(replica);
                Err(AttemptError::Unknown)
            }
        }
    }

    /// Waits for the answer of a replica for as long as answers may take, and not past the moment in which it is
    /// found that the replica answers nothing.
    async fn patiently<A>(
        &self,
        replica: usize,
        class: RequestClass,
        answer: impl Future<Output = A>,
    ) -> Result<A, GivenUp> {
        let mut answer = pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            () = sleep(self.config.answer_timeout) => return Err(GivenUp::Late),
            () = self.hopeless(replica, class) => {}
        }
        // It may have been this process that stood still: then the answer is here, and so is the time of the probe.
        timeout(LAST_LOOK, answer).await.map_err(|_| GivenUp::Silent)
    }

    /// Returns when a request that waits for this replica will hardly be answered. The last replica to which that
    /// happens is the one with which [`super::Forward::reachable`] falls.
    async fn hopeless(&self, replica: usize, class: RequestClass) {
        if class == RequestClass::Read {
            if self.health.is_silent(replica) {
                // It is asked all the same, because no other is better, and may have come back.
                sleep(LOOK_AGAIN).await;
            }
            return self.health.silence(replica).await;
        }
        // Only the answer tells whether a write was carried out, and some SDKs end for good after one heartbeat that
        // fails. So a replica that stands still for a few seconds is waited for.
        let silence = self.config.probe_interval * SILENT_PROBES;
        loop {
            sleep(LOOK_AGAIN).await;
            if self.health.silent_for(replica, Instant::now()) >= silence {
                return;
            }
        }
    }

    /// The outcome of an attempt that began at `began`, after one at another replica. If that one `has_told_a_read`, with
    /// a fault, the client is not to wait long for an answer that may be better: hardly at all for one of a replica
    /// that answers nothing. A write is waited for, see [`Self::hopeless`].
    pub(super) async fn beside(
        &self,
        has_told_a_read: bool,
        replica: usize,
        began: Instant,
        attempt: impl Future<Output = Attempt>,
    ) -> Attempt {
        if !has_told_a_read {
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

#[cfg(test)]
mod tests {
    use host::lifecycle::Tasks;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::super::{ForwardConfig, Replicas};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_is_waited_for_where_a_read_is_not() {
        let config = ForwardConfig { control_planes: vec!["127.0.0.1:9".into()], ..ForwardConfig::default() };
        let meter = SdkMeterProvider::builder().build().meter("test");
        let replicas = Replicas::new(config, &meter, &Tasks::new()).expect("a good address");
        let slow = async || {
            sleep(2 * SLOWEST).await;
            Ok(Response::new(Body::empty()))
        };
        for has_told_a_read in [false, true] {
            let outcome = replicas.0.beside(has_told_a_read, 0, Instant::now(), slow()).await;
            assert_eq!(outcome.is_err(), has_told_a_read, "another replica has answered with a fault");
        }
    }
}
