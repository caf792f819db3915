//! The last changes of each service, with their causes, for people to read.
//!
//! The view's writer notes them as it applies the store. They are bounded for each service, so that a busy
//! one leaves the others theirs, and altogether by number and size; then the oldest go first. A replica that
//! lists the store knows nothing of before, and says since when it knows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::Serialize;
use shared::model::{Instance, Revision, ServiceRef};

use super::OverrideView;
use crate::carriage::weight;

/// The most changes that are kept of one service.
const OF_SERVICE: usize = 200;

/// The reason of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The instance registered.
    Registered,
    /// It registered again: its old life had ended unseen, or its hold ended with it.
    RegisteredAgain,
    /// Its reported status changed, and nothing else.
    StatusChanged,
    /// Something else of its record changed.
    Changed,
    /// It unregistered, or somebody unregistered it.
    Unregistered,
    /// Its heartbeats stayed away until its lease ended.
    BeatLost,
    /// Its heartbeats stayed away, and protection against mass expiry holds it.
    Held,
    /// Its hold ended, and the instance with it.
    HoldEnded,
    /// Its service was registered after it.
    ServiceRegistered,
    /// Its service was deleted.
    ServiceDeleted,
    /// An override was set or changed.
    Override,
    /// An override ended.
    OverrideEnded,
    /// A drain began: the instance is kept out of the traffic.
    Drain,
    /// A drain ended, and the instance stayed.
    DrainEnded,
}

/// The override that changed an instance.
#[derive(Debug)]
pub struct ByOverride {
    /// Its id.
    pub id: String,
    /// The override as it was written.
    pub entry: Arc<OverrideView>,
}

/// A change.
#[derive(Clone, Debug)]
pub struct Noted {
    /// The revision of the change.
    pub rev: Revision,
    /// The time at which this replica received it, in unix microseconds.
    pub committed_at: u64,
    /// The reason.
    pub cause: Cause,
    /// The instance as clients saw it after the change, or last.
    pub instance: Arc<Instance>,
    /// The override behind the change.
    pub by: Option<Arc<ByOverride>>,
}

/// The changes of a service that are known.
#[derive(Debug)]
pub struct Known {
    /// Every change after this revision is known.
    pub since: Revision,
    /// The changes, oldest first.
    pub changes: Vec<Noted>,
}

/// The last changes of all services.
pub struct Timeline {
    state: RwLock<State>,
}

struct State {
    services: HashMap<ServiceRef, OfService>,
    count: usize,
    bytes: usize,
    /// Every change after this revision was noted, and those of services without an entry are none.
    floor: Revision,
    most: usize,
    most_bytes: usize,
}

#[derive(Default)]
struct OfService {
    /// The last change that was dropped.
    dropped: Revision,
    changes: VecDeque<Noted>,
}

impl Default for Timeline {
    fn default() -> Self {
        let state = State {
            services: HashMap::new(),
            count: 0,
            bytes: 0,
            floor: Revision::ZERO,
            most: 50_000,
            most_bytes: 32 << 20,
        };
        Self { state: RwLock::new(state) }
    }
}

impl Timeline {
    /// Keeps at most this many changes of this size; with 0 none.
    pub fn limit(&self, most: usize, most_bytes: usize) {
        let mut state = self.state.write();
        state.most = most;
        state.most_bytes = most_bytes;
    }

    /// Forgets everything. From now on, changes after `rev` are known.
    pub(super) fn restart(&self, rev: Revision) {
        let mut state = self.state.write();
        state.services.clear();
        state.count = 0;
        state.bytes = 0;
        state.floor = rev;
    }

    /// Notes a change.
    pub(super) fn note(&self, service: &ServiceRef, noted: Noted) {
        let state = &mut *self.state.write();
        let added = weight(&noted.instance);
        if state.most == 0 || added > state.most_bytes {
            state.floor = state.floor.max(noted.rev);
            return;
        }
        // The key is copied for a service that is new here only.
        let of_service = match state.services.get_mut(service) {
            Some(of_service) => of_service,
            None => state.services.entry(service.clone()).or_default(),
        };
        of_service.changes.push_back(noted);
        state.count += 1;
        state.bytes += added;
        if of_service.changes.len() > OF_SERVICE
            && let Some(oldest) = of_service.changes.pop_front()
        {
            of_service.dropped = oldest.rev;
            state.count -= 1;
            state.bytes -= weight(&oldest.instance);
        }
        if state.count > state.most || state.bytes > state.most_bytes {
            state.shorten();
        }
    }

