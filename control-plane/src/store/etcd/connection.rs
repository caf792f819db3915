//! The connection to one member of etcd, replaced by one to the next member when it is lost.
//!
//! ```text
//!             dialled                suspected, no answer
//! connecting ─────────> up(connection) ──────────────────┐
//!     │ failed           ^  dialled                      │
//!     └────────> down(reason) <──────────────────────────┘   waits longer after each failure
//! ```
//!
//! One member is used at a time, because a barrier reads a revision and then requires it of the watches,
//! which must be on the same member. No call waits for a member that is known to be down; it fails at once
//! with the reason.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, TlsOptions};
use host::tls::with_advice;
use shared::backoff::Backoff;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Certificate, Endpoint, Identity};
use tracing::{info, warn};

use super::fault::root;
use super::{EtcdConfig, EtcdTls, version};
use crate::store::StoreError;

/// The interval of HTTP/2 pings. etcd drops a client that pings more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The most unread bytes of one stream, and of all streams together. The HTTP/2 library closes a connection
/// with many small unread frames, once they reach half of the connection's window. The watch of a slow reader
/// must fill its own window long before that.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

/// A connection to a member that has answered once.
pub(super) struct MemberConnection {
    pub(super) client: Client,
    pub(super) endpoint: String,
    /// True if progress responses come in the order of events; see [`version`].
    pub(super) progress_is_in_order: bool,
    pub(super) version: String,
    /// Cancelled when the connection is given up, which ends its streams.
    pub(super) lost: CancellationToken,
    suspected: Notify,
}

impl MemberConnection {
    /// Makes the connector check the member. Called after a request without a response.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }
}

#[derive(Clone)]
enum ConnectionState {
    Connecting,
    Up(Arc<MemberConnection>),
    Down(String),
}

/// The callers' access to the current connection.
#[derive(Clone)]
pub(super) struct MemberLink(watch::Receiver<ConnectionState>);

impl MemberLink {
    /// The connection, or the reason why there is none. Waits only for the very first attempt. Cancel-safe.
    pub(super) async fn connection(&self) -> Result<Arc<MemberConnection>, StoreError> {
        let mut link = self.0.clone();
        let state = link.wait_for(|state| !matches!(state, ConnectionState::Connecting)).await;
        match &*state.map_err(|_| closed())? {
            ConnectionState::Up(connection) => Ok(connection.clone()),
            ConnectionState::Down(reason) => Err(StoreError::Unavailable(reason.clone())),
            ConnectionState::Connecting => Err(closed()),
        }
    }
}

/// The task that keeps a connection.
pub(super) struct Connector {
    config: EtcdConfig,
    state: watch::Sender<ConnectionState>,
}

impl Connector {
    pub(super) fn new(config: EtcdConfig) -> (Self, MemberLink) {
        let (state, link) = watch::channel(ConnectionState::Connecting);
        (Self { config, state }, MemberLink(link))
    }

    /// Connects and reconnects until `closed` or `abort`.
    pub(super) async fn run(self, closed: CancellationToken, abort: CancellationToken) {
        tokio::select! {
            () = closed.cancelled() => {}
            () = abort.cancelled() => {}
            () = self.keep_connected() => {}
        }
        // Callers that still have the link must not wait for a connection that nobody makes any more.
        self.give_up("the store was closed".into());
    }

