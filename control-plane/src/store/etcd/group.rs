//! Group commit: transactions that come within the same moment go to etcd as one.
//!
//! In: transactions, each with its own conditions. Out: a reply for each, as if it had gone alone. While some
//! are on their way, further ones gather (room `pace`); then all of them that touch different keys leave
//! together. Each is a nested transaction with its own conditions, so one that loses does not disturb the
//! others. Those that succeed share a revision.
//!
//! etcd evaluates all conditions before the first write, and refuses two writes of one key. Therefore a
//! transaction that reads or writes what another one of the group writes is handed back, to go alone. The
//! same happens to all of a group that etcd refuses, since nothing tells whose fault it was; nothing of such
//! a group was written.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{TxnOp, TxnOpResponse, TxnResponse};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::caller::EtcdCaller;
use super::pace::{Pace, Step, UNDER_WAY};
use super::{MAX_MESSAGE, convert};
use crate::store::{Compare, GroupFigures, Op, StoreError, Txn, TxnReply};

/// The most transactions that wait. One more is refused, because it would hardly be reached within its
/// deadline.
const MOST_WAITING: usize = 16_384;
/// The most conditions, and operations in each branch, of a transaction that joins a group.
const MOST_OPS: usize = 16;
/// The most nested transactions of a group. etcd's limit for a nested one is what this leaves of 128.
const MOST_NESTED: usize = 96;
/// The most bytes of a transaction that joins a group. A larger one gains nothing by company.
const MOST_BYTES: usize = 64 * 1024;
/// The most bytes of a group: a third of what etcd takes in one request.
const MOST_GROUP_BYTES: usize = 512 * 1024;

/// The outcome for a transaction that waited.
enum Outcome {
    Done(Result<TxnReply, StoreError>),
    /// It has to go alone.
    Alone(Txn),
}

/// A transaction that waits for its group.
struct Member {
    txn: Txn,
    bytes: usize,
    /// The moment after which it would hardly be answered in time.
    begins_by: Instant,
    reply: oneshot::Sender<Outcome>,
}

/// The callers' handle.
pub(super) struct Group {
    members: mpsc::Sender<Member>,
    figures: Arc<Figures>,
}

/// The figures of a group, as its task counts them.
#[derive(Default)]
pub(super) struct Figures {
    commits: AtomicU64,
    refused: AtomicU64,
}

/// The task that forms the groups.
pub(super) struct Committer {
    members: mpsc::Receiver<Member>,
    caller: EtcdCaller,
    figures: Arc<Figures>,
}

impl Group {
    /// A group whose task is the second value.
    pub(super) fn new(caller: EtcdCaller) -> (Self, Committer) {
        let (sender, members) = mpsc::channel(MOST_WAITING);
        let figures = Arc::<Figures>::default();
        let committer = Committer { members, caller, figures: figures.clone() };
        (Self { members: sender, figures }, committer)
    }

    /// Commits a transaction, in company where that is possible. The caller sets the deadline. A caller that
    /// leaves before its group does is forgotten, and its transaction does not happen. One whose group does
    /// not leave within half of the deadline is refused as [`StoreError::Busy`].
    pub(super) async fn commit(&self, txn: Txn, caller: &EtcdCaller) -> Result<TxnReply, StoreError> {
        let Some(bytes) = size_to_join(&txn) else { return self.alone(txn, caller).await };
        let (reply, outcome) = oneshot::channel();
        let begins_by = Instant::now() + caller.timeout / 2;
        self.members.try_send(Member { txn, bytes, begins_by, reply }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                self.figures.refused.fetch_add(1, Ordering::Relaxed);
                StoreError::Busy
            }
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        match outcome.await {
            Ok(Outcome::Done(result)) => result,
            Ok(Outcome::Alone(txn)) => self.alone(txn, caller).await,
            Err(_) => Err(closed()),
        }
    }

    async fn alone(&self, txn: Txn, caller: &EtcdCaller) -> Result<TxnReply, StoreError> {
        self.figures.commits.fetch_add(1, Ordering::Relaxed);
        Ok(convert::txn_reply(&send(caller, convert::txn(txn)).await?))
    }

    pub(super) fn figures(&self) -> GroupFigures {
        GroupFigures {
            commits: self.figures.commits.load(Ordering::Relaxed),
            refused: self.figures.refused.load(Ordering::Relaxed),
            waiting: self.members.max_capacity().saturating_sub(self.members.capacity()) as u64,
        }
    }
}

async fn send(caller: &EtcdCaller, txn: etcd_client::Txn) -> Result<TxnResponse, StoreError> {
    caller
        .call(|client| {
            let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
            async move { kv.txn(txn).await }
        })
        .await
}

