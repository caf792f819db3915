//! Sessions that resume: the requests to make for each, in which order, and when it may begin.
//!
//! In: sessions with the revision up to which they have everything, and replies to the requests that
//! [`Resumes::step`] asked for. Out: for each session one [`ResumeStep`] after another, until it begins with
//! a [`Preface`].
//!
//! Sessions that resume the same group from the same revision share one entry: when a gateway fails,
//! thousands of clients come with the same few revisions, and each of these is requested once.

use std::collections::{BTreeMap, HashMap, HashSet};

use shared::model::{Revision, ServiceRef};

use crate::reply::{TopicReplay, Want};
pub use crate::tracker::ResumePoint;
use crate::tracker::{Departures, Missing, Preface};
use crate::{GroupId, Tracker};

/// The next thing to do for sessions that resume.
#[derive(Debug)]
pub enum ResumeStep {
    /// Nothing: a reply or a bookmark will come.
    Wait,
    /// Request the store's revision, and report it with [`Resumes::on_store_revision`].
    RequestStoreRevision,
    /// Request the events of these providers, and report the replies with [`Resumes::on_replay`].
    RequestEvents(Vec<Want>),
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
    replay_pending: bool,
    store_revision: StoreRevision,
    replays: HashMap<ServiceRef, TopicReplay>,
}

/// The check of a client's revision that no message has mentioned here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreRevision {
    NotRequested,
    Requested,
    Known,
}

impl<K: Copy + Ord> Default for Resumes<K> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), departures_requested: HashSet::new(), undone: Revision::ZERO }
    }
}

impl<K: Copy + Ord> Resumes<K> {
    /// Adds sessions that resume from a point. Sessions under a key that waits already share its entry.
    pub fn begin(&mut self, key: K, group: GroupId, point: impl Into<ResumePoint>) {
        let point = point.into();
        let point = ResumePoint { since: self.in_this_history(point.since), ..point };
        self.waiting.entry(key).or_insert_with(|| Resume {
            group,
            point,
            replay_pending: false,
            store_revision: StoreRevision::NotRequested,
            replays: HashMap::new(),
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
        self.waiting.remove(&key);
    }

    /// The group was refused: its sessions do not wait any more.
    pub fn remove_group(&mut self, group: GroupId) {
        self.waiting.retain(|_, resume| resume.group != group);
    }

    /// Decides the next step for a key. Called after everything that may have changed the tracker, and after
    /// every reply. It may add effects to the tracker.
    pub fn step(&mut self, key: K, tracker: &mut Tracker) -> ResumeStep {
        let Some(resume) = self.waiting.get_mut(&key) else { return ResumeStep::Wait };
        let group = resume.group;
        let since = resume.point.since;
        if since > tracker.seen() && resume.store_revision == StoreRevision::NotRequested {
            // Either this gateway is behind the one before, or a restore has undone the client's history.
            resume.store_revision = StoreRevision::Requested;
            return ResumeStep::RequestStoreRevision;
        }
        match tracker.preface(group, resume.point, &resume.replays) {
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
                if resume.replay_pending || resume.store_revision == StoreRevision::Requested {
                    return ResumeStep::Wait;
                }
                resume.replay_pending = true;
                ResumeStep::RequestEvents(wants)
            }
            Some(Err(Missing::Departures)) => self.request_departures(group),
        }
    }

    fn begin_session(&mut self, key: K, since: Revision, preface: Preface) -> ResumeStep {
        self.waiting.remove(&key);
        ResumeStep::Begin { since, preface }
    }

    /// Requests departures once for all sessions of a group, from the earliest of their revisions.
    fn request_departures(&mut self, group: GroupId) -> ResumeStep {
        // A session that resumes from zero receives states and needs no departures.
        let of_group = self.waiting.values().filter(|resume| resume.group == group);
        let revisions = of_group.map(|resume| resume.point.since).filter(|since| *since > Revision::ZERO);
        let Some(since) = revisions.min() else { return ResumeStep::Wait };
        if !self.departures_requested.insert(group) {
            return ResumeStep::Wait;
        }
        ResumeStep::RequestDepartures { group, since }
    }

    /// A replica has replied about a provider for the sessions under `key`.
    pub fn on_replay(&mut self, key: K, provider: ServiceRef, replay: TopicReplay) {
        if let Some(resume) = self.waiting.get_mut(&key) {
            resume.replay_pending = false;
            resume.replays.insert(provider, replay);
        }
    }

    /// The store has reported its revision for the sessions under `key`. A client with a later revision comes
    /// from a history that a restore has undone, and will receive states.
    pub fn on_store_revision(&mut self, key: K, rev: Revision) {
        if let Some(resume) = self.waiting.get_mut(&key) {
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
        let resuming: HashSet<GroupId> = self.waiting.values().map(|resume| resume.group).collect();
        tracker.forget_departures(|group| resuming.contains(&group));
    }

    /// The store was restored, which undid the history up to `seen`, the highest revision known of it. Every
    /// request under way has been dropped, and its reply would be of that history.
    pub fn restore(&mut self, seen: Revision) {
        self.undone = self.undone.max(seen);
        self.departures_requested.clear();
        for resume in self.waiting.values_mut() {
            if resume.point.since <= self.undone {
                resume.point.since = Revision::ZERO;
            }
            resume.replay_pending = false;
            resume.store_revision = StoreRevision::NotRequested;
            resume.replays.clear();
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
