//! The registry as the command line sees it: a request, an answer or a [`Failure`].
//!
//! Speaks the v4 REST API over HTTP/1.1, within TLS at `https://` addresses, so it works against Service-Center as well.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use host::tls::{self, ClientFiles};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::cli::Target;
use crate::failure::{Failure, Refusal};

pub(crate) mod socket;
mod wire;

pub(crate) use wire::Wire;

/// Answers larger than this are refused: more than a registry of 150 000 instances lists.
const MOST_BYTES: usize = 512 << 20;

/// A registry in whose name a command is carried out.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    tls: Arc<ClientConfig>,
    base: url::Url,
    domain: String,
    project: String,
    timeout: Duration,
}

/// A good answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The body; null when it was empty.
    pub(crate) body: Value,
    /// `X-Resource-Revision`.
    pub(crate) revision: Option<String>,
    /// Status 304: what the caller has is still true.
    pub(crate) unchanged: bool,
}

/// A request under construction.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    registry: &'a Registry,
    method: Method,
    url: url::Url,
    consumer: Option<&'a str>,
    body: Option<Value>,
}

impl Registry {
    pub(crate) fn new(target: &Target) -> Result<Self, Failure> {
        let base = target.server.clone();
        let trust = &target.trust;
        let tls = match base.scheme() {
            "http" => tls::unused_client(),
            "https" => {
                let identity = trust.certificate.clone().zip(trust.key.clone());
                tls::client(&ClientFiles { ca: trust.ca.clone(), identity })
            }
            _ => return Err(Failure::Usage(format!("`{base}`: expected an http:// or https:// address"))),
        };
        let tls = tls.map_err(|e| Failure::Usage(e.to_string()))?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(target.timeout));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            tls: Arc::new(tls),
            base,
            domain: target.domain.clone(),
            project: target.project.clone(),
            timeout: target.timeout,
        })
    }

    /// The address, for messages.
    pub(crate) fn server(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// The domain, for headers.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// A path below `/v4/{project}`; each part is one segment, whatever is in it.
    pub(crate) fn url<'s>(&self, parts: impl IntoIterator<Item = &'s str>) -> url::Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v4", &self.project]).extend(parts);
        }
        url
    }

    pub(crate) fn get<'a>(&'a self, parts: &[&str]) -> Call<'a> {
        self.call(Method::GET, parts)
    }

    pub(crate) fn call<'a>(&'a self, method: Method, parts: &[&str]) -> Call<'a> {
        let url = self.url(parts.iter().copied());
        Call { registry: self, method, url, consumer: None, body: None }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> (String, u16) {
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        (host.to_owned(), self.base.port_or_known_default().unwrap_or(80))
    }

    /// A connection of one's own, within TLS if the address says so.
    pub(crate) async fn open(&self) -> std::io::Result<Wire> {
        self.open_from(None).await
    }

    /// Like [`Registry::open`], from an address of this machine.
    async fn open_from(&self, source: Option<IpAddr>) -> std::io::Result<Wire> {
        let (host, port) = self.address();
        let stream = wire::reach((host.clone(), port), source).await?;
        if self.base.scheme() != "https" {
            return Ok(Wire::Plain(stream));
        }
        let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        Ok(Wire::Tls(Box::new(stream)))
    }

    /// A POST without a body to a path from the root of the server, whatever the status.
    pub(crate) async fn post_root(
        &self,
        path: &str,
        token: Option<&str>,
    ) -> Result<Response<String>, Failure> {
        let mut url = self.base.clone();
        url.set_path(path);
        let mut request = Request::post(url.as_str());
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request =
            request.body(Full::default()).map_err(|e| Failure::Usage(format!("cannot ask for that: {e}")))?;
        let (head, body) = self.send(request).await?;
        Ok(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
    }

    /// A GET of a path from the root of the server, such as `/ready`, whatever the status.
    pub(crate) async fn root(&self, path: &str) -> Result<Response<String>, Failure> {
        self.root_as(path, None).await
    }

    /// Like [`Registry::root`], with an admin token if there is one.
    pub(crate) async fn root_as(&self, path: &str, token: Option<&str>) -> Result<Response<String>, Failure> {
        let mut url = self.base.clone();
        url.set_path(path);
        let mut request = Request::get(url.as_str());
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::default()).map_err(|e| Failure::Usage(format!("`{url}`: {e}")))?;
        let (head, body) = self.send(request).await?;
        Ok(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(http::response::Parts, Bytes), Failure> {
        let unreachable = |problem: String| Failure::Unreachable { server: self.server(), problem };
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|e| unreachable(innermost(&e)))?;
            let (head, body) = answer.into_parts();
            let body =
                Limited::new(body, MOST_BYTES).collect().await.map_err(|e| unreachable(e.to_string()))?;
            Ok((head, body.to_bytes()))
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(result) => result,
            Err(_) => {
                Err(unreachable(format!("no answer within {}", humantime::format_duration(self.timeout))))
            }
        }
    }
}

