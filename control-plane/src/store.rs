//! The store: an ordered key-value store with revisions, leases and a watch. It is the truth of the registry.
//!
//! It has two implementations under one contract suite: [`etcd`] for production, and [`embedded`] (one file)
//! for `muster standalone`. Nothing outside this room knows which one is in use.

use std::fmt;
use std::num::NonZeroI64;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use shared::model::{Revision, Tenant};

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod measured;
pub(crate) mod rationed;
pub(crate) mod trace;

/// The id of a lease. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(NonZeroI64);

impl LeaseId {
    /// The lease with this number. `None` for 0, which in etcd means "no lease".
    pub fn new(number: i64) -> Option<Self> {
        NonZeroI64::new(number).map(Self)
    }

    /// An id by which every replica knows a long lease.
    #[cfg(any(test, feature = "etcd"))]
    pub(crate) fn long(low: u32) -> Self {
        Self(NonZeroI64::new(LONG | i64::from(low)).unwrap_or(NonZeroI64::MIN))
    }

    /// An id by which every replica knows a long lease that instances share.
    #[cfg(any(test, feature = "etcd"))]
    pub(crate) fn shared(low: u32) -> Self {
        Self(NonZeroI64::new(SHARED | i64::from(low)).unwrap_or(NonZeroI64::MIN))
    }

    /// True for a lease that outlives the time of its instance: a replica ends the instance.
    pub fn is_long(self) -> bool {
        self.0.get() & LONG_MASK == LONG || self.is_shared()
    }

    /// True for a long lease that several instances share. It must never be revoked because one of them ends,
    /// and its renewal does not say which of them lives.
    pub fn is_shared(self) -> bool {
        self.0.get() & LONG_MASK == SHARED
    }

    /// The number of the lease.
    pub fn get(self) -> i64 {
        self.0.get()
    }
}

/// The upper half of a long lease's id. The ids that etcd gives have two bytes of a member there, and two
/// bytes of the time that change every five hours and come back after 35 years; these have passed.
const LONG: i64 = 0x4d75_7374 << 32;
/// The same for a lease that instances share. Earlier versions do not know it as long, so their publisher
/// never ends an instance by revoking the lease of all.
const SHARED: i64 = 0x4d75_7343 << 32;
const LONG_MASK: i64 = 0xffff_ffff << 32;

/// The time of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// Its full time.
    pub granted: Duration,
    /// The time until it ends, in whole seconds, rounded down.
    pub remaining: Duration,
}

/// Decimal text, as Service-Center stores it.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key, its value, and the revisions that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key. Foreign keys that are not UTF-8 are read with replacement characters.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_rev: Revision,
    /// The revision that wrote the key last.
    pub mod_rev: Revision,
    /// The number of writes since the key was created, from 1.
    pub version: u64,
    /// The lease that deletes the key when it ends.
    pub lease: Option<LeaseId>,
}

/// A request to read the keys in `[start, end)`, in order.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// The first key.
    pub start: String,
    /// The end, exclusive. `None` reads the one key `start`.
    pub end: Option<String>,
    /// The most keys to read; 0 is no limit.
    pub limit: usize,
    /// The revision at which to read, or `None` for the newest one.
    pub revision: Option<Revision>,
    /// If true, the values are left out.
    pub keys_only: bool,
}

impl RangeRequest {
    /// A request for one key.
    pub fn key(key: impl Into<String>) -> Self {
        Self { start: key.into(), end: None, limit: 0, revision: None, keys_only: false }
    }

    /// A request for every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end: Some(end), limit: 0, revision: None, keys_only: false }
    }
}

/// The first key after all keys that start with `prefix`: the prefix with its last character raised by one.
/// Our prefixes end with `/`, so the result is text again.
pub fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    match end.pop() {
        Some(last) => end.push(char::from_u32(last as u32 + 1).unwrap_or(char::MAX)),
        None => end.push(char::MAX),
    }
    end
}

/// The reply to a range request.
#[derive(Clone, Debug, Default)]
pub struct RangeReply {
    /// The keys that were found, in order.
    pub items: Vec<KeyValue>,
    /// True when the limit cut the reply short.
    pub more: bool,
    /// The store's newest revision, also when an older one was read.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key exists.
    Exists(String),
    /// The key does not exist.
    Absent(String),
    /// The key was last written by this revision. 0 means that the key does not exist.
    ModRev(String, Revision),
    /// No key with this prefix was written after this revision. Keys that were deleted do not count.
    UnwrittenSince(String, Revision),
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The lease that is to delete the key. `None` detaches the key from an earlier lease.
        lease: Option<LeaseId>,
    },
    /// Writes a key without a lease, as many transactions do that come within the same moment. Where a store
    /// commits such transactions together, only the last of them writes the key, even if its own conditions
    /// do not hold, provided that `owner` exists. The value must therefore be right for all of them.
    PutLast {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The key without which this one must not exist.
        owner: String,
    },
    /// Deletes a key if it exists.
    Delete(String),
    /// Deletes every key with this prefix.
    DeletePrefix(String),
    /// Reads a key. The results are in [`TxnReply::got`], in the order of the `Get`s.
    Get(String),
}

