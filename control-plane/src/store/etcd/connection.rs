//! The connection to one member of etcd, replaced by one to the next member when it is lost.
//!
//! ```text
//!             dialled                    suspected and the member does not answer
//! connecting ─────────> up(connection) ───────────────────────────────┐
//!     │ failed           ^  dialled                                   │
//!     └────────> down(reason) <───────────────────────────────────────┘   waits longer after each failure
//! ```
//!
//! One member at a time, because a barrier reads a revision and then asks the same member's watches for it.
//! Nobody waits for a member that is known to be down: callers get the reason at once.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, TlsOptions};
use shared::backoff::Backoff;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Certificate, Endpoint, Identity};
use tracing::{info, warn};

use super::fault::root;
use super::{EtcdConfig, EtcdTls, version};
use crate::store::StoreError;

/// HTTP/2 pings, seldom enough for etcd, which drops a client that pings more than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that an unread stream may hold up, and all of them together. The HTTP/2 library ends a connection
/// with many small unread frames, its tolerance being half of the connection's window: a watch whose reader
/// is slow must fill its own window long before that.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

/// A connection that was up once.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) endpoint: String,
    /// See [`version`].
    pub(super) progress_is_in_order: bool,
    /// Cancelled when the connection is given up: streams on it end.
    pub(super) lost: CancellationToken,
    suspected: Notify,
}

impl Connection {
    /// Asks the connector to check the member; whoever got no answer calls it.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Connection>),
    Down(String),
}

/// Gives out the current connection.
#[derive(Clone)]
pub(super) struct Link(watch::Receiver<State>);

impl Link {
    /// The connection, or why there is none. Waits only for the very first attempt. Cancel-safe.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, StoreError> {
        let closed = || StoreError::Unavailable("the store was closed".into());
        let mut link = self.0.clone();
        let state = link.wait_for(|state| !matches!(state, State::Connecting)).await;
        match &*state.map_err(|_| closed())? {
            State::Up(connection) => Ok(connection.clone()),
            State::Down(reason) => Err(StoreError::Unavailable(reason.clone())),
            State::Connecting => Err(closed()),
        }
    }
}

/// Keeps a connection.
pub(super) struct Connector {
    config: EtcdConfig,
    state: watch::Sender<State>,
}

impl Connector {
    pub(super) fn new(config: EtcdConfig) -> (Self, Link) {
        let (state, link) = watch::channel(State::Connecting);
        (Self { config, state }, Link(link))
    }

    /// Connects and reconnects until `closed` or `abort`.
    pub(super) async fn run(self, closed: CancellationToken, abort: CancellationToken) {
        tokio::select! {
            () = closed.cancelled() => {}
            () = abort.cancelled() => {}
            () = self.keep_connected() => {}
        }
        self.give_up("the store was closed".into());
    }

    async fn keep_connected(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // Replicas begin at different members.
        let members = self.config.endpoints.len();
        let mut member = fastrand::usize(..members.max(1));
        loop {
            let Some(endpoint) = self.config.endpoints.get(member % members.max(1)) else {
                self.give_up("no etcd endpoint is configured".into());
                return std::future::pending().await;
            };
            member = member.wrapping_add(1);
            match self.dial(endpoint).await {
                Ok(connection) => {
                    backoff.reset();
                    let connection = Arc::new(connection);
                    self.state.send_replace(State::Up(connection.clone()));
                    let reason = self.watch_over(&connection).await;
                    warn!(endpoint, %reason, "the connection to etcd is lost");
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
        if let State::Up(connection) = self.state.send_replace(State::Down(reason)) {
            connection.lost.cancel();
        }
    }

    async fn dial(&self, endpoint: &str) -> Result<Connection, String> {
        let dialled = async {
            let channel =
                self.endpoint(endpoint)?.connect().await.map_err(|error| root(&error).to_string())?;
            let mut options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
            if let Some((name, password)) = &self.config.user {
                options = options.with_user(name, password);
            }
            let client = Client::from_channel(Channel::Tonic(channel), Some(options));
            let mut client = client.await.map_err(|error| error.to_string())?;
            let version = version_of(&mut client).await.map_err(|error| error.to_string())?;
            Ok((client, version))
        };
        let (client, version) = tokio::time::timeout(self.config.connect_timeout, dialled)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.config.connect_timeout)))?;
        let progress_is_in_order = version::progress_is_in_order(&version);
        info!(endpoint, version, progress_is_in_order, "connected to etcd");
        Ok(Connection {
            client,
            endpoint: endpoint.to_owned(),
            progress_is_in_order,
            lost: CancellationToken::new(),
            suspected: Notify::new(),
        })
    }

    fn endpoint(&self, endpoint: &str) -> Result<Endpoint, String> {
        let scheme = if self.config.tls.is_some() { "https" } else { "http" };
        let url =
            if endpoint.contains("://") { endpoint.to_owned() } else { format!("{scheme}://{endpoint}") };
        let invalid = |error: tonic::transport::Error| root(&error).to_string();
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

    /// Returns when the member no longer answers. Asks it only when someone suspects it.
    async fn watch_over(&self, connection: &Connection) -> String {
        loop {
            connection.suspected.notified().await;
            let mut client = connection.client.clone();
            match tokio::time::timeout(self.config.connect_timeout, version_of(&mut client)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("no answer within {:?}", self.config.connect_timeout),
            }
            // Many calls fail together; one look a moment is enough.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The version of the member, if it is alive and has a leader.
async fn version_of(client: &mut Client) -> Result<String, etcd_client::Error> {
    match client.status().await {
        Ok(status) => Ok(status.version().to_owned()),
        // Since 3.6 this is for administrators only, and no earlier version denies it.
        Err(etcd_client::Error::GRpcStatus(status)) if status.code() == Code::PermissionDenied => {
            Ok("3.6.0".into())
        }
        Err(error) => Err(error),
    }
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
