//! The bus between the planes: at most once, in order per publisher, nothing kept.
//!
//! Two implementations under one contract suite: NATS (`nats`) between processes and
//! in-process (`local`) within one. Both may lose messages (a full subscription, a cut link); both say so by
//! raising the generation of their [`Link`]. What makes the system correct is the revision chain of the
//! events, not the bus.

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
pub use nats::{NatsAuth, NatsBus, NatsConfig};

/// A message, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it goes or came from; see [`shared::subject`].
    pub subject: String,
    /// Protobuf, of the type that the subject stands for.
    pub payload: Bytes,
    /// Where an answer is awaited.
    pub reply: Option<String>,
    /// W3C `traceparent` of the change that caused the message.
    pub traceparent: Option<String>,
}

impl Message {
    /// A message without reply subject or trace.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), payload: payload.into(), reply: None, traceparent: None }
    }
}

/// Messages of a subscription or the parts of an answer. Ends when the bus is closed; dropping it unsubscribes.
pub struct Messages(Pin<Box<dyn Stream<Item = Message> + Send>>);

impl Messages {
    /// Wraps a stream of messages.
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
    /// Messages can be sent and received now.
    pub connected: bool,
    /// Raised each time messages may have been lost: after a reconnect, or when a subscription was full.
    pub generation: u64,
}

/// Why the bus did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// There is no connection, or it ended meanwhile.
    #[error("the bus is not connected")]
    Disconnected,
    /// Nobody serves the subject.
    #[error("nobody answers on `{0}`")]
    NoResponder(String),
    /// No (further) answer came in time.
    #[error("no answer in time on `{0}`")]
    Timeout(String),
    /// The bus refused.
    #[error("the bus refused: {0}")]
    Refused(String),
}

/// What a bus can do.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends a message to every subscriber of its subject and to one member of each group that serves it.
    ///
    /// Returns when the message is queued; waits while the queue is full. Messages of one publisher to one
    /// subscriber keep their order, across subjects too.
    async fn publish(&self, message: Message) -> Result<(), BusError>;

    /// Waits until everything published so far has left this process.
    async fn flush(&self) -> Result<(), BusError>;

    /// Receives what is published to `subject` (no wildcards). Effective on return: whatever is published by
    /// anyone who acts on a message sent after the return, is received.
    /// When the receiver is slower than the bus, messages are lost and the link's generation rises.
    async fn subscribe(&self, subject: &str) -> Result<Messages, BusError>;

    /// Like [`Bus::subscribe`], but each message goes to only one member of `group`.
    async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError>;

    /// Sends a request and hands out the parts of its answer. The stream ends when no part arrives for `timeout`;
    /// the caller knows from the parts whether the answer is complete. Fails fast when nobody serves the subject.
    async fn request(&self, message: Message, timeout: Duration) -> Result<Messages, BusError>;

    /// The state of the link, and its changes.
    fn link(&self) -> watch::Receiver<Link>;

    /// Payload bytes that a message may have at most.
    fn max_payload(&self) -> usize;
}

/// The parts of an answer, the first of them awaited, so that a subject that nobody serves (`None`) or nobody
/// answers on is an error and not an empty answer.
async fn answer(
    subject: String,
    parts: impl Stream<Item = Option<Message>> + Send + Unpin + 'static,
    timeout: Duration,
) -> Result<Messages, BusError> {
    let mut parts = Box::pin(futures_util::stream::unfold(parts, move |mut parts| async move {
        let part = tokio::time::timeout(timeout, parts.next()).await.ok()??;
        Some((part, parts))
    }));
    match parts.next().await {
        None => Err(BusError::Timeout(subject)),
        Some(None) => Err(BusError::NoResponder(subject)),
        Some(Some(first)) => {
            let rest = parts.filter_map(std::future::ready);
            Ok(Messages::new(futures_util::stream::once(std::future::ready(first)).chain(rest)))
        }
    }
}