    /// The known changes of a service, or of one of its instances.
    pub fn of(&self, service: &ServiceRef, instance: Option<&str>) -> Known {
        let state = self.state.read();
        let Some(of_service) = state.services.get(service) else {
            return Known { since: state.floor, changes: Vec::new() };
        };
        let is_wanted =
            |noted: &&Noted| instance.is_none_or(|instance| instance == noted.instance.instance_id);
        Known {
            since: state.floor.max(of_service.dropped),
            changes: of_service.changes.iter().filter(is_wanted).cloned().collect(),
        }
    }

    /// The number of changes that are kept.
    pub fn len(&self) -> usize {
        self.state.read().count
    }

    /// True while none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    /// Drops the older half. Not one by one: finding the oldest of all services at each change would cost the
    /// writer more than a pass over all of them now and then.
    fn shorten(&mut self) {
        let mut revisions: Vec<Revision> = Vec::with_capacity(self.count);
        for of_service in self.services.values() {
            revisions.extend(of_service.changes.iter().map(|noted| noted.rev));
        }
        let middle = revisions.len() / 2;
        let Some(cut) = (!revisions.is_empty()).then(|| *revisions.select_nth_unstable(middle).1) else {
            return;
        };
        let mut count = 0;
        let mut bytes = 0;
        self.services.retain(|_, of_service| {
            // Each list is in order of revision.
            let kept = of_service.changes.partition_point(|noted| noted.rev <= cut);
            of_service.changes.drain(..kept);
            of_service.changes.shrink_to_fit();
            count += of_service.changes.len();
            bytes += of_service.changes.iter().map(|noted| weight(&noted.instance)).sum::<usize>();
            !of_service.changes.is_empty()
        });
        self.count = count;
        self.bytes = bytes;
        self.floor = self.floor.max(cut);
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    fn service(name: &str) -> ServiceRef {
        ServiceRef::new(Tenant::default(), name)
    }

    fn noted(rev: u64) -> Noted {
        let instance = Instance { instance_id: format!("i{}", rev % 2), ..Instance::default() };
        let instance = Arc::new(instance);
        Noted { rev: rev.into(), committed_at: 0, cause: Cause::Changed, instance, by: None }
    }

    #[test]
    fn a_busy_service_leaves_the_others_theirs() {
        let timeline = Timeline::default();
        timeline.restart(1.into());
        timeline.note(&service("quiet"), noted(2));
        (3..=1_000).for_each(|rev| timeline.note(&service("busy"), noted(rev)));
        assert_eq!(timeline.len(), 1 + OF_SERVICE);
        let busy = timeline.of(&service("busy"), None);
        assert_eq!((busy.since, busy.changes.len()), (800.into(), OF_SERVICE));
        let quiet = timeline.of(&service("quiet"), Some("i0"));
        assert_eq!((quiet.since, quiet.changes.len()), (1.into(), 1));
        assert!(timeline.of(&service("quiet"), Some("i1")).changes.is_empty());
    }

    #[test]
    fn all_together_are_bounded_and_the_oldest_go() {
        let timeline = Timeline::default();
        timeline.limit(100, 1 << 20);
        (1..=1_000).for_each(|rev| timeline.note(&service(&format!("s{}", rev % 50)), noted(rev)));
        assert!((40..=100).contains(&timeline.len()), "{}", timeline.len());
        let newest = timeline.of(&service("s0"), None);
        assert_eq!(newest.changes.last().map(|noted| noted.rev), Some(1_000.into()));
        assert!(newest.changes.iter().all(|noted| noted.rev > newest.since), "{newest:?}");
        timeline.limit(100, 20_000);
        (1_001..=2_000).for_each(|rev| timeline.note(&service("s0"), noted(rev)));
        assert!(timeline.len() * weight(&noted(1).instance) <= 20_000);
        timeline.limit(0, 0);
        timeline.restart(3_000.into());
        timeline.note(&service("s0"), noted(3_001));
        assert_eq!((timeline.len(), timeline.of(&service("s0"), None).since), (0, 3_001.into()));
    }
}
