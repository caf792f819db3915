//! A change of an instance: its position in the order, and its bytes on the bus.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::trace::SpanContext;
use prost::Message as _;
use proto::event::v1 as pb;
use serde::{Deserialize, Serialize};

use crate::model::{Instance, Revision, ServiceKey, ServiceRef};

/// A position in the order of one provider's changes.
///
/// One transaction (a revoked lease, a deleted service) may change many instances of the provider. `sub`
/// numbers these changes, which all have the same revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The store's revision.
    pub rev: Revision,
    /// The number of the change among those that the revision made to this provider, from 0.
    pub sub: u32,
}

impl Position {
    /// The position of the first change of `rev`.
    pub fn first_of(rev: Revision) -> Self {
        Self { rev, sub: 0 }
    }

    /// The position after every change of `rev`.
    pub fn end_of(rev: Revision) -> Self {
        // No change has this number: a transaction of the store is limited to far fewer operations.
        Self { rev, sub: u32::MAX }
    }

    /// The last revision that is complete at this position.
    pub fn whole(self) -> Revision {
        // A change does not say whether it is the last one of its revision. So a position at a change proves
        // only that the revision before is complete.
        if self == Self::end_of(self.rev) { self.rev } else { self.rev.previous() }
    }
}

/// The kind of a change of an instance. The watch contract defines the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// The instance is new.
    Create,
    /// An existing instance changed.
    Update,
    /// The instance was unregistered, expired, or was deleted with its service.
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
    /// The position of this change in the provider's order.
    pub at: Position,
    /// The position of the provider's previous change. A receiver that has not reached it has missed a
    /// change.
    pub prev: Position,
    /// The kind of change.
    pub action: Action,
    /// The provider's name.
    pub key: Arc<ServiceKey>,
    /// The instance after the change; after a delete, its last state.
    pub instance: Arc<Instance>,
    /// The revision that last wrote the instance's key; for a delete, the revision of the delete.
    pub mod_rev: Revision,
    /// Unix microseconds at which the publisher's replica received the commit from the store.
    pub committed_at: u64,
    /// Times and trace of its delivery.
    pub via: Via,
}

/// Records of an event's delivery. Most of them serve metrics and traces only, so two of the fields are no
/// part of the event's bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Via {
    /// Unix microseconds at which the publisher gave the event to the bus; 0 before.
    pub published_at: u64,
    /// Unix microseconds at which the gateway received the event, by the gateway's clock; 0 before.
    pub received_at: u64,
    /// The span of the event's last step, when the change is traced. The bus carries it in a header.
    // Boxed, because few changes are traced and every queued event would pay for the size.
    pub trace: Option<Box<SpanContext>>,
    /// Parts of the instance are missing, because the bus does not carry the whole.
    pub shortened: bool,
}

/// The reason why a message of the bus cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not protobuf, or belong to another type of message.
    #[error("not a message of this kind: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A required field is missing.
    #[error("the message lacks `{0}`")]
    Missing(&'static str),
}

impl InstanceEvent {
    /// Encodes the event for the bus.
    pub fn encode(&self) -> Bytes {
        self.to_proto().encode_to_vec().into()
    }

    /// Decodes an event of the bus.
    ///
    /// # Errors
    /// When the bytes are no such message, or a required field is missing.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(pb::InstanceEvent::decode(bytes)?)
    }

    /// The event as a protobuf message, for use in another message.
    pub fn to_proto(&self) -> pb::InstanceEvent {
        let mut instance = pb::Instance::from(&*self.instance);
        instance.shortened = self.via.shortened;
        // `received_at` is the gateway's own record, and the trace travels in a header of the bus.
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
            instance: Some(instance),
            mod_rev: self.mod_rev.get(),
            committed_at: self.committed_at,
            published_at: self.via.published_at,
        }
    }

    /// Converts the protobuf message.
    ///
    /// # Errors
    /// When a required field is missing.
    pub fn from_proto(event: pb::InstanceEvent) -> Result<Self, DecodeError> {
        let shortened = event.instance.as_ref().is_some_and(|instance| instance.shortened);
        let action = match event.action() {
            pb::Action::Create => Action::Create,
            pb::Action::Update => Action::Update,
            pb::Action::Delete => Action::Delete,
            // Protobuf also reads an action of a later version as this one. A guess could delete an instance,
            // so the event is refused, and the gap that it leaves is filled by a replay.
            pb::Action::Unspecified => return Err(DecodeError::Missing("action")),
        };
        Ok(Self {
            provider: event.provider.ok_or(DecodeError::Missing("provider"))?.into(),
            at: event.at.ok_or(DecodeError::Missing("at"))?.into(),
            prev: event.prev.ok_or(DecodeError::Missing("prev"))?.into(),
            action,
            key: Arc::new(event.key.ok_or(DecodeError::Missing("key"))?.into()),
            instance: Arc::new(event.instance.ok_or(DecodeError::Missing("instance"))?.into()),
            mod_rev: Revision::new(event.mod_rev),
            committed_at: event.committed_at,
            via: Via { published_at: event.published_at, shortened, ..Via::default() },
        })
    }
}

impl From<Position> for pb::Position {
    fn from(position: Position) -> Self {
        Self { rev: position.rev.get(), sub: position.sub }
    }
}

impl From<pb::Position> for Position {
    fn from(position: pb::Position) -> Self {
        Self { rev: Revision::new(position.rev), sub: position.sub }
    }
}

/// The share of one instance in its provider's digest.
///
/// The digest of a provider is the wrapping sum over its instances, so that both sides keep it up to date
/// with one addition per change, in any order.
pub fn digest_of(instance_id: &str, mod_rev: Revision) -> u64 {
    // FNV-1a: fast on short texts, and 64 bits make an accidental collision unlikely. It need not
    // resist an attacker: a forged collision could only hide a lost change of the forger's own service.
    let mut hash = fnv1a(instance_id.bytes().chain(mod_rev.get().to_le_bytes()));
    // FNV-1a mixes the last bytes poorly. Digests are sums, so every bit should depend on every byte.
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// FNV-1a, which every process computes alike, in every build.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
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
    fn an_event_is_the_same_after_encoding_and_decoding() {
        assert_eq!(InstanceEvent::decode(&event().encode()).expect("decodes"), event());
        let mut shortened = event();
        shortened.via.shortened = true;
        assert_eq!(InstanceEvent::decode(&shortened.encode()).expect("decodes"), shortened);
    }

    #[test]
    fn junk_is_refused_with_a_reason() {
        assert!(matches!(InstanceEvent::decode(b"\xff\xff\xff"), Err(DecodeError::Malformed(_))));
        assert!(matches!(InstanceEvent::decode(b""), Err(DecodeError::Missing("action"))));
    }

    #[test]
    fn positions_are_ordered_by_revision_then_number() {
        assert!(Position { rev: 7.into(), sub: 3 } < Position::end_of(7.into()));
        assert!(Position::end_of(7.into()) < Position::first_of(8.into()));
    }

    #[test]
    fn digests_tell_instances_and_revisions_apart() {
        assert_ne!(digest_of("a", 1.into()), digest_of("a", 2.into()));
        assert_ne!(digest_of("a", 1.into()), digest_of("b", 1.into()));
    }
}
