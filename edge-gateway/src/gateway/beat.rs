//! Heartbeats by REST: answered here if the instances are known to exist, and by a control plane if not.

use answer::beats::take;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use liveness::Key;
use serde::{Deserialize, Serialize};
use shared::model::{MAX_ID, ServiceRef, Tenant, null_default};

use super::{GatewayParts, NoAnswer, route};
use crate::beats;

/// Bytes of a batch that is read here. A larger one goes to a control plane as it is.
const MOST_BYTES: u64 = 1 << 20;
const CONSUMER: &str = "x-consumerid";
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// The ids of an instance in a batch, in the order of a control plane's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ids {
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    instance_id: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    service_id: String,
}

/// A batch, in the request and in the answer.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Batch {
    #[serde(default, deserialize_with = "null_default")]
    instances: Vec<Ids>,
}

impl GatewayParts {
    /// Answers heartbeats, or passes them on. `is_covered`: the caller may send them, whatever the labels of
    /// their services are.
    pub(super) async fn beat(
        &self,
        request: Request<Body>,
        is_covered: bool,
    ) -> Result<Response<Body>, NoAnswer> {
        let is_here = is_covered && self.beats.is_certain() && is_usual(&request);
        let tenant = route::tenant_of(request.uri().path(), request.headers()).filter(|_| is_here);
        let Some(tenant) = tenant else {
            self.beats.passed_on();
            return Box::pin(self.pass_on(request)).await;
        };
        if let Some((service, instance)) = route::instance_of_heartbeat(request.uri().path()) {
            let keys = [Key::of(&ServiceRef::new(tenant, service), &instance)];
            if request.body().is_end_stream() && self.beats.take(&keys) {
                return Ok(finished(Response::new(Body::empty()), request.headers(), PLAIN));
            }
            return Box::pin(self.pass_on_and_learn(request, &keys)).await;
        }
        let length = request.body().size_hint().exact().filter(|length| *length <= MOST_BYTES);
        if length.is_none() {
            self.beats.passed_on();
            return Box::pin(self.pass_on(request)).await;
        }
        let (head, body) = request.into_parts();
        // As with a control plane that gets half a request: see `pass_on`.
        let body = body.collect().await.map_err(|_| NoAnswer)?.to_bytes();
        let batch = read(&body);
        let keys = batch.as_ref().map(|batch| keys_of(batch, &tenant)).unwrap_or_default();
        if let Some(batch) = batch
            && self.beats.take(&keys)
            && let Ok(answer) = serde_json::to_vec(&batch)
        {
            return Ok(finished(answer::reply::json(answer.into()), &head.headers, answer::reply::JSON));
        }
        Box::pin(self.pass_on_and_learn(Request::from_parts(head, Body::from(body)), &keys)).await
    }

    /// Passes heartbeats on, and learns from the answer which instances exist.
    async fn pass_on_and_learn(
        &self,
        mut request: Request<Body>,
        keys: &[Key],
    ) -> Result<Response<Body>, NoAnswer> {
        self.beats.passed_on();
        if !keys.is_empty() {
            beats::ask(request.headers_mut());
        }
        let mut answer = self.pass_on(request).await?;
        if let Some(rev) = take(answer.headers_mut()).filter(|_| answer.status().is_success()) {
            self.beats.learn(keys, rev);
        }
        Ok(answer)
    }
}

/// True for a request about which a control plane would have nothing to say but its answer to the heartbeat.
fn is_usual(request: &Request<Body>) -> bool {
    let uri = request.uri();
    let is_id = |value: &HeaderValue| value.to_str().is_ok_and(|id| id.len() <= MAX_ID);
    uri.query().is_none()
        && uri.path_and_query().is_some_and(|target| answer::target::is_acceptable(target.as_str()))
        && request.headers().get_all(CONSUMER).iter().all(is_id)
}

/// The instances of a batch, each at its first place, as a control plane reads them. `None` when it has
/// something to say about the batch.
fn read(body: &Bytes) -> Option<Batch> {
    // By way of a value, as a control plane does: a member that is repeated counts where it is last.
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let mut batch: Batch = value.is_object().then(|| serde_json::from_value(value).ok())??;
    let mut seen = std::collections::HashSet::new();
    batch.instances.retain(|ids| seen.insert(ids.clone()));
    (!batch.instances.is_empty()).then_some(batch)
}

fn keys_of(batch: &Batch, tenant: &Tenant) -> Vec<Key> {
    let key = |ids: &Ids| Key::of(&ServiceRef::new(tenant.clone(), &ids.service_id), &ids.instance_id);
    batch.instances.iter().map(key).collect()
}

fn finished(mut answer: Response<Body>, asked: &HeaderMap, kind: HeaderValue) -> Response<Body> {
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer::reply::finish(answer.headers_mut(), asked.contains_key(ORIGIN));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &'static str) -> Option<String> {
        Some(serde_json::to_string(&read(&Bytes::from_static(body.as_bytes()))?).expect("JSON"))
    }

    #[test]
    fn a_batch_is_read_as_a_control_plane_reads_it() {
        let twice =
            r#"{"instances":[{"serviceId":"s","instanceId":"i"},{"serviceId":"s","instanceId":"i","x":1}]}"#;
        assert_eq!(texts(twice).as_deref(), Some(r#"{"instances":[{"instanceId":"i","serviceId":"s"}]}"#));
        for body in ["", "[]", "{}", r#"{"instances":null}"#, r#"{"instances":[]}"#, r#"{"instances":[1]}"#] {
            assert_eq!(texts(body), None, "{body}");
        }
    }

    #[test]
    fn an_unusual_request_is_for_a_control_plane() {
        let path = "/v4/default/registry/microservices/s/instances/i/heartbeat";
        let request = |path: &str, consumer: &'static str| {
            let builder = Request::put(path).header(CONSUMER, consumer);
            builder.body(Body::empty()).expect("a request")
        };
        assert!(is_usual(&request(path, "c")));
        assert!(!is_usual(&request(&format!("{path}?a=b"), "c")));
        assert!(!is_usual(&request(&path.replace("/s/", "/s//"), "c")));
        assert!(!is_usual(&request(path, "caf\u{e9}")));
    }
}
