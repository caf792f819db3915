//! Batches of finds: answered from the gateway's own state if that proves every element, and by a control
//! plane if not. The rules for an element are those of a single find ([`super::reads`]).

use std::time::Duration;

use access::Grant;
use answer::batch::BatchReply;
use answer::is_current;
use answer::resolution::ASK;
use axum::body::Body;
use follow::read::Proof;
use host::http::HeldBytes;
use host::telemetry::trace::{self, SpanKind};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use opentelemetry::KeyValue;
use shared::model::{Revision, Tenant};

use super::gate::Caller;
use super::polls::resolutions_of;
use super::reads::{Asked, EdgeReads, age_if_told, finished, finished_as_it_is, forwarded};
use super::{GatewayParts, NoAnswer};
use crate::metrics::Answered as Outcome;
use crate::polls::Given;
use crate::reads::{About, EdgeView, Found, Questions, Reader, Reads};

/// Bytes of instances from which on a reply is made beside the serving threads: putting them together and
/// compressing them takes more than a millisecond.
const LARGE: usize = 64 << 10;

/// A reply that was found, and what is to be said about it.
struct Answered {
    reply: BatchReply,
    /// Everything up to here is contained.
    contained: Revision,
    /// The age of a reply that nobody has confirmed.
    stale: Option<Duration>,
}

impl GatewayParts {
    /// Answers a batch of finds of this tenant.
    pub(super) async fn find_batch(
        &self,
        edge: &EdgeReads,
        request: Request<Body>,
        reader: Reader,
        tenant: &Tenant,
        caller: &Caller,
    ) -> Result<Response<Body>, NoAnswer> {
        let (head, body) = request.into_parts();
        // As with a control plane that gets half a request: see `pass_on`.
        let body = body.collect().await.map_err(|_| NoAnswer)?.to_bytes();
        // Only now: a client that sends its body slowly takes no place from its tenant.
        if let Err(refusal) = self.take_place(tenant).await {
            return Ok(refusal);
        }
        let questions = Questions::read(reader, &body);
        let mut request = Request::from_parts(head, Body::from(body));
        // Before anything is read that the answer is made from.
        let mut poll = self.begin_poll(&request, tenant);
        let Some(questions) = questions else { return self.pass_on_poll(request, poll, tenant).await };
        let traced = trace::Request::begin(request.headers(), SpanKind::Server, "find");
        let record = self.record_of_read(&request, caller);
        let grant = &caller.grant;
        let mut answered = self.batch_here(edge, &questions, grant).await;
        if answered.is_none() && !*edge.reachable.borrow() {
            answered = stale(edge, &questions, grant);
        }
        if answered.is_none() {
            request.headers_mut().insert(ASK, HeaderValue::from_static("1"));
            let last = || stale(edge, &questions, grant);
            match self.ask_or(edge, request, tenant, last).await? {
                Asked::Here(last) => answered = Some(last),
                Asked::ControlPlane(mut answer) => {
                    edge.metrics.answered(forwarded(&answer));
                    let resolutions = resolutions_of(&mut answer);
                    poll.offer_forwarded(&answer, None);
                    self.learn_batch(edge, questions, resolutions);
                    return Ok(poll.follow(answer));
                }
            }
        }
        let Some(Answered { reply, contained, stale }) = answered else { return Err(NoAnswer) };
        edge.metrics.answered(match stale {
            Some(_) => Outcome::Stale,
            None if reply.is_unchanged() => Outcome::Unchanged,
            None => Outcome::Here,
        });
        // The next batch of this client may name others, so this answer stands for any service.
        poll.offer(Given { rev: contained, services: None });
        let mut answer = match self.written_out(reply, questions.reader).await {
            Ok(answer) => answer,
            Err(refusal) => return Ok(poll.follow(refusal)),
        };
        if let Some(age) = stale {
            answer::stale::mark(answer.headers_mut(), age);
        }
        if let Some(traced) = traced {
            let about = vec![KeyValue::new("http.request.method", "POST")];
            traced.answered("POST find".to_owned(), answer.status().as_u16(), about);
        }
        self.audit_read(record, &answer);
        Ok(poll.follow(answer))
    }

    /// The reply from the gateway's own state, if that is fresh and proves every element.
    async fn batch_here(&self, edge: &EdgeReads, questions: &Questions, grant: &Grant) -> Option<Answered> {
        let find = |view: &EdgeView| find_all(&edge.reads, view, questions, grant, Proof::Bookmark);
        let claims = |found: &Vec<Found>| {
            let mut asked = questions.asked.iter().zip(found);
            asked.any(|((.., asked), found)| is_current(&asked.rev, &found.rev))
        };
        let (view, found) = self.proven(edge, &questions.reader.consumer, find, claims).await?;
        answered(&view, questions, &found, None)
    }

    /// Keeps the services that answer the elements, and follows the consumer from now on.
    fn learn_batch(
        &self,
        edge: &EdgeReads,
        questions: Questions,
        resolutions: Vec<(usize, answer::Resolution)>,
    ) {
        if resolutions.is_empty() {
            return;
        }
        let found = resolutions.into_iter().filter_map(|(index, resolution)| {
            // The finds by name are the first of them, in the order of the request.
            match &questions.asked.get(index)?.2.about {
                About::Find { key } => Some((key.clone(), resolution)),
                About::List { .. } | About::One { .. } => None,
            }
        });
        self.keep(edge, questions.reader.consumer, found);
    }

    /// The reply as the client takes it.
    async fn written_out(&self, reply: BatchReply, reader: Reader) -> Result<Response<Body>, Response<Body>> {
        if !reader.accepts_gzip {
            let body = reply.body();
            let held = HeldBytes::of_all(body.iter());
            return Ok(finished_as_it_is(held.on(answer::reply::json(Body::new(body))), &reader));
        }
        let write =
            move |reply: BatchReply| finished(answer::reply::json(reply.body().joined()), None, &reader);
        if reply.bytes() < LARGE {
            return Ok(write(reply));
        }
        self.encoding.run(move || write(reply)).await
    }
}

/// The answer to every element. `None` unless all of them are known.
fn find_all(
    reads: &Reads,
    view: &EdgeView,
    questions: &Questions,
    grant: &Grant,
    proof: Proof,
) -> Option<Vec<Found>> {
    let find = |asked| reads.find(view, &questions.reader.consumer, asked, grant, proof).ok();
    questions.asked.iter().map(|(.., asked)| find(asked)).collect()
}

/// The reply to everything that was found at `view`. `None` for one that is too large, which a control plane
/// refuses.
fn answered(
    view: &EdgeView,
    questions: &Questions,
    found: &[Found],
    stale: Option<Duration>,
) -> Option<Answered> {
    let mut reply = BatchReply::default();
    for ((list, index, asked), found) in questions.asked.iter().zip(found) {
        reply.add(*list, *index, found.outcome(&asked.rev)).ok()?;
    }
    let consumer = &questions.reader.consumer;
    let contained = found.iter().map(|found| found.contained(&view.read, consumer)).min()?;
    Some(Answered { reply, contained, stale })
}

/// The last that is known, by this process or by the one before it. `None` unless every element is known and
/// none of them is too old.
fn stale(edge: &EdgeReads, questions: &Questions, grant: &Grant) -> Option<Answered> {
    let stale_at = |view: &EdgeView| {
        let age = age_if_told(&edge.reads, view)?;
        let found = find_all(&edge.reads, view, questions, grant, Proof::Last)?;
        answered(view, questions, &found, Some(age))
    };
    let of_now = stale_at(&edge.reads.view());
    of_now.or_else(|| stale_at(&*edge.reads.remembered()?))
}
