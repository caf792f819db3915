//! The bus between the planes. It delivers a message at most once, keeps the order of each publisher, and
//! stores nothing.
//!
//! In: messages to publish. Out: the messages of subscriptions, and the state of the [`Link`].
//!
//! There are two implementations, and one contract suite that both must pass: [`nats`] connects processes,
//! [`local`] serves a single one. Both may lose messages, because a subscription is full or the connection
//! breaks. Both then raise the generation of their link. Correctness does not rest on the bus: events name
//! their predecessors, so a receiver notices that one is missing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;

#[cfg(test)]
mod contract;
pub mod local;
pub mod nats;

pub use local::LocalBus;
pub use nats::{Keys, NatsAuth, NatsBus, NatsConfig};

/// A message that was received or is to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The address; [`shared::subject`] makes and reads them.
    pub subject: String,
    /// A Protobuf message. The subject determines its type.
    pub payload: Bytes,
    /// The subject for the parts of the answer; `None` unless the message is a request.
    pub reply: Option<String>,
    /// W3C `traceparent` of the change that caused the message.
    pub traceparent: Option<String>,
}

impl Message {
    /// A message without a reply subject or a trace.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), payload: payload.into(), reply: None, traceparent: None }
    }
}

/// The messages of a subscription, or the parts of an answer. The stream ends when the bus is closed.
/// Dropping it unsubscribes.
pub struct Messages(Pin<Box<dyn Stream<Item = Message> + Send>>);

impl Messages {
    /// Boxes a stream, so that subscribers do not depend on the implementation of the bus.
    pub fn new(stream: impl Stream<Item = Message> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl Stream for Messages {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// The state of the link to the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The connection is open, so messages can be sent and received.
    pub connected: bool,
    /// Grows each time messages may have been lost: after a reconnect, and when a subscription was full.
    pub generation: u64,
}

/// The header in which a control plane tells a gateway, in the reply to a probe, about its own link to the
/// bus. Its value is [`Link::word`].
pub const LINK_HEADER: &str = "x-muster-bus";

impl Link {
    /// The state in a word: `joined` or `lost`.
    pub fn word(self) -> &'static str {
        if self.connected { "joined" } else { "lost" }
    }
}

/// The reasons for which a bus does not carry out an operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// There is no connection, or it broke during the operation. It may have taken effect.
    #[error("the bus is not connected")]
    Disconnected,
    /// No responder has subscribed to the subject of a request.
    #[error("nobody answers on `{0}`")]
    NoResponder(String),
    /// The first part of an answer did not arrive in time.
    #[error("no answer in time on `{0}`")]
    Timeout(String),
    /// The bus will not do it, for the reason given. Trying again does not help unless something
    /// else changes.
    #[error("the bus refused: {0}")]
    Refused(String),
}

/// A carrier of messages between the planes.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends a message to every subscriber of its subject and to one member of each group that serves it.
    ///
    /// Returns when the message is queued, and waits a few seconds while the queue is full. A subscriber receives the
    /// messages of one publisher in their order, across subjects too.
    ///
    /// # Errors
    /// [`BusError::Disconnected`] at once while there is no connection: nothing is stored for later. The same after
    /// these seconds; the message is not sent then.
    async fn publish(&self, message: Message) -> Result<(), BusError>;

    /// Waits until the bus has taken everything that was published before the call.
    ///
    /// # Errors
    /// [`BusError::Disconnected`] when the connection is gone or does not answer for a few seconds.
    async fn flush(&self) -> Result<(), BusError>;

    /// Receives the messages that are published to `subject`, which may hold no wildcards.
    ///
    /// The subscription is in force on return. A message sent afterwards, and everything its receivers
    /// publish in reaction to it, reaches this subscription.
    ///
    /// When it is full because its receiver is slow, further messages are lost and the link's
    /// generation rises.
    async fn subscribe(&self, subject: &str) -> Result<Messages, BusError>;

    /// Like [`Bus::subscribe`], but each message goes to only one member of `group`.
    async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError>;

    /// Sends a request, waits for the first part of its answer and returns the parts as a stream.
    ///
    /// The stream ends when no part arrives for `timeout`. The bus does not know which part is the last one;
    /// the parts themselves must say it.
    ///
    /// # Errors
    /// [`BusError::NoResponder`] at once when the subject has no subscriber, [`BusError::Timeout`] when the
    /// first part does not arrive within `timeout`.
    async fn request(&self, message: Message, timeout: Duration) -> Result<Messages, BusError>;

    /// The state of the link, and its changes.
    fn link(&self) -> watch::Receiver<Link>;

    /// The largest payload of a message, in bytes.
    fn max_payload(&self) -> usize;
}

/// Waits for the first of `parts` and returns the stream of all of them. The part `None` means that the
/// subject has no responder.
async fn answer(
    subject: String,
    parts: impl Stream<Item = Option<Message>> + Send + Unpin + 'static,
    timeout: Duration,
) -> Result<Messages, BusError> {
    let mut parts = Box::pin(futures_util::stream::unfold(parts, move |mut parts| async move {
        let part = tokio::time::timeout(timeout, parts.next()).await.ok()??;
        Some((part, parts))
    }));
    // The first part is awaited here: a request without an answer must be an error. As an empty stream it
    // would look like a complete answer without content.
    match parts.next().await {
        None => Err(BusError::Timeout(subject)),
        Some(None) => Err(BusError::NoResponder(subject)),
        Some(Some(first)) => {
            let rest = parts.filter_map(std::future::ready);
            Ok(Messages::new(futures_util::stream::once(std::future::ready(first)).chain(rest)))
        }
    }
}