impl<'a> Call<'a> {
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    pub(crate) fn query_if(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// In the name of the service `consumer`.
    pub(crate) fn consumer(mut self, consumer: Option<&'a str>) -> Self {
        self.consumer = consumer;
        self
    }

    pub(crate) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) async fn send(self) -> Result<Answer, Failure> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.url.as_str())
            .header("X-Domain-Name", &self.registry.domain)
            .header("User-Agent", concat!("muster/", env!("CARGO_PKG_VERSION")));
        if let Some(consumer) = self.consumer {
            request = request.header("X-ConsumerId", consumer);
        }
        let body = match &self.body {
            Some(body) => {
                request = request.header("Content-Type", "application/json");
                Full::from(body.to_string())
            }
            None => Full::default(),
        };
        let request = request.body(body).map_err(|e| Failure::Usage(format!("cannot ask for that: {e}")))?;
        let (head, body) = self.registry.send(request).await?;
        let unchanged = head.status == StatusCode::NOT_MODIFIED;
        if !head.status.is_success() && !unchanged {
            return Err(refusal(&Response::from_parts(head, ()), &body));
        }
        let revision =
            head.headers.get("x-resource-revision").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).map_err(|e| Failure::NotUnderstood {
                server: self.registry.server(),
                problem: format!("the answer is not JSON: {e}"),
            })?
        };
        Ok(Answer { body, revision, unchanged })
    }
}

impl Answer {
    /// Reads the body's part `name`; what is empty is left out by registries, so absent is the default.
    pub(crate) fn part<T: Default + for<'de> Deserialize<'de>>(
        &self,
        name: &str,
        registry: &Registry,
    ) -> Result<T, Failure> {
        match self.body.get(name) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(part) => T::deserialize(part).map_err(|e| Failure::NotUnderstood {
                server: registry.server(),
                problem: format!("`{name}`: {e}"),
            }),
        }
    }
}

/// What an answer other than a good one means.
pub(crate) fn refusal<B>(answer: &Response<B>, body: &[u8]) -> Failure {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Body {
        error_code: String,
        error_message: String,
        detail: String,
    }
    let status = answer.status();
    let refusal = match serde_json::from_slice::<Body>(body) {
        Ok(it) => Refusal {
            status: status.as_u16(),
            code: it.error_code,
            message: it.error_message,
            detail: it.detail,
        },
        Err(_) => Refusal {
            status: status.as_u16(),
            message: format!("HTTP status {status}"),
            detail: String::from_utf8_lossy(body).lines().next().unwrap_or("").chars().take(200).collect(),
            ..Refusal::default()
        },
    };
    // A busy registry, or a proxy before none: both pass.
    let passing = matches!(status.as_u16(), 429 | 502 | 503 | 504) || refusal.code == "500011";
    if passing {
        let wait = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        Failure::TryAgain { refusal, wait: wait.map(Duration::from_secs) }
    } else {
        Failure::Refused(refusal)
    }
}

/// The deepest cause: "connection refused" says more than "client error".
fn innermost(e: &(dyn std::error::Error + 'static)) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}
