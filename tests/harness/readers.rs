//! Readers of the dialects: xDS in both variants, Prometheus' discovery, DNS, and Eureka by single applications and
//! by deltas, while the system is being broken.
//!
//! All of them read one service, in which some instances are always there and are written by one writer only.
//! By these each state that a reader is told can be judged alone: it has all of them, because nothing could
//! prove their absence, and none of their stamps goes back. In the end a reader must have what etcd has.
//! Server-sent events have the form of a resumable watch, so a [`Witness`](crate::oracle::Witness) reads
//! them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::deadline;
use crate::load::address_of;
use crate::oracle::{Oracle, Truth};

mod asking;
mod eureka;
mod polled;
pub mod xds;

/// The wait before a reader asks again.
const PAUSE: Duration = Duration::from_millis(200);
/// The time limit of a question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Faults that are kept of one reader.
const MOST: usize = 5;

/// The service that is read.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// Its id.
    pub service: String,
    /// Its name, in the application `shop`.
    pub name: String,
    /// Ids of the instances that are always there.
    pub fixed: Vec<String>,
    /// Gateways, each with its server of DNS.
    pub gateways: Vec<(SocketAddr, SocketAddr)>,
}

/// A way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A delta stream of xDS.
    XdsDelta,
    /// A stream of xDS with the state of the world.
    XdsWorld,
    /// Targets for Prometheus.
    HttpSd,
    /// Names in DNS.
    Dns,
    /// An application of Eureka.
    Eureka,
    /// All applications of Eureka, and then what has changed.
    EurekaDelta,
}

/// What a reader was told of the service: the stamp of each instance, under the word that the dialect has for
/// it. `None` where it tells no stamp.
type Told = BTreeMap<String, Option<u64>>;

#[derive(Debug, Default)]
struct Record {
    told: usize,
    last: Told,
    /// The highest stamp of each instance that must not go back.
    floor: BTreeMap<String, u64>,
    /// The latest incarnation and revision in a version.
    version: (u64, u64),
    faults: Vec<String>,
}

impl Record {
    fn fault(&mut self, words: String) {
        if self.faults.len() < MOST {
            self.faults.push(words);
        }
    }

    /// Takes in a state.
    fn note(&mut self, fixed: &[String], told: Told) {
        self.told += 1;
        for word in fixed {
            match told.get(word) {
                None => self.fault(format!("state {}: lacks {word} and has {told:?}", self.told)),
                Some(None) => {}
                Some(Some(stamp)) => {
                    let floor = self.floor.entry(word.clone()).or_default();
                    let before = std::mem::replace(floor, (*stamp).max(*floor));
                    if *stamp < before {
                        let number = self.told;
                        self.fault(format!("state {number}: {word} went back from {before} to {stamp}"));
                    }
                }
            }
        }
        self.last = told;
    }

    /// Takes in the version of a state.
    fn version(&mut self, text: &str) {
        match point_of(text) {
            None => self.fault(format!("`{text}` is no version")),
            Some(point) if point < self.version => {
                let before = self.version;
                self.fault(format!("the version went back from {before:?} to {point:?}"));
            }
            Some(point) => self.version = point,
        }
    }

    /// Takes in the version of clusters after another one, which is empty before the first.
    fn newer_clusters(&mut self, before: &str, version: &str) {
        match (point_of(before), point_of(version)) {
            (_, None) => self.fault(format!("`{version}` is no version of clusters")),
            (before, now) if now < before => {
                self.fault(format!("the version of clusters went back from {before:?} to {now:?}"));
            }
            _ => {}
        }
    }

    /// A process that was started anew may know less than the one before it, in a dialect whose answers have
    /// no versions.
    fn begin_anew(&mut self) {
        self.floor.clear();
    }
}

/// Incarnation and revision of a version of xDS, `INCARNATION.REVISION-DIGEST`.
pub fn point_of(version: &str) -> Option<(u64, u64)> {
    let (incarnation, revision) = version.split_once('-')?.0.split_once('.')?;
    Some((incarnation.parse().ok()?, revision.parse().ok()?))
}

/// A reader at work. Ends when dropped.
pub struct Reader {
    dialect: Dialect,
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All readers of a case.
pub struct Readers {
    plan: ReadPlan,
    readers: Vec<Reader>,
}

impl Dialect {
    /// The word for an instance.
    fn word(self, service: &str, instance: &str) -> String {
        match self {
            Self::XdsDelta | Self::XdsWorld => address_of(service, instance),
            Self::HttpSd | Self::Dns | Self::Eureka | Self::EurekaDelta => instance.to_owned(),
        }
    }
}

impl Readers {
    /// Begins to read: over xDS as clients that go from one gateway to the next, else of each gateway.
    pub fn start(plan: ReadPlan) -> Self {
        let mut readers = Vec::new();
        let mut begin = |dialect: Dialect, gateways: &[(SocketAddr, SocketAddr)]| {
            let record = Arc::new(Mutex::new(Record::default()));
            let fixed = plan.fixed.iter().map(|id| dialect.word(&plan.service, id)).collect();
            let part = Part { dialect, name: plan.name.clone(), fixed, gateways: gateways.to_vec() };
            let of_task = record.clone();
            let task = tokio::spawn(async move { part.read(&of_task).await });
            readers.push(Reader { dialect, record, task });
        };
        begin(Dialect::XdsDelta, &plan.gateways);
        begin(Dialect::XdsWorld, &plan.gateways);
        for gateway in &plan.gateways {
            for dialect in [Dialect::HttpSd, Dialect::Dns, Dialect::Eureka, Dialect::EurekaDelta] {
                begin(dialect, std::slice::from_ref(gateway));
            }
        }
        Self { plan, readers }
    }

