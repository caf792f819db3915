//! Replies in the contract's form: compact JSON without a newline, in which an empty member is absent.

use std::sync::Arc;

use answer::resolution::FOUND;
use answer::{Resolution, beats};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use host::http::HeldBytes;
use http::{HeaderValue, header};
use serde::{Serialize, Serializer};
use shared::model::Revision;

use super::failure::Failure;
use crate::registry::find::Found;
use crate::view::ServiceView;
use crate::view::list::ServiceList;

/// The outcome of a handler.
pub(super) type Reply = Result<Response, Failure>;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// 200 with JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(raw_json(body)),
        // Plain records always serialise. A handler must not panic over the exception.
        Err(error) => Err(Failure::internal(&error)),
    }
}

/// 200 with an object that has one member, or none if the list is empty.
pub(super) fn list<T: Serialize>(member: &'static str, items: &[T]) -> Reply {
    json(&OneList { member, items })
}

struct OneList<'a, T> {
    member: &'static str,
    items: &'a [T],
}

impl<T: Serialize> Serialize for OneList<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let member = (!self.items.is_empty()).then_some((self.member, self.items));
        serializer.collect_map(member)
    }
}

/// 200 with text that is JSON already.
pub(super) fn raw_json(body: impl Into<Body>) -> Response {
    answer::reply::json(body.into())
}

/// 200 with text that is JSON already, and that somebody may keep for other answers.
fn kept_json(body: Bytes) -> Response {
    HeldBytes::of(&body).on(raw_json(body))
}

/// 200 without a body.
pub(super) fn empty() -> Reply {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(header::CONTENT_TYPE, PLAIN);
    Ok(response)
}

/// The found instances, or 304. Either has the revision of the reply.
pub(super) fn instances(found: &Found) -> Response {
    if found.not_modified {
        return with_resolution(with_revision(not_modified(), &found.rev), found);
    }
    let with_instances: Vec<_> = found.services.iter().filter(|view| view.answer().is_some()).collect();
    let bodies: Vec<_> = with_instances.iter().filter_map(|view| view.answer()).collect();
    let mut response = kept_json(answer::reply::body_of(&bodies));
    if let [only] = with_instances.as_slice() {
        response.extensions_mut().insert(Prepared((*only).clone()));
    }
    with_resolution(with_revision(response, &found.rev), found)
}

/// Adds the services that answer, where a gateway is to be told.
fn with_resolution(mut response: Response, found: &Found) -> Response {
    if let Some(header) = found.resolution.as_ref().and_then(Resolution::encode) {
        response.headers_mut().insert(FOUND, header);
    }
    response
}

/// Adds the revision at which the instances of heartbeats lived, where a gateway may answer the next ones.
pub(super) fn with_beats(mut response: Response, rev: Option<Revision>) -> Response {
    if let Some(rev) = rev {
        response.headers_mut().insert(beats::KNOWN, beats::told(rev));
    }
    response
}

/// The service whose find body a response carries. The view keeps the compressed form of that body, so the
/// guard need not compress it for each request.
#[derive(Clone)]
pub(super) struct Prepared(Arc<ServiceView>);

impl Prepared {
    pub(super) fn gzip(&self) -> Bytes {
        self.0.answer().map_or_else(Bytes::new, |body| body.gzip().clone())
    }
}

/// 200 with the list of a tenant's services, and its tag: it is the same for everybody who may see all of them.
pub(super) fn services(list: Arc<ServiceList>) -> Response {
    let mut response = kept_json(list.plain().clone());
    answer::tag::mark(response.headers_mut(), list.tag());
    response.extensions_mut().insert(PreparedList(list));
    response
}

/// The list whose body a response carries, for the same purpose as [`Prepared`].
#[derive(Clone)]
pub(super) struct PreparedList(Arc<ServiceList>);

impl PreparedList {
    pub(super) fn gzip(&self) -> Bytes {
        self.0.gzip().clone()
    }
}

/// 304 without a body.
pub(super) fn not_modified() -> Response {
    answer::reply::not_modified()
}

/// Adds the revision of the reply.
pub(super) fn with_revision(response: Response, rev: &str) -> Response {
    answer::reply::with_revision(response, rev)
}