impl Op {
    /// An operation that writes `key` without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }
}

/// A transaction: runs `then` if every condition in `compare` holds, and `otherwise` if not. All its writes
/// have one revision, which other transactions of the same moment may share. A transaction must not write a
/// key twice; etcd refuses it.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// The operations to run when they hold.
    pub then: Vec<Op>,
    /// The operations to run when they do not.
    pub otherwise: Vec<Op>,
    /// The tenant on whose behalf it writes. `None` where that is the tenant of the first value.
    pub by: Option<Tenant>,
}

/// The most entries in each list of a transaction: etcd's default for `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;
/// The most operations in `then`, if each other list has at most [`MAX_TXN_COMPARE_WITH_LONG_THEN`] entries.
pub const MAX_TXN_THEN: usize = 1000;
/// The most conditions, and operations in `otherwise`, beside a `then` longer than [`MAX_TXN_OPS`]. On etcd
/// such a list is sent in nested transactions, and each of them counts against the same limit as these.
pub const MAX_TXN_COMPARE_WITH_LONG_THEN: usize = 112;

impl Txn {
    /// Refuses a transaction that is longer than the shared limits. Both stores check it, so that a
    /// transaction that works on the embedded store also works on etcd.
    pub(crate) fn check_length(&self) -> Result<(), StoreError> {
        let beside = self.compare.len().max(self.otherwise.len());
        let limit = if beside <= MAX_TXN_COMPARE_WITH_LONG_THEN { MAX_TXN_THEN } else { MAX_TXN_OPS };
        let longest = beside.max(self.then.len());
        if longest <= limit {
            return Ok(());
        }
        Err(StoreError::Refused(format!("too many operations in one transaction: {longest} > {limit}")))
    }
}

/// The reply to a transaction.
#[derive(Clone, Debug)]
pub struct TxnReply {
    /// True when all conditions held.
    pub succeeded: bool,
    /// The store's revision after the transaction. If the transaction wrote something, this is the write's
    /// revision.
    pub revision: Revision,
    /// One entry for each `Get` that ran; `None` for a key that does not exist.
    pub got: Vec<Option<KeyValue>>,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// The key was written.
    Put(KeyValue),
    /// The key was deleted by a transaction or by the end of its lease.
    Delete {
        /// The key.
        key: String,
        /// The revision that deleted the key.
        rev: Revision,
    },
}