impl Committer {
    /// Serves until `closed`, `abort`, or the end of the handle.
    pub(super) async fn run(mut self, closed: CancellationToken, abort: CancellationToken) {
        tokio::select! {
            biased;
            () = closed.cancelled() => {}
            () = abort.cancelled() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let mut under_way = FuturesUnordered::new();
        // The transactions of the commits under way.
        let mut members = 0;
        let mut waiting = VecDeque::new();
        let mut pace = Pace::default();
        loop {
            while waiting.len() < MOST_NESTED
                && let Ok(member) = self.members.try_recv()
            {
                waiting.push_back(member);
            }
            let step = pace.step(waiting.len(), under_way.len(), members, Instant::now());
            let gathered = match step {
                Step::Leave => {
                    let group = form(&mut waiting, Instant::now(), &self.figures);
                    if !group.is_empty() {
                        self.figures.commits.fetch_add(1, Ordering::Relaxed);
                        members += group.len();
                        under_way.push(commit_together(group, self.caller.clone()));
                    }
                    continue;
                }
                Step::Gather(until) => Some(until),
                Step::Wait => None,
            };
            tokio::select! {
                Some(count) = under_way.next() => members -= count,
                // Not while they would only wait here and not there.
                next = self.members.recv(), if under_way.len() < UNDER_WAY && waiting.len() < MOST_NESTED => {
                    match next {
                        Some(member) => waiting.push_back(member),
                        None => return,
                    }
                }
                Some(()) = over(gathered) => {}
            }
        }
    }
}

/// Ends at a time. `None` at once without one.
async fn over(at: Option<Instant>) -> Option<()> {
    tokio::time::sleep_until(at?).await;
    Some(())
}

/// Takes the transactions of one group from the front of those that wait. Those that another one keeps out
/// are handed back, to go alone at once: waiting for the next group, many changes of one key would go one by
/// one.
fn form(waiting: &mut VecDeque<Member>, now: Instant, figures: &Figures) -> Vec<Member> {
    let mut group = Vec::new();
    let mut used: HashMap<u64, Use> = HashMap::new();
    let mut bytes = 0;
    let mut nested = 0;
    while let Some(member) = waiting.pop_front() {
        // Its caller was told that the store is unavailable, and expects no write after that.
        if member.reply.is_closed() {
            continue;
        }
        // It did not happen, and its client is told when to come back.
        if member.begins_by < now {
            figures.refused.fetch_add(1, Ordering::Relaxed);
            _ = member.reply.send(Outcome::Done(Err(StoreError::Busy)));
            continue;
        }
        let uses = uses_of(&member.txn);
        // One for itself, and one for each key that it is the first to share.
        let shares = uses.iter().filter(|(key, used_as)| *used_as == Use::Shared && !used.contains_key(key));
        let takes = 1 + shares.count();
        if bytes + member.bytes > MOST_GROUP_BYTES || nested + takes > MOST_NESTED {
            waiting.push_front(member);
            break;
        }
        let fits = uses.iter().all(|(key, used_as)| match used.get(key) {
            None => true,
            Some(other) => other == used_as && *other != Use::Written,
        });
        if fits {
            nested += takes;
            bytes += member.bytes;
            used.extend(uses);
            group.push(member);
        } else {
            // The caller may have left, here and below.
            _ = member.reply.send(Outcome::Alone(member.txn));
        }
    }
    group
}

/// Commits a group, and answers its members. Returns their number.
async fn commit_together(group: Vec<Member>, caller: EtcdCaller) -> usize {
    let count = group.len();
    let mut members = group;
    // One alone needs no nesting.
    if members.len() == 1
        && let Some(Member { txn, reply, .. }) = members.pop()
    {
        let result = send(&caller, convert::txn(txn)).await;
        _ = reply.send(Outcome::Done(result.map(|response| convert::txn_reply(&response))));
        return count;
    }
    let response = send(&caller, together(&members)).await;
    let revision = response.as_ref().ok().map(|response| convert::header_revision(response.header()));
    let mut replies = match response {
        Ok(response) => response.op_responses().into_iter(),
        // Nothing was written. Each is judged by itself.
        Err(StoreError::Refused(_) | StoreError::LeaseNotFound | StoreError::TooLarge(_)) => {
            for Member { txn, reply, .. } in members {
                _ = reply.send(Outcome::Alone(txn));
            }
            return count;
        }
        Err(error) => {
            for Member { reply, .. } in members {
                _ = reply.send(Outcome::Done(Err(error.clone())));
            }
            return count;
        }
    };
    for Member { reply, .. } in members {
        let result = match (replies.next(), revision) {
            (Some(TxnOpResponse::Txn(response)), Some(revision)) => {
                Ok(TxnReply { revision, ..convert::txn_reply(&response) })
            }
            _ => Err(StoreError::Unavailable("etcd left out a reply of a group".into())),
        };
        _ = reply.send(Outcome::Done(result));
    }
    count
}

/// The transaction that contains those of all members, in their order, and then one for each key that several
/// members share.
fn together(members: &[Member]) -> etcd_client::Txn {
    // The last writer of each key that is shared, and whether there are others.
    let mut shared: HashMap<&str, (&Op, bool)> = HashMap::new();
    for op in members.iter().flat_map(|member| &member.txn.then) {
        if let Op::PutLast { key, .. } = op {
            shared.entry(key).and_modify(|entry| *entry = (op, true)).or_insert((op, false));
        }
    }
    let mut ops: Vec<TxnOp> = Vec::with_capacity(members.len() + shared.len());
    for Member { txn, .. } in members {
        let mut txn = txn.clone();
        txn.then.retain(|op| match op {
            Op::PutLast { key, .. } => shared.get(key.as_str()).is_none_or(|(_, by_others)| !by_others),
            _ => true,
        });
        ops.push(TxnOp::txn(convert::txn(txn)));
    }
    for (op, by_others) in shared.into_values() {
        if let (Op::PutLast { key, value, owner }, true) = (op, by_others) {
            let txn = Txn {
                compare: vec![Compare::Exists(owner.clone())],
                then: vec![Op::put(key.clone(), value.clone())],
                ..Txn::default()
            };
            ops.push(TxnOp::txn(convert::txn(txn)));
        }
    }
    etcd_client::Txn::new().and_then(ops)
}

/// The use that a transaction makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Read,
    /// Written as several transactions of a group may write it.
    Shared,
    Written,
}

