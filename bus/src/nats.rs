//! The bus over NATS, by its core protocol (publish, subscribe, request). The server stores nothing.
//!
//! A server that is down is no error: the client tries to connect for ever, and the [`Link`] shows the
//! state. Meanwhile every operation fails at once with [`BusError::Disconnected`]. Only this file imports
//! the NATS client.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{
    Client, ClientError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerAddr, StatusCode,
};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::{Bus, BusError, Link, Message, Messages, answer};
use host::files::FileWatch;
use host::lifecycle::Tasks;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use reasons::Reasons;
use shared::backoff::Backoff;
use signing::{Refusal, SIGNATURE, Signing};
use tokio_util::sync::CancellationToken;

pub use config::{NatsAuth, NatsConfig};
pub use signing::Keys;

mod config;
mod reasons;
mod settings;
mod signing;
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

/// The longest wait for room in the client's queue, which is full when the server takes nothing any more. Without a
/// bound it would last until the next connection, whose `Disconnected` this is.
const SEND_TIMEOUT: Duration = FLUSH_TIMEOUT;

/// The pauses between attempts to connect.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), LONGEST_RECONNECT_WAIT);

/// The time after which a connection counts as good. One that breaks earlier counts like a failed attempt.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

const TRACEPARENT: &str = "traceparent";

