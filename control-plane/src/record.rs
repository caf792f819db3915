//! Values as the store has them.
//!
//! A record that another node wrote may have fields we do not know. They are kept aside when a record is
//! read and put back when it is rewritten, and are never shown to clients.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use shared::model::ServiceKey;

/// A stored value with the fields of it that are not ours.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Record<T> {
    /// What we understand.
    #[serde(flatten)]
    pub value: T,
    /// What we do not; written back unchanged.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl<T: DeserializeOwned> Record<T> {
    /// Reads a stored value.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// A value as stored: ours, and after it what another node had written beside it.
pub fn render<T: Serialize>(value: &T, unknown: Option<&Map<String, Value>>) -> Bytes {
    let ours = || serde_json::to_vec(value).expect("plain fields and text keys always serialise");
    match unknown {
        Some(unknown) if !unknown.is_empty() => {
            let mut object = match serde_json::to_value(value) {
                Ok(Value::Object(object)) => object,
                _ => return ours().into(),
            };
            for (key, kept) in unknown {
                object.entry(key.clone()).or_insert_with(|| kept.clone());
            }
            Value::Object(object).to_string().into()
        }
        _ => ours().into(),
    }
}

/// The value of a dependency rule key; the capital D is Service-Center's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencySet {
    /// Providers of a consumer, or consumers of a provider.
    #[serde(
        rename = "Dependency",
        default,
        deserialize_with = "shared::model::null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub keys: Vec<ServiceKey>,
}

#[cfg(test)]
mod tests {
    use shared::model::Instance;

    use super::*;

    #[test]
    fn unknown_fields_survive_a_rewrite_and_ours_win() {
        let stored = br#"{"instanceId":"i","status":"UP","shiny":{"new":1},"properties":null}"#;
        let mut record = Record::<Instance>::parse(stored).expect("parses");
        record.value.status = "DOWN".into();
        let written = render(&record.value, Some(&record.unknown));
        assert_eq!(&written[..], br#"{"instanceId":"i","shiny":{"new":1},"status":"DOWN"}"#);
    }

    #[test]
    fn a_dependency_set_is_spelt_with_a_capital() {
        let set =
            DependencySet { keys: vec![ServiceKey { service_name: "order".into(), ..Default::default() }] };
        assert_eq!(&render(&set, None)[..], br#"{"Dependency":[{"serviceName":"order"}]}"#);
        assert_eq!(Record::<DependencySet>::parse(br#"{"Dependency":null}"#).expect("null").value.keys, []);
    }
}
