//! Translates between the types of the store and of etcd's client.

use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbKeyValue};
use etcd_client::{CompareOp, DeleteOptions, GetOptions, PutOptions, TxnOp, TxnOpResponse};
use shared::model::Revision;

use crate::store::{
    Compare, KeyValue, KvEvent, LeaseId, MAX_TXN_OPS, Op, RangeRequest, Txn, TxnReply, prefix_end,
};

/// A revision of etcd, which is never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision::new(number.max(0).unsigned_abs())
}

/// The store's revision in the header of a reply.
pub(super) fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    revision(header.map_or(0, etcd_client::ResponseHeader::revision))
}

/// A revision for etcd. One beyond its range becomes the highest, which is never reached either.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}

/// The first key of a range. etcd has no empty key, and an empty one would mean "not given".
pub(super) fn start(key: &str) -> Vec<u8> {
    if key.is_empty() { vec![0] } else { key.into() }
}

pub(super) fn get_options(request: &RangeRequest) -> GetOptions {
    let mut options = GetOptions::new().with_limit(i64::try_from(request.limit).unwrap_or(i64::MAX));
    if let Some(end) = &request.end {
        // To etcd an empty end means "this key alone". No key is before an empty end, and none is before this
        // one.
        options = options.with_range(if end.is_empty() { vec![0, 0] } else { end.as_bytes().to_vec() });
    }
    if let Some(revision) = request.revision {
        options = options.with_revision(number(revision));
    }
    if request.keys_only { options.with_keys_only() } else { options }
}

pub(super) fn key_value(kv: PbKeyValue) -> KeyValue {
    KeyValue {
        key: text(kv.key),
        value: Bytes::from(kv.value),
        create_rev: revision(kv.create_revision),
        mod_rev: revision(kv.mod_revision),
        version: kv.version.max(0).unsigned_abs(),
        lease: LeaseId::new(kv.lease),
    }
}

pub(super) fn event(event: PbEvent) -> Option<KvEvent> {
    const DELETE: i32 = 1;
    let kv = event.kv?;
    Some(if event.r#type == DELETE {
        KvEvent::Delete { key: text(kv.key), rev: revision(kv.mod_revision) }
    } else {
        KvEvent::Put(key_value(kv))
    })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

pub(super) fn txn(txn: Txn) -> etcd_client::Txn {
    let beside = txn.compare.len().max(txn.otherwise.len());
    etcd_client::Txn::new()
        .when(txn.compare.into_iter().map(compare).collect::<Vec<_>>())
        .and_then(branch(txn.then, beside))
        .or_else(txn.otherwise.into_iter().map(op).collect::<Vec<_>>())
}

/// The operations of a branch. A list that etcd accepts is passed as it is. A longer one is cut into
/// unconditional transactions within this one, which etcd still runs at one revision. etcd's limit for a
/// nested transaction is what the longest list around it leaves of the whole limit.
fn branch(ops: Vec<Op>, beside: usize) -> Vec<TxnOp> {
    if ops.len() <= MAX_TXN_OPS {
        return ops.into_iter().map(op).collect();
    }
    let parts = (1..MAX_TXN_OPS).find(|&parts| parts * room_in_part(parts, beside) >= ops.len());
    let each = room_in_part(parts.unwrap_or(1), beside).max(1);
    let mut ops = ops.into_iter().peekable();
    let mut nested = Vec::new();
    while ops.peek().is_some() {
        let part: Vec<TxnOp> = ops.by_ref().take(each).map(op).collect();
        nested.push(TxnOp::txn(etcd_client::Txn::new().and_then(part)));
    }
    nested
}

/// The most operations in each of `parts` nested transactions, beside other lists of `beside` entries.
fn room_in_part(parts: usize, beside: usize) -> usize {
    MAX_TXN_OPS.saturating_sub(parts.max(beside))
}

fn compare(compare: Compare) -> etcd_client::Compare {
    match compare {
        Compare::Exists(key) => etcd_client::Compare::mod_revision(key, CompareOp::Greater, 0),
        Compare::Absent(key) => etcd_client::Compare::mod_revision(key, CompareOp::Equal, 0),
        Compare::ModRev(key, rev) => etcd_client::Compare::mod_revision(key, CompareOp::Equal, number(rev)),
        Compare::UnwrittenSince(prefix, rev) => {
            // It holds if each key of the range is so, and in an empty range, where etcd compares with 0.
            let last = number(rev).saturating_add(1);
            etcd_client::Compare::mod_revision(start(&prefix), CompareOp::Less, last)
                .with_range(prefix_end(&prefix))
        }
    }
}

fn op(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.get()));
            TxnOp::put(key, value, options)
        }
        Op::PutLast { key, value, .. } => TxnOp::put(key, value, None),
        Op::Delete(key) => TxnOp::delete(key, None),
        Op::DeletePrefix(prefix) => {
            let options = DeleteOptions::new().with_range(prefix_end(&prefix));
            TxnOp::delete(start(&prefix), Some(options))
        }
        Op::Get(key) => TxnOp::get(key, None),
    }
}

pub(super) fn txn_reply(reply: &etcd_client::TxnResponse) -> TxnReply {
    let mut got = Vec::new();
    collect_gets(reply, &mut got);
    TxnReply { succeeded: reply.succeeded(), revision: header_revision(reply.header()), got }
}

fn collect_gets(reply: &etcd_client::TxnResponse, got: &mut Vec<Option<KeyValue>>) {
    for response in reply.op_responses() {
        match response {
            TxnOpResponse::Get(mut get) => {
                got.push(get.take_kvs().into_iter().next().map(|kv| key_value(kv.0)));
            }
            // Nested replies come in the order of the operations, so the order of the `Get`s is kept.
            TxnOpResponse::Txn(nested) => collect_gets(&nested, got),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) => {}
        }
    }
}