/// A connection to NATS. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct NatsBus {
    client: Client,
    link: watch::Sender<Link>,
    signing: Arc<Signing>,
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
        let options = options_of(&config)?;
        let keys = config.signing_keys.as_deref().map(Keys::read).transpose().map_err(BusError::Refused)?;
        let signing = Arc::new(Signing::new(keys, config.accept_unsigned));
        let link = watch::Sender::new(Link::default());
        let counted = Arc::new(AtomicU64::new(0));
        // The client calls back for each event, in their order, on a task of its own.
        let link_of_events = link.clone();
        let counted_by_events = counted.clone();
        let connections = AtomicU64::new(0);
        let reconnects = Mutex::new(Reconnects::default());
        let reasons = Mutex::new(Reasons::default());
        let options = options
            .name(config.name)
            // A process must start while the bus is down: it can serve what it has.
            .retry_on_initial_connect()
            .subscription_capacity(config.subscription_capacity.max(1))
            .ping_interval(config.ping_interval)
            .reconnect_delay_callback(move |attempts| reconnects.lock().wait(attempts, Instant::now()))
            // It chooses no server; it is where the client shows why it could not connect to them.
            .reconnect_to_server_callback(move |servers, _| {
                reasons.lock().report(&servers, Instant::now());
                std::future::ready(None)
            })
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
        if let Some(path) = config.signing_keys {
            tasks.spawn_named("bus keys", keep_fresh(path, signing.clone(), tasks.drain().clone()));
        }
        Ok(Self { client, link, signing, counted })
    }

    /// Connects once and disconnects again, to find out whether `config` would work. Returns the server's
    /// version.
    ///
    /// # Errors
    /// The message of the server or of the network.
    pub async fn probe(config: NatsConfig) -> Result<String, String> {
        let urls = addresses(&config.urls)?;
        let options = options_of(&config).map_err(|error| error.to_string())?.max_reconnects(1);
        let client = options.connect(urls).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                format!("refused: {error}")
            }
            _ => error.to_string(),
        })?;
        client.flush().await.map_err(|error| error.to_string())?;
        Ok(client.server_info().version)
    }

    /// Reports the messages that were dropped because they are not signed as they have to be.
    pub fn observe(&self, meter: &Meter) {
        let signing = self.signing.clone();
        meter
            .u64_observable_counter("muster_bus_refused_total")
            .with_description("Messages of the bus that were dropped because of their signature.")
            .with_callback(move |observer| {
                for reason in Refusal::ALL {
                    observer.observe(signing.refused(reason), &[KeyValue::new("reason", reason.as_str())]);
                }
            })
            .build();
    }

    fn ensure_connected(&self) -> Result<(), BusError> {
        // Without this check the client would keep the operation until it is connected again, for
        // however long.
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(BusError::Disconnected),
        }
    }

    /// The messages of a subscription that may be used.
    fn genuine(&self, messages: async_nats::Subscriber) -> Messages {
        let signing = self.signing.clone();
        Messages::new(messages.filter_map(move |message| std::future::ready(from_nats(message, &signing))))
    }

    async fn join(&self, subject: &str, group: Option<&str>) -> Result<async_nats::Subscriber, BusError> {
        self.ensure_connected()?;
        let subject = subject.to_owned();
        let joined = async {
            match group {
                None => self.client.subscribe(subject).await,
                Some(group) => self.client.queue_subscribe(subject, group.to_owned()).await,
            }
        };
        let joined = timeout(SEND_TIMEOUT, joined).await.map_err(|_| BusError::Disconnected)?;
        joined.map_err(|error| BusError::Refused(error.to_string()))
    }

    async fn send(&self, message: Message) -> Result<(), BusError> {
        self.ensure_connected()?;
        let signature = self.signing.sign(&message);
        let Message { subject, payload, reply, traceparent } = message;
        // At a site without keys most messages have no header: they belong to no sampled trace.
        let mut headers = None;
        for (name, value) in [(TRACEPARENT, traceparent), (SIGNATURE, signature)] {
            if let Some(value) = value {
                headers.get_or_insert_with(HeaderMap::new).insert(name, value);
            }
        }
        let sent = async {
            match (reply, headers) {
                (None, None) => self.client.publish(subject, payload).await,
                (None, Some(headers)) => self.client.publish_with_headers(subject, headers, payload).await,
                (Some(reply), None) => self.client.publish_with_reply(subject, reply, payload).await,
                (Some(reply), Some(headers)) => {
                    self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
            }
        };
        let sent = timeout(SEND_TIMEOUT, sent).await.map_err(|_| BusError::Disconnected)?;
        sent.map_err(|error| BusError::Refused(error.to_string()))
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        self.send(message).await
    }

    async fn flush(&self) -> Result<(), BusError> {
        self.ensure_connected()?;
        match timeout(FLUSH_TIMEOUT, self.client.flush()).await {
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
        Ok(self.genuine(messages))
    }

    async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError> {
        let messages = self.join(subject, Some(group)).await?;
        self.flush().await?;
        Ok(self.genuine(messages))
    }

    async fn request(&self, mut message: Message, timeout: Duration) -> Result<Messages, BusError> {
        let inbox = self.client.new_inbox();
        // No flush is needed: the SUB precedes the request on the same connection.
        let subject = message.subject.clone();
        message.reply = Some(inbox.clone());
        let sent = async {
            let parts = self.join(&inbox, None).await?;
            self.send(message).await?;
            Ok(parts)
        };
        let sent = tokio::time::timeout(timeout, sent).await;
        let parts = sent.unwrap_or_else(|_| Err(BusError::Timeout(subject.clone())))?;
        let signing = self.signing.clone();
        let parts = parts.filter_map(move |part| {
            // The server itself says this, and it has no key.
            let nobody = part.status == Some(StatusCode::NO_RESPONDERS);
            std::future::ready(if nobody { Some(None) } else { from_nats(part, &signing).map(Some) })
        });
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

/// The client's options for credentials, certificates and trusted authorities.
fn options_of(config: &NatsConfig) -> Result<ConnectOptions, BusError> {
    let mut options = match config.auth.clone() {
        NatsAuth::None => ConnectOptions::new(),
        NatsAuth::Token(token) => ConnectOptions::new().token(token),
        NatsAuth::User { name, password } => ConnectOptions::new().user_and_password(name, password),
        NatsAuth::Nkey(seed) => ConnectOptions::new().nkey(seed),
        NatsAuth::Credentials(text) => ConnectOptions::new()
            .credentials(&text)
            .map_err(|_| BusError::Refused("the credentials cannot be used".to_owned()))?,
    };
    if let Some(path) = &config.root_certificates {
        options = options.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &config.client_certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

/// The message, if it is signed as it has to be.
fn from_nats(message: async_nats::Message, signing: &Signing) -> Option<Message> {
    let async_nats::Message { subject, payload, reply, headers, .. } = message;
    let header = |name: &'static str| headers.as_ref()?.get(name).map(|value| value.as_str());
    let message = Message {
        subject: subject.to_string(),
        payload,
        reply: reply.map(|reply| reply.to_string()),
        traceparent: header(TRACEPARENT).map(str::to_owned),
    };
    signing.admits(&message, header(SIGNATURE)).then_some(message)
}

/// Takes the keys of a changed file, until the drain.
async fn keep_fresh(path: PathBuf, signing: Arc<Signing>, drain: CancellationToken) {
    let mut files = FileWatch::new(vec![path.clone()]);
    while drain.run_until_cancelled(files.changed()).await.is_some() {
        match Keys::read(&path) {
            Ok(keys) => {
                info!(?keys, "the keys of the bus have changed");
                signing.replace(keys);
            }
            Err(problem) => warn!(problem, "the new keys of the bus cannot be used; keeping those before"),
        }
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
        // Only the kind of a failed attempt, whose reason `Reasons` logs. An address that cannot be resolved
        // has none there.
        Event::ClientError(ClientError::Other(kind)) if *kind != ConnectErrorKind::Dns.to_string() => {
            debug!(kind, "an attempt to connect to the bus failed");
        }
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
async fn report(mut link: watch::Receiver<Link>, drain: CancellationToken) {
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
