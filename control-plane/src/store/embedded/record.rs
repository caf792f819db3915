//! The encoding of records in the file: protobuf, so that a later version can add fields, in a frame.
//!
//! ```text
//! mark (8) | kind (1) | length of the body (4) | body | CRC-32 of kind, length and body (4)
//! ```
//!
//! The body names its own key, so a record proves by itself that it is whole and where it belongs. The mark
//! lets [`scan`] find the records of a file whose tables cannot be read any more. A record that does not fit
//! its frame is a [`Corrupt`] error with its key, never a panic.

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;
use prost::Message;
use shared::model::Revision;

use super::log::{KeyChange, LoggedCommit};
use crate::store::{KeyValue, LeaseId};

/// The begin of every frame. No text contains these bytes.
const MARK: [u8; 8] = *b"\xf5MUSTER\xf6";
/// The size of a frame before its body.
const HEAD_BYTES: usize = MARK.len() + 1 + 4;
/// The size of the checksum.
const SUM_BYTES: usize = 4;

const KEY: u8 = 1;
const COMMIT: u8 = 2;
const LEASE: u8 = 3;

/// A stored record that cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("the record of {at} {fault}")]
pub(super) struct Corrupt {
    at: String,
    fault: Fault,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("is not what was written: its checksum does not fit")]
    Checksum,
    #[error("is the record of something else")]
    Misplaced,
    #[error("cannot be decoded: {0}")]
    Undecodable(#[from] prost::DecodeError),
}

/// A whole record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    /// The value and the revisions of a key.
    Key(Arc<KeyValue>),
    /// A commit of the history.
    Commit(LoggedCommit),
    /// A lease, and its time in seconds.
    Lease(LeaseId, i64),
}

#[derive(Clone, PartialEq, Message)]
struct KeyRecord {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, required, tag = "2")]
    value: ValueRecord,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
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
    #[prost(uint64, tag = "2")]
    rev: u64,
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

impl CommitRecord {
    fn into_commit(self, rev: Revision) -> LoggedCommit {
        let changes = self.changes.into_iter().map(|change| KeyChange {
            after: change.after.map(|value| value.into_key_value(&change.key)),
            before: change.before.map(|value| value.into_key_value(&change.key)),
            key: change.key.into(),
        });
        LoggedCommit { rev, changes: changes.collect() }
    }
}

/// Encodes the value and the revisions of a key.
pub(super) fn encode_key(kv: &KeyValue) -> Vec<u8> {
    framed(KEY, &KeyRecord { key: kv.key.clone(), value: ValueRecord::of(kv) })
}

/// Encodes a commit.
pub(super) fn encode_commit(commit: &LoggedCommit) -> Vec<u8> {
    let changes = commit.changes.iter().map(|change| ChangeRecord {
        key: change.key.to_string(),
        after: change.after.as_deref().map(ValueRecord::of),
        before: change.before.as_deref().map(ValueRecord::of),
    });
    framed(COMMIT, &CommitRecord { changes: changes.collect(), rev: commit.rev.get() })
}

/// Encodes a lease and its time.
pub(super) fn encode_lease(lease: LeaseId, ttl: i64) -> Vec<u8> {
    framed(LEASE, &LeaseRecord { id: lease.get(), ttl })
}

/// Decodes the record of `key`.
pub(super) fn decode_key(key: &str, bytes: &[u8]) -> Result<Arc<KeyValue>, Corrupt> {
    let at = || format!("key {key}");
    match whole(bytes, at)? {
        Record::Key(kv) if kv.key == key => Ok(kv),
        _ => Err(Corrupt { at: at(), fault: Fault::Misplaced }),
    }
}

/// Decodes the commit of `rev`.
pub(super) fn decode_commit(rev: Revision, bytes: &[u8]) -> Result<LoggedCommit, Corrupt> {
    let at = || format!("revision {rev}");
    match whole(bytes, at)? {
        Record::Commit(commit) if commit.rev == rev => Ok(commit),
        _ => Err(Corrupt { at: at(), fault: Fault::Misplaced }),
    }
}

/// Decodes the time of the lease `number`.
pub(super) fn decode_lease(number: i64, bytes: &[u8]) -> Result<(LeaseId, i64), Corrupt> {
    let at = || format!("lease {number}");
    match whole(bytes, at)? {
        Record::Lease(lease, ttl) if lease.get() == number => Ok((lease, ttl)),
        _ => Err(Corrupt { at: at(), fault: Fault::Misplaced }),
    }
}

/// Decodes the value of `key` as the first format stored it: without a frame.
pub(super) fn decode_bare_value(key: &str, bytes: &[u8]) -> Result<Arc<KeyValue>, Corrupt> {
    let record = ValueRecord::decode(bytes)
        .map_err(|error| Corrupt { at: format!("key {key}"), fault: error.into() })?;
    Ok(record.into_key_value(key))
}

/// Decodes the commit of `rev` as the first format stored it: without a frame.
pub(super) fn decode_bare_commit(rev: Revision, bytes: &[u8]) -> Result<LoggedCommit, Corrupt> {
    let record = CommitRecord::decode(bytes)
        .map_err(|error| Corrupt { at: format!("revision {rev}"), fault: error.into() })?;
    Ok(record.into_commit(rev))
}

/// Every whole record in `bytes`, wherever it lies, in no particular order.
pub(super) fn scan(bytes: &[u8]) -> impl Iterator<Item = Record> {
    memmem::find_iter(bytes, &MARK).filter_map(|at| unframed(&bytes[at..]).ok().map(|(record, _)| record))
}

