//! The bus over NATS, by its core protocol (publish, subscribe, request). The server stores nothing.
//!
//! A server that is down is no error: the client tries to connect for ever, and the [`Link`] shows the
//! state. Meanwhile every operation fails at once with [`BusError::Disconnected`]. Only this file imports
//! the NATS client.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerAddr, StatusCode};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Bus, BusError, Link, Message, Messages, answer};
use host::lifecycle::Tasks;
use shared::backoff::Backoff;

mod settings;
#[cfg(test)]
mod tests;

/// Messages that a subscription holds by default: several bursts of ten thousand events. A subscription takes
/// memory only for the messages that are in it.
pub const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Bytes kept free for the headers of a message: the server's limit counts them to the payload.
const HEADER_ROOM: usize = 512;

/// The time that a flush may take. A link over which it takes longer is treated as broken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause between two attempts to connect. A random part of it is taken off.
const LONGEST_RECONNECT_WAIT: Duration = Duration::from_secs(2);

/// The pauses between attempts to connect.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), LONGEST_RECONNECT_WAIT);

/// The time after which a connection counts as good. One that breaks earlier counts like a failed attempt.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

const TRACEPARENT: &str = "traceparent";

/// The servers to connect to, the credentials, and the limits of the connection.
#[derive(Clone)]
pub struct NatsConfig {
    /// Servers, such as `nats://10.0.0.5:4222`. One of a cluster is enough; the others are found through it.
    pub urls: Vec<String>,
    /// The name that the server's monitoring shows for this process.
    pub name: String,
    /// The credentials. They may stand in a URL instead.
    pub auth: NatsAuth,
    /// A PEM file with the certificate authorities to trust for `tls://`; `None` stands for the system's.
    pub root_certificates: Option<PathBuf>,
    /// Messages that a subscription holds. When it is full, further ones are lost and the link's
    /// generation rises.
    pub subscription_capacity: usize,
    /// The time between two checks of a connection on which nothing else happens.
    pub ping_interval: Duration,
}

impl NatsConfig {
    /// A connection to `urls` without credentials, with every other value at its default.
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

/// The credentials of a connection. `Debug` shows no secret.
#[derive(Clone, Default)]
pub enum NatsAuth {
    /// The server asks for no credentials.
    #[default]
    None,
    /// A shared token.
    Token(String),
    /// A name and a password.
    User {
        /// The user's name.
        name: String,
        /// The user's password.
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
    /// The number of connections for which the link's generation has been raised.
    counted: Arc<AtomicU64>,
}

impl NatsBus {
    /// Starts to connect and returns at once, with or without a server; [`Bus::link`] shows when it
    /// is connected.
    ///
    /// # Errors
    /// [`BusError::Refused`] when the configuration itself is wrong: a text that is no address, a file that
    /// cannot be read.
    pub async fn connect(config: NatsConfig, tasks: &Tasks) -> Result<Self, BusError> {
        let urls = addresses(&config.urls).map_err(BusError::Refused)?;
        if urls.is_empty() || urls.iter().any(|url| url.host().is_empty()) {
            return Err(BusError::Refused("a server's address is missing".to_owned()));
        }
        let link = watch::Sender::new(Link::default());
        let counted = Arc::new(AtomicU64::new(0));
        // The client calls back for each event, in their order, on a task of its own.
        let link_of_events = link.clone();
        let counted_by_events = counted.clone();
        let connections = AtomicU64::new(0);
        let reconnects = Mutex::new(Reconnects::default());
        let options = options_of(config.auth, config.root_certificates)
            .name(config.name)
            // A process must start while the bus is down: it can serve what it has.
            .retry_on_initial_connect()
            .subscription_capacity(config.subscription_capacity.max(1))
            .ping_interval(config.ping_interval)
            .reconnect_delay_callback(move |attempts| reconnects.lock().wait(attempts, Instant::now()))
            .event_callback(move |event| {
                if matches!(event, Event::Connected) {
                    let connection = connections.fetch_add(1, Ordering::AcqRel) + 1;
                    counted_by_events.fetch_max(connection, Ordering::AcqRel);
                }
                apply(&link_of_events, &event);
                std::future::ready(())
            });
        let client = options.connect(urls).await.map_err(|error| BusError::Refused(error.to_string()))?;
        tasks.spawn_named("bus", report(link.subscribe(), tasks.drain().clone()));
        Ok(Self { client, link, counted })
    }

