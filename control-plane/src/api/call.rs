//! The parts of a request that a handler needs: caller, path, query and body.

use answer::beats;
use answer::query::{Query, is_set};
use answer::resolution::ASK;
use axum::RequestPartsExt;
use axum::body::Body;
use axum::extract::{FromRequest, MatchedPath, RawPathParams, Request};
use bytes::{Bytes, BytesMut};
use host::fairness;
use host::http::is_late;
use host::lane;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::model::{Revision, ServiceRef, Tenant};

use super::failure::{Code, Failure};
use super::permit::Permit;
use super::state::Api;
use crate::registry::{Caller, validate};

/// The header in which a gateway, or any client, requires a reply that contains at least this revision.
const MIN_REVISION: &str = "x-muster-min-revision";

/// The most bytes of the body of a login.
const LOGIN: usize = 4 << 10;

/// Bytes beyond the limit of a body that are read and discarded before the reply is sent.
const DISCARDED: usize = 4 << 20;

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) caller: Caller,
    /// The rights with which the request is handled.
    pub(super) permit: Permit,
    path: String,
    params: Vec<(String, String)>,
    query: Vec<(String, String)>,
    body: Bytes,
    asks_for_beats: bool,
}

impl Call {
    /// True for the heartbeat of one instance.
    pub(super) fn is_heartbeat(&self) -> bool {
        self.path.ends_with("/heartbeat")
    }

    /// True if a gateway wants to know whether it may answer such heartbeats by itself.
    pub(super) fn asks_for_beats(&self) -> bool {
        self.asks_for_beats
    }

    /// A segment of the path by the name of its placeholder.
    pub(super) fn param(&self, name: &str) -> &str {
        first(&self.params, name)
    }

    /// A query parameter; empty when absent. If it is repeated the first counts.
    pub(super) fn query(&self, name: &str) -> &str {
        first(&self.query, name)
    }

    /// All values of a query parameter that may be repeated.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &String> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value)
    }

    /// True for a query parameter that is `1` or `true` in any case.
    pub(super) fn flag(&self, name: &str) -> bool {
        is_set(self.query(name))
    }

    /// A query parameter that must be `1`, `0` or empty.
    pub(super) fn strict_flag(&self, name: &str) -> Result<bool, Failure> {
        match self.query(name).trim() {
            "" | "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(Failure::invalid(format!("parameter {name} must be 1 or 0"))),
        }
    }

    /// The items of a query parameter that is a comma list.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        comma_list(self.query(name))
    }

    /// The revision of the reply that the caller already has. Empty when the caller requires a full reply.
    pub(super) fn rev(&self) -> &str {
        if self.flag("noCache") || self.flag("cacheOnly") { "" } else { self.query("rev") }
    }

    /// The service of the path, checked.
    pub(super) fn service(&self) -> Result<ServiceRef, Failure> {
        let id = self.param("serviceId");
        validate::service_id(id)?;
        Ok(self.caller.service(id))
    }

    /// The service that the query asks for, checked; `None` if it asks for none.
    pub(super) fn queried_service(&self) -> Result<Option<ServiceRef>, Failure> {
        let id = self.query("serviceId");
        if id.is_empty() {
            return Ok(None);
        }
        validate::service_id(id)?;
        Ok(Some(self.caller.service(id)))
    }

    /// The instance of the path, checked.
    pub(super) fn instance_id(&self) -> Result<&str, Failure> {
        let id = self.param("instanceId");
        validate::instance_id(id)?;
        Ok(id)
    }

    /// The body as a JSON object. Unknown members are ignored. If a member is repeated the last counts.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        // By way of a value, because a struct refuses repeated members and would also take an array.
        let value: Value = serde_json::from_slice(&self.body).map_err(malformed)?;
        if !value.is_object() {
            return Err(Failure::invalid("the body is not a JSON object"));
        }
        serde_json::from_value(value).map_err(malformed)
    }
}

/// True for the heartbeats of one instance or of many.
fn is_any_heartbeat(path: &str) -> bool {
    path.ends_with("/heartbeat") || path.ends_with("/heartbeats")
}

/// True for a request that asks, also if it has its questions in a body.
pub(super) fn is_read(method: &Method, path: &str) -> bool {
    method == Method::GET || (method == Method::POST && path.ends_with("/instances/action"))
}

fn malformed(error: serde_json::Error) -> Failure {
    Failure::invalid(error.to_string())
}

/// Refuses a list of a request that has more elements than its route works on at once.
pub(super) fn at_most(most: usize, count: usize, list: &str) -> Result<(), Failure> {
    if count <= most {
        return Ok(());
    }
    Err(Failure::invalid(format!("'{list}' has {count} elements, and at most {most} are allowed")))
}

/// The items of a comma list, without empty ones.
pub(super) fn comma_list(text: &str) -> Vec<String> {
    text.split(',').filter(|item| !item.is_empty()).map(String::from).collect()
}

