//! Finds: answered from the gateway's own state if that proves the answer, and by a control plane if not.
//!
//! 1. What is followed and fresh is answered here. "Nothing has changed" passes the barrier first.
//! 2. Everything else goes to a control plane. From its answer to a find the gateway learns the services, and
//!    follows the consumer from then on.
//! 3. If no control plane answers, the last that is known is the answer, marked as stale.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::Grant;
use answer::resolution::ASK;
use answer::{FindBody, Resolution, is_current};
use axum::body::Body;
use bytes::Bytes;
use follow::read::{Changes, Proof};
use host::audit::{Decision, Record};
use host::fairness::{self, Wait};
use host::http::HeldBytes;
use host::telemetry::trace::{self, SpanKind};
use http::{HeaderValue, Request, Response};
use opentelemetry::KeyValue;
use shared::model::{ServiceRef, Tenant};
use tokio::sync::watch;

use super::gate::{Caller, Transport};
use super::polls::{Poll, resolution_of};
use super::proxy::needs_place;
use super::{GatewayParts, NoAnswer, route};
use crate::metrics::{Answered as Outcome, ReadsMetrics};
use crate::polls::Given;
use crate::reads::{About, Barrier, EdgeView, Found, ListKey, Lists, Question, Reader, Reads, asker};

/// The parts of a gateway that answers finds itself.
pub(crate) struct EdgeReads {
    pub(crate) reads: Reads,
    pub(crate) barrier: Barrier,
    /// True while a control plane answers.
    pub(crate) reachable: watch::Receiver<bool>,
    pub(crate) metrics: ReadsMetrics,
    pub(crate) lists: Arc<Lists>,
}

/// The time in which a control plane says on the bus what has changed although none answers requests. One that is
/// there does so in a few milliseconds.
const BUS_ALONE: Duration = Duration::from_millis(250);

impl EdgeReads {
    /// Passes the barrier. `None` when nobody says what has changed: the question itself would be given up only at
    /// the end of its time.
    pub(super) async fn changes(&self) -> Option<Arc<Changes>> {
        let lost = async {
            self.lost().await;
            tokio::time::sleep(BUS_ALONE).await;
        };
        let passing = async {
            // Those that need no barrier do not wait for those that are at it.
            fairness::wait(Wait::Word).await.ok()?;
            self.barrier.pass().await
        };
        let changes = tokio::select! {
            biased;
            changes = passing => changes,
            () = lost => None,
        };
        self.metrics.barrier(changes.is_some());
        changes
    }

    /// Waits for what control planes answer. As soon as none answers any more, `known` is the answer, if there is
    /// one. What has been forwarded is given up in that moment, too; but this request may still wait for a place, or
    /// for the question of another one.
    pub(super) async fn unless_lost<T>(
        &self,
        asking: impl Future<Output = T>,
        known: impl FnOnce() -> Option<T>,
    ) -> T {
        let mut asking = std::pin::pin!(asking);
        tokio::select! {
            biased;
            answer = &mut asking => answer,
            () = self.lost() => match known() {
                Some(known) => known,
                None => asking.await,
            },
        }
    }

