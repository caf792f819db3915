//! The keys and leases at one revision, and the effect of transactions on them. Pure: no file, no time.
//!
//! A state is a value. A copy costs a few reference counts, so the writer works on a copy while readers keep
//! theirs. The semantics are etcd's, limits included, so that a transaction that works here works there.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};
use shared::model::Revision;

use super::log::{KeyChange, LoggedCommit};
use crate::store::{
    Compare, KeyValue, LeaseId, Op, RangeReply, RangeRequest, StoreError, Txn, TxnReply, bytes_of, prefix_end,
};

/// The most bytes of keys and values in one transaction: etcd's limit.
pub(super) const MAX_TXN_BYTES: usize = 3 * 512 * 1024;

/// A lease and its keys.
#[derive(Clone, Debug)]
pub(super) struct LeaseEntry {
    /// The time in seconds after which the lease ends without a renewal.
    pub(super) ttl: i64,
    pub(super) keys: RedBlackTreeSetSync<Arc<str>>,
}

/// The keys and leases at one revision.
#[derive(Clone, Debug)]
pub(super) struct StoreState {
    pub(super) rev: Revision,
    pub(super) keys: RedBlackTreeMapSync<Arc<str>, Arc<KeyValue>>,
    pub(super) leases: HashTrieMapSync<LeaseId, LeaseEntry>,
    /// The bytes of all keys and values.
    pub(super) bytes: u64,
}

impl StoreState {
    /// The empty store. Its revision is 1, as in an empty etcd.
    pub(super) fn new() -> Self {
        Self {
            rev: Revision::new(1),
            keys: RedBlackTreeMapSync::new_sync(),
            leases: HashTrieMapSync::new_sync(),
            bytes: 0,
        }
    }

    /// Adds a key from the file, and attaches it to its lease.
    pub(super) fn restore(&mut self, kv: Arc<KeyValue>) {
        let key: Arc<str> = kv.key.as_str().into();
        if let Some(lease) = kv.lease {
            self.attach(lease, &key);
        }
        self.insert(key, kv);
    }

    /// Undoes the newest commit. The state's revision stays, because range replies carry the newest one.
    pub(super) fn undo(&mut self, commit: &LoggedCommit) {
        for change in commit.changes.iter().rev() {
            match &change.before {
                Some(kv) => self.insert(change.key.clone(), kv.clone()),
                None => self.remove(&change.key),
            }
        }
    }

    fn insert(&mut self, key: Arc<str>, kv: Arc<KeyValue>) {
        self.remove(&key);
        self.bytes += size(&kv);
        self.keys.insert_mut(key, kv);
    }

    fn remove(&mut self, key: &str) {
        if let Some(before) = self.keys.get(key) {
            self.bytes -= size(before);
            self.keys.remove_mut(key);
        }
    }

    /// Reads keys.
    pub(super) fn range(&self, request: &RangeRequest) -> RangeReply {
        let mut reply = RangeReply { revision: self.rev, ..RangeReply::default() };
        let Some(end) = &request.end else {
            let found = self.keys.get(request.start.as_str());
            reply.items.extend(found.map(|kv| item(kv, request.keys_only)));
            return reply;
        };
        for (_, kv) in self.between(&request.start, end) {
            if request.limit > 0 && reply.items.len() == request.limit {
                reply.more = true;
                break;
            }
            reply.items.push(item(kv, request.keys_only));
        }
        reply
    }

