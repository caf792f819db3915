//! The client of a registry: a request goes out, a reply or a [`CommandFailure`] comes back.
//!
//! It uses the v4 REST API over HTTP/1.1, within TLS at `https://` addresses, so it works against
//! Service-Center as well. Every request has the deadline of the target, from the connection to the last byte
//! of the body.
//!
//! The plain half could be `reqwest`. That was not taken, because watches need the other half in any case: a
//! socket of their own, bound to a source address, with the same TLS settings ([`RegistryClient::open`]).
//! With `reqwest` a second way of setting up TLS would stand beside it, and more crates would come in;
//! hyper's client is already in the gateway, and its use here is one function ([`RegistryClient::exchange`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use host::tls::{self, ClientFiles};
use http::header::{AGE, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::failure::{CommandFailure, RegistryRefusal};
use crate::target::Target;

pub(crate) mod follow;
mod grpc;
mod lines;
mod stream;
pub(crate) mod watch;

pub(crate) use grpc::GrpcStream;
pub(crate) use lines::Lines;
pub(crate) use stream::ServerStream;

/// Size of the largest reply that is accepted: more than a registry of 150 000 instances lists.
const MAX_REPLY_BYTES: usize = 512 << 20;

/// A client of one server, on behalf of one tenant. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub(crate) struct RegistryClient {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    tls: Arc<ClientConfig>,
    base: url::Url,
    domain: String,
    project: String,
    timeout: Duration,
    /// The value of the header `Authorization`, marked as a secret.
    authorization: Option<HeaderValue>,
}

/// The reply to a request that succeeded.
#[derive(Debug)]
pub(crate) struct RegistryReply {
    /// The body; null when it was empty.
    pub(crate) body: Value,
    /// The header `X-Resource-Revision`.
    pub(crate) revision: Option<String>,
    /// Status 304: the state that the caller has is still current.
    pub(crate) unchanged: bool,
    /// The header `Age` in seconds: the reply may be old, because no control plane confirms it.
    pub(crate) age: Option<u64>,
    /// The header `Content-Type`.
    pub(crate) content_type: Option<String>,
}

/// A request under construction.
#[derive(Debug)]
pub(crate) struct RegistryRequest<'a> {
    client: &'a RegistryClient,
    method: Method,
    url: url::Url,
    consumer: Option<&'a str>,
    body: Option<Value>,
}

impl RegistryClient {
    /// A client of the target. Nothing is connected yet.
    ///
    /// # Errors
    /// [`CommandFailure::Usage`] when the address is not one of HTTP, or a file of the trust cannot be used.
    pub(crate) fn new(target: &Target) -> Result<Self, CommandFailure> {
        let client = Self::without_token(target)?;
        match target.access.token(&target.server)? {
            Some(token) => client.with_token(&token),
            None => Ok(client),
        }
    }

