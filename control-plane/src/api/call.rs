//! A request taken apart: who asks, which object, which parameters, which body.

use axum::RequestPartsExt;
use axum::body::Body;
use axum::extract::{FromRequest, MatchedPath, RawPathParams, Request};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use shared::model::{Revision, ServiceRef, Tenant};

use super::Api;
use crate::failure::{Code, Failure};
use crate::registry::{Caller, validate};

/// The header by which a gateway (or any client) says which revision an answer must contain at least.
pub const MIN_REVISION: &str = "x-muster-min-revision";

/// Bytes beyond a limit that are read before the connection is closed.
const THROWN_AWAY: usize = 4 << 20;

/// Everything a handler needs of a request.
#[derive(Debug)]
pub struct Call {
    /// Who asks.
    pub caller: Caller,
    params: Vec<(String, String)>,
    query: Vec<(String, String)>,
    body: Bytes,
}

impl Call {
    /// A segment of the path.
    pub fn param(&self, name: &str) -> &str {
        first(&self.params, name)
    }

    /// A query parameter; empty when absent. Of a repeated one the first counts.
    pub fn query(&self, name: &str) -> &str {
        first(&self.query, name)
    }

    /// All values of a query parameter that may be repeated.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &String> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether a query flag is set: `1` or `true` in any case.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.query(name);
        value == "1" || value.eq_ignore_ascii_case("true")
    }

    /// The items of a comma list.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.query(name).split(',').filter(|item| !item.is_empty()).map(String::from).collect()
    }

    /// The revision that the caller has, unless it asked to look past it.
    pub fn rev(&self) -> &str {
        if self.flag("noCache") || self.flag("cacheOnly") { "" } else { self.query("rev") }
    }

    /// The service of the path, checked.
    pub fn service(&self) -> Result<ServiceRef, Failure> {
        let id = self.param("serviceId");
        validate::service_id(id)?;
        Ok(self.caller.service(id))
    }

    /// The instance of the path, checked.
    pub fn instance_id(&self) -> Result<&str, Failure> {
        let id = self.param("instanceId");
        validate::instance_id(id)?;
        Ok(id)
    }

    /// The body as a JSON object. Unknown keys are ignored, of a repeated key the last counts.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let value: serde_json::Value =
            serde_json::from_slice(&self.body).map_err(|error| Failure::invalid(error.to_string()))?;
        if !value.is_object() {
            return Err(Failure::invalid("the body is not a JSON object"));
        }
        serde_json::from_value(value).map_err(|error| Failure::invalid(error.to_string()))
    }
}

impl FromRequest<Api> for Call {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let params = parts
            .extract::<RawPathParams>()
            .await
            .map_err(|_| Failure::invalid("the path is not percent-encoded UTF-8"))?;
        let params: Vec<(String, String)> = params.iter().map(|(k, v)| (k.into(), v.into())).collect();
        let project = params.iter().find(|(name, _)| name == "project").map(|(_, project)| project.as_str());
        let caller = caller(&parts.headers, project)?;
        let limit = body_limit(api, &parts.method, parts.extensions.get::<MatchedPath>());
        let body = read(body, limit).await?;
        Ok(Self { caller, params, query: parse_query(parts.uri.query().unwrap_or_default()), body })
    }
}

/// The whole body. What is beyond the limit is read and thrown away, up to a bound: a client that is still sending
/// when its connection is closed does not hear why.
async fn read(mut body: Body, limit: usize) -> Result<Bytes, Failure> {
    let (mut kept, mut size) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::invalid("the body ended before it was complete"))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= limit {
            kept.extend_from_slice(&data);
        } else if size > limit + THROWN_AWAY {
            break;
        }
    }
    if size > limit { Err(Failure::invalid("http: request body too large")) } else { Ok(kept.freeze()) }
}

/// A query has a handful of parameters (its length is bounded): a list is found through faster than a map is made.
fn parse_query(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn first<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// Who asks: v4 has the project in its path, v3 prefers the header `X-Tenant-Name`.
fn caller(headers: &HeaderMap, project: Option<&str>) -> Result<Caller, Failure> {
    let text = |name: &str| {
        let value = headers.get(name).map(|value| value.to_str());
        match value {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
            Some(Err(_)) => Err(Failure::invalid(format!("the header {name} is not plain text"))),
        }
    };
    let domain = match project {
        Some(_) => text("x-domain-name")?,
        None => text("x-tenant-name")?.or(text("x-domain-name")?),
    };
    let tenant = Tenant::new(domain.unwrap_or("default"), project.unwrap_or("default"));
    validate::tenant(&tenant.domain, &tenant.project)?;
    let consumer = text("x-consumerid")?;
    consumer.map_or(Ok(()), validate::consumer_id)?;
    let min_rev = match text(MIN_REVISION)? {
        Some(rev) => rev
            .parse::<Revision>()
            .map_err(|_| Failure::invalid("X-Muster-Min-Revision is not a revision"))?,
        None => 0,
    };
    Ok(Caller { tenant, consumer: consumer.map(String::from), min_rev })
}

fn body_limit(api: &Api, method: &Method, path: Option<&MatchedPath>) -> usize {
    let (limits, path) = (api.limits(), path.map_or("", MatchedPath::as_str));
    match *method {
        Method::POST if path.ends_with("/instances") => limits.instance,
        Method::PUT if path.ends_with("/properties") => limits.properties,
        _ => limits.other,
    }
}

/// A refusal's answer.
impl axum::response::IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        let mut body =
            serde_json::json!({ "errorCode": self.code.number(), "errorMessage": self.code.message() });
        // What is not the client's mistake is looked up in logs.
        let detail = match self.code.status() {
            500.. => host::http::with_request_id(&self.detail),
            _ => self.detail.into_owned(),
        };
        if !detail.is_empty() {
            body["detail"] = detail.into();
        }
        let mut response = super::reply::raw_json(body.to_string());
        *response.status_mut() = http::StatusCode::from_u16(self.code.status()).unwrap_or_default();
        if self.code == Code::NotReady {
            response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        response
    }
}