    /// Returns when no control plane answers.
    async fn lost(&self) {
        // Without its sender the gateway ends, and so does the request.
        if self.reachable.clone().wait_for(|reachable| !reachable).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// The outcome of a question to a control plane.
pub(super) enum Asked<H> {
    /// Its answer, of which it has its own records and traces; or a refusal to ask.
    ControlPlane(Response<Body>),
    /// An answer from what is known here: the last that is, because there is no better one, or what another question
    /// has brought.
    Here(H),
}

/// An answer, and its content.
type Answered = (Response<Body>, Given);

impl GatewayParts {
    /// Answers a request that is no watch.
    pub(super) async fn read_or_pass_on(
        &self,
        request: Request<Body>,
        caller: &Caller,
    ) -> Result<Response<Body>, NoAnswer> {
        let Some(tenant) = route::tenant_of(request.uri().path(), request.headers()) else {
            return Box::pin(self.pass_on(request)).await;
        };
        if let Some((edge, reader)) =
            self.reads.as_ref().and_then(|edge| Some((edge, asker(&request, &tenant)?)))
        {
            return Box::pin(self.find_batch(edge, request, reader, &tenant, caller)).await;
        }
        if needs_place(&request)
            && let Err(refusal) = self.take_place(&tenant).await
        {
            return Ok(refusal);
        }
        if caller.grant == Grant::All
            && let Some((edge, key)) =
                self.reads.as_ref().and_then(|edge| Some((edge, ListKey::read(&request, &tenant)?)))
        {
            return Box::pin(self.list_services(edge, request, key, caller)).await;
        }
        // Before anything is read that the answer is made from.
        let poll = self.begin_poll(&request, &tenant);
        let question = self.reads.as_ref().and_then(|_| Question::read(&request, &tenant));
        let Some((edge, question)) = self.reads.as_ref().zip(question) else {
            return Box::pin(self.pass_on_poll(request, poll, &tenant)).await;
        };
        self.answer_question(edge, request, question, poll, caller).await
    }

    async fn answer_question(
        &self,
        edge: &EdgeReads,
        request: Request<Body>,
        question: Question,
        mut poll: Poll,
        caller: &Caller,
    ) -> Result<Response<Body>, NoAnswer> {
        let traced = trace::Request::begin(request.headers(), SpanKind::Server, "find");
        let record = self.record_of_read(&request, caller);
        let (answer, given) = match self.answer_here(edge, &question, &caller.grant).await {
            // A control plane that answers knows better than anything stale.
            None if *edge.reachable.borrow() => {
                return Box::pin(self.ask(edge, request, question, poll, caller, record)).await;
            }
            None => match stale(edge, &question, &caller.grant) {
                Some(answered) => answered,
                None => {
                    let tenant = &question.reader.consumer.tenant;
                    return Box::pin(self.pass_on_poll(request, poll, tenant)).await;
                }
            },
            Some(answered) => answered,
        };
        poll.offer(given);
        if let Some(traced) = traced {
            let about = vec![KeyValue::new("http.request.method", "GET")];
            traced.answered("GET find".to_owned(), answer.status().as_u16(), about);
        }
        self.audit_read(record, &answer);
        Ok(poll.follow(answer))
    }

    /// The answer from the gateway's own state, if that is fresh and proves it.
    async fn answer_here(&self, edge: &EdgeReads, question: &Question, grant: &Grant) -> Option<Answered> {
        let Question { reader, asked, .. } = question;
        let find = |view: &EdgeView| {
            edge.reads.find(view, &reader.consumer, asked, grant, Proof::Bookmark).ok().map(|found| [found])
        };
        let claims = |[found]: &[Found; 1]| is_current(&asked.rev, &found.rev);
        let (view, [found]) = self.proven(edge, &reader.consumer, find, claims).await?;
        Some(told(edge, &view, question, found))
    }

    /// What `find` gives a consumer from the gateway's own state, if that is fresh and proves it all; and the state.
    /// `claims` says whether the answer will be that something has not changed.
    pub(super) async fn proven<F: AsRef<[Found]>>(
        &self,
        edge: &EdgeReads,
        consumer: &ServiceRef,
        find: impl Fn(&EdgeView) -> Option<F>,
        claims: impl Fn(&F) -> bool,
    ) -> Option<(Arc<EdgeView>, F)> {
        let reads = &edge.reads;
        let mut view = reads.view();
        if reads.age(&view, Instant::now())? > reads.config.fresh {
            return None;
        }
        let mut found = find(&view)?;
        let is_proven = if reads.config.confirm_unchanged && claims(&found) {
            // A claim about now, which another gateway may have contradicted with a push.
            let changes = edge.changes().await?;
            // The state may have moved on while the barrier was passed; usually it has not.
            let now = reads.view();
            if !Arc::ptr_eq(&now, &view) {
                view = now;
                found = find(&view)?;
            }
            found.as_ref().iter().all(|found| Reads::confirm(&view, consumer, found, &changes))
        } else {
            // A client that has written through this gateway must find what it wrote.
            let records = self.upstream.written_records(&consumer.tenant);
            let written = |service: &_| self.upstream.written_to(service);
            found.as_ref().iter().all(|found| found.contains(view.read.bookmark, records, written))
        };
        is_proven.then_some((view, found))
    }

    /// Asks a control plane. Without its answer the last that is known has to do.
    async fn ask(
        &self,
        edge: &EdgeReads,
        mut request: Request<Body>,
        question: Question,
        mut poll: Poll,
        caller: &Caller,
        record: Option<Record>,
    ) -> Result<Response<Body>, NoAnswer> {
        let is_find = matches!(question.asked.about, About::Find { .. });
        // Only a find has services to follow; the control plane names them in its answer when it is asked to.
        if is_find {
            request.headers_mut().insert(ASK, HeaderValue::from_static("1"));
        }
        let tenant = &question.reader.consumer.tenant;
        let last = || stale(edge, &question, &caller.grant);
        let mut answer = match self.ask_or(edge, request, tenant, last).await? {
            Asked::ControlPlane(answer) => answer,
            Asked::Here((stale, given)) => {
                poll.offer(given);
                self.audit_read(record, &stale);
                return Ok(poll.follow(stale));
            }
        };
        edge.metrics.answered(forwarded(&answer));
        let resolution = resolution_of(&mut answer);
        poll.offer_forwarded(&answer, resolution.as_ref());
        if let Some(resolution) = resolution {
            self.learn(edge, question, resolution);
        }
        Ok(poll.follow(answer))
    }

    /// Asks a control plane. `last` gives what is known here, which stands in for the answer of one that fails, and
    /// for none.
    pub(super) async fn ask_or<H>(
        &self,
        edge: &EdgeReads,
        request: Request<Body>,
        tenant: &Tenant,
        last: impl Fn() -> Option<H>,
    ) -> Result<Asked<H>, NoAnswer> {
        let asking = async {
            let answer = self.pass_on_in_place(request, Some(tenant)).await?;
            let last = if answer.status().is_server_error() { last() } else { None };
            Ok(last.map_or(Asked::ControlPlane(answer), Asked::Here))
        };
        edge.unless_lost(asking, || last().map(|last| Ok(Asked::Here(last)))).await
    }

    /// Keeps the services that answer a find, and follows the consumer from now on.
    fn learn(&self, edge: &EdgeReads, question: Question, resolution: Resolution) {
        let About::Find { key } = question.asked.about else { return };
        self.keep(edge, question.reader.consumer, [(key, resolution)]);
    }

    /// Keeps the services that answer some finds of a consumer, and follows it from now on.
    pub(super) fn keep(
        &self,
        edge: &EdgeReads,
        consumer: ServiceRef,
        found: impl IntoIterator<Item = (Box<str>, Resolution)>,
    ) {
        // A consumer that is followed already has a lease, which also keeps the services of its other finds.
        let known = edge.reads.lease(&edge.reads.view(), &consumer);
        let lease = known.clone().unwrap_or_else(|| edge.reads.new_lease());
        for (key, resolution) in found {
            lease.keep(key, resolution);
        }
        if known.is_none() {
            self.upstream.hold(consumer, lease);
        }
    }

    /// The record of a read, where reads are recorded.
    pub(super) fn record_of_read(&self, request: &Request<Body>, caller: &Caller) -> Option<Record> {
        let (identity, policy) = caller.account.as_ref().filter(|_| self.audit.has_reads())?;
        Some(self.record_of(request, Transport::Rest, Some(identity), policy.revision.get()))
    }

    /// Records a read that was answered here. A control plane records those that it answers.
    pub(super) fn audit_read(&self, record: Option<Record>, answer: &Response<Body>) {
        if let Some(record) = record {
            let status = answer.status().as_u16();
            self.audit.record(Record { decision: Decision::Allowed, status, ..record });
        }
    }
}

/// The answer that was found at `view`, in full or as "nothing has changed".
fn told(edge: &EdgeReads, view: &EdgeView, question: &Question, found: Found) -> Answered {
    let answer = if is_current(&question.asked.rev, &found.rev) {
        edge.metrics.answered(Outcome::Unchanged);
        unchanged(question, &found)
    } else {
        edge.metrics.answered(Outcome::Here);
        full(question, &found)
    };
    (answer, found.given(&view.read, &question.reader.consumer))
}

/// The last that is known, by this process or by the one before it, marked as stale. `None` when nothing is
/// known, or it is too old.
fn stale(edge: &EdgeReads, question: &Question, grant: &Grant) -> Option<Answered> {
    let of_now = stale_at(edge, &edge.reads.view(), question, grant);
    of_now.or_else(|| stale_at(edge, &*edge.reads.remembered()?, question, grant))
}

fn stale_at(edge: &EdgeReads, view: &EdgeView, question: &Question, grant: &Grant) -> Option<Answered> {
    let reads = &edge.reads;
    let age = age_if_told(reads, view)?;
    let found = reads.find(view, &question.reader.consumer, &question.asked, grant, Proof::Last).ok()?;
    let mut answer = match is_current(&question.asked.rev, &found.rev) {
        true => unchanged(question, &found),
        false => full(question, &found),
    };
    answer::stale::mark(answer.headers_mut(), age);
    edge.metrics.answered(Outcome::Stale);
    Some((answer, found.given(&view.read, &question.reader.consumer)))
}

/// The age of the last that is known, unless nobody may be told anything so old.
pub(super) fn age_if_told(reads: &Reads, view: &EdgeView) -> Option<Duration> {
    let age = reads.age(view, Instant::now())?;
    let is_told = reads.config.stale_for.is_zero() || age <= reads.config.stale_for;
    is_told.then_some(age)
}

/// The outcome for which a control plane's answer counts: it marks those that its store has not confirmed.
pub(super) fn forwarded(answer: &Response<Body>) -> Outcome {
    match answer::stale::age(answer.headers()) {
        Some(_) => Outcome::Stale,
        None => Outcome::Forwarded,
    }
}

fn full(question: &Question, found: &Found) -> Response<Body> {
    let (body, kept) = found.body();
    let answer = answer::reply::with_revision(answer::reply::json(body), &found.rev);
    finished(answer, kept, &question.reader)
}

/// An answer in the form that the client takes. `kept` is the body in compressed form, where somebody keeps
/// that.
pub(super) fn finished(
    mut answer: Response<Bytes>,
    kept: Option<&FindBody>,
    reader: &Reader,
) -> Response<Body> {
    if reader.accepts_gzip {
        answer = answer::reply::compressed(answer, kept);
    }
    finished_as_it_is(body_of(answer), reader)
}

/// An answer that counts among those which wait for their clients, unless somebody keeps its bytes anyway.
pub(super) fn body_of(answer: Response<Bytes>) -> Response<Body> {
    HeldBytes::of(answer.body()).on(answer.map(Body::from))
}

/// An answer that is not compressed any more.
pub(super) fn finished_as_it_is(mut answer: Response<Body>, reader: &Reader) -> Response<Body> {
    answer::reply::finish(answer.headers_mut(), reader.from_browser);
    answer
}

fn unchanged(question: &Question, found: &Found) -> Response<Body> {
    let mut answer = answer::reply::with_revision(answer::reply::not_modified(), &found.rev);
    answer::reply::finish(answer.headers_mut(), question.reader.from_browser);
    answer
}
