//! Instances as the view keeps them: as the JSON text that clients get.
//!
//! A view may hold a million instances, and nearly all of them are only ever copied into replies. As one text
//! an instance takes half of the bytes of its fields, each of which has an allocation of its own, and a reply
//! is put together without encoding anything.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use shared::model::Instance;

/// An instance as JSON text. Cheap to clone. Two are equal when their instances are.
#[derive(Clone)]
pub struct PackedInstance(Arc<RawValue>);

impl PackedInstance {
    /// Packs an instance.
    pub fn of(instance: &Instance) -> Self {
        Self(to_raw_value(instance).expect("plain fields always serialise").into())
    }

    /// The instance with its fields. This takes some microseconds.
    pub fn unpack(&self) -> Instance {
        serde_json::from_str(self.0.get()).expect("text that was made of an instance")
    }

    /// The text, in the form in which clients get an instance.
    pub fn json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for PackedInstance {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.json() == other.json()
    }
}

impl fmt::Debug for PackedInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.json())
    }
}

impl Serialize for PackedInstance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for PackedInstance {
    fn schema_name() -> Cow<'static, str> {
        Instance::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        Instance::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Instance::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use shared::model::{DataCenter, HealthCheck};

    use super::*;

    fn instances() -> impl Strategy<Value = Instance> {
        let texts = (any::<String>(), any::<String>(), any::<String>(), any::<String>());
        let check = prop::option::of((any::<String>(), any::<i32>(), any::<i32>()));
        let center = prop::option::of((any::<String>(), any::<String>()));
        let properties = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
        let endpoints = prop::collection::vec(any::<String>(), 0..4);
        (texts, check, center, properties, endpoints).prop_map(built)
    }

    type Parts = (
        (String, String, String, String),
        Option<(String, i32, i32)>,
        Option<(String, String)>,
        BTreeMap<String, String>,
        Vec<String>,
    );

    fn built((texts, check, center, properties, endpoints): Parts) -> Instance {
        let (instance_id, status, host_name, version) = texts;
        let check = check.map(|(mode, interval, times)| HealthCheck {
            mode,
            interval,
            times,
            ..HealthCheck::default()
        });
        let center = center.map(|(name, region)| DataCenter { name, region, ..DataCenter::default() });
        Instance {
            instance_id,
            status,
            host_name,
            version,
            health_check: check,
            data_center_info: center,
            properties,
            endpoints,
            ..Instance::default()
        }
    }

    proptest! {
        #[test]
        fn an_instance_is_unpacked_as_it_was_packed(instance in instances()) {
            let packed = PackedInstance::of(&instance);
            prop_assert_eq!(packed.json(), serde_json::to_string(&instance).expect("serialises"));
            prop_assert_eq!(packed.unpack(), instance);
        }
    }
}