    /// Connects once and disconnects again, to find out whether `config` would work.
    ///
    /// # Errors
    /// The message of the server or of the network.
    pub async fn probe(config: NatsConfig) -> Result<(), String> {
        let urls = addresses(&config.urls)?;
        let options = options_of(config.auth, config.root_certificates).max_reconnects(1);
        let client = options.connect(urls).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                format!("refused: {error}")
            }
            _ => error.to_string(),
        })?;
        client.flush().await.map_err(|error| error.to_string())
    }

    fn ensure_connected(&self) -> Result<(), BusError> {
        // Without this check the client would keep the operation until it is connected again, for
        // however long.
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(BusError::Disconnected),
        }
    }

    async fn join(&self, subject: &str, group: Option<&str>) -> Result<async_nats::Subscriber, BusError> {
        self.ensure_connected()?;
        let subject = subject.to_owned();
        let joined = match group {
            None => self.client.subscribe(subject).await,
            Some(group) => self.client.queue_subscribe(subject, group.to_owned()).await,
        };
        joined.map_err(|error| BusError::Refused(error.to_string()))
    }

    async fn send(&self, message: Message) -> Result<(), BusError> {
        self.ensure_connected()?;
        let Message { subject, payload, reply, traceparent } = message;
        // Most messages belong to no sampled trace. They travel without a header block.
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
        self.ensure_connected()?;
        match tokio::time::timeout(FLUSH_TIMEOUT, self.client.flush()).await {
            Ok(Ok(())) => {
                // A flush that spans a reconnect succeeds on the new connection, although messages published
                // on the old one may be lost, and the client reports the reconnect only afterwards. The
                // publisher compares generations around a flush, so it must see the new one now. When the
                // event raises the generation once more, that costs one needless repetition.
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
        // The client only queues the SUB. The flush makes the promise true that the subscription is in
        // force on return.
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
        // No flush is needed: the SUB precedes the request on the same connection.
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

/// Parses the addresses of servers; the error is the message of the first that is none.
fn addresses(urls: &[String]) -> Result<Vec<ServerAddr>, String> {
    let parsed: Result<Vec<ServerAddr>, _> = urls.iter().map(|url| url.parse()).collect();
    parsed.map_err(|error| error.to_string())
}

/// The client's options for credentials and trusted authorities.
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

/// Applies an event of the client to the link.
fn apply(state: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => state.send_modify(|link| {
            link.connected = true;
            link.generation += 1;
        }),
        Event::Disconnected | Event::Closed => state.send_modify(|link| link.connected = false),
        // The client drops this event when its queue of events is full. No loss goes unseen by that: the
        // events in the queue are applied after the loss, and they raise the generation too.
        Event::SlowConsumer(_) => state.send_modify(|link| link.generation += 1),
        Event::ServerError(error) => warn!(%error, "the bus server reports an error"),
        Event::ClientError(error) => warn!(%error, "the connection to the bus reports an error"),
        Event::LameDuckMode | Event::Draining => {}
    }
}

/// The pauses between attempts to connect. The client counts attempts anew after each connection; a server
/// that accepts and soon closes again, for whatever reason, would be called on without a pause.
#[derive(Debug, Default)]
struct Reconnects {
    /// The time of the latest attempt.
    last: Option<Instant>,
    /// Connections in a row that broke soon after they were opened.
    short_lived: usize,
}

impl Reconnects {
    /// The pause before the attempt with this number, from one; none after a good connection.
    fn wait(&mut self, attempts: usize, now: Instant) -> Duration {
        if attempts <= 1 {
            // The latest attempt succeeded, for the client begins to count again.
            let is_short = self.last.is_some_and(|last| now.duration_since(last) < GOOD_CONNECTION);
            self.short_lived = if is_short { self.short_lived + 1 } else { 0 };
        }
        let failures = attempts.saturating_sub(1) + self.short_lived;
        let pause = if failures == 0 { Duration::ZERO } else { reconnect_wait(failures) };
        self.last = Some(now + pause);
        pause
    }
}

/// The pause after so many failures, at least one.
fn reconnect_wait(failures: usize) -> Duration {
    RECONNECT.nth(u32::try_from(failures).unwrap_or(u32::MAX))
}

/// Logs each time the connection opens or breaks, until the drain.
async fn report(mut link: watch::Receiver<Link>, drain: tokio_util::sync::CancellationToken) {
    let mut was_connected = false;
    loop {
        let connected = link.borrow_and_update().connected;
        // A generation that rises while connected is no news for an operator.
        if connected != was_connected {
            match connected {
                true => info!("connected to the bus"),
                false => warn!("the connection to the bus is lost; reconnecting"),
            }
            was_connected = connected;
        }
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            changed = link.changed() => if changed.is_err() { return },
        }
    }
}
