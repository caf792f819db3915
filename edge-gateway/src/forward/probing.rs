//! Probes of control planes, and what they and requests show of a replica.
//!
//! In: the outcomes of probes and of connections. Out: the health of each replica, and the claim that one can
//! be reached.
//!
//! A probe that is late shows a replica that answers nothing, unless it has answered a request meanwhile. The answer is
//! waited for up to five seconds in all: where all are slow, reads would otherwise be given up before they are answered, for as
//! long as probes are late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use host::tls;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::BusBehind;
use super::attempt::SLOWEST;
use super::health::ProbeAnswer;
use super::replicas::ReplicaSet;

/// The time that a probe may take, however long the pause between two of them is.
const LONGEST_PROBE: Duration = Duration::from_secs(10);
/// The late probes of a replica whose answers are waited for.
const MOST_LATE: usize = 4;
/// The path of probes. A server that does not know it is healthy too: it answers.
const PROBE_PATH: &str = "/v4/default/registry/health/readiness";

impl ReplicaSet {
    /// Probes a replica at the configured pace, and when a request to it failed, until `drain`.
    pub(super) async fn probe_until(self: Arc<Self>, replica: usize, drain: CancellationToken) {
        // A replica that hangs must not be found later because probes are rare.
        let time = self.config.probe_interval.min(LONGEST_PROBE);
        let mut pace = tokio::time::interval(self.config.probe_interval);
        let mut late = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                _ = pace.tick() => {}
                () = self.suspected[replica].notified() => {}
                Some(answer) = late.next() => {
                    self.came_late(replica, answer);
                    continue;
                }
            }
            self.health.listen(replica);
            let began = Instant::now();
            let mut probe = Box::pin(self.probe(replica));
            let mut in_time = Box::pin(timeout(time, &mut probe));
            let outcome = loop {
                tokio::select! {
                    biased;
                    outcome = &mut in_time => break outcome,
                    Some(answer) = late.next() => self.came_late(replica, answer),
                }
            };
            drop(in_time);
            match outcome {
                Ok(outcome) => {
                    // What they have to say is older.
                    late.clear();
                    self.note(replica, outcome);
                }
                Err(_) => {
                    self.was_late(replica, time);
                    if late.len() < MOST_LATE {
                        late.push(timeout(SLOWEST.saturating_sub(began.elapsed()), probe));
                    }
                }
            }
        }
    }

    /// Notes that a probe was not answered in this time. While requests are answered, that shows a replica that is busy,
    /// and none that hangs: those who wait for it would give up what it is working on.
    fn was_late(&self, replica: usize, time: Duration) {
        if self.health.is_heard(replica) {
            debug!(control_plane = %self.addresses[replica].1, "a control plane answers requests and no probe");
        } else {
            self.note(replica, Err(format!("no answer to a probe within {time:?}")));
        }
    }

    /// Notes that a late probe has ended. If it was answered, the replica is merely slow, and those are asked first that
    /// are not.
    fn came_late(&self, replica: usize, answer: Result<Result<ProbeAnswer, String>, Elapsed>) {
        let Ok(Ok(ProbeAnswer { is_ready, bus })) = answer else { return };
        self.health.set_bus(replica, bus);
        self.note_answer(replica);
        if self.health.set_ready(replica, false) {
            info!(control_plane = %self.addresses[replica].1, "a control plane answers probes late; others are asked first");
        }
        self.report(is_ready);
    }

    /// The answer to a probe, however late it is.
    ///
    /// # Errors
    /// The reason why there is none, in words for people.
    async fn probe(&self, replica: usize) -> Result<ProbeAnswer, String> {
        let uri = self.uri(replica, PathAndQuery::from_static(PROBE_PATH));
        let uri = uri.ok_or("its address makes no URL")?;
        // A kept connection may be closing just now. The second try opens a new one, or finds that it cannot.
        let mut failure = String::new();
        for _ in 0..2 {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = uri.clone();
            match self.client.request(request).await {
                Ok(answer) => {
                    let is_ready = answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND;
                    return Ok(ProbeAnswer { is_ready, bus: bus_of(&answer) });
                }
                Err(error) if error.is_connect() => return Err(reason(&error)),
                Err(error) => failure = reason(&error),
            }
        }
        Err(failure)
    }

    pub(super) fn note_answer(&self, replica: usize) {
        if self.health.answered(replica) {
            info!(control_plane = %self.addresses[replica].1, "a control plane answers again");
            self.report(false);
        }
    }

    /// Notes the finding of a probe, or the reason for which no connection to the replica can be opened.
    fn note(&self, replica: usize, outcome: Result<ProbeAnswer, String>) {
        let address = &self.addresses[replica].1;
        let is_ready = matches!(outcome, Ok(ProbeAnswer { is_ready: true, .. }));
        match outcome {
            Ok(ProbeAnswer { bus, .. }) => {
                self.health.set_bus(replica, bus);
                self.note_answer(replica);
                if self.health.set_ready(replica, is_ready) {
                    info!(control_plane = %address, is_ready, "a control plane's readiness has changed");
                }
            }
            Err(reason) => {
                if self.health.failed(replica, Instant::now()) {
                    warn!(control_plane = %address, reason, "a control plane does not answer; requests go to others first");
                }
            }
        }
        self.report(is_ready);
    }

    /// Notes that no connection to the replica can be opened.
    pub(super) fn unreachable(&self, replica: usize, error: &(dyn std::error::Error + 'static)) {
        self.note(replica, Err(reason(error)));
    }

    fn report(&self, is_one_ready: bool) {
        self.metrics.healthy(self.health.answering(), self.health.ready());
        self.reachable.send_if_modified(|now| {
            // Only a ready replica makes the claim: one that has not read the registry yet answers too. Replicas
            // that lose their store later are still of use, for reads.
            let reachable = self.health.answering() > 0 && (is_one_ready || *now);
            std::mem::replace(now, reachable) != reachable
        });
        let bus = self.health.bus();
        self.bus_behind.send_if_modified(|now| std::mem::replace(now, bus) != bus);
    }
}

