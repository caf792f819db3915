//! The state of a tenant from which a zone is made.

use std::sync::Arc;

use shared::event::Position;
use shared::model::{Instance, ServiceKey};

/// One version of a service.
pub trait Service {
    /// The service's name; `None` while nobody has told it.
    fn key(&self) -> Option<&ServiceKey>;
    /// The state of the service. Equal stamps are equal states.
    fn stamp(&self) -> Stamp;
    /// The instances, in any status.
    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>>;
}

/// A state of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The service's id.
    pub id: Box<str>,
    /// The position of its last change.
    pub at: Position,
    /// The digest of its instances: positions begin again when the store is restored from a backup.
    pub digest: u64,
}