/// Encodes the value of a key as the first format did.
#[cfg(test)]
pub(super) fn encode_bare_value(kv: &KeyValue) -> Vec<u8> {
    ValueRecord::of(kv).encode_to_vec()
}

/// Encodes a commit as the first format did, from the record of the present one.
#[cfg(test)]
pub(super) fn encode_bare_commit(commit: &LoggedCommit) -> Vec<u8> {
    let frame = encode_commit(commit);
    let record = CommitRecord::decode(&frame[HEAD_BYTES..frame.len() - SUM_BYTES]).expect("our own");
    CommitRecord { rev: 0, ..record }.encode_to_vec()
}

fn framed(kind: u8, body: &impl Message) -> Vec<u8> {
    let length = body.encoded_len();
    let mut frame = Vec::with_capacity(HEAD_BYTES + length + SUM_BYTES);
    frame.extend(MARK);
    frame.push(kind);
    // A transaction is limited to 1.5 MB, so the length of its record fits.
    frame.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend(body.encode_to_vec());
    let sum = crc32fast::hash(&frame[MARK.len()..]);
    frame.extend(sum.to_le_bytes());
    frame
}

/// The record that is exactly `bytes`.
fn whole(bytes: &[u8], at: impl Fn() -> String) -> Result<Record, Corrupt> {
    match unframed(bytes) {
        Ok((record, length)) if length == bytes.len() => Ok(record),
        Ok(_) => Err(Corrupt { at: at(), fault: Fault::Checksum }),
        Err(fault) => Err(Corrupt { at: at(), fault }),
    }
}

/// The record at the begin of `bytes`, and the size of its frame.
fn unframed(bytes: &[u8]) -> Result<(Record, usize), Fault> {
    let head = bytes.get(MARK.len()..HEAD_BYTES).filter(|_| bytes.starts_with(&MARK));
    let [kind, length @ ..] = head.ok_or(Fault::Checksum)? else { return Err(Fault::Checksum) };
    let length = <[u8; 4]>::try_from(length).map_err(|_| Fault::Checksum)?;
    let end = HEAD_BYTES.checked_add(u32::from_le_bytes(length) as usize).ok_or(Fault::Checksum)?;
    let sum = bytes.get(end..).and_then(|rest| rest.first_chunk::<SUM_BYTES>()).ok_or(Fault::Checksum)?;
    if crc32fast::hash(&bytes[MARK.len()..end]) != u32::from_le_bytes(*sum) {
        return Err(Fault::Checksum);
    }
    let body = &bytes[HEAD_BYTES..end];
    let record = match *kind {
        KEY => {
            let record = KeyRecord::decode(body)?;
            Record::Key(record.value.into_key_value(&record.key))
        }
        COMMIT => {
            let record = CommitRecord::decode(body)?;
            let rev = Revision::new(record.rev);
            Record::Commit(record.into_commit(rev))
        }
        LEASE => {
            let record = LeaseRecord::decode(body)?;
            Record::Lease(LeaseId::new(record.id).ok_or(Fault::Misplaced)?, record.ttl)
        }
        _ => return Err(Fault::Misplaced),
    };
    Ok((record, end + SUM_BYTES))
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
    fn a_record_with_any_bit_flipped_is_an_error() {
        let frame = encode_key(&kv("value", 5));
        assert_eq!(*decode_key("/a", &frame).expect("whole"), kv("value", 5));
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_key("/a", &damaged).is_err(), "bit {bit}");
        }
        assert!(decode_key("/a", &frame[..frame.len() - 1]).is_err() && decode_key("/a", b"").is_err());
    }

    #[test]
    fn a_record_in_the_place_of_another_is_an_error() {
        let error = decode_key("/cse-sr/x", &encode_key(&kv("value", 0))).expect_err("misplaced");
        assert_eq!(error.to_string(), "the record of key /cse-sr/x is the record of something else");
        let commit = LoggedCommit { rev: 3.into(), changes: Vec::new() };
        assert!(decode_commit(4.into(), &encode_commit(&commit)).is_err());
        let lease = encode_lease(LeaseId::new(8).expect("not zero"), 60);
        assert!(decode_lease(8, &lease).is_ok() && decode_lease(9, &lease).is_err());
    }

    #[test]
    fn a_scan_finds_whole_records_among_anything_else() {
        let commit = LoggedCommit { rev: 3.into(), changes: Vec::new() };
        let mut bytes = b"junk".to_vec();
        bytes.extend(encode_key(&kv("lost", 0)));
        let lost = bytes.len() - 1;
        bytes[lost] ^= 1;
        bytes.extend(MARK);
        bytes.extend(encode_key(&kv("kept", 0)));
        bytes.extend(b"more junk");
        bytes.extend(encode_commit(&commit));
        bytes.extend(&encode_key(&kv("cut", 0))[..20]);
        let found: Vec<_> = scan(&bytes).collect();
        assert_eq!(found, [Record::Key(Arc::new(kv("kept", 0))), Record::Commit(commit)]);
    }

    #[test]
    fn records_of_the_first_format_are_still_read() {
        let bare = encode_bare_value(&kv("old", 3));
        assert_eq!(*decode_bare_value("/a", &bare).expect("readable"), kv("old", 3));
        let error = decode_bare_value("/cse-sr/x", b"\xff\xff\xff").expect_err("junk");
        assert!(error.to_string().starts_with("the record of key /cse-sr/x cannot be decoded"), "{error}");
        assert!(decode_bare_commit(3.into(), b"\x0a\x7f").is_err());
    }
}
