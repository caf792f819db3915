//! One change on its way to watchers, shared by all of them.
//!
//! A push does not know the encodings of watchers: WebSocket frames and gRPC messages are the gateway's
//! business. It only offers one slot for the bytes of each encoding, because the bytes must live exactly as
//! long as the push and be shared with it. A wrapper in the gateway that held them would cost one more
//! allocation for every event.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use opentelemetry::trace::SpanContext;
use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceKey};

/// The number of encodings that a push can hold.
pub const ENCODINGS: usize = 5;

/// A change of one instance, ready to be encoded for any watcher.
#[derive(Debug)]
pub struct Push {
    /// The number of the topic. Together with the instance's id it says which pushes may be merged.
    pub topic: u32,
    /// The position of the change in the provider's order.
    pub at: Position,
    /// The kind of change.
    pub action: Action,
    /// The provider's name.
    pub key: Arc<ServiceKey>,
    /// The instance after the change; after a delete, the last known one.
    pub instance: Arc<Instance>,
    /// Unix microseconds of the commit. 0 for a difference, whose commit is unknown.
    pub committed_at: u64,
    /// Notes about the way of the event, for metrics and traces.
    pub via: Via,
    resume_point: OnceLock<Revision>,
    without_resume_point: OnceLock<Arc<Push>>,
    dispatch_span: OnceLock<Box<SpanContext>>,
    encoded: [OnceLock<Bytes>; ENCODINGS],
}

impl Push {
    /// The push for an event of the bus or of a replay.
    pub fn from_event(topic: u32, event: &InstanceEvent) -> Self {
        Self {
            topic,
            at: event.at,
            action: event.action,
            key: event.key.clone(),
            instance: event.instance.clone(),
            committed_at: event.committed_at,
            via: event.via.clone(),
            resume_point: OnceLock::new(),
            without_resume_point: OnceLock::new(),
            dispatch_span: OnceLock::new(),
            encoded: Default::default(),
        }
    }

    /// The push for a difference that comparing two snapshots showed. `at` is the position of the newer
    /// snapshot.
    pub fn difference(
        topic: u32,
        at: Position,
        action: Action,
        key: Arc<ServiceKey>,
        instance: Arc<Instance>,
    ) -> Self {
        Self {
            topic,
            at,
            action,
            key,
            instance,
            committed_at: 0,
            via: Via::default(),
            resume_point: OnceLock::new(),
            without_resume_point: OnceLock::new(),
            dispatch_span: OnceLock::new(),
            encoded: Default::default(),
        }
    }

    /// True for a difference: it stands for changes whose own positions are unknown.
    pub fn is_difference(&self) -> bool {
        self.committed_at == 0
    }

    /// Fixes the revision from which a client resumes after it has received this push. A push that arrives
    /// after that revision was confirmed gets zero, because then it says nothing about the progress of its
    /// group. Later calls are ignored.
    pub fn set_resume_point(&self, confirmed: Revision) {
        let since = if confirmed < self.at.rev { confirmed } else { Revision::ZERO };
        // The first group to receive the push decides; all groups share the encoded bytes.
        let _ = self.resume_point.set(since);
    }

    /// The same push for groups that do not have everything up to the revision which is confirmed for others: it
    /// confirms nothing. All of them share its bytes.
    pub fn without_resume_point(&self) -> Arc<Self> {
        let copy = || {
            Arc::new(Self {
                topic: self.topic,
                at: self.at,
                action: self.action,
                key: self.key.clone(),
                instance: self.instance.clone(),
                committed_at: self.committed_at,
                via: self.via.clone(),
                resume_point: OnceLock::from(Revision::ZERO),
                without_resume_point: OnceLock::new(),
                dispatch_span: OnceLock::new(),
                encoded: Default::default(),
            })
        };
        self.without_resume_point.get_or_init(copy).clone()
    }

    /// The revision that [`Push::set_resume_point`] fixed.
    pub fn resume_point(&self) -> Option<Revision> {
        self.resume_point.get().copied()
    }

    /// Fixes the span in which the push was handed to the shards. Later calls are ignored.
    pub fn set_dispatch_span(&self, span: Box<SpanContext>) {
        let _ = self.dispatch_span.set(span);
    }

    /// The span in which the push was handed to the shards, if the change is traced.
    pub fn dispatch_span(&self) -> Option<&SpanContext> {
        self.dispatch_span.get().map(|span| &**span)
    }

    /// The bytes in slot `encoding`, which `encode` fills on the first call.
    ///
    /// # Panics
    /// When `encoding` is not below [`ENCODINGS`].
    pub fn encoded(&self, encoding: usize, encode: impl FnOnce() -> Bytes) -> &Bytes {
        self.encoded[encoding].get_or_init(encode)
    }
}