    /// Shows this token with every request to the API.
    pub(crate) fn with_token(mut self, token: &str) -> Result<Self, CommandFailure> {
        // The error repeats nothing of the token.
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| CommandFailure::Usage("the token cannot be sent in a header".to_owned()))?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// The header that shows the token, if there is one.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// A client that shows no token, for a login.
    ///
    /// # Errors
    /// As [`RegistryClient::new`].
    pub(crate) fn without_token(target: &Target) -> Result<Self, CommandFailure> {
        let base = target.server.clone();
        let trust = &target.trust;
        let tls = match base.scheme() {
            // The files of the trust need not be there when nothing is encrypted.
            "http" => tls::unused_client(),
            "https" => {
                let identity = trust.certificate.clone().zip(trust.key.clone());
                tls::client(&ClientFiles { ca: trust.ca.clone(), identity })
            }
            _ => {
                let problem = format!("`{base}`: expected an http:// or https:// address");
                return Err(CommandFailure::Usage(problem));
            }
        };
        let tls = tls.map_err(|e| CommandFailure::Usage(e.to_string()))?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(target.timeout));
        connector.set_nodelay(true);
        // Otherwise this connector would refuse https:// addresses, around which the next one puts TLS.
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Self {
            http: Client::builder(TokioExecutor::new()).build(connector),
            tls: Arc::new(tls),
            base,
            domain: target.domain.clone(),
            project: target.project.clone(),
            timeout: target.timeout,
            authorization: None,
        })
    }

    /// The address, for messages.
    pub(crate) fn server(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// The domain of the services.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// The time to wait for a reply.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The project of the services.
    pub(crate) fn project(&self) -> &str {
        &self.project
    }

    /// A path below `/v4/{project}`. Each part becomes one segment, also when it holds a slash.
    pub(crate) fn url<'s>(&self, parts: impl IntoIterator<Item = &'s str>) -> url::Url {
        let mut url = self.base.clone();
        // This fails only for addresses without a host, which `new` has refused.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v4", &self.project]).extend(parts);
        }
        url
    }

    /// Begins a GET below `/v4/{project}`.
    pub(crate) fn get<'a>(&'a self, parts: &[&str]) -> RegistryRequest<'a> {
        self.request(Method::GET, parts)
    }

    /// Begins a request below `/v4/{project}`.
    pub(crate) fn request<'a>(&'a self, method: Method, parts: &[&str]) -> RegistryRequest<'a> {
        let url = self.url(parts.iter().copied());
        RegistryRequest { client: self, method, url, consumer: None, body: None }
    }

    /// Begins a request to a path from the root of the server. Each part becomes one segment.
    pub(crate) fn request_path<'a>(&'a self, method: Method, parts: &[&str]) -> RegistryRequest<'a> {
        let mut url = self.base.clone();
        // This fails only for addresses without a host, which `new` has refused.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        RegistryRequest { client: self, method, url, consumer: None, body: None }
    }

    /// Host and port as a URL and the header `Host` have them, with brackets around an IPv6 address.
    pub(crate) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        format!("{host}:{}", self.address().1)
    }

    /// Host, without brackets, and port.
    pub(crate) fn address(&self) -> (String, u16) {
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        (host.to_owned(), self.base.port_or_known_default().unwrap_or(80))
    }

    /// Opens a connection that no request shares, within TLS if the address says so. It has no deadline:
    /// callers put one around everything that they do with it.
    pub(crate) async fn open(&self, source: Option<IpAddr>) -> std::io::Result<ServerStream> {
        let (host, port) = self.address();
        let stream = stream::connect_tcp((host.clone(), port), source).await?;
        self.within_tls(host, stream, self.tls.clone()).await
    }

    /// Opens a connection of its own for HTTP/2.
    async fn open_http2(&self) -> std::io::Result<ServerStream> {
        let (host, port) = self.address();
        let stream = stream::connect_tcp((host.clone(), port), None).await?;
        let mut tls = ClientConfig::clone(&self.tls);
        // Servers take HTTP/1.1 unless a client negotiates.
        tls.alpn_protocols = vec![b"h2".to_vec()];
        self.within_tls(host, stream, Arc::new(tls)).await
    }

    async fn within_tls(
        &self,
        host: String,
        stream: TcpStream,
        tls: Arc<ClientConfig>,
    ) -> std::io::Result<ServerStream> {
        if self.base.scheme() != "https" {
            return Ok(ServerStream::Plain(stream));
        }
        let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        Ok(ServerStream::Tls(Box::new(stream)))
    }

    /// Sends a GET to a path from the root of the server, such as `/ready`. Every status is a success.
    pub(crate) async fn get_root(&self, path: &str) -> Result<Response<String>, CommandFailure> {
        self.request_root(Method::GET, path, None).await
    }

    /// Sends a request without a body to a path from the root of the server, with an admin token if there is
    /// one. Every status is a success.
    pub(crate) async fn request_root(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
    ) -> Result<Response<String>, CommandFailure> {
        let mut url = self.base.clone();
        url.set_path(path);
        let mut request = Request::builder().method(method).uri(url.as_str());
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::default()).map_err(|e| {
            CommandFailure::Usage(format!("no request can be made of `{url}` and the given token: {e}"))
        })?;
        let (head, body) = self.exchange(request).await?;
        Ok(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Sends a request and reads the whole reply, within the deadline.
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(http::response::Parts, Bytes), CommandFailure> {
        let exchange = async {
            let reply = self.http.request(request).await.map_err(|e| self.unreachable(&innermost(&e)))?;
            let (head, body) = reply.into_parts();
            // Without a bound, a wrong address could fill the memory of the machine.
            let body = Limited::new(body, MAX_REPLY_BYTES).collect().await;
            let body = body.map_err(|e| self.unreachable(&e.to_string()))?;
            Ok((head, body.to_bytes()))
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(result) => result,
            Err(_) => {
                let timeout = humantime::format_duration(self.timeout);
                Err(self.unreachable(&format!("no reply within {timeout}")))
            }
        }
    }

    fn unreachable(&self, problem: &str) -> CommandFailure {
        CommandFailure::Unreachable { server: self.server(), problem: tls::with_advice(problem) }
    }

    fn not_understood(&self, problem: String) -> CommandFailure {
        CommandFailure::NotUnderstood { server: self.server(), problem }
    }
}

