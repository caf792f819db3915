//! Sessions that resume: the requests to make for each, in which order, and when it may begin.
//!
//! In: sessions with the revision up to which they have everything, and replies to the requests that
//! [`Resumes::step`] and [`Resumes::next_request`] asked for. Out: for each session one [`ResumeStep`] after another,
//! until it begins with a [`Preface`].
//!
//! Sessions that resume the same group from the same revision share one entry. Entries that lack the events of the same
//! providers share the requests for them: when a gateway fails, thousands of clients come at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use shared::model::{Revision, ServiceRef};

use crate::reply::TopicReplay;
pub use crate::tracker::ResumePoint;
use crate::tracker::{Departures, MissedEvents, Missing, Preface};
use crate::{GroupId, Tracker};

mod gathering;

pub use gathering::EventsRequest;
use gathering::Gathering;

/// The next thing to do for sessions that resume.
#[derive(Debug)]
pub enum ResumeStep {
    /// Nothing: a reply or a bookmark will come, or the entry waits for a turn in [`Resumes::next_request`].
    Wait,
    /// Request the store's revision, once for all that wait for it, and report it with [`Resumes::on_store_revision`].
    RequestStoreRevision,
    /// Request the departures from the group's interest since this revision, and report them with
    /// [`Resumes::on_departures`].
    RequestDepartures {
        /// The group.
        group: GroupId,
        /// The earliest revision from which a session of the group resumes.
        since: Revision,
    },
    /// The sessions begin with this preface. The entry is gone.
    Begin {
        /// The revision up to which the clients have everything; zero when their own counts for nothing.
        since: Revision,
        /// The messages before the sessions join their group.
        preface: Preface,
    },
}

/// Sessions that wait, by a key of the caller's choice. Bounded by the connections that are being upgraded.
#[derive(Debug)]
pub struct Resumes<K> {
    waiting: BTreeMap<K, Resume>,
    /// The keys of each group.
    by_group: HashMap<GroupId, BTreeSet<K>>,
    /// The events that they lack.
    gathering: Gathering<K>,
    /// The store's revision is being requested.
    revision_requested: bool,
    /// Groups whose departures are being requested.
    departures_requested: HashSet<GroupId>,
    /// The highest revision that a restore has undone. A client that names it or an earlier one may have it
    /// from the undone history, and receives states.
    undone: Revision,
}

#[derive(Debug)]
struct Resume {
    group: GroupId,
    point: ResumePoint,
    awaits_events: bool,
    store_revision: StoreRevision,
    events: HashMap<ServiceRef, Arc<MissedEvents>>,
}

/// The check of a client's revision that no message has mentioned here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreRevision {
    NotRequested,
    Requested,
    Known,
}

impl<K: Copy + Ord + Hash> Default for Resumes<K> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            by_group: HashMap::new(),
            gathering: Gathering::default(),
            revision_requested: false,
            departures_requested: HashSet::new(),
            undone: Revision::ZERO,
        }
    }
}

impl<K: Copy + Ord + Hash> Resumes<K> {
    /// Adds sessions that resume from a point. Sessions under a key that waits already share its entry.
    pub fn begin(&mut self, key: K, group: GroupId, point: impl Into<ResumePoint>) {
        let point = point.into();
        let point = ResumePoint { since: self.in_this_history(point.since), ..point };
        self.by_group.entry(group).or_default().insert(key);
        self.waiting.entry(key).or_insert_with(|| Resume {
            group,
            point,
            awaits_events: false,
            store_revision: StoreRevision::NotRequested,
            events: HashMap::new(),
        });
    }

