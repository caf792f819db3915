//! The size of instances, for bounds in bytes where a number of changes says little.

use shared::model::Instance;

/// The bytes of the texts of an instance that may be long. Everything else in it is short.
pub(crate) fn text_bytes(instance: &Instance) -> usize {
    let endpoints: usize = instance.endpoints.iter().map(String::len).sum();
    let properties: usize = instance.properties.iter().map(|(name, value)| name.len() + value.len()).sum();
    endpoints + properties + instance.instance_id.len() + instance.host_name.len()
}