/// The bus, as the answer to a probe tells it.
fn bus_of<B>(answer: &Response<B>) -> BusBehind {
    match answer.headers().get(bus::LINK_HEADER).map(HeaderValue::as_bytes) {
        Some(b"joined") => BusBehind::Joined,
        Some(b"lost") => BusBehind::Lost,
        _ => BusBehind::Unknown,
    }
}

/// The deepest cause of an error, with advice if it is a fault of TLS.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    tls::with_advice(cause.to_string())
}

#[cfg(test)]
mod tests {
    use host::lifecycle::Tasks;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::super::{Forward as _, ForwardConfig, Replicas};
    use super::*;

    #[tokio::test]
    async fn a_late_probe_of_a_replica_that_answers_requests_is_no_silence() {
        // Nothing runs beside this test, which is all that there is of probes and of requests.
        let config = ForwardConfig { control_planes: vec!["127.0.0.1:9".into()], ..ForwardConfig::default() };
        let meter = SdkMeterProvider::builder().build().meter("test");
        let replicas = Replicas::new(config, &meter, &Tasks::new()).expect("a good address");
        let set = &replicas.0;
        let time = Duration::from_secs(2);
        let answer = ProbeAnswer { is_ready: true, bus: BusBehind::Unknown };
        set.note(0, Ok(answer));
        set.health.listen(0);
        set.note_answer(0);
        set.was_late(0, time);
        assert!(*replicas.reachable().borrow() && !set.health.is_silent(0));
        set.health.listen(0);
        set.was_late(0, time);
        assert!(!*replicas.reachable().borrow() && set.health.is_silent(0), "nothing was heard");
        set.came_late(0, Ok(Err("broken off".into())));
        assert!(set.health.is_silent(0));
        set.came_late(0, Ok(Ok(answer)));
        assert!(*replicas.reachable().borrow() && !set.health.is_silent(0), "it is merely slow");
        assert_eq!(set.health.ready(), 0, "others are asked first");
        set.note(0, Err("refused".into()));
        assert!(set.health.is_silent(0), "no connection can be opened any more");
    }
}
