//! Crowds of transactions at once, each judged against what the watch says the store held.
//!
//! A store may commit transactions of one moment together. To callers that must not show: each is decided by
//! its own conditions on a state that was there, is answered by itself, and is written exactly if it was
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use shared::model::Revision;

use super::{StoreUnderTest, put_on, within};
use crate::store::{Compare, KvEvent, LeaseId, Op, RangeRequest, StoreError, Txn, TxnReply};

/// The keys that all transactions have in common.
const COMMON: usize = 12;
const WAVES: usize = 12;
/// The transactions of a wave: more than etcd takes in one commit.
const EACH: usize = 150;
const COMMON_PREFIX: &str = "/t/common/";
const OWNER: &str = "/t/owner";
const SIZE: &str = "/t/size";

/// The value and the revision of each key.
type Keys = BTreeMap<String, (String, Revision)>;

fn common(random: &mut fastrand::Rng) -> String {
    format!("{COMMON_PREFIX}{}", random.usize(..COMMON))
}

fn own(number: usize) -> String {
    format!("/t/own/{number:05}")
}

/// The revisions of keys as one of the callers knows them: those of the wave before.
fn compare(random: &mut fastrand::Rng, known: &Keys) -> Compare {
    let key = common(random);
    let rev = known.get(&key).map_or(Revision::ZERO, |(_, rev)| *rev);
    match random.u8(..6) {
        0 => Compare::Exists(key),
        1 => Compare::Absent(key),
        2 => Compare::UnwrittenSince(key, rev),
        _ => Compare::ModRev(key, rev),
    }
}

/// A transaction with a key of its own, by which it is known in the watch: no two write the same value.
fn transaction(random: &mut fastrand::Rng, number: usize, known: &Keys) -> Txn {
    let value = number.to_string();
    let mut then = vec![Op::put(own(number), value.clone())];
    match random.u8(..8) {
        0 => then.push(Op::Delete(common(random))),
        1..=3 => then.push(Op::put(common(random), value.clone())),
        4 => then.push(Op::PutLast { key: SIZE.into(), value: value.clone().into(), owner: OWNER.into() }),
        _ => {}
    }
    let otherwise = match random.u8(..4) {
        0 => vec![Op::Get(common(random))],
        1 => vec![Op::put(own(number), value)],
        _ => vec![],
    };
    let count = random.usize(..3);
    Txn { compare: (0..count).map(|_| compare(random, known)).collect(), then, otherwise, ..Txn::default() }
}

/// One that no store takes.
fn spoiler(random: &mut fastrand::Rng, number: usize) -> Txn {
    let own = own(number);
    let then = match random.u8(..3) {
        0 => vec![put_on(&own, "x", LeaseId::new(4711).expect("not zero"))],
        1 => vec![Op::put(own.clone(), "x"), Op::put(own, "x")],
        // Beyond the limits of both stores.
        _ => vec![Op::put(own, vec![b'x'; 4 * 1024 * 1024])],
    };
    Txn { then, ..Txn::default() }
}

fn is_held(compare: &Compare, keys: &Keys) -> bool {
    let rev_of = |key: &String| keys.get(key).map_or(Revision::ZERO, |(_, rev)| *rev);
    match compare {
        Compare::Exists(key) => rev_of(key) > Revision::ZERO,
        Compare::Absent(key) => rev_of(key) == Revision::ZERO,
        Compare::ModRev(key, rev) => rev_of(key) == *rev,
        Compare::UnwrittenSince(prefix, since) => {
            keys.iter().filter(|(key, _)| key.starts_with(prefix)).all(|(_, (_, rev))| rev <= since)
        }
    }
}

/// The past of a store, as its watch tells it.
#[derive(Default)]
struct Past {
    /// The common keys after each revision that changed one of them.
    states: BTreeMap<Revision, Keys>,
    /// The values that each revision wrote.
    written: BTreeMap<Revision, BTreeMap<String, String>>,
    /// All keys now.
    now: Keys,
    /// The common keys before the first change.
    nothing: Keys,
}

impl Past {
    /// The common keys at a revision.
    fn at(&self, rev: Revision) -> &Keys {
        self.states.range(..=rev).next_back().map_or(&self.nothing, |(_, keys)| keys)
    }

    fn add(&mut self, events: Vec<KvEvent>) {
        for event in events {
            let rev = event.rev();
            let value = match &event {
                KvEvent::Put(kv) => Some(String::from_utf8_lossy(&kv.value).into_owned()),
                KvEvent::Delete { .. } => None,
            };
            let key = event.key().to_owned();
            let apply = |keys: &mut Keys, key: String| match &value {
                Some(value) => keys.insert(key, (value.clone(), rev)),
                None => keys.remove(&key),
            };
            if key.starts_with(COMMON_PREFIX) {
                let before = self.at(rev).clone();
                apply(self.states.entry(rev).or_insert(before), key.clone());
            }
            apply(&mut self.now, key.clone());
            if let Some(value) = value {
                self.written.entry(rev).or_default().insert(key, value);
            }
        }
    }