impl KvEvent {
    /// The revision of the change.
    pub fn rev(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_rev,
            Self::Delete { rev, .. } => *rev,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// An item of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in order of revision. An item contains all changes of each of its revisions.
    Events(Vec<KvEvent>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

/// The items of a watch. Ends after the first error.
pub struct WatchStream(Pin<Box<dyn Stream<Item = Result<WatchItem, StoreError>> + Send>>);

impl WatchStream {
    /// Wraps a stream of items.
    pub fn new(stream: impl Stream<Item = Result<WatchItem, StoreError>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchItem, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// A failure of a call to the store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store could not be reached or did not answer in time. A write may have happened or not.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The lease has expired, was revoked, or never existed.
    #[error("the lease does not exist")]
    LeaseNotFound,
    /// The requested revision is older than the history that the store keeps. Carries the compacted revision:
    /// keys can still be read at exactly this revision, and watched after it.
    #[error("history before revision {0} has been compacted")]
    Compacted(Revision),
    /// The request has more bytes than the store takes, and will not succeed when repeated.
    #[error("the request is too large: {0}")]
    TooLarge(String),
    /// The request is malformed, and will not succeed when repeated.
    #[error("the store refused: {0}")]
    Refused(String),
    /// The store has no room for any write, until an operator makes room.
    #[error("the store is full: {0}")]
    Full(String),
    /// So many calls wait for the store that one more would not be reached in time. Nothing happened.
    #[error("too many requests wait for the store")]
    Busy,
    /// The store is nearly full, and this tenant has recently written much, or all new tenants together have. The
    /// write did not happen.
    #[error("the store is nearly full, and this tenant, or all new ones together, have written much of late")]
    Rationed,
}

/// The room that the store's data takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSpace {
    /// The bytes that count against the quota.
    pub used: u64,
    /// The most bytes that the store accepts.
    pub quota: u64,
    /// The store has reached its quota once, and refuses every write since.
    pub full: bool,
}

impl StoreSpace {
    /// The part of the quota that is in use.
    pub fn share(&self) -> f64 {
        if self.quota == 0 { 0.0 } else { self.used as f64 / self.quota as f64 }
    }
}

/// The figures of a store that commits transactions of one moment together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupFigures {
    /// The commits so far, each of one transaction or of several.
    pub commits: u64,
    /// The transactions that were refused because too many waited.
    pub refused: u64,
    /// The transactions that wait at the moment.
    pub waiting: u64,
}

/// An ordered key-value store. Every call has its own deadline, after which it ends with
/// [`StoreError::Unavailable`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads keys. Without a revision in the request, the read is linearizable.
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError>;

    /// Runs a transaction. Not cancel-safe: the transaction of a dropped call may happen or not.
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError>;

    /// Grants a lease of `ttl` seconds, at least 1. The store may grant a longer one.
    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError>;

    /// Grants a lease of `ttl` seconds that is known as long by its id. A store of one process refuses it.
    async fn grant_long(&self, _ttl: i64) -> Result<LeaseId, StoreError> {
        Err(StoreError::Refused("this store knows no long leases".to_owned()))
    }

    /// Grants a lease of `ttl` seconds that is known by its id as long and shared. A store of one process
    /// refuses it.
    async fn grant_shared(&self, _ttl: i64) -> Result<LeaseId, StoreError> {
        Err(StoreError::Refused("this store knows no shared leases".to_owned()))
    }

    /// The time of a lease. A store of one process refuses it.
    async fn lease_time(&self, _lease: LeaseId) -> Result<LeaseTime, StoreError> {
        Err(StoreError::Refused("this store does not tell the times of leases".to_owned()))
    }

    /// Renews a lease to its full time. A lease that was renewed less than a tenth of its time ago, and at
    /// most 1 s, may be answered without a round trip.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and deletes its keys at one revision.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Watches every key with `prefix`, from revision `from` on (inclusive).
    ///
    /// The stream begins with [`StoreError::Compacted`] if `from` is not after the compacted revision. It
    /// ends with [`StoreError::Unavailable`] if the store gives no sign of life. A slow reader holds up
    /// nobody else. The stream may be dropped at any time.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError>;

    /// A revision that covers everything committed before the call. Each open watch of `prefix` reports it,
    /// by events or progress, without any other write. An implementation may write a key of its own under
    /// `prefix` for that.
    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError>;

    /// A revision that covers everything committed before the call, without any write. A watch of `prefix`
    /// reaches it by itself if its change is under `prefix`; if not, perhaps only with the next barrier.
    /// Costs less than a [`Self::barrier`] where that one writes.
    async fn newest(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.barrier(prefix).await
    }

    /// Drops the history before `rev`.
    async fn compact(&self, rev: Revision) -> Result<(), StoreError>;

    /// The room that the store's data takes. `None` if the store has no quota, or does not tell.
    async fn space(&self) -> Result<Option<StoreSpace>, StoreError> {
        Ok(None)
    }

    /// The bytes by which a transaction that succeeds adds to that room: here those of all keys and values that it
    /// writes, since a store with history keeps the former ones beside them.
    fn growth(&self, txn: &Txn) -> u64 {
        bytes_written(txn)
    }

    /// The figures of group commit; zero for a store without it.
    fn group_figures(&self) -> GroupFigures {
        GroupFigures::default()
    }

    /// The addresses of the store, for `/admin/clusters`.
    fn endpoints(&self) -> Vec<String>;
}

/// The bytes of a key and its value.
pub(crate) fn bytes_of(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// The bytes of all keys and values that a transaction writes.
pub(crate) fn bytes_written(txn: &Txn) -> u64 {
    written(txn).map(|(key, value)| bytes_of(key, value)).sum()
}

/// The keys and values that a transaction writes.
pub(crate) fn written(txn: &Txn) -> impl Iterator<Item = (&str, &[u8])> {
    txn.then.iter().filter_map(|op| match op {
        Op::Put { key, value, .. } | Op::PutLast { key, value, .. } => Some((key.as_str(), &**value)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_leases_are_told_from_those_of_etcd() {
        for low in [0, 1, u32::MAX] {
            assert!(LeaseId::long(low).is_long() && !LeaseId::long(low).is_shared());
            assert!(LeaseId::shared(low).is_long() && LeaseId::shared(low).is_shared());
        }
        for id in [7_587_869_134_484_326_912, 0x694d_7573_7400_0001, 1, -1, i64::MAX] {
            assert!(!LeaseId::new(id).is_some_and(LeaseId::is_long), "{id}");
        }
    }
}