/// The hashes of the keys that a transaction uses. Two keys with one hash only keep each other out of a
/// group.
fn uses_of(txn: &Txn) -> Vec<(u64, Use)> {
    let mut uses = Vec::with_capacity(txn.compare.len() + txn.then.len() + txn.otherwise.len());
    for compare in &txn.compare {
        uses.push((hash_of(key_of(compare)), Use::Read));
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        uses.push(match op {
            Op::Get(key) => (hash_of(key), Use::Read),
            Op::PutLast { key, .. } => (hash_of(key), Use::Shared),
            Op::Put { key, .. } | Op::Delete(key) | Op::DeletePrefix(key) => (hash_of(key), Use::Written),
        });
    }
    // The strongest use of each key counts. A key that is read as well cannot be shared: the others change
    // it.
    uses.sort_unstable_by(|a, b| b.cmp(a));
    uses.dedup_by(|weaker, stronger| {
        let same = weaker.0 == stronger.0;
        if same && stronger.1 == Use::Shared && weaker.1 == Use::Read {
            stronger.1 = Use::Written;
        }
        same
    });
    uses
}

fn key_of(compare: &Compare) -> &str {
    match compare {
        Compare::Exists(key)
        | Compare::Absent(key)
        | Compare::ModRev(key, _)
        | Compare::UnwrittenSince(key, _) => key,
    }
}

