//! Drains of instances: an instance takes no more traffic, and every watcher is known to have been told.
//!
//! 1. The instance is marked, in the client's name: an override has clients see it as OUTOFSERVICE. A control
//!    plane decides whether that is allowed, and records it. The mark outlives this gateway and the client, and
//!    ends by itself if nobody ends it.
//! 2. A survey asks all gateways, twice a second, which watchers have been given the change. Each round is a
//!    line of the response, so a client sees the progress.
//! 3. When all have, or at the deadline, the instance is left so, unregistered, or given back: the mark ends.
//!
//! The response begins with a refusal, or it is a stream of JSON objects, one a line, whose last has the
//! field `done`. A client that leaves ends the drain: nothing is unregistered then, and the instance stays as
//! it is. A drain that is begun again, at this gateway or another one, goes on from there.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use host::audit::{Decision, Record};
use host::lane::ForEach;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use serde::Serialize;
use shared::model::ServiceRef;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::gate::{Caller, Transport};
use super::{GatewayParts, NoAnswer, refusal, route};
use crate::metrics::{DrainEnd, DrainMetrics};
use crate::survey::{Findings, Survey};
use crate::upstream::Change;

mod client;
mod marking;
mod target;
mod watchers;

use client::Client;
use marking::{Marked, Marking};
pub(super) use target::{Target, target_of, watched_of};
use target::{Then, Wanted};

/// Drains that this gateway runs at the same time.
const MOST_DRAINS: usize = 16;
/// Questions about watchers that this gateway answers at the same time. Each pings all watchers of a service.
const MOST_LOOKS: usize = 4;
/// Lines that may wait for a client that reads slowly. Further progress is left out.
const LINES: usize = 16;
/// The status of an instance that takes no traffic, as old clients know it.
const DRAINING: &str = "OUTOFSERVICE";

/// The drains that this gateway runs.
pub(crate) struct Drains {
    places: Arc<Semaphore>,
    /// Places for questions about the watchers of a service, which take none from drains.
    looks: ForEach<Semaphore>,
    metrics: DrainMetrics,
}

impl Drains {
    /// No drains yet.
    pub(crate) fn new(metrics: DrainMetrics) -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST_DRAINS)),
            looks: ForEach::new(|| Semaphore::new(MOST_LOOKS)),
            metrics,
        }
    }
}

impl GatewayParts {
    /// Answers a request for a drain.
    pub(super) async fn drain(
        self: &Arc<Self>,
        target: Target,
        request: Request<Body>,
        caller: &Caller,
    ) -> Result<Response<Body>, NoAnswer> {
        let wanted = match Wanted::read(request.uri().query().unwrap_or_default()) {
            Ok(wanted) => wanted,
            Err(problem) => return Ok(refusal::bad_request(problem)),
        };
        let Some(tenant) = route::tenant_of(request.uri().path(), request.headers()) else {
            return Ok(refusal::bad_request("the tenant is not one that the registry can have"));
        };
        let Ok(place) = self.drains.places.clone().try_acquire_owned() else {
            return Ok(refusal::too_many(
                "this gateway runs 16 drains already; try again, or at another gateway",
            ));
        };
        let Ok(survey) = self.surveys.begin().await else {
            return Ok(refusal::unavailable(
                "the bus cannot be reached, so no watcher can be asked; try again",
            ));
        };
        let began = Instant::now();
        let after = self.upstream.seen();
        let client = Client::of(&request, &target, &tenant);
        let Marking { rev, instances } = match self.mark(&client, &wanted).await? {
            Ok(marked) => marked,
            Err(refused) => return Ok(refused),
        };
        // A revision that was known before the write cannot be that of the write, unless the store has lost
        // what came before.
        if rev <= after {
            let problem = "the store seems to have been restored from a backup a moment ago; try again";
            return Ok(refusal::unavailable(problem));
        }
        self.audit_drain(&request, caller);
        let change = Change {
            provider: ServiceRef::new(tenant, target.service.clone()),
            after,
            rev,
            instances: instances.iter().map(|instance| instance.id.clone()).collect(),
            age: Duration::ZERO,
            incarnation: self.upstream.incarnation(),
            most: wanted.names,
        };
        let (lines, body) = mpsc::channel(LINES);
        let following =
            Following { parts: self.clone(), client, wanted, change, instances, survey, began, lines };
        self.drains.metrics.began();
        self.tasks.spawn(async move {
            following.run().await;
            drop(place);
        });
        Ok(stream_of(body))
    }

