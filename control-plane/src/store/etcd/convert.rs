//! Between the store's words and etcd's.

use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbKeyValue};
use etcd_client::{CompareOp, DeleteOptions, GetOptions, PutOptions, TxnOp, TxnOpResponse};
use shared::model::Revision;

use crate::store::{Compare, KeyValue, KvEvent, Op, RangeRequest, SHORT_LIST, Txn, TxnReply, prefix_end};

/// A revision as etcd counts it; it is never negative there.
pub(super) fn revision(number: i64) -> Revision {
    number.max(0).unsigned_abs()
}

/// A revision for etcd; what it cannot express is as good as never reached.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// The first key of a range: etcd has no empty key and takes one for "not given".
pub(super) fn start(key: &str) -> Vec<u8> {
    if key.is_empty() { vec![0] } else { key.into() }
}

pub(super) fn get_options(request: &RangeRequest) -> GetOptions {
    let mut options = GetOptions::new().with_limit(number(request.limit as u64));
    if let Some(end) = &request.end {
        // An empty end means "this key alone" to etcd; nothing is before it.
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
        version: revision(kv.version),
        lease: (kv.lease != 0).then_some(kv.lease),
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
        .and_then(steps(txn.then, beside))
        .or_else(txn.otherwise.into_iter().map(op).collect::<Vec<_>>())
}

/// The steps of a branch. What etcd takes in one list goes as it is; more goes as unconditional transactions within
/// this one, still at one revision. etcd grants those what the longest list of this one leaves of its limit.
fn steps(ops: Vec<Op>, beside: usize) -> Vec<TxnOp> {
    if ops.len() <= SHORT_LIST {
        return ops.into_iter().map(op).collect();
    }
    let left = |parts: usize| SHORT_LIST.saturating_sub(parts.max(beside));
    let parts = (1..SHORT_LIST).find(|&parts| parts * left(parts) >= ops.len());
    let each = left(parts.unwrap_or(1)).max(1);
    let mut ops = ops.into_iter().peekable();
    let mut nested = Vec::new();
    while ops.peek().is_some() {
        let part: Vec<TxnOp> = ops.by_ref().take(each).map(op).collect();
        nested.push(TxnOp::txn(etcd_client::Txn::new().and_then(part)));
    }
    nested
}

fn compare(compare: Compare) -> etcd_client::Compare {
    match compare {
        Compare::Exists(key) => etcd_client::Compare::mod_revision(key, CompareOp::Greater, 0),
        Compare::Absent(key) => etcd_client::Compare::mod_revision(key, CompareOp::Equal, 0),
        Compare::ModRev(key, rev) => etcd_client::Compare::mod_revision(key, CompareOp::Equal, number(rev)),
    }
}

fn op(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            TxnOp::put(key, value, options)
        }
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
    TxnReply {
        succeeded: reply.succeeded(),
        revision: revision(reply.header().map_or(0, |header| header.revision())),
        got,
    }
}

fn collect_gets(reply: &etcd_client::TxnResponse, got: &mut Vec<Option<KeyValue>>) {
    for response in reply.op_responses() {
        match response {
            TxnOpResponse::Get(mut get) => {
                got.push(get.take_kvs().into_iter().next().map(|kv| key_value(kv.0)));
            }
            TxnOpResponse::Txn(nested) => collect_gets(&nested, got),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) => {}
        }
    }
}
