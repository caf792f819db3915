//! Lists of services: answered with the last list that a control plane sent, once one has confirmed it.
//!
//! A list of thousands of services has hundreds of kilobytes, and hardly ever changes. So the gateway keeps it
//! and asks by its tag, and requests of the same moment share that question. If no control plane answers, the
//! last list is the answer, marked as stale.

use std::sync::Arc;
use std::time::{Duration, Instant};

use answer::tag;
use axum::body::Body;
use bytes::Bytes;
use host::fairness::{self, Wait};
use host::telemetry::trace::{self, SpanKind};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, ORIGIN};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use opentelemetry::KeyValue;

use super::gate::Caller;
use super::proxy::{no_place, remove_hop_by_hop};
use super::reads::{Asked, EdgeReads, body_of, forwarded};
use super::{GatewayParts, NoAnswer, refusal};
use crate::metrics::Answered as Outcome;
use crate::reads::{Content, List, ListKey, Turn};

/// The time in which a control plane sends the rest of a list that it has begun to send.
const READING: Duration = Duration::from_secs(30);

/// The properties of a client by which the form of its answer is chosen.
struct Client {
    /// The tags of the bodies that it has.
    known: HeaderMap,
    from_browser: bool,
}

impl Client {
    fn of(request: &Request<Body>) -> Self {
        let headers = request.headers();
        Self { known: tag::known(headers), from_browser: headers.contains_key(ORIGIN) }
    }

    /// The answer with this content, or without a body where the client has it.
    fn told(&self, content: &Content) -> Response<Body> {
        let mut answer = if tag::is_named(&self.known, &content.tag) {
            answer::reply::not_modified()
        } else {
            let mut answer = answer::reply::json(content.body.clone());
            if content.gzip {
                answer::gzip::mark(answer.headers_mut());
            }
            body_of(answer)
        };
        tag::mark(answer.headers_mut(), &content.tag);
        answer::reply::finish(answer.headers_mut(), self.from_browser);
        answer
    }
}

impl GatewayParts {
    /// Answers a request for the list of a tenant's services, all of which the caller may see.
    pub(super) async fn list_services(
        &self,
        edge: &EdgeReads,
        request: Request<Body>,
        key: ListKey,
        caller: &Caller,
    ) -> Result<Response<Body>, NoAnswer> {
        let client = Client::of(&request);
        let list = edge.lists.find(&key, Instant::now());
        let traced = trace::Request::begin(request.headers(), SpanKind::Server, "list");
        let record = self.record_of_read(&request, caller);
        let unasked = if *edge.reachable.borrow() { None } else { stale(edge, &list, &client) };
        let answer = match unasked {
            Some(stale) => stale,
            None => match self.list_in_turn(edge, request, &key, &list, &client).await? {
                Asked::Here(answer) => answer,
                Asked::ControlPlane(answer) => return Ok(answer),
            },
        };
        if let Some(traced) = traced {
            let about = vec![KeyValue::new("http.request.method", "GET")];
            traced.answered("GET list".to_owned(), answer.status().as_u16(), about);
        }
        self.audit_read(record, &answer);
        Ok(answer)
    }

    /// Waits for the turn of a request, and asks then if another one has not brought the answer. Ends with the
    /// last list that is known as soon as no control plane answers any more.
    async fn list_in_turn(
        &self,
        edge: &EdgeReads,
        request: Request<Body>,
        key: &ListKey,
        list: &Arc<List>,
        client: &Client,
    ) -> Result<Asked<Response<Body>>, NoAnswer> {
        let asking = async {
            // Before the turn, which nobody may hold while it waits for a place.
            if let Err(none) = fairness::wait(Wait::Answer).await {
                return Ok(Asked::ControlPlane(no_place(none)));
            }
            match list.turn().await {
                Turn::Answered(content) => Ok(Asked::Here(tell(edge, client, &content, Outcome::Here))),
                turn => self.ask_for_list(edge, request, key, (list, turn), client).await,
            }
        };
        edge.unless_lost(asking, || stale(edge, list, client).map(|stale| Ok(Asked::Here(stale)))).await
    }

