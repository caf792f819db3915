//! The encoding of records in the file: protobuf, so that a later version can add fields.
//!
//! A record that cannot be decoded is a [`Corrupt`] error with its key, never a panic.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use shared::model::Revision;

use super::log::{KeyChange, LoggedCommit};
use crate::store::{KeyValue, LeaseId};

/// A stored record that cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("the record of {at} cannot be decoded")]
pub(super) struct Corrupt {
    at: String,
    #[source]
    source: prost::DecodeError,
}

#[derive(Clone, PartialEq, Message)]
struct ValueRecord {
    #[prost(bytes = "bytes", tag = "1")]
    value: Bytes,
    #[prost(uint64, tag = "2")]
    create_rev: u64,
    #[prost(uint64, tag = "3")]
    mod_rev: u64,
    #[prost(uint64, tag = "4")]
    version: u64,
    #[prost(int64, tag = "5")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ChangeRecord {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    after: Option<ValueRecord>,
    #[prost(message, optional, tag = "3")]
    before: Option<ValueRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct CommitRecord {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<ChangeRecord>,
}

impl ValueRecord {
    fn of(kv: &KeyValue) -> Self {
        Self {
            value: kv.value.clone(),
            create_rev: kv.create_rev.get(),
            mod_rev: kv.mod_rev.get(),
            version: kv.version,
            lease: kv.lease.map_or(0, LeaseId::get),
        }
    }

    fn into_key_value(self, key: &str) -> Arc<KeyValue> {
        Arc::new(KeyValue {
            key: key.to_owned(),
            value: self.value,
            create_rev: Revision::new(self.create_rev),
            mod_rev: Revision::new(self.mod_rev),
            version: self.version,
            lease: LeaseId::new(self.lease),
        })
    }
}

/// Encodes the value and the revisions of a key.
pub(super) fn encode_value(kv: &KeyValue) -> Vec<u8> {
    ValueRecord::of(kv).encode_to_vec()
}

/// Decodes the value and the revisions of `key`.
pub(super) fn decode_value(key: &str, bytes: &[u8]) -> Result<Arc<KeyValue>, Corrupt> {
    let record = ValueRecord::decode(bytes).map_err(|source| Corrupt { at: format!("key {key}"), source })?;
    Ok(record.into_key_value(key))
}

/// Encodes a commit. Its revision is the key of the record.
pub(super) fn encode_commit(commit: &LoggedCommit) -> Vec<u8> {
    let changes = commit.changes.iter().map(|change| ChangeRecord {
        key: change.key.to_string(),
        after: change.after.as_deref().map(ValueRecord::of),
        before: change.before.as_deref().map(ValueRecord::of),
    });
    CommitRecord { changes: changes.collect() }.encode_to_vec()
}

/// Decodes the commit of `rev`.
pub(super) fn decode_commit(rev: Revision, bytes: &[u8]) -> Result<LoggedCommit, Corrupt> {
    let record =
        CommitRecord::decode(bytes).map_err(|source| Corrupt { at: format!("revision {rev}"), source })?;
    let changes = record.changes.into_iter().map(|change| KeyChange {
        after: change.after.map(|value| value.into_key_value(&change.key)),
        before: change.before.map(|value| value.into_key_value(&change.key)),
        key: change.key.into(),
    });
    Ok(LoggedCommit { rev, changes: changes.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(value: &'static str, lease: i64) -> KeyValue {
        KeyValue {
            key: "/a".into(),
            value: Bytes::from_static(value.as_bytes()),
            create_rev: 2.into(),
            mod_rev: 7.into(),
            version: 3,
            lease: LeaseId::new(lease),
        }
    }

    #[test]
    fn a_commit_is_decoded_as_it_was_encoded() {
        let commit = LoggedCommit {
            rev: 9.into(),
            changes: vec![
                KeyChange {
                    key: "/a".into(),
                    after: Some(Arc::new(kv("new", -5))),
                    before: Some(Arc::new(kv("old", 0))),
                },
                KeyChange { key: "/a".into(), after: None, before: Some(Arc::new(kv("", 1))) },
            ],
        };
        let read = decode_commit(9.into(), &encode_commit(&commit)).expect("readable");
        assert_eq!(read, commit);
    }

    #[test]
    fn junk_is_an_error_that_names_the_key() {
        let error = decode_value("/cse-sr/x", b"\xff\xff\xff").expect_err("junk");
        assert_eq!(error.to_string(), "the record of key /cse-sr/x cannot be decoded");
        assert!(decode_commit(3.into(), b"\x0a\x7f").is_err());
    }
}