    /// Waits until every reader has what etcd has, or the deadline has passed. Prints one line.
    ///
    /// # Panics
    /// When a reader lacks something in the end, or was told something untrue on the way.
    pub async fn judge(&self, oracle: &Oracle, fault: &str) {
        oracle.truth.reaches().await;
        let give_up = Instant::now() + deadline();
        let behind = loop {
            let behind: Vec<String> =
                self.readers.iter().filter_map(|reader| self.behind(oracle, reader)).collect();
            if behind.is_empty() || Instant::now() >= give_up {
                break behind;
            }
            tokio::time::sleep(PAUSE).await;
        };
        let mut faults = behind;
        let mut states = Vec::new();
        for reader in &self.readers {
            let record = reader.record.lock();
            states.push(format!("{:?} {}", reader.dialect, record.told));
            faults.extend(record.faults.iter().map(|words| format!("{:?}: {words}", reader.dialect)));
        }
        println!("  dialects: states told {}", states.join(", "));
        assert!(faults.is_empty(), "{fault}: {}", faults.join("\n"));
    }

    /// The difference between a reader's last state and the truth.
    fn behind(&self, oracle: &Oracle, reader: &Reader) -> Option<String> {
        let expected = truth(&oracle.truth, oracle, &self.plan.service, reader.dialect);
        let record = reader.record.lock();
        let is_same = record.last.len() == expected.len()
            && record.last.iter().all(|(word, stamp)| {
                expected.get(word).is_some_and(|known| stamp.is_none_or(|stamp| stamp == *known))
            });
        (!is_same).then(|| format!("{:?} has {:?}, and etcd {expected:?}", reader.dialect, record.last))
    }
}

fn truth(truth: &Truth, oracle: &Oracle, service: &str, dialect: Dialect) -> BTreeMap<String, u64> {
    let commits = truth.commits(&[service.to_owned()]);
    let there = commits.iter().filter_map(|(key, commits)| Some((key, commits.last()?.stamp?)));
    let named = there.filter_map(|(key, stamp)| {
        let name = oracle.ledger.name(*key);
        let (_, instance) = name.split_once('/')?;
        Some((dialect.word(service, instance), stamp))
    });
    named.collect()
}

/// The part of a plan that one reader needs.
struct Part {
    dialect: Dialect,
    name: String,
    /// The words of the instances that are always there.
    fixed: Vec<String>,
    gateways: Vec<(SocketAddr, SocketAddr)>,
}

impl Part {
    async fn read(&self, record: &Mutex<Record>) {
        match self.dialect {
            Dialect::XdsDelta | Dialect::XdsWorld => xds::follow(self, record).await,
            Dialect::HttpSd | Dialect::Dns | Dialect::Eureka | Dialect::EurekaDelta => {
                polled::follow(self, record).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_lacks_or_loses_something_is_a_fault() {
        let fixed = ["a".to_owned(), "b".to_owned()];
        let told = |pairs: &[(&str, Option<u64>)]| {
            pairs.iter().map(|(word, stamp)| ((*word).to_owned(), *stamp)).collect::<Told>()
        };
        let mut record = Record::default();
        record.note(&fixed, told(&[("a", Some(2)), ("b", Some(3)), ("c", Some(9))]));
        record.note(&fixed, told(&[("a", Some(2)), ("b", Some(4))]));
        record.version("0.7-0");
        record.version("0.7-1");
        record.version("3.5-1");
        assert_eq!(record.faults, [""; 0]);
        record.note(&fixed, told(&[("a", Some(1)), ("b", Some(4))]));
        record.note(&fixed, told(&[]));
        record.version("3.4-0");
        assert_eq!(record.faults.len(), 4, "back, two that lack, an older version: {:?}", record.faults);
        let mut record = Record::default();
        record.newer_clusters("", "0.7-0");
        record.newer_clusters("0.7-0", "0.7-1");
        assert_eq!(record.faults, [""; 0]);
        record.newer_clusters("0.7-1", "0.6-2");
        record.newer_clusters("0.7-1", "");
        assert_eq!(record.faults.len(), 2, "an older version, and none: {:?}", record.faults);
        let mut record = Record { floor: [("a".to_owned(), 9)].into(), ..Record::default() };
        record.begin_anew();
        record.note(&fixed[..1], told(&[("a", Some(1))]));
        assert_eq!(record.faults, [""; 0]);
    }
}
