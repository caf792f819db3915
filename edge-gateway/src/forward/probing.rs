//! Probes of control planes, and what they and requests show of a replica.
//!
//! In: the outcomes of probes and of connections. Out: the health of each replica, and the claim that one can
//! be reached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use host::tls;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::BusBehind;
use super::health::ProbeAnswer;
use super::replicas::ReplicaSet;

/// The time that a probe may take, however long the pause between two of them is.
const LONGEST_PROBE: Duration = Duration::from_secs(10);
/// The path of probes. A server that does not know it is healthy too: it answers.
const PROBE_PATH: &str = "/v4/default/registry/health/readiness";

/// The reason for which a probe has no answer.
#[derive(Debug, thiserror::Error)]
enum NoProbeAnswer {
    /// In this time there was none.
    #[error("no answer to a probe within {0:?}")]
    Late(Duration),
    /// In words for people.
    #[error("{0}")]
    Failed(String),
}

impl ReplicaSet {
    /// Probes a replica at the configured pace, and when a request to it failed, until `drain`.
    pub(super) async fn probe_until(self: Arc<Self>, replica: usize, drain: CancellationToken) {
        let mut pace = tokio::time::interval(self.config.probe_interval);
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                _ = pace.tick() => {}
                () = self.suspected[replica].notified() => {}
            }
            self.health.listen(replica);
            let outcome = self.probe(replica).await;
            self.probed(replica, outcome);
        }
    }

    /// Notes the outcome of a probe. One that is late while requests are answered shows a replica that is busy, and
    /// none that hangs: those who wait for it would give up what it is working on.
    fn probed(&self, replica: usize, outcome: Result<ProbeAnswer, NoProbeAnswer>) {
        match outcome {
            Err(NoProbeAnswer::Late(_)) if self.health.is_heard(replica) => {
                debug!(control_plane = %self.addresses[replica].1, "a control plane answers requests and no probe");
            }
            outcome => self.note(replica, outcome.map_err(|reason| reason.to_string())),
        }
    }

    async fn probe(&self, replica: usize) -> Result<ProbeAnswer, NoProbeAnswer> {
        let uri = self.uri(replica, PathAndQuery::from_static(PROBE_PATH));
        let uri = uri.ok_or_else(|| NoProbeAnswer::Failed("its address makes no URL".to_owned()))?;
        // A replica that hangs must not be found later because probes are rare.
        let time = self.config.probe_interval.min(LONGEST_PROBE);
        // A kept connection may be closing just now. The second try opens a new one, or finds that it cannot.
        let mut failure = String::new();
        for _ in 0..2 {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = uri.clone();
            match tokio::time::timeout(time, self.client.request(request)).await {
                Ok(Ok(answer)) => {
                    let is_ready = answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND;
                    return Ok(ProbeAnswer { is_ready, bus: bus_of(&answer) });
                }
                Ok(Err(error)) if !error.is_connect() => failure = reason(&error),
                Ok(Err(error)) => return Err(NoProbeAnswer::Failed(reason(&error))),
                Err(_) => return Err(NoProbeAnswer::Late(time)),
            }
        }
        Err(NoProbeAnswer::Failed(failure))
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
        let late = || Err(NoProbeAnswer::Late(Duration::from_secs(2)));
        set.probed(0, Ok(ProbeAnswer { is_ready: true, bus: BusBehind::Unknown }));
        set.health.listen(0);
        set.note_answer(0);
        set.probed(0, late());
        assert!(*replicas.reachable().borrow() && !set.health.is_silent(0));
        set.health.listen(0);
        set.probed(0, late());
        assert!(!*replicas.reachable().borrow() && set.health.is_silent(0), "nothing was heard");
        set.note_answer(0);
        set.probed(0, Err(NoProbeAnswer::Failed("refused".into())));
        assert!(set.health.is_silent(0), "no connection can be opened any more");
    }
}