    /// Runs a transaction. Returns the commit as well, if the transaction changed anything.
    ///
    /// # Errors
    /// If etcd would refuse the transaction. The state is then unchanged.
    pub(super) fn apply(&mut self, txn: Txn) -> Result<(TxnReply, Option<LoggedCommit>), StoreError> {
        check(&txn)?;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        // Before the first write, because a failed transaction must leave the state unchanged.
        for op in &ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseNotFound);
            }
        }
        let mut got = Vec::new();
        let mut changes = Vec::new();
        let rev = self.rev.next();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => changes.push(self.put(rev, key, value, lease)),
                Op::PutLast { key, value, .. } => changes.push(self.put(rev, key, value, None)),
                Op::Delete(key) => changes.extend(self.delete(&key)),
                Op::DeletePrefix(prefix) => {
                    let doomed: Vec<_> = self.between(&prefix, &prefix_end(&prefix)).map(key_of).collect();
                    changes.extend(doomed.iter().filter_map(|key| self.delete(key)));
                }
                Op::Get(key) => got.push(self.keys.get(key.as_str()).map(|kv| KeyValue::clone(kv))),
            }
        }
        let commit = self.finish(rev, changes);
        Ok((TxnReply { succeeded, revision: self.rev, got }, commit))
    }

    /// Ends a lease and deletes its keys. The commit is `None` if the lease had no key.
    ///
    /// # Errors
    /// If the lease does not exist.
    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<Option<LoggedCommit>, StoreError> {
        let keys = self.leases.get(&lease).ok_or(StoreError::LeaseNotFound)?.keys.clone();
        let rev = self.rev.next();
        let changes = keys.iter().filter_map(|key| self.delete(key)).collect();
        self.leases.remove_mut(&lease);
        Ok(self.finish(rev, changes))
    }

    fn finish(&mut self, rev: Revision, changes: Vec<KeyChange>) -> Option<LoggedCommit> {
        if changes.is_empty() {
            return None;
        }
        self.rev = rev;
        Some(LoggedCommit { rev, changes })
    }

    fn between<'a>(
        &'a self,
        start: &'a str,
        end: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<KeyValue>)> {
        // The tree panics when the end is before the start. In etcd such a range is empty.
        let end = if end < start { start } else { end };
        self.keys.range::<str, _>((Bound::Included(start), Bound::Excluded(end)))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Exists(key) => self.mod_rev(key) != Revision::ZERO,
            Compare::Absent(key) => self.mod_rev(key) == Revision::ZERO,
            Compare::ModRev(key, rev) => self.mod_rev(key) == *rev,
            Compare::UnwrittenSince(prefix, rev) => {
                self.between(prefix, &prefix_end(prefix)).all(|(_, kv)| kv.mod_rev <= *rev)
            }
        }
    }

    /// The revision of the last write of a key; 0 if the key does not exist.
    fn mod_rev(&self, key: &str) -> Revision {
        self.keys.get(key).map_or(Revision::ZERO, |kv| kv.mod_rev)
    }

    fn put(&mut self, rev: Revision, key: String, value: bytes::Bytes, lease: Option<LeaseId>) -> KeyChange {
        let name: Arc<str> = key.as_str().into();
        let before = self.keys.get(&*name).cloned();
        let (create_rev, version) =
            before.as_ref().map_or((rev, 1), |before| (before.create_rev, before.version + 1));
        let old_lease = before.as_ref().and_then(|before| before.lease);
        if old_lease != lease {
            if let Some(old_lease) = old_lease {
                self.detach(old_lease, &name);
            }
            if let Some(lease) = lease {
                self.attach(lease, &name);
            }
        }
        let after = Arc::new(KeyValue { key, value, create_rev, mod_rev: rev, version, lease });
        self.insert(name.clone(), after.clone());
        KeyChange { key: name, after: Some(after), before }
    }

    /// The bytes by which the keys and values that a transaction writes exceed those which it replaces and deletes.
    pub(super) fn growth(&self, txn: &Txn) -> u64 {
        let (mut more, mut less) = (0, 0);
        let held = |key: &str| self.keys.get(key).map_or(0, |before| size(before));
        for op in &txn.then {
            match op {
                Op::Put { key, value, .. } | Op::PutLast { key, value, .. } => {
                    more += bytes_of(key, value);
                    less += held(key);
                }
                Op::Delete(key) => less += held(key),
                Op::DeletePrefix(prefix) => {
                    less += self.between(prefix, &prefix_end(prefix)).map(|(_, kv)| size(kv)).sum::<u64>();
                }
                Op::Get(_) => {}
            }
        }
        more.saturating_sub(less)
    }

    fn delete(&mut self, key: &str) -> Option<KeyChange> {
        let (name, before) = self.keys.get_key_value(key).map(|(name, kv)| (name.clone(), kv.clone()))?;
        if let Some(lease) = before.lease {
            self.detach(lease, &name);
        }
        self.remove(key);
        Some(KeyChange { key: name, after: None, before: Some(before) })
    }

    fn attach(&mut self, lease: LeaseId, key: &Arc<str>) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert_mut(key.clone());
        }
    }

    fn detach(&mut self, lease: LeaseId, key: &str) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove_mut(key);
        }
    }
}

fn size(kv: &KeyValue) -> u64 {
    bytes_of(&kv.key, &kv.value)
}

fn item(kv: &Arc<KeyValue>, keys_only: bool) -> KeyValue {
    match keys_only {
        true => KeyValue { value: Default::default(), key: kv.key.clone(), ..**kv },
        false => KeyValue::clone(kv),
    }
}

fn key_of((key, _): (&Arc<str>, &Arc<KeyValue>)) -> Arc<str> {
    key.clone()
}

/// Refuses a transaction that etcd would refuse, so that the difference does not show up first in production.
fn check(txn: &Txn) -> Result<(), StoreError> {
    txn.check_length()?;
    let mut bytes = 0;
    for compare in &txn.compare {
        let (Compare::Exists(key)
        | Compare::Absent(key)
        | Compare::ModRev(key, _)
        | Compare::UnwrittenSince(key, _)) = compare;
        not_empty(key)?;
        bytes += key.len();
    }
    for branch in [&txn.then, &txn.otherwise] {
        // Each branch is checked alone, because only one of them runs.
        let mut written = HashSet::new();
        for op in branch {
            bytes += match op {
                Op::Put { key, value, .. } | Op::PutLast { key, value, .. } => {
                    not_empty(key)?;
                    if !written.insert(key.as_str()) {
                        return Err(duplicate(key));
                    }
                    key.len() + value.len()
                }
                Op::Delete(key) | Op::Get(key) => {
                    not_empty(key)?;
                    key.len()
                }
                Op::DeletePrefix(prefix) => prefix.len(),
            };
        }
        for op in branch {
            let clash = match op {
                Op::Delete(key) => written.get(key.as_str()),
                Op::DeletePrefix(prefix) => written.iter().find(|key| key.starts_with(prefix)),
                Op::Put { .. } | Op::PutLast { .. } | Op::Get(_) => None,
            };
            if let Some(key) = clash {
                return Err(duplicate(key));
            }
        }
    }
    if bytes > MAX_TXN_BYTES {
        return Err(StoreError::TooLarge(format!("{bytes} > {MAX_TXN_BYTES} bytes")));
    }
    Ok(())
}

fn not_empty(key: &str) -> Result<(), StoreError> {
    if key.is_empty() { Err(refused("a key is empty".into())) } else { Ok(()) }
}

fn duplicate(key: &str) -> StoreError {
    refused(format!("duplicate key in one transaction: {key}"))
}

fn refused(reason: String) -> StoreError {
    StoreError::Refused(reason)
}