    async fn keep_connected(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // Each replica starts at a random member, so that they do not all load the first one.
        let members = self.config.endpoints.len();
        let mut member = fastrand::usize(..members.max(1));
        loop {
            let Some(endpoint) = self.config.endpoints.get(member % members.max(1)) else {
                self.give_up("no etcd endpoint is configured".into());
                // Nothing can be tried until the store is closed, and a return would end with the wrong
                // reason.
                return std::future::pending().await;
            };
            // On to the next one in any case: a member that was just lost is the least likely to answer.
            member = member.wrapping_add(1);
            match self.dial(endpoint).await {
                Ok(connection) => {
                    backoff.reset();
                    let connection = Arc::new(connection);
                    self.state.send_replace(ConnectionState::Up(connection.clone()));
                    let reason = self.watch_over(&connection).await;
                    warn!(endpoint, %reason, "the connection to etcd is lost; connecting to the next member");
                    self.give_up(format!("etcd at {endpoint} does not answer: {reason}"));
                }
                Err(reason) => {
                    let wait = backoff.next_wait();
                    warn!(
                        endpoint,
                        %reason,
                        failures = backoff.failures(),
                        seconds = wait.as_secs_f32(),
                        "etcd cannot be reached; trying again"
                    );
                    self.give_up(format!("etcd at {endpoint} cannot be reached: {reason}"));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn give_up(&self, reason: String) {
        if let ConnectionState::Up(connection) = self.state.send_replace(ConnectionState::Down(reason)) {
            connection.lost.cancel();
        }
    }

    async fn dial(&self, endpoint: &str) -> Result<MemberConnection, String> {
        let dialled = async {
            let channel = self
                .endpoint(endpoint)?
                .connect()
                .await
                .map_err(|error| with_advice(root(&error).to_string()))?;
            // With a required leader, a member that is cut off from its cluster ends its watches instead of
            // falling silent.
            let mut options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
            if let Some((name, password)) = &self.config.user {
                options = options.with_user(name, password);
            }
            let client = Client::from_channel(Channel::Tonic(channel), Some(options));
            let mut client = client.await.map_err(|error| error.to_string())?;
            // The socket of a stalled member connects as well, so only a first call proves that the member
            // answers.
            let version = version_of(&mut client).await.map_err(|error| error.to_string())?;
            Ok((client, version))
        };
        let (client, version) = tokio::time::timeout(self.config.connect_timeout, dialled)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.config.connect_timeout)))?;
        let progress_is_in_order = version::progress_is_in_order(&version);
        info!(endpoint, version, progress_is_in_order, "connected to etcd");
        Ok(MemberConnection {
            client,
            endpoint: endpoint.to_owned(),
            progress_is_in_order,
            version,
            lost: CancellationToken::new(),
            suspected: Notify::new(),
        })
    }

    fn endpoint(&self, endpoint: &str) -> Result<Endpoint, String> {
        let scheme = if self.config.tls.is_some() { "https" } else { "http" };
        let url =
            if endpoint.contains("://") { endpoint.to_owned() } else { format!("{scheme}://{endpoint}") };
        let built = Endpoint::from_shared(url).map_err(invalid)?;
        let built = match &self.config.tls {
            Some(tls) => built.tls_config(tls_options(tls)).map_err(invalid)?,
            None => built,
        };
        Ok(built
            .connect_timeout(self.config.connect_timeout)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT))
    }

    /// Returns the reason once the member does not answer. Checks the member only when a caller suspects it.
    async fn watch_over(&self, connection: &MemberConnection) -> String {
        loop {
            connection.suspected.notified().await;
            let mut client = connection.client.clone();
            match tokio::time::timeout(self.config.connect_timeout, version_of(&mut client)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("no answer within {:?}", self.config.connect_timeout),
            }
            // Many calls fail together, and one check serves them all.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The version of the member, if it is alive and has a leader.
async fn version_of(client: &mut Client) -> Result<String, etcd_client::Error> {
    match client.status().await {
        Ok(status) => Ok(status.version().to_owned()),
        // Only 3.6 and later reserve this call for administrators, so a denial proves such a version.
        Err(etcd_client::Error::GRpcStatus(status)) if status.code() == Code::PermissionDenied => {
            Ok("3.6.0".into())
        }
        Err(error) => Err(error),
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store was closed".into())
}

/// The text of a mistake in an endpoint's address or TLS settings.
fn invalid(error: tonic::transport::Error) -> String {
    root(&error).to_string()
}

fn tls_options(tls: &EtcdTls) -> TlsOptions {
    let mut options = TlsOptions::new();
    if let Some(ca) = &tls.ca_pem {
        options = options.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((certificate, key)) = &tls.identity_pem {
        options = options.identity(Identity::from_pem(certificate, key));
    }
    match &tls.server_name {
        Some(name) => options.domain_name(name),
        None => options,
    }
}
