//! Fetches the public keys of an external issuer of tokens, and stores them for every replica and gateway.
//!
//! One replica does it, the publisher. The keys reach all others with the access policy, by revision, so
//! every process decides by the same keys, also while the issuer is away. Two addresses are ever fetched:
//! those that the settings name, and the address of the keys in the discovery document, if it is on the
//! issuer's host.

use std::time::Duration;

use access::IssuerKeys;
use bytes::Bytes;
use host::tls::ClientFiles;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use shared::backoff::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::election::Role;
use crate::keys::ISSUER_KEYS;
use crate::registry::{Registry, RegistryError};
use crate::settings::IssuerConfig;
use crate::store::Op;

/// The first and the longest pause after a failure.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The time that one fetch may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest document that is read, in bytes. Usual ones have a few kilobytes.
const LARGEST: usize = 256 << 10;

/// Fetches and stores the keys while this replica is the publisher, until `stop`.
pub(crate) struct KeyFetcher {
    /// The issuer.
    pub(crate) config: IssuerConfig,
    /// The registry in whose store the keys go.
    pub(crate) registry: Registry,
    /// The role of this replica.
    pub(crate) role: watch::Receiver<Role>,
}

/// The reason for which no keys could be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the authorities to trust at the issuer cannot be used: {0}")]
    Authorities(String),
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    #[error("{0} did not answer within 10 s")]
    Late(String),
    #[error("{0} answered with status {1}")]
    Status(String, StatusCode),
    #[error("{0} holds no usable keys: {1}")]
    NoKeys(String, String),
    #[error("{0} is no discovery document: {1}")]
    NoDocument(String, String),
    #[error("the discovery document is of another issuer: {0}")]
    OtherIssuer(String),
    #[error(
        "the discovery document names keys on another host, {0}; name them in rbac.oidc.keys if they are the issuer's"
    )]
    OtherHost(String),
    #[error("the keys could not be stored: {0}")]
    NotStored(String),
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl KeyFetcher {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(RETRIES.0, RETRIES.1.min(self.config.refresh));
        loop {
            let is_publisher = self.role.wait_for(|role| *role != Role::Standby);
            match stop.run_until_cancelled(is_publisher).await {
                Some(Ok(_)) => {}
                _ => return,
            }
            let issuer = &self.config.issuer.issuer;
            let wait = match self.refresh().await {
                Ok(changed) => {
                    if changed {
                        info!(issuer, "the keys of the external issuer have changed");
                    }
                    backoff.reset();
                    self.config.refresh
                }
                Err(error) => {
                    warn!(issuer, %error, "the keys of the external issuer could not be fetched; the last ones go on counting");
                    backoff.next_wait()
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Fetches the keys once. True when they were new.
    async fn refresh(&self) -> Result<bool, FetchError> {
        let client = client(&self.config.tls)?;
        let address = match &self.config.keys_at {
            Some(address) => address.as_str().to_owned(),
            None => self.discover(&client).await?,
        };
        let body = fetch(&client, &address).await?;
        let keys = IssuerKeys::parse(&body).map_err(|error| FetchError::NoKeys(address, error))?;
        let not_stored = |error: RegistryError| FetchError::NotStored(error.with_sources());
        let snapshot = self.registry.view().now().map_err(|error| not_stored(error.into()))?;
        if snapshot.policy.issuers.iter().any(|issuer| issuer.keys == keys) {
            return Ok(false);
        }
        // One writer, the publisher. Two of them in a hand-over write the same.
        self.registry.put_plain(Op::put(ISSUER_KEYS, keys.to_json())).await.map_err(not_stored)?;
        Ok(true)
    }

    /// The address of the keys by the issuer's discovery document.
    async fn discover(&self, client: &HttpClient) -> Result<String, FetchError> {
        let issuer = &self.config.issuer.issuer;
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let body = fetch(client, &address).await?;
        let document: Discovery = serde_json::from_slice(&body)
            .map_err(|error| FetchError::NoDocument(address, error.to_string()))?;
        if document.issuer != *issuer {
            return Err(FetchError::OtherIssuer(document.issuer));
        }
        if origin(&document.jwks_uri).is_none() || origin(&document.jwks_uri) != origin(issuer) {
            return Err(FetchError::OtherHost(document.jwks_uri));
        }
        Ok(document.jwks_uri)
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// A client that trusts the authorities that the file holds now. One is made for each refresh, so a file that
/// was replaced counts with the next refresh, and one that cannot be used for a moment does no lasting harm.
fn client(files: &ClientFiles) -> Result<HttpClient, FetchError> {
    let tls = host::tls::client(files).map_err(|error| FetchError::Authorities(error.to_string()))?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Scheme, host and port of an address.
fn origin(address: &str) -> Option<(String, String, u16)> {
    let uri: Uri = address.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase(), port))
}

/// Fetches a document. Redirections are not followed: they would lead to an address that nobody has
/// configured.
async fn fetch(client: &HttpClient, address: &str) -> Result<Bytes, FetchError> {
    let unreachable = |error: String| FetchError::Unreachable(address.to_owned(), error);
    let request = Request::get(address)
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::new())
        .map_err(|error| unreachable(error.to_string()))?;
    let exchange = async {
        let answer = client.request(request).await.map_err(|error| unreachable(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(address.to_owned(), answer.status()));
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| unreachable(error.to_string()))
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(FetchError::Late(address.to_owned())))
}
