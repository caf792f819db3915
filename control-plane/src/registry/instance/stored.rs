//! The keys of an instance as they are stored.

use bytes::Bytes;
use serde_json::{Map, Value};
use shared::model::Instance;

use crate::carriage::LARGEST_INSTANCE;
use crate::record;
use crate::registry::RegistryError;

/// The record of an instance as it is stored. Every route that stores an instance comes here, so that none
/// of them can store one whose events do not fit on the bus or in a frame.
pub(super) fn stored(
    instance: &Instance,
    unknown: Option<&Map<String, Value>>,
) -> Result<Bytes, RegistryError> {
    let value = record::render(instance, unknown);
    if value.len() > LARGEST_INSTANCE {
        let bytes = value.len();
        return Err(RegistryError::invalid(format!(
            "the instance is too large: its record has {bytes} bytes, and at most {LARGEST_INSTANCE} are allowed"
        )));
    }
    Ok(value)
}
