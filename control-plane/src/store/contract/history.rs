//! Random histories, compared with a model that is short and obviously right.

use shared::model::Revision;
use std::collections::BTreeMap;

use super::{StoreUnderTest, within};
use crate::store::{Compare, KvEvent, Op, RangeRequest, Txn, WatchItem};

const KEYS: [&str; 5] = ["/t/a", "/t/a/1", "/t/a/2", "/t/b", "/u/c"];

/// For each key its value, the revisions of its creation and last write, and its version.
type Keys = BTreeMap<String, (String, Revision, Revision, u64)>;

/// The newest keys, the keys at each revision, and every change so far.
#[derive(Default)]
struct HistoryModel {
    rev: Revision,
    keys: Keys,
    past: BTreeMap<Revision, Keys>,
    changes: Vec<(Revision, String, Option<String>)>,
}

impl HistoryModel {
    fn apply(&mut self, txn: &Txn) -> bool {
        let holds = txn.compare.iter().all(|compare| match compare {
            Compare::Exists(key) => self.rev_of(key) > Revision::ZERO,
            Compare::Absent(key) => self.rev_of(key) == Revision::ZERO,
            Compare::ModRev(key, rev) => self.rev_of(key) == *rev,
            Compare::UnwrittenSince(prefix, rev) => {
                self.keys.iter().filter(|(key, _)| key.starts_with(prefix)).all(|(_, kv)| kv.2 <= *rev)
            }
        });
        let before = self.changes.len();
        let rev = self.rev.next();
        for op in if holds { &txn.then } else { &txn.otherwise } {
            match op {
                Op::Put { key, value, .. } | Op::PutLast { key, value, .. } => {
                    let value = String::from_utf8_lossy(value).into_owned();
                    let (created, version) = self.keys.get(key).map_or((rev, 0), |kv| (kv.1, kv.3));
                    self.keys.insert(key.clone(), (value.clone(), created, rev, version + 1));
                    self.changes.push((rev, key.clone(), Some(value)));
                }
                Op::Delete(key) => self.delete(rev, |k| k == key),
                Op::DeletePrefix(prefix) => self.delete(rev, |k| k.starts_with(prefix)),
                Op::Get(_) => {}
            }
        }
        if self.changes.len() > before {
            self.rev = rev;
        }
        self.past.insert(self.rev, self.keys.clone());
        holds
    }

    /// The revision of the last write of a key; 0 if the key does not exist.
    fn rev_of(&self, key: &str) -> Revision {
        self.keys.get(key).map_or(Revision::ZERO, |kv| kv.2)
    }

    fn delete(&mut self, rev: Revision, doomed: impl Fn(&String) -> bool) {
        let keys: Vec<_> = self.keys.keys().filter(|key| doomed(key)).cloned().collect();
        for key in keys {
            self.keys.remove(&key);
            self.changes.push((rev, key, None));
        }
    }
}

fn key(random: &mut fastrand::Rng) -> String {
    KEYS[random.usize(..KEYS.len())].to_owned()
}

fn ops(random: &mut fastrand::Rng) -> Vec<Op> {
    // Either one delete by prefix or distinct keys, since a transaction must not write a key twice.
    if random.u8(..6) == 0 {
        return vec![Op::DeletePrefix("/t/a".into())];
    }
    let mut keys = KEYS.to_vec();
    random.shuffle(&mut keys);
    keys.truncate(random.usize(..4));
    let mut ops = Vec::new();
    for key in keys {
        ops.push(match random.u8(..3) {
            0 => Op::Delete(key.into()),
            _ => Op::put(key, random.u32(..).to_string()),
        });
    }
    ops
}

fn compares(random: &mut fastrand::Rng, model: &HistoryModel) -> Vec<Compare> {
    let count = random.usize(..3);
    (0..count).map(|_| compare(random, model)).collect()
}

fn compare(random: &mut fastrand::Rng, model: &HistoryModel) -> Compare {
    match random.u8(..5) {
        0 => Compare::Exists(key(random)),
        1 => Compare::Absent(key(random)),
        2 => {
            let prefix = key(random);
            let latest =
                model.keys.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, kv)| kv.2).max();
            let rev = latest.unwrap_or_default();
            // One in five is too early, as above, and nothing is written after the newest revision.
            Compare::UnwrittenSince(prefix, [rev.previous(), rev, rev, rev, model.rev][random.usize(..5)])
        }
        _ => {
            let key = key(random);
            let rev = model.rev_of(&key);
            // One in five is wrong by one, so that transactions fail as well.
            Compare::ModRev(key, if random.u8(..5) == 0 { rev.previous() } else { rev })
        }
    }
}

/// Replies, reads of old and new revisions, and the watch all agree with the model.
pub async fn random_histories_agree_with_a_plain_model(subject: StoreUnderTest) {
    // A new seed for each run. It is printed so that a failure can be repeated.
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let start = subject.store.range(RangeRequest::key("/t/")).await.expect("range").revision;
    let mut model = HistoryModel { rev: start, ..HistoryModel::default() };
    let mut watch = subject.watch(start.next()).await;
    for step in 0..300 {
        let txn = Txn {
            compare: compares(&mut random, &model),
            then: ops(&mut random),
            otherwise: ops(&mut random),
            ..Txn::default()
        };
        let succeeded = model.apply(&txn);
        let reply = subject.store.txn(txn).await.expect("txn");
        assert_eq!((reply.succeeded, reply.revision), (succeeded, model.rev), "seed {seed} step {step}");
        let (&then, expected) = match random.bool() {
            true => model.past.iter().next_back().expect("the history has begun"),
            false => model.past.iter().nth(random.usize(..model.past.len())).expect("in bounds"),
        };
        let request = RangeRequest { revision: Some(then), ..RangeRequest::prefix("/") };
        let read = subject.store.range(request).await.expect("range");
        let found: Keys = read
            .items
            .into_iter()
            .map(|kv| {
                let value = String::from_utf8_lossy(&kv.value).into_owned();
                (kv.key, (value, kv.create_rev, kv.mod_rev, kv.version))
            })
            .collect();
        assert_eq!(&found, expected, "seed {seed} step {step} at {then}");
    }
    let watched = model.changes.iter().filter(|(_, key, _)| key.starts_with("/t/"));
    let mut expected: Vec<_> = watched.cloned().collect();
    let mut seen: Vec<(Revision, String, Option<String>)> = Vec::new();
    within("the watch delivers the whole history", async {
        while seen.len() < expected.len() {
            let WatchItem::Events(events) = watch.item().await else { continue };
            seen.extend(events.into_iter().map(|event| match event {
                KvEvent::Put(kv) => {
                    (kv.mod_rev, kv.key, Some(String::from_utf8_lossy(&kv.value).into_owned()))
                }
                KvEvent::Delete { key, rev } => (rev, key, None),
            }));
        }
    })
    .await;
    // The order of changes within one revision is not part of the contract.
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "seed {seed}");
}
