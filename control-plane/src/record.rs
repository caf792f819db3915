//! Stored values, with their unknown fields.
//!
//! A record that another node wrote may have fields that this program does not know. They are kept aside when
//! the record is read, put back when it is rewritten, and never shown to clients.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use shared::model::ServiceKey;

/// A stored value, and the fields of it that this program does not know.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Record<T> {
    /// The known fields.
    #[serde(flatten)]
    pub value: T,
    /// The unknown fields, to be written back unchanged.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl<T: DeserializeOwned> Record<T> {
    /// Decodes a stored value.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        match Self::parse_known(bytes) {
            Some(value) => Ok(Self { value, unknown: Map::new() }),
            None => serde_json::from_slice(bytes),
        }
    }

    /// Decodes a value of which every field is known, as nearly all are. It takes a third of the time, because
    /// no field is set aside before its meaning is known. `None` if the value is another one.
    fn parse_known(bytes: &[u8]) -> Option<T> {
        // Only an object is a record. The decoders of its types would also take a list of fields.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return None;
        }
        let mut is_known = true;
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let value = serde_ignored::deserialize(&mut json, |_| is_known = false).ok()?;
        (is_known && json.end().is_ok()).then_some(value)
    }
}

/// Encodes a value for the store, followed by the unknown fields that another node had written.
pub fn render<T: Serialize>(value: &T, unknown: Option<&Map<String, Value>>) -> Bytes {
    match unknown {
        Some(unknown) if !unknown.is_empty() => {
            let mut object = match serde_json::to_value(value) {
                Ok(Value::Object(object)) => object,
                // Only objects have fields, so there is nothing to add to another value.
                _ => return plain(value),
            };
            for (key, kept) in unknown {
                object.entry(key.clone()).or_insert_with(|| kept.clone());
            }
            Value::Object(object).to_string().into()
        }
        // Encoded directly, without a value tree: nearly all records take this way.
        _ => plain(value),
    }
}

fn plain<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("plain fields and text keys always serialise").into()
}

/// The value of a dependency rule's key. The capital D is Service-Center's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencySet {
    /// The providers of a consumer, or the consumers of a provider.
    #[serde(
        rename = "Dependency",
        default,
        deserialize_with = "shared::model::null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub keys: Vec<ServiceKey>,
}

/// The fields of an account that this program stores beside Service-Center's record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccountExtra {
    /// Tokens that were issued before this second since 1970 do not count.
    #[serde(deserialize_with = "shared::model::null_default")]
    pub not_before: u64,
    /// The tenants that the account may enter, each as `domain/project` with `*` for any text. None: all.
    #[serde(deserialize_with = "shared::model::null_default", skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
}

#[cfg(test)]
mod tests {
    use shared::model::Instance;

    use super::*;

    #[test]
    fn unknown_fields_survive_a_rewrite_and_known_ones_win() {
        let stored = br#"{"instanceId":"i","status":"UP","shiny":{"new":1},"properties":null}"#;
        let mut record = Record::<Instance>::parse(stored).expect("parses");
        record.value.status = "DOWN".into();
        let written = render(&record.value, Some(&record.unknown));
        assert_eq!(&written[..], br#"{"instanceId":"i","shiny":{"new":1},"status":"DOWN"}"#);
    }

    #[test]
    fn a_record_is_read_the_same_with_and_without_the_short_way() {
        for stored in [
            r#"{"instanceId":"i","status":"UP","healthCheck":{"mode":"push","interval":30,"times":3}}"#,
            r#" {"properties":{"a":"b","c":null},"endpoints":null,"dataCenterInfo":{"name":"dc"}} "#,
            r#"{"instanceId":"i","shiny":{"new":1}}"#,
            r#"{"instanceId":"i","healthCheck":{"mode":"push","shiny":1}}"#,
            r#"{"healthCheck":{"interval":"30"}}"#,
            r#"{"status":"UP","status":"DOWN"}"#,
            r#"{"status":"UP"} and more"#,
            r#"{"status":"UP""#,
            "{}",
            "[]",
            r#"["i"]"#,
            "null",
            "",
        ] {
            let read = Record::<Instance>::parse(stored.as_bytes());
            let plainly = serde_json::from_str::<Record<Instance>>(stored);
            assert_eq!(read.as_ref().ok(), plainly.as_ref().ok(), "{stored}");
        }
    }

    #[test]
    fn a_dependency_set_is_spelt_with_a_capital_letter() {
        let set =
            DependencySet { keys: vec![ServiceKey { service_name: "order".into(), ..Default::default() }] };
        assert_eq!(&render(&set, None)[..], br#"{"Dependency":[{"serviceName":"order"}]}"#);
        assert_eq!(Record::<DependencySet>::parse(br#"{"Dependency":null}"#).expect("null").value.keys, []);
    }
}