    /// Holds a reply against the states. Notes the writes that it accounts for.
    fn judge(&self, txn: &Txn, reply: &TxnReply, accounted: &mut BTreeSet<(Revision, String)>) {
        let ran = if reply.succeeded { &txn.then } else { &txn.otherwise };
        let writes = ran.iter().any(|op| matches!(op, Op::Put { .. }));
        // A write was decided before its revision. The revision of one that wrote nothing was there already.
        let judged_on = self.at(if writes { reply.revision.previous() } else { reply.revision });
        let holds = txn.compare.iter().all(|compare| is_held(compare, judged_on));
        assert_eq!(reply.succeeded, holds, "{:?} at {}: {judged_on:?}", txn.compare, reply.revision);
        let after = self.at(reply.revision);
        let nothing = BTreeMap::new();
        let written = self.written.get(&reply.revision).unwrap_or(&nothing);
        let mut got = reply.got.iter();
        for op in ran {
            match op {
                Op::Put { key, value, .. } => {
                    assert_eq!(written.get(key).map(|text| text.as_bytes()), Some(&value[..]), "{key}");
                    let is_first = accounted.insert((reply.revision, key.clone()));
                    assert!(is_first, "two that were acknowledged wrote {key} at {}", reply.revision);
                }
                // By one of those that share the revision.
                Op::PutLast { key, .. } => {
                    assert!(written.contains_key(key), "{key} at {}", reply.revision);
                    accounted.insert((reply.revision, key.clone()));
                }
                Op::Delete(key) => assert!(!after.contains_key(key), "{key} at {}", reply.revision),
                Op::Get(key) => {
                    let got = got.next().expect("an entry for each read").as_ref();
                    let got = got.map(|kv| (String::from_utf8_lossy(&kv.value).into_owned(), kv.mod_rev));
                    assert_eq!(got.as_ref(), after.get(key), "{key} at {}", reply.revision);
                }
                Op::DeletePrefix(_) => unreachable!("none is made"),
            }
        }
    }
}

/// Many random transactions at once, among them losers and such as no store takes: the state on which each
/// was decided was there, each that was acknowledged is stored, and nothing else is.
pub async fn each_of_a_crowd_is_judged_and_answered_by_itself(subject: StoreUnderTest) {
    // A new seed for each run. It is printed so that a failure can be repeated.
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let rev = subject.txn([Op::put(OWNER, "owner"), Op::put(SIZE, "size")]).await.revision;
    let mut watch = subject.watch(rev).await;
    let mut past = Past::default();
    past.add(watch.until(rev).await);
    let mut accounted = BTreeSet::new();
    let mut last = rev;
    for wave in 0..WAVES {
        let known = past.at(last).clone();
        let txns: Vec<(Txn, bool)> = (0..EACH)
            .map(|n| {
                let number = wave * EACH + n;
                match random.usize(..60) {
                    0 => (spoiler(&mut random, number), true),
                    _ => (transaction(&mut random, number, &known), false),
                }
            })
            .collect();
        let replies = join_all(txns.iter().map(|(txn, _)| subject.store.txn(txn.clone())));
        let replies = within("all are answered", replies).await;
        last = replies.iter().flatten().map(|reply| reply.revision).fold(last, Revision::max);
        past.add(watch.until(last).await);
        for ((txn, is_spoiler), reply) in txns.iter().zip(replies) {
            match reply {
                Ok(reply) => {
                    assert!(!is_spoiler, "a spoiler was taken");
                    past.judge(txn, &reply, &mut accounted);
                }
                Err(StoreError::LeaseNotFound | StoreError::Refused(_) | StoreError::TooLarge(_))
                    if *is_spoiler => {}
                Err(error) => panic!("wave {wave}: {error}"),
            }
        }
    }
    let nobodys: Vec<_> = past
        .written
        .iter()
        .filter(|(at, _)| **at > rev)
        .flat_map(|(at, keys)| keys.keys().map(|key| (*at, key.clone())))
        .filter(|write| !accounted.contains(write))
        // One for all may be written although those that wanted it have lost.
        .filter(|(_, key)| key != SIZE)
        .collect();
    assert!(nobodys.is_empty(), "nobody was told of {nobodys:?}");
    let read = subject.store.range(RangeRequest::prefix("/t/")).await.expect("range");
    let found: Keys = read
        .items
        .into_iter()
        .map(|kv| (kv.key, (String::from_utf8_lossy(&kv.value).into_owned(), kv.mod_rev)))
        .collect();
    assert_eq!(found, past.now);
}