fn hash_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The bytes of a transaction that can join a group. `None` for one that has to go alone: it is long or
/// large, writes nothing, or deletes or compares keys that nobody can tell in advance.
fn size_to_join(txn: &Txn) -> Option<usize> {
    let longest = txn.compare.len().max(txn.then.len()).max(txn.otherwise.len());
    let compares_many = txn.compare.iter().any(|compare| matches!(compare, Compare::UnwrittenSince(..)));
    if longest > MOST_OPS || compares_many {
        return None;
    }
    let mut writes = false;
    let mut bytes: usize = txn.compare.iter().map(|compare| key_of(compare).len()).sum();
    for op in txn.then.iter().chain(&txn.otherwise) {
        bytes += match op {
            Op::Put { key, value, .. } | Op::PutLast { key, value, .. } => {
                writes = true;
                key.len() + value.len()
            }
            Op::Delete(key) => {
                writes = true;
                key.len()
            }
            Op::Get(key) => key.len(),
            Op::DeletePrefix(_) => return None,
        };
    }
    (writes && bytes <= MOST_BYTES).then_some(bytes)
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store was closed".into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::model::Revision;

    use super::*;

    fn queue(txns: Vec<Txn>) -> (VecDeque<Member>, Vec<oneshot::Receiver<Outcome>>) {
        let mut outcomes = Vec::new();
        let members = txns.into_iter().map(|txn| {
            let (reply, outcome) = oneshot::channel();
            outcomes.push(outcome);
            let begins_by = Instant::now() + Duration::from_secs(1);
            Member { bytes: size_to_join(&txn).unwrap_or(0), txn, begins_by, reply }
        });
        (members.collect(), outcomes)
    }

    fn formed(waiting: &mut VecDeque<Member>) -> Vec<Member> {
        form(waiting, Instant::now(), &Figures::default())
    }

    /// The transactions that go together, by their numbers; the others are handed back.
    fn together_of(txns: Vec<Txn>) -> Vec<usize> {
        let (mut waiting, mut outcomes) = queue(txns);
        let group = formed(&mut waiting);
        assert!(waiting.is_empty());
        let numbers = (0..outcomes.len()).filter(|n| outcomes[*n].try_recv().is_err()).collect::<Vec<_>>();
        assert_eq!(group.len(), numbers.len());
        numbers
    }

    fn put(key: &str) -> Txn {
        Txn { then: vec![Op::put(key, "x")], ..Txn::default() }
    }

    fn shared(key: &str) -> Txn {
        let last = Op::PutLast { key: "size".into(), value: "1".into(), owner: "o".into() };
        Txn { then: vec![Op::put(key, "x"), last], ..Txn::default() }
    }

    fn when(compare: Compare, txn: Txn) -> Txn {
        Txn { compare: vec![compare], ..txn }
    }

    #[test]
    fn only_those_that_do_not_touch_each_other_go_together() {
        let exists = |key: &str| Compare::Exists(key.into());
        assert_eq!(together_of(vec![put("a"), put("b"), put("a")]), [0, 1]);
        assert_eq!(together_of(vec![when(exists("s"), put("a")), when(exists("s"), put("b"))]), [0, 1]);
        assert_eq!(together_of(vec![put("s"), when(exists("s"), put("b")), put("c")]), [0, 2]);
        assert_eq!(together_of(vec![when(exists("s"), put("a")), put("s")]), [0]);
        assert_eq!(together_of(vec![shared("a"), shared("b"), put("size")]), [0, 1]);
        assert_eq!(together_of(vec![put("size"), shared("b")]), [0]);
        let both = when(Compare::ModRev("size".into(), Revision::ZERO), shared("b"));
        assert_eq!(together_of(vec![shared("a"), both]), [0], "it would read what the other writes");
        let otherwise = Txn { otherwise: vec![Op::put("a", "x")], ..put("b") };
        assert_eq!(together_of(vec![put("a"), otherwise]), [0]);
    }

    #[test]
    fn a_group_keeps_within_the_limits_of_etcd() {
        let (mut waiting, outcomes) = queue((0..200).map(|n| shared(&n.to_string())).collect());
        assert_eq!(formed(&mut waiting).len(), MOST_NESTED - 1, "one is for the key that they share");
        assert_eq!(waiting.len(), 200 - (MOST_NESTED - 1), "the others keep their order");
        drop(outcomes);
        assert!(formed(&mut waiting).is_empty(), "nobody waits for them any more");
        let large = |n: usize| Txn {
            then: vec![Op::put(n.to_string(), vec![b'x'; MOST_BYTES - 100])],
            ..Txn::default()
        };
        let (mut waiting, _outcomes) = queue((0..20).map(large).collect());
        assert_eq!(formed(&mut waiting).len(), MOST_GROUP_BYTES / MOST_BYTES);
    }

    #[test]
    fn a_transaction_that_has_waited_for_too_long_does_not_happen() {
        let (mut waiting, mut outcomes) = queue(vec![put("a"), put("b")]);
        waiting[0].begins_by = Instant::now() - Duration::from_millis(1);
        let figures = Figures::default();
        assert_eq!(form(&mut waiting, Instant::now(), &figures).len(), 1);
        assert_eq!(figures.refused.load(Ordering::Relaxed), 1);
        assert!(matches!(outcomes[0].try_recv(), Ok(Outcome::Done(Err(StoreError::Busy)))));
        assert!(outcomes[1].try_recv().is_err(), "it is on its way");
    }

    #[test]
    fn reads_long_and_large_ones_go_alone() {
        assert!(size_to_join(&put("a")).is_some());
        let alone = [
            vec![Op::Get("a".into())],
            vec![Op::DeletePrefix("a".into())],
            vec![Op::put("a", vec![b'x'; MOST_BYTES])],
            (0..=MOST_OPS).map(|n| Op::put(n.to_string(), "x")).collect(),
        ];
        for then in alone {
            assert!(size_to_join(&Txn { then, ..Txn::default() }).is_none());
        }
    }
}
