//! A client of the registry API: says what it wants, panics when it does not get it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Calls the API of one address. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    /// The value of `Authorization` in every request.
    authorization: Option<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON of a success.
    ///
    /// # Panics
    /// When it was none.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { serde_json::from_slice(&self.body).expect("JSON") }
    }

    /// The revision of the result.
    pub fn revision(&self) -> &str {
        self.headers.get("x-resource-revision").and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Client {
    /// A client of `address`.
    pub fn new(address: SocketAddr) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { http, address, authorization: None }
    }

    /// The same client with this value of `Authorization` in its requests.
    #[must_use]
    pub fn authorized(self, authorization: &str) -> Self {
        Self { authorization: Some(authorization.to_owned()), ..self }
    }

    /// Sends a request; `None` when no answer came.
    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = self.http.request(request).await.ok()?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some(Answer { status, headers, body })
    }

    /// GET of any path; `None` when no answer came.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        self.try_send("GET", path, &[], String::new()).await
    }

    /// GET of any path.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap_or_else(|| panic!("no answer: GET {path}"))
    }

    /// A call below the registry's base path of the default project; `None` when no answer came.
    pub async fn try_call(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.try_send(method, &format!("/v4/default/registry{path}"), &[], body).await
    }

    /// A call below the registry's base path of the default project.
    pub async fn call(&self, method: &str, path: &str, consumer: &str, body: &Value) -> Answer {
        let path = format!("/v4/default/registry{path}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let sent = self.try_send(method, &path, &[("X-ConsumerId", consumer)], body).await;
        sent.unwrap_or_else(|| panic!("no answer: {method} {path}"))
    }

    /// Registers version 1.0.0 of a service and returns its id.
    pub async fn service(&self, name: &str) -> String {
        let body = json!({"service": {"appId": "shop", "serviceName": name, "version": "1.0.0"}});
        let answer = self.call("POST", "/microservices", "", &body).await.ok();
        answer["serviceId"].as_str().expect("an id").to_owned()
    }

    /// Registers an instance under an id of the caller's.
    pub async fn instance(&self, service: &str, id: &str) {
        self.instance_with(service, id, 30).await;
    }

    /// Registers an instance that lives for twice `interval` seconds without a heartbeat.
    pub async fn instance_with(&self, service: &str, id: &str, interval: u32) {
        let body = json!({"instance": {"instanceId": id, "hostName": "node", "endpoints": [format!("rest://10.0.0.1:80/{id}")],
            "healthCheck": {"mode": "push", "interval": interval, "times": 1}}});
        self.call("POST", &format!("/microservices/{service}/instances"), "", &body).await.ok();
    }

    /// Replaces an instance's properties by one, `tag`.
    pub async fn tag(&self, service: &str, id: &str, tag: &str) {
        let path = format!("/microservices/{service}/instances/{id}/properties");
        self.call("PUT", &path, "", &json!({"properties": {"tag": tag}})).await.ok();
    }

    /// Unregisters an instance.
    pub async fn unregister(&self, service: &str, id: &str) {
        self.call("DELETE", &format!("/microservices/{service}/instances/{id}"), "", &Value::Null).await.ok();
    }

    /// Finds a provider as a consumer; `None` when no answer came.
    pub async fn try_find(&self, consumer: &str, provider: &str) -> Option<Answer> {
        let path =
            format!("/v4/default/registry/instances?appId=shop&serviceName={provider}&version=0%2B&rev=");
        self.try_send("GET", &path, &[("X-ConsumerId", consumer)], String::new()).await
    }

    /// Finds a provider as a consumer, which is recorded as a dependency.
    pub async fn find(&self, consumer: &str, provider: &str, rev: &str) -> Answer {
        let path = format!("/instances?appId=shop&serviceName={provider}&version=0%2B&rev={rev}");
        self.call("GET", &path, consumer, &Value::Null).await
    }
}
