//! The bus over NATS: core publish, subscribe and request; nothing is kept by the server.
//!
//! A server that is down is no error here: the client tries for ever, the [`Link`] says how it stands, and what
//! is asked meanwhile fails at once with [`BusError::Disconnected`]. Only this file imports the NATS client.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerAddr, StatusCode};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Bus, BusError, Link, Message, Messages, answer};
use host::lifecycle::Tasks;

/// Messages that one subscription may be behind, unless said otherwise. Room for a burst of ten thousand
/// events with some to spare; memory is only taken for what is there.
pub const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Payload that the server allows less what the headers of a message may take.
const HEADER_ROOM: usize = 512;

/// How long a flush may take before the link counts as cut.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

mod settings;

/// Between two attempts to connect, at most (jittered downwards).
const LONGEST_RECONNECT_WAIT: Duration = Duration::from_secs(2);

const TRACEPARENT: &str = "traceparent";

/// Where and as whom to connect.
#[derive(Clone)]
pub struct NatsConfig {
    /// Servers, such as `nats://10.0.0.5:4222`; any of a cluster is enough.
    pub urls: Vec<String>,
    /// The name that the server's monitoring shows for this process.
    pub name: String,
    /// As whom; user information in a URL works as well.
    pub auth: NatsAuth,
    /// Certificate authorities to trust for `tls://`, as a PEM file; `None` uses the system's.
    pub root_certificates: Option<PathBuf>,
    /// Messages that one subscription may be behind before the next are lost (and the generation rises).
    pub subscription_capacity: usize,
    /// How often the connection is checked while nothing else happens.
    pub ping_interval: Duration,
}

impl NatsConfig {
    /// The given servers without authentication, everything else by default.
    pub fn new(urls: Vec<String>, name: impl Into<String>) -> Self {
        Self {
            urls,
            name: name.into(),
            auth: NatsAuth::None,
            root_certificates: None,
            subscription_capacity: SUBSCRIPTION_CAPACITY,
            ping_interval: Duration::from_secs(10),
        }
    }
}

/// How to authenticate. `Debug` shows no secret.
#[derive(Clone, Default)]
pub enum NatsAuth {
    /// Not at all.
    #[default]
    None,
    /// A shared token.
    Token(String),
    /// A name and a password.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token(…)",
            Self::User { .. } => "User(…)",
        })
    }
}

/// A connection to NATS. Cheap to clone; the connection ends with the last clone.
#[derive(Clone, Debug)]
pub struct NatsBus {
    client: Client,
    link: watch::Sender<Link>,
    /// Connections that the link's generation has counted.
    counted: Arc<AtomicU64>,
}