    fn audit_drain(&self, request: &Request<Body>, caller: &Caller) {
        let account = caller.account.as_ref();
        let revision = account.map_or(0, |(_, policy)| policy.revision.get());
        let record =
            self.record_of(request, Transport::Rest, account.map(|(identity, _)| identity), revision);
        self.audit.record(Record { decision: Decision::Allowed, status: 200, ..record });
    }
}

fn stream_of(lines: mpsc::Receiver<Bytes>) -> Response<Body> {
    let lines = ReceiverStream::new(lines).map(Ok::<_, std::convert::Infallible>);
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that know this header hand on each line as it comes.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// The time that a client has for the last line, if it reads slowly.
const LAST_LINE: Duration = Duration::from_secs(5);

/// A drain whose instances are marked.
struct Following {
    parts: Arc<GatewayParts>,
    client: Client,
    wanted: Wanted,
    change: Change,
    instances: Vec<Marked>,
    survey: Survey,
    began: Instant,
    lines: mpsc::Sender<Bytes>,
}

/// A line of the response.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    /// Every watcher has been given the change.
    proven: bool,
    elapsed_ms: u64,
    revision: u64,
    /// The number of instances that are drained.
    instances: usize,
    #[serde(flatten)]
    findings: &'a Findings,
    /// This is the last line.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    done: bool,
    /// In the last line, what was done at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<&'static str>,
    /// In the last line, the number of instances that were given back and take no traffic all the same: they
    /// report so, or an override says so.
    #[serde(skip_serializing_if = "is_zero")]
    still_out: usize,
    /// In the last line, the reason for which the drain did not come to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Following {
    async fn run(mut self) {
        let deadline = self.began + self.wanted.deadline;
        let drain = self.parts.tasks.drain().clone();
        let mut findings;
        let end = loop {
            self.change.age = self.began.elapsed();
            findings = self.survey.ask(&self.change).await;
            findings.shorten();
            if findings.is_proof() {
                break DrainEnd::Proven;
            }
            let now = Instant::now();
            if now >= deadline {
                break DrainEnd::Deadline;
            }
            if drain.is_cancelled() {
                break DrainEnd::Broken;
            }
            // A client that reads slowly is spared the rounds between; one that has left ends the drain.
            if let Err(mpsc::error::TrySendError::Closed(_)) = self.lines.try_send(self.line(&findings)) {
                return self.parts.drains.metrics.ended(DrainEnd::Broken, 0.0);
            }
            sleep(PAUSE.min(deadline - now)).await;
        };
        self.parts.drains.metrics.ended(end, self.began.elapsed().as_secs_f64());
        self.finish(&findings, end).await;
    }

    // Exclusive, here and below: the survey cannot be shared by threads.
    async fn finish(&mut self, findings: &Findings, end: DrainEnd) {
        let mut error = None;
        let mut then = Some("kept");
        let mut still_out = 0;
        if self.lines.is_closed() {
            return;
        }
        match (end, self.wanted.then) {
            (DrainEnd::Broken, _) => {
                then = None;
                error = Some("this gateway is about to end; repeat the drain at another one".to_owned());
            }
            (_, Then::Keep) => {}
            (_, Then::Unregister) => {
                then = Some("unregistered");
                error = self.for_each_instance(Then::Unregister).await;
            }
            (_, Then::GiveBack) => {
                then = Some("given back");
                error = self.for_each_instance(Then::GiveBack).await;
                still_out = self.parts.count_out(&self.client, &self.instances).await;
            }
        }
        if error.is_some() {
            then = None;
        }
        let line = bytes_of(&Line { done: true, then, still_out, error, ..self.progress(findings) });
        // A client that does not read will not read this either.
        let _ = timeout(LAST_LINE, self.lines.send(line)).await;
    }

    /// Carries out the last step for every instance; returns the first problem.
    async fn for_each_instance(&mut self, then: Then) -> Option<String> {
        let mut problem = None;
        for instance in &self.instances {
            let outcome = match then {
                Then::Unregister => self.parts.unregister(&self.client, instance).await,
                Then::GiveBack => self.parts.give_back(&self.client, instance).await,
                Then::Keep => Ok(()),
            };
            problem = problem.or(outcome.err());
        }
        problem
    }

    fn progress<'a>(&self, findings: &'a Findings) -> Line<'a> {
        Line {
            proven: findings.is_proof(),
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            revision: self.change.rev.get(),
            instances: self.instances.len(),
            findings,
            done: false,
            then: None,
            still_out: 0,
            error: None,
        }
    }

    fn line(&self, findings: &Findings) -> Bytes {
        bytes_of(&self.progress(findings))
    }
}

fn bytes_of(line: &Line<'_>) -> Bytes {
    let mut bytes = serde_json::to_vec(line).expect("a struct of texts and numbers always serialises");
    bytes.push(b'\n');
    bytes.into()
}
