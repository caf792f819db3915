//! The truth: an ordered, revisioned key-value store with leases and a watch.
//!
//! Two implementations under one contract suite: [`etcd`] for production and [`embedded`] (one file) for
//! `muster standalone`. Nothing outside this room knows which one it speaks to.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use shared::model::Revision;

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod measured;

/// A lease's id. Never zero.
pub type LeaseId = i64;

/// A key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; one that is not UTF-8 is read lossily (no key of ours is).
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_rev: Revision,
    /// The revision that wrote it last.
    pub mod_rev: Revision,
    /// Writes since its creation, from 1.
    pub version: u64,
    /// The lease it lives on.
    pub lease: Option<LeaseId>,
}

/// Which keys to read: those in `[start, end)`, in order.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// The first key.
    pub start: String,
    /// Where to stop, exclusive; `None` reads only `start` itself.
    pub end: Option<String>,
    /// Keys at most; 0 is no limit.
    pub limit: usize,
    /// Read as of this revision instead of now.
    pub revision: Option<Revision>,
    /// Leave the values empty.
    pub keys_only: bool,
}

impl RangeRequest {
    /// One key.
    pub fn key(key: impl Into<String>) -> Self {
        Self { start: key.into(), end: None, limit: 0, revision: None, keys_only: false }
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end: Some(end), limit: 0, revision: None, keys_only: false }
    }
}

/// The first key after all that start with `prefix`: the last byte raised by one. Our keys are ASCII at the
/// ends of their prefixes (`/`), so this stays text.
pub fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    match end.pop() {
        Some(last) => end.push(char::from_u32(last as u32 + 1).unwrap_or(char::MAX)),
        None => end.push(char::MAX),
    }
    end
}

/// What a range read found.
#[derive(Clone, Debug, Default)]
pub struct RangeReply {
    /// The keys, in order.
    pub items: Vec<KeyValue>,
    /// The limit cut the answer short.
    pub more: bool,
    /// The revision of the read (that of now, also when an older one was read).
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key exists.
    Exists(String),
    /// The key does not exist.
    Absent(String),
    /// The key was last written by this revision; 0 means it does not exist.
    ModRev(String, Revision),
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key, on a lease if one is given.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The lease it is to live on; without one it stays, also if it lived on one before.
        lease: Option<LeaseId>,
    },
    /// Deletes a key, if it is there.
    Delete(String),
    /// Deletes every key with this prefix.
    DeletePrefix(String),
    /// Reads a key; the answer is in [`TxnReply::got`], in the order of the `Get`s.
    Get(String),
}

impl Op {
    /// Writes `key` without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }
}

/// A transaction: if all of `compare` hold then `then`, else `otherwise`; all at one revision.
/// No key may be written twice in one transaction (etcd refuses it).
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// What happens when they hold.
    pub then: Vec<Op>,
    /// What happens when they do not.
    pub otherwise: Vec<Op>,
}

/// Entries of each list of a transaction that always fit, as etcd has it (`--max-txn-ops`).
pub const SHORT_LIST: usize = 128;
/// Steps that fit when the other lists have no more than [`BESIDE_LONG`] entries.
pub const LONG_LIST: usize = 1000;
/// Conditions, and steps otherwise, that may stand beside a list longer than [`SHORT_LIST`].
pub const BESIDE_LONG: usize = 112;

impl Txn {
    /// Refuses a transaction that is longer than every store takes at one revision.
    pub(crate) fn check_length(&self) -> Result<(), StoreError> {
        let beside = self.compare.len().max(self.otherwise.len());
        let most = if beside <= BESIDE_LONG { LONG_LIST } else { SHORT_LIST };
        let longest = beside.max(self.then.len());
        if longest <= most {
            return Ok(());
        }
        Err(StoreError::Refused(format!("too many operations in one transaction: {longest} > {most}")))
    }
}

/// What a transaction did.
#[derive(Clone, Debug)]
pub struct TxnReply {
    /// The conditions held.
    pub succeeded: bool,
    /// The store's revision after it. When the transaction wrote something, that of the write.
    pub revision: Revision,
    /// One entry for each `Get` that ran.
    pub got: Vec<Option<KeyValue>>,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, by unregistration, expiry or a prefix delete.
    Delete {
        /// The key.
        key: String,
        /// The revision of the delete.
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

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in order of revision. All changes of one revision come in the same item.
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

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be reached, or did not answer in time. Whether a write happened is unknown.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The lease has expired, was revoked, or never was.
    #[error("the lease does not exist")]
    LeaseNotFound,
    /// The revision is older than the history that is kept. Carries the revision up to which history is gone: the
    /// keys can still be read at exactly this revision, and watched after it.
    #[error("history before revision {0} has been compacted")]
    Compacted(Revision),
    /// The store refused the request as such (too large, malformed).
    #[error("the store refused: {0}")]
    Refused(String),
}

/// What a store can do. Every call has a deadline of its own and ends with [`StoreError::Unavailable`] past it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads keys, linearizable unless a revision is given.
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError>;

    /// Runs a transaction. Not cancel-safe: a dropped call may or may not have happened.
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError>;

    /// Grants a lease of `ttl` seconds (at least 1; the store may raise it).
    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError>;

    /// Renews a lease to its full time. Calls are pipelined; a lease renewed a moment ago (less than a tenth
    /// of its time, at most 1 s) is answered without a round trip.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease; its keys are deleted at one revision.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Watches every key with `prefix`, from revision `from` on (inclusive).
    ///
    /// The stream's first error is [`StoreError::Compacted`] when `from` is no longer kept, that is, not after the
    /// compacted revision. A stream whose store gives no sign of life is ended by the store itself. Reading it
    /// late costs nobody else anything; it may be dropped at any time.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError>;

    /// A revision that covers everything committed before the call, and that each open watch of `prefix`
    /// reports (by events or progress) without anyone writing anything else. An implementation may write a key of
    /// its own under `prefix` for it.
    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError>;

    /// Drops history before `rev`.
    async fn compact(&self, rev: Revision) -> Result<(), StoreError>;

    /// The addresses of the store, for `/admin/clusters`.
    fn endpoints(&self) -> Vec<String>;
}
