//! The oracle compares everything that a watcher received with everything that was committed. All system
//! tests share it.
//!
//! ```text
//! etcd ──watch of the test's own──▶ truth: every commit of every instance, in order
//! gateways ──frames──▶ witnesses: what each watcher saw, connection by connection
//!                                     └──▶ check: nothing lost, repeated, reordered, invented
//! ```
//!
//! Writers put a stamp, unique and growing, into the property `stamp` of what they write. By it a frame of an
//! old client, which has no revision, names the commit that it tells of.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

pub mod check;
pub mod truth;
pub mod verdict;
pub mod witness;

pub use check::{Findings, Holes};
pub use truth::{Commit, Truth};
pub use verdict::{Oracle, Verdict};
pub use witness::{WatchPlan, Way, Witness};

/// The property that holds the stamp.
pub const STAMP: &str = "stamp";

/// Short names of instances, and the stamps given out. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<LedgerEntries>);

#[derive(Debug, Default)]
struct LedgerEntries {
    keys: Mutex<HashMap<String, u32>>,
    names: Mutex<Vec<String>>,
    last: AtomicU64,
    given: Mutex<Vec<Instant>>,
}

impl Ledger {
    /// The number that stands for an instance of a service.
    pub fn key(&self, service: &str, instance: &str) -> u32 {
        let name = format!("{service}/{instance}");
        // The map stays locked until the name is stored, so that two callers cannot number the same instance
        // twice.
        let mut keys = self.0.keys.lock();
        if let Some(key) = keys.get(&name) {
            return *key;
        }
        let mut names = self.0.names.lock();
        let key = names.len() as u32;
        names.push(name.clone());
        keys.insert(name, key);
        key
    }

    /// `{service}/{instance}` of a key.
    pub fn name(&self, key: u32) -> String {
        self.0.names.lock().get(key as usize).cloned().unwrap_or_default()
    }

    /// A stamp that nobody has had, to be written right after.
    pub fn stamp(&self) -> u64 {
        // The list stays locked until the number is taken, so that the stamp `n` is at the index `n - 1`.
        let mut given = self.0.given.lock();
        given.push(Instant::now());
        self.0.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// When a stamp was given out; `None` for one that never was.
    pub fn given(&self, stamp: u64) -> Option<Instant> {
        self.0.given.lock().get(usize::try_from(stamp).ok()?.checked_sub(1)?).copied()
    }
}

/// The kind of a change of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there.
    Create,
    /// It changed.
    Update,
    /// It went.
    Delete,
}

/// One change that a watcher received.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// The instance.
    pub key: u32,
    /// The kind of the change.
    pub kind: ChangeKind,
    /// The stamp of the instance in the frame.
    pub stamp: u64,
    /// The revision in the frame, for watchers that asked for it.
    pub rev: Option<u64>,
    /// When it came.
    pub at: Instant,
}

/// One connection of a watcher.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// The changes, in the order of receipt.
    pub sights: Vec<Sight>,
    /// The bookmarks and states of a resumable watch, each with the number of sights before it.
    pub marks: Vec<(usize, Mark)>,
    /// The state pulled after the connection was opened, as old clients do after a reconnect.
    pub pulled: Option<Pulled>,
    /// The revision from which it was resumed.
    pub resumed: Option<u64>,
}

/// A message of a resumable watch that is not a change.
#[derive(Clone, Debug)]
pub enum Mark {
    /// Everything up to here has been told.
    Bookmark(u64),
    /// The complete state of a service.
    State(State),
}

impl Mark {
    /// The message as it concerns one instance.
    fn about(&self, key: u32) -> String {
        match self {
            Self::Bookmark(rev) => format!("bookmark {rev}"),
            Self::State(State { service, instances, rev }) => {
                format!("state of {service:?} at {rev}: {:?}", instances.get(&key))
            }
        }
    }
}

/// The complete state of a service, as a watch sent it.
#[derive(Clone, Debug)]
pub struct State {
    /// Its id.
    pub service: String,
    /// Instance and stamp.
    pub instances: HashMap<u32, u64>,
    /// The revision at which it was so, or soon after which.
    pub rev: u64,
}

/// The state of all providers, as the registry gave it.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Instance and stamp.
    pub instances: HashMap<u32, u64>,
    /// When the first of the answers had come.
    pub at: Instant,
}

/// The text value of the first field `name` at or after `from`, without unescaping: ids and stamps have none.
fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = json;
    loop {
        let start = rest.find(name)? + name.len();
        let before = rest[..start - name.len()].ends_with('"');
        let after = &rest[start..];
        match after.strip_prefix("\":\"") {
            Some(value) if before => return value.split('"').next(),
            _ => rest = after,
        }
    }
}

/// Reads a frame: action, instance, stamp, revision. `None` for one that tells of no instance.
pub(crate) fn read(ledger: &Ledger, json: &str) -> Option<Sight> {
    let kind = match field(json, "action")? {
        "CREATE" => ChangeKind::Create,
        "UPDATE" => ChangeKind::Update,
        "DELETE" => ChangeKind::Delete,
        _ => return None,
    };
    // The instance has its own part: the name of its service stands outside of it.
    let instance = &json[json.find("\"instance\":")?..];
    let key = ledger.key(field(instance, "serviceId")?, field(instance, "instanceId")?);
    let stamp = field(instance, STAMP).and_then(|stamp| stamp.parse().ok()).unwrap_or(0);
    let rev = json.find("\"rev\":").and_then(|at| {
        let digits: String =
            json[at + 6..].chars().skip_while(|c| *c == '"').take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    Some(Sight { key, kind, stamp, rev, at: Instant::now() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_whatever_the_order_of_its_fields() {
        let ledger = Ledger::default();
        let frame = r#"{"response":{"message":"ok"},"action":"UPDATE","key":{"serviceName":"action"},
            "instance":{"instanceId":"i","serviceId":"s","properties":{"stamp":"17"},"hostName":"stamp"}}"#;
        let sight = read(&ledger, frame).expect("it tells of an instance");
        assert_eq!((sight.kind, sight.stamp, sight.rev), (ChangeKind::Update, 17, None));
        assert_eq!(ledger.name(sight.key), "s/i");
        assert_eq!(read(&ledger, r#"{"action":"BOOKMARK","rev":7}"#).map(|_| ()), None);
    }

    #[test]
    fn stamps_grow_and_remember_when_they_were_given() {
        let ledger = Ledger::default();
        assert_eq!((ledger.stamp(), ledger.stamp()), (1, 2));
        assert!(ledger.given(2) >= ledger.given(1) && ledger.given(1).is_some());
        assert_eq!((ledger.given(0), ledger.given(3)), (None, None));
    }
}