impl NatsBus {
    /// Starts to connect and returns at once, whether or not a server answers; see [`Bus::link`].
    ///
    /// # Errors
    /// [`BusError::Refused`] when the configuration itself is wrong: an address that is none, a file that
    /// cannot be read.
    pub async fn connect(config: NatsConfig, tasks: &Tasks) -> Result<Self, BusError> {
        let refused = |error: &dyn fmt::Display| BusError::Refused(error.to_string());
        let urls = config.urls.iter().map(|url| url.parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
        let urls = urls.map_err(|error| refused(&error))?;
        if urls.is_empty() || urls.iter().any(|url| url.host().is_empty()) {
            return Err(BusError::Refused("a server's address is missing".to_owned()));
        }
        let link = watch::Sender::new(Link::default());
        let counted = Arc::new(AtomicU64::new(0));
        let (of_events, counted_by_events, connections) = (link.clone(), counted.clone(), AtomicU64::new(0));
        let options = options_of(config.auth, config.root_certificates)
            .name(config.name)
            .retry_on_initial_connect()
            .subscription_capacity(config.subscription_capacity.max(1))
            .ping_interval(config.ping_interval)
            .reconnect_delay_callback(reconnect_wait)
            .event_callback(move |event| {
                if matches!(event, Event::Connected) {
                    let connection = connections.fetch_add(1, Ordering::AcqRel) + 1;
                    counted_by_events.fetch_max(connection, Ordering::AcqRel);
                }
                note(&of_events, &event);
                std::future::ready(())
            });
        let client = options.connect(urls).await.map_err(|error| refused(&error))?;
        tasks.spawn(report(link.subscribe(), tasks.drain().clone()));
        Ok(Self { client, link, counted })
    }

    /// Connects once and leaves again: whether it would work, and what stands in the way, in words.
    ///
    /// # Errors
    /// What the server or the network says.
    pub async fn probe(config: NatsConfig) -> Result<(), String> {
        let urls = config.urls.iter().map(|url| url.parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
        let urls = urls.map_err(|error| error.to_string())?;
        let options = options_of(config.auth, config.root_certificates).max_reconnects(1);
        let client = options.connect(urls).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                format!("refused: {error}")
            }
            _ => error.to_string(),
        })?;
        client.flush().await.map_err(|error| error.to_string())
    }

    fn connected(&self) -> Result<(), BusError> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(BusError::Disconnected),
        }
    }

    async fn join(&self, subject: &str, group: Option<&str>) -> Result<async_nats::Subscriber, BusError> {
        self.connected()?;
        let subject = subject.to_owned();
        let joined = match group {
            None => self.client.subscribe(subject).await,
            Some(group) => self.client.queue_subscribe(subject, group.to_owned()).await,
        };
        joined.map_err(|error| BusError::Refused(error.to_string()))
    }

    async fn send(&self, message: Message) -> Result<(), BusError> {
        self.connected()?;
        let Message { subject, payload, reply, traceparent } = message;
        let headers = traceparent.map(|value| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, value);
            headers
        });
        match (reply, headers) {
            (None, None) => self.client.publish(subject, payload).await,
            (None, Some(headers)) => self.client.publish_with_headers(subject, headers, payload).await,
            (Some(reply), None) => self.client.publish_with_reply(subject, reply, payload).await,
            (Some(reply), Some(headers)) => {
                self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
        }
        .map_err(|error| BusError::Refused(error.to_string()))
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        self.send(message).await
    }

    async fn flush(&self) -> Result<(), BusError> {
        self.connected()?;
        match tokio::time::timeout(FLUSH_TIMEOUT, self.client.flush()).await {
            Ok(Ok(())) => {
                // The client answers a flush that spans a reconnect on the new connection, though what was
                // published on the old one is lost, and tells of the reconnect later. Who compares generations
                // around a flush must see it now; that the event raises it once more is harmless.
                let connections = self.client.statistics().connects.load(Ordering::Acquire);
                if self.counted.fetch_max(connections, Ordering::AcqRel) < connections {
                    self.link.send_modify(|link| link.generation += 1);
                }
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(BusError::Disconnected),
        }
    }

    async fn subscribe(&self, subject: &str) -> Result<Messages, BusError> {
        let messages = self.join(subject, None).await?;
        self.flush().await?;
        Ok(Messages::new(messages.map(from_nats)))
    }

    async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError> {
        let messages = self.join(subject, Some(group)).await?;
        self.flush().await?;
        Ok(Messages::new(messages.map(from_nats)))
    }

    async fn request(&self, mut message: Message, timeout: Duration) -> Result<Messages, BusError> {
        let inbox = self.client.new_inbox();
        // Its SUB goes out before the request, on the same connection: no flush is needed.
        let parts = self.join(&inbox, None).await?;
        let subject = message.subject.clone();
        message.reply = Some(inbox);
        self.send(message).await?;
        let parts =
            parts.map(|part| (part.status != Some(StatusCode::NO_RESPONDERS)).then(|| from_nats(part)));
        answer(subject, parts, timeout).await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn max_payload(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADER_ROOM)
    }
}

/// As whom, and whom to trust.
fn options_of(auth: NatsAuth, root_certificates: Option<PathBuf>) -> ConnectOptions {
    let options = match auth {
        NatsAuth::None => ConnectOptions::new(),
        NatsAuth::Token(token) => ConnectOptions::new().token(token),
        NatsAuth::User { name, password } => ConnectOptions::new().user_and_password(name, password),
    };
    match root_certificates {
        Some(path) => options.add_root_certificates(path),
        None => options,
    }
}

fn from_nats(message: async_nats::Message) -> Message {
    let traceparent = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(TRACEPARENT))
        .map(|value| value.as_str().to_owned());
    Message {
        subject: message.subject.to_string(),
        payload: message.payload,
        reply: message.reply.map(|reply| reply.to_string()),
        traceparent,
    }
}

/// What an event of the client means for the link. A full queue of events is harmless: those in it are
/// handled after the loss they stand in the way of, and raise the generation too.
fn note(state: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => state.send_modify(|link| {
            link.connected = true;
            link.generation += 1;
        }),
        Event::Disconnected | Event::Closed => state.send_modify(|link| link.connected = false),
        Event::SlowConsumer(_) => state.send_modify(|link| link.generation += 1),
        Event::ServerError(error) => warn!(%error, "the bus server reports an error"),
        Event::ClientError(error) => warn!(%error, "the connection to the bus reports an error"),
        Event::LameDuckMode | Event::Draining => {}
    }
}

fn reconnect_wait(attempts: usize) -> Duration {
    let base = Duration::from_millis(50).saturating_mul(1 << attempts.min(8)).min(LONGEST_RECONNECT_WAIT);
    if attempts <= 1 { Duration::ZERO } else { base.mul_f64(0.5 + fastrand::f64() / 2.0) }
}

/// Logs when the link comes and goes, until the drain.
async fn report(mut link: watch::Receiver<Link>, drain: tokio_util::sync::CancellationToken) {
    let mut was = false;
    loop {
        let connected = link.borrow_and_update().connected;
        if connected != was {
            match connected {
                true => info!("connected to the bus"),
                false => warn!("the connection to the bus is lost; reconnecting"),
            }
            was = connected;
        }
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            changed = link.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
#[path = "nats_tests.rs"]
mod tests;
