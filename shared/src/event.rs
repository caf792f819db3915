//! A change of an instance: its position in the order, and its bytes on the bus.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::trace::SpanContext;
use prost::Message as _;
use proto::event::v1 as pb;
use serde::{Deserialize, Serialize};

use crate::model::{Instance, Revision, ServiceKey, ServiceRef};

/// A place in the order of one provider's changes.
///
/// `sub` tells apart the changes that one revision made to the provider: one transaction (a revoked lease,
/// a deleted service) may touch many instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The store's revision.
    pub rev: Revision,
    /// The place among the revision's changes of this provider, from 0.
    pub sub: u32,
}

impl Position {
    /// The first change of `rev`.
    pub fn first_of(rev: Revision) -> Self {
        Self { rev, sub: 0 }
    }

    /// After everything that `rev` changed.
    pub fn end_of(rev: Revision) -> Self {
        Self { rev, sub: u32::MAX }
    }

    /// The last revision of which everything is certain to lie before this: in the middle of one, and at a change that
    /// may or may not be its last, the one before it.
    pub fn whole(self) -> Revision {
        if self == Self::end_of(self.rev) { self.rev } else { self.rev.previous() }
    }
}

/// What happened to an instance, in the words of the watch contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// It was not there before.
    Create,
    /// It was there and changed.
    Update,
    /// It was unregistered, expired, or went with its service.
    Delete,
}

impl Action {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// One change of one instance, as it travels from the view to the watchers.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceEvent {
    /// The service whose instance changed.
    pub provider: ServiceRef,
    /// Where in the provider's order this change stands.
    pub at: Position,
    /// The position of the provider's change before this one. Who has not reached it has missed something.
    pub prev: Position,
    /// What happened.
    pub action: Action,
    /// The provider's name.
    pub key: Arc<ServiceKey>,
    /// The instance after the change; for a delete the last one known.
    pub instance: Arc<Instance>,
    /// The revision that last wrote the instance's key; for a delete that of the delete.
    pub mod_rev: Revision,
    /// Unix microseconds at which the publisher's replica learnt of the commit.
    pub committed_at: u64,
    /// How it travels.
    pub via: Via,
}

/// What is noted on an event's way, for figures and traces only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Via {
    /// Unix microseconds at which the publisher handed it to the bus; 0 before.
    pub published_at: u64,
    /// Unix microseconds at which the gateway took it from the bus, by its own clock; 0 before.
    pub received_at: u64,
    /// The span that caused it to be here, when the change is traced. Travels beside the event, as a header.
    pub trace: Option<Box<SpanContext>>,
}

/// A message of the bus that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or of another message.
    #[error("not a message of this kind: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A part without which the message has no meaning.
    #[error("the message lacks `{0}`")]
    Missing(&'static str),
}

impl InstanceEvent {
    /// The event's bytes on the bus.
    pub fn encode(&self) -> Bytes {
        self.to_proto().encode_to_vec().into()
    }

    /// Reads an event of the bus.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(pb::InstanceEvent::decode(bytes)?)
    }

    /// The event as a protobuf message, to be part of another.
    pub fn to_proto(&self) -> pb::InstanceEvent {
        pb::InstanceEvent {
            provider: Some((&self.provider).into()),
            at: Some(self.at.into()),
            prev: Some(self.prev.into()),
            action: match self.action {
                Action::Create => pb::Action::Create,
                Action::Update => pb::Action::Update,
                Action::Delete => pb::Action::Delete,
            }
            .into(),
            key: Some((&*self.key).into()),
            instance: Some((&*self.instance).into()),
            mod_rev: self.mod_rev.get(),
            committed_at: self.committed_at,
            published_at: self.via.published_at,
        }
    }

    /// Reads an event out of its protobuf message.
    pub fn from_proto(it: pb::InstanceEvent) -> Result<Self, DecodeError> {
        let action = match it.action() {
            pb::Action::Create => Action::Create,
            pb::Action::Update => Action::Update,
            pb::Action::Delete => Action::Delete,
            pb::Action::Unspecified => return Err(DecodeError::Missing("action")),
        };
        Ok(Self {
            provider: it.provider.ok_or(DecodeError::Missing("provider"))?.into(),
            at: it.at.ok_or(DecodeError::Missing("at"))?.into(),
            prev: it.prev.ok_or(DecodeError::Missing("prev"))?.into(),
            action,
            key: Arc::new(it.key.ok_or(DecodeError::Missing("key"))?.into()),
            instance: Arc::new(it.instance.ok_or(DecodeError::Missing("instance"))?.into()),
            mod_rev: Revision::new(it.mod_rev),
            committed_at: it.committed_at,
            via: Via { published_at: it.published_at, ..Via::default() },
        })
    }
}

impl From<Position> for pb::Position {
    fn from(it: Position) -> Self {
        Self { rev: it.rev.get(), sub: it.sub }
    }
}

impl From<pb::Position> for Position {
    fn from(it: pb::Position) -> Self {
        Self { rev: Revision::new(it.rev), sub: it.sub }
    }
}

/// What one instance adds to its provider's digest.
///
/// The digest of a provider is the wrapping sum over its instances, so that both sides keep it up to date
/// with one addition per change, in any order. 64 bits of FNV-1a with a finaliser: enough against accident,
/// and nothing here is decided by someone who could gain from a collision.
pub fn digest_of(instance_id: &str, mod_rev: Revision) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in instance_id.bytes().chain(mod_rev.get().to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tenant;

    fn event() -> InstanceEvent {
        InstanceEvent {
            provider: ServiceRef::new(Tenant::default(), "7062"),
            at: Position { rev: 9.into(), sub: 1 },
            prev: Position::end_of(7.into()),
            action: Action::Delete,
            key: Arc::new(ServiceKey {
                tenant: "default/default".into(),
                app_id: "shop".into(),
                service_name: "order".into(),
                version: "1.0.0".into(),
                ..ServiceKey::default()
            }),
            instance: Arc::new(Instance {
                instance_id: "b0ff".into(),
                service_id: "7062".into(),
                endpoints: vec!["rest://10.0.0.7:8080".into()],
                status: "UP".into(),
                properties: [("tag".to_owned(), "1".to_owned())].into(),
                data_center_info: Some(crate::model::DataCenter { name: "dc".into(), ..Default::default() }),
                ..Instance::default()
            }),
            mod_rev: 9.into(),
            committed_at: 1_700_000_000_000_000,
            via: Via { published_at: 1_700_000_000_000_042, ..Via::default() },
        }
    }

    #[test]
    fn an_event_survives_the_bus() {
        assert_eq!(InstanceEvent::decode(&event().encode()).expect("decodes"), event());
    }

    #[test]
    fn junk_is_refused_with_a_reason() {
        assert!(matches!(InstanceEvent::decode(b"\xff\xff\xff"), Err(DecodeError::Malformed(_))));
        assert!(matches!(InstanceEvent::decode(b""), Err(DecodeError::Missing("action"))));
    }

    #[test]
    fn positions_order_by_revision_then_place() {
        assert!(Position { rev: 7.into(), sub: 3 } < Position::end_of(7.into()));
        assert!(Position::end_of(7.into()) < Position::first_of(8.into()));
    }

    #[test]
    fn digests_tell_instances_and_revisions_apart() {
        assert_ne!(digest_of("a", 1.into()), digest_of("a", 2.into()));
        assert_ne!(digest_of("a", 1.into()), digest_of("b", 1.into()));
    }
}