impl FromRequest<Api> for Call {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        // Nothing but the gate makes permits. A request without one has come around it.
        let Some(permit) = parts.extensions.get::<Permit>().cloned() else {
            return Err(Failure::internal(&"a request has no permit"));
        };
        let params = parts
            .extract::<RawPathParams>()
            .await
            .map_err(|_| Failure::invalid("the path is not percent-encoded UTF-8"))?;
        let params: Vec<(String, String)> = params.iter().map(|(k, v)| (k.into(), v.into())).collect();
        let project = params.iter().find(|(name, _)| name == "project").map(|(_, project)| project.as_str());
        // Checked before the body is read: a request with a bad header costs no memory.
        let mut caller = caller(&parts.headers, project)?;
        permit.enter(&caller)?;
        caller.grant = permit.grant();
        let query = Query::parse(parts.uri.query().unwrap_or_default()).into_owned();
        // Once for the request and not for each of the finds in a batch.
        if is_set(first(&query, "noCache")) && is_read(&parts.method, parts.uri.path()) {
            caller.min_rev = caller.min_rev.max(api.registry().current().await?);
        }
        let limit = body_limit(api, &parts.method, parts.extensions.get::<MatchedPath>());
        let body = read(body, limit).await?;
        let path = parts.uri.path().to_owned();
        // Only now: a client that sends its body slowly takes no place from its tenant.
        // A heartbeat takes none: one that waited could cost an instance its life.
        match is_any_heartbeat(&path) {
            true => lane::leave_slow().await,
            false => fairness::hold(api.shares().enter(&caller.tenant).await?),
        }
        let asks_for_beats = parts.headers.contains_key(beats::KNOWN);
        let call = Self { caller, path, params, query, body, asks_for_beats, permit };
        call.permit.check(api, &call).await?;
        Ok(call)
    }
}

/// Reads the whole body. The part beyond the limit is discarded, up to a bound: most clients read no reply
/// before they have sent everything, and a connection that is closed before that shows them an error without
/// a reason.
async fn read(mut body: Body, limit: usize) -> Result<Bytes, Failure> {
    let mut kept = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match is_late(&error) {
            true => Failure::new(Code::BodyLate, "the body did not arrive in time"),
            false => Failure::invalid("the body ended before it was complete"),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= limit {
            kept.extend_from_slice(&data);
        } else if size > limit + DISCARDED {
            break;
        }
    }
    if size > limit { Err(Failure::invalid("http: request body too large")) } else { Ok(kept.freeze()) }
}

fn first<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// The caller by its headers. The paths of v4 name the project; those of v3 do not, and there `X-Tenant-Name`
/// has precedence for the domain.
fn caller(headers: &HeaderMap, project: Option<&str>) -> Result<Caller, Failure> {
    let domain = match project {
        Some(_) => text(headers, "x-domain-name")?,
        None => text(headers, "x-tenant-name")?.or(text(headers, "x-domain-name")?),
    };
    let tenant = Tenant::new(domain.unwrap_or("default"), project.unwrap_or("default"));
    validate::tenant(&tenant.domain, &tenant.project)?;
    let consumer = text(headers, "x-consumerid")?;
    consumer.map_or(Ok(()), validate::consumer_id)?;
    let min_rev = match text(headers, MIN_REVISION)? {
        Some(rev) => rev
            .parse::<Revision>()
            .map_err(|_| Failure::invalid("X-Muster-Min-Revision is not a revision"))?,
        None => Revision::default(),
    };
    let resolve = headers.contains_key(ASK);
    Ok(Caller { tenant, consumer: consumer.map(String::from), min_rev, resolve, ..Caller::default() })
}

/// The trimmed value of a header; `None` when it is absent or empty.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        // An empty value counts as absent, so that the defaults apply.
        Ok(text) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        Err(_) => Err(Failure::invalid(format!("the header {name} is not plain text"))),
    }
}

fn body_limit(api: &Api, method: &Method, path: Option<&MatchedPath>) -> usize {
    let limits = api.limits();
    let path = path.map_or("", MatchedPath::as_str);
    // By the end of the path, which v3 and v4 have in common.
    match *method {
        Method::POST if path.ends_with("/instances") => limits.instance,
        Method::PUT if path.ends_with("/properties") => limits.properties,
        // Strangers send it.
        Method::POST if path == "/v4/token" => LOGIN,
        _ => limits.other,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use host::http::BodyError;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn a_late_body_is_told_apart_from_a_broken_one() {
        let late = stream::iter([Ok(Frame::data(Bytes::from_static(b"{"))), Err(BodyError::Late)]);
        let broken = stream::iter([Err::<Frame<Bytes>, _>(std::io::Error::other("reset"))]);
        for (body, code) in [
            (Body::new(StreamBody::new(late)), Code::BodyLate),
            (Body::new(StreamBody::new(broken)), Code::InvalidParams),
        ] {
            assert_eq!(read(body, 100).await.expect_err("is incomplete").code, code);
        }
    }
}
