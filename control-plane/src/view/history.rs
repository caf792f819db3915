//! The recent changes: enough for a new publisher to continue after the previous one, and for a gateway to
//! catch up without the full state.
//!
//! The history is bounded by a number of changes and by their size. The oldest go first, and
//! [`History::since`] reports when some of the requested ones have gone.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::InstanceEvent;
use shared::model::{Revision, ServiceRef, Tenant};

mod index;

use index::Index;

/// A change that is published to gateways.
///
/// Two variants carry the bus' own messages, because a conversion would copy the lists of each change once
/// more.
#[derive(Clone, Debug)]
pub enum Change {
    /// An instance changed.
    Instance(Arc<InstanceEvent>),
    /// A consumer's set of providers changed.
    Interest(Arc<pb::InterestChange>),
    /// A tenant's services changed.
    Services(Arc<pb::ServicesChange>),
}

impl Change {
    /// The revision of the change.
    pub fn rev(&self) -> Revision {
        match self {
            Self::Instance(event) => event.at.rev,
            Self::Interest(change) => Revision::new(change.rev),
            Self::Services(change) => Revision::new(change.rev),
        }
    }

    /// The time at which this replica received the commit, in unix microseconds.
    pub fn committed_at(&self) -> u64 {
        match self {
            Self::Instance(event) => event.committed_at,
            Self::Interest(change) => change.committed_at,
            Self::Services(change) => change.committed_at,
        }
    }
}

/// The approximate size of a change beside its texts: allocations, counters, positions, its place in the index.
const OVERHEAD: usize = 256;

/// The approximate size of a change in memory. Texts that changes share are counted with each of them, so
/// the history may be smaller than this says, and never larger.
fn size(change: &Change) -> usize {
    match change {
        Change::Instance(event) => {
            let instance = &event.instance;
            let endpoints: usize = instance.endpoints.iter().map(|endpoint| endpoint.len() + 32).sum();
            let properties: usize =
                instance.properties.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
            2 * OVERHEAD + endpoints + properties + event.provider.id.len()
        }
        Change::Interest(change) => OVERHEAD + 2 * change.encoded_len(),
        Change::Services(change) => OVERHEAD + 2 * change.encoded_len(),
    }
}

/// The recent changes, in order.
pub struct History {
    state: RwLock<HistoryState>,
    capacity: usize,
    /// The most bytes of changes. The newest revision is kept in any case.
    byte_limit: usize,
}

#[derive(Default)]
struct HistoryState {
    /// Every change after this revision is in `changes`.
    complete_since: Revision,
    changes: VecDeque<Change>,
    /// The number of changes that have been dropped: the number of the first one in `changes`.
    dropped: u64,
    index: Index,
    bytes: usize,
}

impl HistoryState {
    fn push(&mut self, change: Change) {
        self.bytes += size(&change);
        self.index.add(self.dropped + self.changes.len() as u64, &change);
        self.changes.push_back(change);
    }

    /// Drops the oldest change, if it is of this revision.
    fn drop_oldest_of(&mut self, rev: Revision) -> bool {
        let Some(change) = self.changes.pop_front_if(|change| change.rev() == rev) else { return false };
        self.bytes -= size(&change);
        self.index.remove_oldest(&change);
        self.dropped += 1;
        true
    }

    /// The numbers of the changes in (`rev`, `until`].
    fn numbers(&self, rev: Revision, until: Revision) -> Range<u64> {
        // Changes are in order of revision, so both ends are found without a scan.
        let after = |rev: Revision| self.changes.partition_point(|change| change.rev() <= rev) as u64;
        self.dropped + after(rev)..self.dropped + after(until)
    }

    fn get(&self, number: u64) -> Option<&Change> {
        self.changes.get(usize::try_from(number.checked_sub(self.dropped)?).ok()?)
    }
}

/// The changes after a revision.
#[derive(Debug)]
pub struct Since {
    /// The changes, oldest first.
    pub changes: Vec<Change>,
    /// False when the history has dropped some of the changes in question.
    pub complete: bool,
}

impl History {
    /// A history of at most `capacity` changes, and of one at least.
    pub fn new(capacity: usize) -> Self {
        Self { state: RwLock::default(), capacity: capacity.max(1), byte_limit: usize::MAX }
    }

    /// The same history with at most about `bytes` of changes.
    pub fn within(self, bytes: usize) -> Self {
        Self { byte_limit: bytes, ..self }
    }