impl<'a> RegistryRequest<'a> {
    /// Adds a parameter to the query.
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    /// Adds a parameter to the query if there is a value.
    pub(crate) fn query_if(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Makes the request on behalf of a consumer.
    pub(crate) fn consumer(mut self, consumer: Option<&'a str>) -> Self {
        self.consumer = consumer;
        self
    }

    /// Sets the body.
    pub(crate) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Sends the request, and returns the lines of the reply as they come. The deadline of the target counts
    /// up to the head of the reply; `silence` is the longest time between two lines.
    pub(crate) async fn lines(self, silence: Duration) -> Result<Lines<'a>, CommandFailure> {
        let client = self.client;
        let reply = tokio::time::timeout(client.timeout, client.http.request(self.build()?)).await;
        let reply = reply.map_err(|_| client.unreachable("no reply in time"))?;
        let reply = reply.map_err(|e| client.unreachable(&innermost(&e)))?;
        let (head, body) = reply.into_parts();
        if head.status.is_success() {
            return Ok(Lines::new(client, body, silence, content_type(&head.headers)));
        }
        let body = tokio::time::timeout(client.timeout, Limited::new(body, MAX_REPLY_BYTES).collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        Err(refusal(&Response::from_parts(head, ()), &body))
    }

    /// Sends the request. A status other than success and 304 becomes a failure.
    pub(crate) async fn send(self) -> Result<RegistryReply, CommandFailure> {
        let client = self.client;
        let (head, body) = client.exchange(self.build()?).await?;
        let unchanged = head.status == StatusCode::NOT_MODIFIED;
        if !head.status.is_success() && !unchanged {
            return Err(refusal(&Response::from_parts(head, ()), &body));
        }
        let revision = head.headers.get("x-resource-revision");
        let revision = revision.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let age = head.headers.get(AGE).and_then(|value| value.to_str().ok()?.parse().ok());
        // Many calls of the API succeed without a body.
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body)
                .map_err(|e| client.not_understood(format!("the reply is not JSON: {e}")))?
        };
        Ok(RegistryReply { body, revision, unchanged, age, content_type: content_type(&head.headers) })
    }

    fn build(self) -> Result<Request<Full<Bytes>>, CommandFailure> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.url.as_str())
            .header("X-Domain-Name", &self.client.domain)
            // Some routes have another form for those who do not say so.
            .header("Accept", "application/json")
            .header("User-Agent", concat!("muster/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.client.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
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
        request.body(body).map_err(|e| {
            // Headers take printable ASCII only; the URL is escaped and cannot fail.
            CommandFailure::Usage(format!(
                "the domain or the consumer's id cannot be sent in a header: {e}; both are printable ASCII"
            ))
        })
    }
}

impl RegistryReply {
    /// Reads the field `name` of the body. Registries leave out empty fields, so an absent one is the
    /// default.
    pub(crate) fn part<T: Default + for<'de> Deserialize<'de>>(
        &self,
        name: &str,
        client: &RegistryClient,
    ) -> Result<T, CommandFailure> {
        match self.body.get(name) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(part) => T::deserialize(part).map_err(|e| client.not_understood(format!("`{name}`: {e}"))),
        }
    }

    /// Reads the id in the field `name` of the body, which must be there.
    pub(crate) fn id(&self, name: &str, client: &RegistryClient) -> Result<String, CommandFailure> {
        let id: String = self.part(name, client)?;
        if id.is_empty() {
            return Err(client.not_understood(format!("the reply has no `{name}`")));
        }
        Ok(id)
    }
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The failure that an error reply stands for.
fn refusal<B>(reply: &Response<B>, body: &[u8]) -> CommandFailure {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct ErrorBody {
        error_code: String,
        error_message: String,
        detail: String,
    }
    let status = reply.status();
    let refusal = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => RegistryRefusal {
            status: status.as_u16(),
            code: error.error_code,
            message: error.error_message,
            detail: error.detail,
        },
        Err(_) => RegistryRefusal {
            status: status.as_u16(),
            message: format!("HTTP status {status}"),
            detail: String::from_utf8_lossy(body).lines().next().unwrap_or("").chars().take(200).collect(),
            ..RegistryRefusal::default()
        },
    };
    // These pass: the registry is busy, or a proxy has no registry behind it yet. 500011 is the code for
    // a store that cannot be reached, sent with status 500 when a write may have happened.
    let passing = matches!(status.as_u16(), 429 | 502 | 503 | 504) || refusal.code == "500011";
    // The other refusals of this status are about a password, and a login does not help against them.
    let wants_login = matches!(refusal.code.as_str(), "" | "401201" | "401204" | "401205" | "401206");
    if status == StatusCode::UNAUTHORIZED && wants_login {
        CommandFailure::LogIn(refusal)
    } else if passing {
        let wait = reply.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        CommandFailure::TryAgain { refusal, wait: wait.map(Duration::from_secs) }
    } else {
        CommandFailure::Refused(refusal)
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