    /// Asks a control plane, also in place of the requests that wait if it is this one's turn.
    async fn ask_for_list(
        &self,
        edge: &EdgeReads,
        mut request: Request<Body>,
        key: &ListKey,
        (list, turn): (&Arc<List>, Turn<'_>),
        client: &Client,
    ) -> Result<Asked<Response<Body>>, NoAnswer> {
        let question = match turn {
            Turn::Ask(question) => Some(question),
            Turn::Answered(_) | Turn::Alone => None,
        };
        let kept = list.last();
        if question.is_some() {
            ask_by_tag(request.headers_mut(), key, kept.as_deref());
        }
        let answer = self.pass_on_in_place(request, Some(&key.tenant)).await?;
        let content = match &question {
            Some(_) => content_of(edge, answer, key, kept.as_deref()).await,
            None => Err(Unkept { answer, lasts: false }),
        };
        let told = match content {
            Ok(content) => {
                let is_confirmed = kept.is_some_and(|kept| kept.tag == content.tag);
                let content = Arc::new(content);
                if let Some(question) = question {
                    question.answered(content.clone());
                }
                let outcome = if is_confirmed { Outcome::Here } else { Outcome::Forwarded };
                Asked::ControlPlane(tell(edge, client, &content, outcome))
            }
            Err(Unkept { answer, lasts }) => {
                match question {
                    Some(question) if lasts => question.unkeepable(),
                    Some(question) if answer.status() == StatusCode::OK => question.superseded(),
                    Some(question) => question.failed(),
                    None => {}
                }
                let is_stale = answer.status().is_server_error();
                match is_stale.then(|| stale(edge, list, client)).flatten() {
                    Some(stale) => Asked::Here(stale),
                    None => {
                        edge.metrics.listed(forwarded(&answer));
                        Asked::ControlPlane(answer)
                    }
                }
            }
        };
        edge.lists.settle(key, list);
        Ok(told)
    }
}

/// Asks for the list in the form of the key, unless it is still the one that is kept. The client's own tags may be
/// those of a list that is not.
fn ask_by_tag(headers: &mut HeaderMap, key: &ListKey, kept: Option<&Content>) {
    // First, so that a client cannot have the headers removed that are set here.
    remove_hop_by_hop(headers);
    headers.remove(IF_NONE_MATCH);
    headers.remove(ACCEPT_ENCODING);
    if key.gzip {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(kept) = kept {
        headers.insert(IF_NONE_MATCH, kept.tag.clone());
    }
}

/// An answer that nobody else may have, or that cannot be kept.
struct Unkept {
    answer: Response<Body>,
    /// The next answer would be no other. Clients then ask with tags of their own, which is all that spares them a
    /// body.
    lasts: bool,
}

/// The list as this client takes it, with the mark that it came with.
fn tell(edge: &EdgeReads, client: &Client, content: &Content, outcome: Outcome) -> Response<Body> {
    let mut answer = client.told(content);
    if content.is_stale {
        answer::stale::mark(answer.headers_mut(), content.confirmed.elapsed());
    }
    edge.metrics.listed(if content.is_stale { Outcome::Stale } else { outcome });
    answer
}

/// The content that a control plane has sent or confirmed.
async fn content_of(
    edge: &EdgeReads,
    answer: Response<Body>,
    key: &ListKey,
    kept: Option<&Content>,
) -> Result<Content, Unkept> {
    let status = answer.status();
    // Control planes add a tag where the answer is the same for all clients that may see all services, unless they
    // know nothing of the tenant.
    let Some(tag) = answer.headers().get(ETAG).cloned() else {
        return Err(Unkept { answer, lasts: false });
    };
    // A control plane whose store is silent tells since when.
    let age = answer::stale::age(answer.headers());
    let confirmed = Instant::now();
    let confirmed = confirmed.checked_sub(age.unwrap_or_default()).unwrap_or(confirmed);
    let is_stale = age.is_some();
    match (status, kept) {
        (StatusCode::NOT_MODIFIED, Some(kept)) if kept.tag == tag => {
            return Ok(Content { confirmed, is_stale, ..kept.clone() });
        }
        (StatusCode::OK, _) => {}
        _ => return Err(Unkept { answer, lasts: false }),
    }
    let gzip = answer.headers().contains_key(CONTENT_ENCODING);
    let length = answer.body().size_hint().upper();
    if length.is_some_and(|length| !edge.lists.can_keep(length)) {
        return Err(Unkept { answer, lasts: true });
    }
    let room = length.and_then(|length| edge.lists.room_for(length));
    let Some(_room) = room.filter(|_| key.gzip || !gzip) else {
        return Err(Unkept { answer, lasts: false });
    };
    match read(answer.into_body()).await {
        Some(body) => Ok(Content { tag, body, gzip, confirmed, is_stale }),
        None => {
            let answer = refusal::unavailable("the list broke off; try again");
            Err(Unkept { answer, lasts: false })
        }
    }
}

/// A body whose length is bounded.
async fn read(body: Body) -> Option<Bytes> {
    let body = tokio::time::timeout(READING, body.collect()).await.ok()?.ok()?;
    Some(body.to_bytes())
}

/// The last list that is known, marked as stale. `None` when none is, or it is too old.
fn stale(edge: &EdgeReads, list: &List, client: &Client) -> Option<Response<Body>> {
    let content = list.last()?;
    let age = content.confirmed.elapsed();
    let most = edge.reads.config.stale_for;
    if !most.is_zero() && age > most {
        return None;
    }
    let mut answer = client.told(&content);
    answer::stale::mark(answer.headers_mut(), age);
    edge.metrics.listed(Outcome::Stale);
    Some(answer)
}