    /// A history for tests that is complete after `since`.
    #[cfg(test)]
    pub(crate) fn holding(since: Revision, changes: Vec<Change>) -> Self {
        let history = Self::new(changes.len());
        history.restart(since);
        history.extend(changes);
        history
    }

    /// Empties the history. From now on it is complete only after `rev`.
    pub(super) fn restart(&self, rev: Revision) {
        let mut state = self.state.write();
        *state = HistoryState { complete_since: rev, ..HistoryState::default() };
    }

    /// Adds the changes of one revision, and drops the oldest revisions when there is too much.
    pub(super) fn extend(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.state.write();
        for change in changes {
            state.push(change);
        }
        let newest = state.changes.back().map(Change::rev);
        while state.changes.len() > self.capacity || state.bytes > self.byte_limit {
            // A revision goes as a whole. Half of one would look complete, since completeness is kept by
            // revision.
            let Some(rev) = state.changes.front().map(Change::rev) else { break };
            if Some(rev) == newest && state.changes.len() <= self.capacity {
                break;
            }
            while state.drop_oldest_of(rev) {}
            state.complete_since = rev;
        }
    }

    /// The changes in (`rev`, `until`] for which `wanted` is true. They are copied under the lock, so
    /// `wanted` must be cheap.
    pub fn since(&self, rev: Revision, until: Revision, wanted: impl Fn(&Change) -> bool) -> Since {
        let state = self.state.read();
        // Changes are in order of revision, so the start is found without a scan.
        let start = state.changes.partition_point(|change| change.rev() <= rev);
        let changes = state.changes.range(start..).take_while(|change| change.rev() <= until);
        Since {
            changes: changes.filter(|change| wanted(change)).cloned().collect(),
            complete: rev >= state.complete_since,
        }
    }

    /// The changes of a provider's instances in (`rev`, `until`], oldest first.
    pub fn of_provider(
        &self,
        provider: &ServiceRef,
        rev: Revision,
        until: Revision,
    ) -> Vec<Arc<InstanceEvent>> {
        let state = self.state.read();
        let numbers = state.index.of_provider(provider, state.numbers(rev, until));
        let event = |number| match state.get(number) {
            Some(Change::Instance(event)) => Some(event.clone()),
            _ => None,
        };
        numbers.filter_map(event).collect()
    }

    /// The changes of a consumer's interest in (`rev`, `until`], oldest first.
    pub fn of_consumer(
        &self,
        consumer: &ServiceRef,
        rev: Revision,
        until: Revision,
    ) -> Vec<Arc<pb::InterestChange>> {
        let state = self.state.read();
        let numbers = state.index.of_consumer(consumer, state.numbers(rev, until));
        let change = |number| match state.get(number) {
            Some(Change::Interest(change)) => Some(change.clone()),
            _ => None,
        };
        numbers.filter_map(change).collect()
    }

    /// The changes of a tenant's services in (`rev`, `until`], oldest first.
    pub fn of_tenant(&self, tenant: &Tenant, rev: Revision, until: Revision) -> Vec<Arc<pb::ServicesChange>> {
        let state = self.state.read();
        let numbers = state.index.of_tenant(tenant, state.numbers(rev, until));
        let change = |number| match state.get(number) {
            Some(Change::Services(change)) => Some(change.clone()),
            _ => None,
        };
        numbers.filter_map(change).collect()
    }

    /// A revision after which, up to `until`, the consumer's interest has no change.
    pub fn interest_unchanged_since(&self, consumer: &ServiceRef, until: Revision) -> Revision {
        let state = self.state.read();
        let last = state.index.of_consumer(consumer, state.numbers(Revision::ZERO, until)).next_back();
        last.and_then(|number| state.get(number)).map_or(state.complete_since, Change::rev)
    }

    /// True when there is a change after `rev`.
    pub fn has_after(&self, rev: Revision) -> bool {
        self.state.read().changes.back().is_some_and(|change| change.rev() > rev)
    }

    /// The revision after which no change is missing.
    pub fn complete_since(&self) -> Revision {
        self.state.read().complete_since
    }

    /// The number of changes in the history.
    pub fn len(&self) -> usize {
        self.state.read().changes.len()
    }

    /// The approximate size of the changes in the history.
    pub fn bytes(&self) -> usize {
        self.state.read().bytes
    }

    /// True when the history has no change.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