    /// The keys of all that wait, in order.
    pub fn keys(&self) -> Vec<K> {
        self.waiting.keys().copied().collect()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The sessions under this key do not wait any more.
    pub fn remove(&mut self, key: K) {
        self.gathering.forget(key);
        let Some(resume) = self.waiting.remove(&key) else { return };
        if let Some(keys) = self.by_group.get_mut(&resume.group) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_group.remove(&resume.group);
            }
        }
    }

    /// The group was refused: its sessions do not wait any more.
    pub fn remove_group(&mut self, group: GroupId) {
        for key in self.by_group.remove(&group).into_iter().flatten() {
            self.waiting.remove(&key);
            self.gathering.forget(key);
        }
    }

    /// Decides the next step for a key. Called after everything that may have changed the tracker, and after
    /// every reply. It may add effects to the tracker.
    pub fn step(&mut self, key: K, tracker: &mut Tracker) -> ResumeStep {
        let Some(resume) = self.waiting.get_mut(&key) else { return ResumeStep::Wait };
        let group = resume.group;
        let since = resume.point.since;
        if since > tracker.seen() && resume.store_revision == StoreRevision::NotRequested {
            // Either this gateway is behind the one before, or a restore has undone the client's history.
            return self.request_store_revision(tracker.seen());
        }
        // While events are awaited, nothing else can help. Thousands of entries may wait, and every message leads here.
        if resume.awaits_events && tracker.has(group) {
            return ResumeStep::Wait;
        }
        match tracker.preface(group, resume.point, &resume.events) {
            // The session joins the end of its group, and is then closed like the others.
            None if !tracker.has(group) => self.begin_session(key, since, Preface::default()),
            None => {
                tracker.verify_now(group, since);
                ResumeStep::Wait
            }
            Some(Ok(preface)) => {
                tracker.note_begun(group, since, preface.void);
                self.begin_session(key, since, preface)
            }
            Some(Err(Missing::Events(wants))) => {
                if resume.store_revision != StoreRevision::Requested {
                    resume.awaits_events = true;
                    self.gathering.add(key, wants);
                }
                ResumeStep::Wait
            }
            Some(Err(Missing::Departures)) => self.request_departures(group),
        }
    }

    /// Requests the store's revision once for all that need it. Those that come later need a later one.
    fn request_store_revision(&mut self, seen: Revision) -> ResumeStep {
        if self.revision_requested {
            return ResumeStep::Wait;
        }
        self.revision_requested = true;
        let needs_it = |resume: &&mut Resume| {
            resume.point.since > seen && resume.store_revision == StoreRevision::NotRequested
        };
        for resume in self.waiting.values_mut().filter(needs_it) {
            resume.store_revision = StoreRevision::Requested;
        }
        ResumeStep::RequestStoreRevision
    }

    fn begin_session(&mut self, key: K, since: Revision, preface: Preface) -> ResumeStep {
        self.remove(key);
        ResumeStep::Begin { since, preface }
    }

    /// Requests departures once for all sessions of a group, from the earliest of their revisions.
    fn request_departures(&mut self, group: GroupId) -> ResumeStep {
        if self.departures_requested.contains(&group) {
            return ResumeStep::Wait;
        }
        // A session that resumes from zero receives states and needs no departures.
        let of_group =
            self.by_group.get(&group).into_iter().flatten().filter_map(|key| self.waiting.get(key));
        let revisions = of_group.map(|resume| resume.point.since).filter(|since| *since > Revision::ZERO);
        let Some(since) = revisions.min() else { return ResumeStep::Wait };
        self.departures_requested.insert(group);
        ResumeStep::RequestDepartures { group, since }
    }

    /// The next request for events that sessions lack, of at most `most` providers. `None` when nothing is lacking, or
    /// when enough requests are under way: each of them must be reported with [`Resumes::on_events`].
    pub fn next_request(&mut self, most: usize) -> Option<EventsRequest<K>> {
        self.gathering.next_request(most)
    }

    /// A replica has answered a request for events, with one replay for each want and in the same order.
    pub fn on_events(&mut self, request: EventsRequest<K>, replays: Vec<TopicReplay>) {
        let providers = request.wants().iter().map(|want| want.provider.clone());
        let replays: HashMap<ServiceRef, TopicReplay> = providers.zip(replays).collect();
        let answered = self.gathering.on_replies(request, &replays);
        let events: HashMap<ServiceRef, Arc<MissedEvents>> =
            replays.into_iter().map(|(provider, replay)| (provider, Arc::new(replay.into()))).collect();
        for (key, wants) in answered {
            let Some(resume) = self.waiting.get_mut(&key) else { continue };
            resume.awaits_events = false;
            for want in wants {
                if let Some(events) = events.get(&want.provider) {
                    resume.events.insert(want.provider, events.clone());
                }
            }
        }
    }

    /// The store has reported its revision. A client with a later revision comes from a history that a restore has
    /// undone, and will receive states.
    pub fn on_store_revision(&mut self, rev: Revision) {
        self.revision_requested = false;
        for resume in self.waiting.values_mut() {
            if resume.store_revision != StoreRevision::Requested {
                continue;
            }
            resume.store_revision = StoreRevision::Known;
            if rev < resume.point.since {
                resume.point.since = Revision::ZERO;
            }
        }
    }

    /// The request for a group's departures has ended: with departures for the tracker, or with a failure,
    /// after which [`Resumes::step`] asks for them again.
    pub fn on_departures(&mut self, group: GroupId, departures: Option<Departures>, tracker: &mut Tracker) {
        self.departures_requested.remove(&group);
        if let Some(departures) = departures {
            tracker.on_departures(group, departures);
        }
    }

    /// Drops from the tracker the departures that no session needs any more.
    pub fn forget_unneeded_departures(&self, tracker: &mut Tracker) {
        tracker.forget_departures(|group| self.by_group.contains_key(&group));
    }

    /// The store was restored, which undid the history up to `seen`, the highest revision known of it. Every
    /// request under way has been dropped, and its reply would be of that history.
    pub fn restore(&mut self, seen: Revision) {
        self.undone = self.undone.max(seen);
        self.revision_requested = false;
        self.departures_requested.clear();
        self.gathering.forget_all();
        for resume in self.waiting.values_mut() {
            if resume.point.since <= self.undone {
                resume.point.since = Revision::ZERO;
            }
            resume.awaits_events = false;
            resume.store_revision = StoreRevision::NotRequested;
            resume.events.clear();
        }
    }

    /// The revision from which a client goes on. Zero if a restore may have undone what the client has: the
    /// same revision stands for other changes now.
    fn in_this_history(&self, since: Revision) -> Revision {
        if since <= self.undone { Revision::ZERO } else { since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Selector;

    #[test]
    fn revisions_of_an_undone_history_count_for_nothing() {
        let mut tracker = Tracker::new(1);
        let consumer = ServiceRef::new(shared::model::Tenant::default(), "c");
        let group = tracker.join(&Selector::Consumer(consumer)).0;
        let mut resumes = Resumes::default();
        resumes.begin(1, group, Revision::new(18));
        resumes.restore(20.into());
        for (key, since) in [(2, 20), (3, 21)] {
            resumes.begin(key, group, Revision::new(since));
        }
        let counts: Vec<_> = resumes.waiting.values().map(|resume| resume.point.since.get()).collect();
        assert_eq!(counts, [0, 0, 21]);
    }
}
