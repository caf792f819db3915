//! An event on its way to watchers: encoded at most once per transport, shared by all of them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use host::telemetry::trace::SpanContext;
use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceKey};

use crate::codec::websocket::text_frame;
use crate::codec::{grpc, json};

/// In which shape a watcher receives events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// A WebSocket text frame, byte for byte what old clients know.
    Plain,
    /// The same with `rev`, for clients that asked to resume.
    Resumable,
    /// A message of the historical gRPC watch.
    Historical,
    /// A message of `muster.watch.v1.Watch`.
    Grpc,
}

impl Encoding {
    /// All of them, in the order of [`Encoding::index`].
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Resumable, Self::Historical, Self::Grpc];

    /// Its name in traces.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Resumable => "resumable",
            Self::Historical => "historical",
            Self::Grpc => "grpc",
        }
    }

    /// Its place in tables.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Its clients remember revisions.
    pub(crate) fn is_resumable(self) -> bool {
        matches!(self, Self::Resumable | Self::Grpc)
    }

    /// What tells a client that it has everything up to `rev`; `None` for clients that would not understand it.
    pub(crate) fn bookmark(self, rev: Revision) -> Option<Bytes> {
        match self {
            Self::Plain | Self::Historical => None,
            Self::Resumable => Some(text_frame(&json::bookmark(rev))),
            Self::Grpc => Some(grpc::bookmark(rev)),
        }
    }

    /// What tells a client the complete state of a provider, or without one that it knows nothing any more; `None` for clients that would not understand it.
    pub(crate) fn reset(
        self,
        key: Option<&ServiceKey>,
        instances: &[Arc<Instance>],
        rev: Revision,
        since: Revision,
    ) -> Option<Bytes> {
        match self {
            Self::Plain | Self::Historical => None,
            Self::Resumable => Some(text_frame(&json::reset(key, instances, rev, since))),
            Self::Grpc => Some(grpc::reset(key, instances, rev, since)),
        }
    }
}

/// A change of one instance, ready to be written to any watcher.
#[derive(Debug)]
pub(crate) struct Push {
    /// The topic it belongs to; together with the instance's id it says what may be merged.
    pub topic: u32,
    /// Its place in the provider's order.
    pub at: Position,
    /// What happened.
    pub action: Action,
    /// The provider's name.
    pub key: Arc<ServiceKey>,
    /// The instance, as the event says.
    pub instance: Arc<Instance>,
    /// Unix microseconds of the commit, 0 when not known (a difference, not an event).
    pub committed_at: u64,
    /// How it came.
    pub via: Via,
    since: OnceLock<Revision>,
    dispatched: OnceLock<Box<SpanContext>>,
    frames: [OnceLock<Bytes>; Encoding::ALL.len()],
}

impl Push {
    /// An event of the bus.
    pub(crate) fn of(topic: u32, event: &InstanceEvent) -> Self {
        Self {
            topic,
            at: event.at,
            action: event.action,
            key: event.key.clone(),
            instance: event.instance.clone(),
            committed_at: event.committed_at,
            via: event.via.clone(),
            since: OnceLock::new(),
            dispatched: OnceLock::new(),
            frames: Default::default(),
        }
    }

    /// A difference that was found, not told.
    pub(crate) fn found(
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
            since: OnceLock::new(),
            dispatched: OnceLock::new(),
            frames: Default::default(),
        }
    }

    /// A comparison showed it: it stands for changes that were not told.
    pub(crate) fn is_found(&self) -> bool {
        self.committed_at == 0
    }

    /// It is told to groups that have been told everything up to `told`. What comes late says nothing about
    /// how far they are. The first call counts.
    pub(crate) fn is_told_after(&self, told: Revision) {
        let _ = self.since.set(if told < self.at.rev { told } else { 0 });
    }

    /// It was handed to the shards, in this span. The first call counts.
    pub(crate) fn is_dispatched_in(&self, span: Box<SpanContext>) {
        let _ = self.dispatched.set(span);
    }

    /// The span that handed it to the shards, when it is traced.
    pub(crate) fn dispatched(&self) -> Option<&SpanContext> {
        self.dispatched.get().map(|it| &**it)
    }

    /// The bytes for a session that is being told everything up to `told`, in order, and has been told the changes
    /// before this one. It may break off here, with other changes of the same revision to come.
    pub(crate) fn frame_after(&self, encoding: Encoding, told: Revision) -> Bytes {
        self.encode(encoding, self.action, Some(told.min(self.at.rev.saturating_sub(1))))
    }

    /// The bytes for a transport; encoded by whoever needs them first.
    pub(crate) fn frame(&self, encoding: Encoding) -> &Bytes {
        self.frames[encoding.index()]
            .get_or_init(|| self.encode(encoding, self.action, self.since.get().copied()))
    }

    /// The bytes when merging has changed what happened.
    pub(crate) fn frame_as(&self, encoding: Encoding, action: Action) -> Bytes {
        if action == self.action {
            self.frame(encoding).clone()
        } else {
            self.encode(encoding, action, self.since.get().copied())
        }
    }

    fn encode(&self, encoding: Encoding, action: Action, since: Option<Revision>) -> Bytes {
        let (key, instance, rev) = (&*self.key, &*self.instance, self.at.rev);
        match encoding {
            Encoding::Plain => text_frame(&json::plain_event(action, key, instance)),
            Encoding::Resumable => text_frame(&json::resumable_event(action, key, instance, rev, since)),
            Encoding::Historical => grpc::historical_event(action, key, instance),
            Encoding::Grpc => grpc::event(action, key, instance, rev, since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_encoded_once_for_all_watchers_of_a_transport() {
        let at = Position { rev: 204, sub: 0 };
        let push = Push::found(1, at, Action::Update, Arc::default(), Arc::default());
        for encoding in Encoding::ALL {
            let first = push.frame(encoding).as_ptr();
            assert_eq!(push.frame(encoding).as_ptr(), first, "{encoding:?}");
            assert_eq!(
                push.frame_as(encoding, Action::Update).as_ptr(),
                first,
                "{encoding:?}: merged, and the same"
            );
        }
    }

    #[test]
    fn who_breaks_off_within_a_revision_resumes_before_it() {
        let at = Position { rev: 204, sub: 9 };
        let push = Push::found(1, at, Action::Update, Arc::default(), Arc::default());
        let says = |told| {
            let frame = push.frame_after(Encoding::Resumable, told);
            let text = frame.iter().position(|byte| *byte == b'{').map(|start| frame.slice(start..));
            let json: serde_json::Value = serde_json::from_slice(&text.expect("JSON")).expect("JSON");
            (json["rev"].as_u64(), json["since"].as_u64())
        };
        assert_eq!(says(190), (Some(204), Some(190)));
        assert_eq!(says(204), (Some(204), Some(203)), "the rest of 204 may not have come");
        assert_eq!(says(230), (Some(204), Some(203)));
    }
}
