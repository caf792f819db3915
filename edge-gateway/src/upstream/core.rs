//! Who is interested in what, and what follows from it. Pure: facts go in, [`Effect`]s come out.
//!
//! ```text
//! join ──▶ group (asks for its interest) ──▶ topics (load, each with what happened since the interest)
//! event ──▶ topic ──▶ its groups, if it is newer than their interest
//! ```
//!
//! A group's interest has a revision. Changes of it that come while it is being asked for are kept and applied
//! to the answer if they are newer, so that none is lost whichever comes first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::topic::Topic;
use crate::close::Reason;
use crate::push::Push;
use crate::watch::Full;
use crate::watch::{Cause, Selector};
use crate::watch::{GroupId, SessionsClosed};

mod departed;
#[cfg(test)]
mod failover;
mod interest;
#[cfg(test)]
mod model;
mod preface;
mod providers;
mod repair;
mod restore;

pub(crate) use departed::{Added, Departed};
pub(crate) use preface::{Missing, Preface};

/// How long a group without sessions is kept: watchers that reconnect find everything in place.
const LINGER: Duration = Duration::from_secs(10);

/// Bookmarks after which everything published before a subscription began counts as covered: the first may
/// have been on its way already.
const SETTLED_AFTER: u64 = 2;

/// Changes of an interest that are kept while it is being asked for; more than a replica makes in the time of
/// an answer. The oldest goes first: the answer most likely knows it.
const KEPT: usize = 4096;

/// What a provider is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub provider: ServiceRef,
    pub since: Position,
    pub snapshot: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Listen to who is watched, then ask for it.
    OpenInterest(GroupId, Selector),
    /// Ask for it again.
    AskInterest(GroupId, Selector),
    /// The group's view has begun, or the group has ended: who joined it can be told.
    Opened(GroupId),
    /// The group cannot begin: who joined it is told.
    Refused(GroupId, Full),
    /// Stop listening.
    CloseInterest(GroupId),
    /// Listen to the providers' events, then ask for what happened since, and the state.
    OpenTopics(Vec<Want>),
    /// Stop listening.
    CloseTopic(ServiceRef),
    /// Ask for what happened since.
    Replay(Cause, Vec<Want>),
    /// Ask for what happened since, for this group only.
    CatchUp(GroupId, Want),
    /// Tell groups of a change.
    Append(Arc<Push>, Vec<GroupId>),
    /// End all sessions of a group.
    End(GroupId, Reason),
}

/// What replicas are asked to compare with theirs.
#[derive(Debug)]
pub(crate) struct Digests {
    /// Each provider's sum.
    pub entries: Vec<(ServiceRef, u64)>,
    /// Every consumer that is taken to exist.
    pub consumers: Vec<(GroupId, ServiceRef)>,
}

/// The answer about a consumer's interest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interest {
    pub exists: bool,
    pub rev: Revision,
    pub providers: Vec<ServiceRef>,
}

/// A change of a consumer's interest, or a part of one that takes several messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterestChange {
    /// The end of its revision, unless more parts of it follow.
    pub at: Position,
    /// The change, or the part, before this one.
    pub prev: Position,
    pub added: Vec<ServiceRef>,
    pub removed: Vec<ServiceRef>,
    pub deleted: bool,
}

#[derive(Debug)]
struct Group {
    selector: Selector,
    providers: BTreeSet<ServiceRef>,
    /// Of these, those that are of no interest any more: left when everything up to then was told.
    leaving: HashMap<ServiceRef, Leaving>,
    /// How far those that were left had been told, where that is further than the last answer.
    left: HashMap<ServiceRef, Position>,
    /// The revision of the last answer about the interest; 0 before the first.
    confirmed: Revision,
    /// The last change; an earlier one is a repetition.
    changed: Position,
    /// Up to this revision everyone who came or left is known.
    covered: Revision,
    /// The answer is awaited; changes that come meanwhile.
    asking: Option<Vec<InterestChange>>,
    /// Something was lost meanwhile, which the answer may be too old to know.
    again: bool,
    /// It was asked for once more after the subscription began, or after a loss: of what is not being asked for now
    /// nothing is missing up to the last bookmark.
    settled: bool,
    /// Who has left it, while sessions resume.
    departed: Option<Departed>,
    /// Sessions in each shard.
    sessions: Vec<u64>,
    empty_since: Option<Instant>,
}

/// A provider that a group is about to leave.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    /// The revision up to which it was of interest.
    until: Revision,
    /// How far it had been told when that became known.
    told: Position,
}

#[derive(Debug)]
enum Slot {
    /// Being loaded from a position; who waits for it, from which positions on.
    Loading {
        id: u32,
        since: Position,
        members: HashMap<GroupId, Position>,
        /// Something was lost meanwhile, which the answer may be too old to know.
        again: bool,
    },
    Live(Topic),
}

/// The whole of it.
#[derive(Debug)]
pub(crate) struct Core {
    shards: usize,
    topics: HashMap<ServiceRef, Slot>,
    groups: HashMap<GroupId, Group>,
    by_selector: HashMap<Selector, GroupId>,
    next_topic: u32,
    next_group: GroupId,
    seen: Revision,
    bookmark: Option<Revision>,
    /// Everything up to here has been told to everyone it concerns: a bookmark said what there was, and nothing
    /// was missing.
    told: Revision,
    /// Bookmarks heard.
    bookmarks: u64,
    /// What is to be asked for once more at a bookmark; see [`Core::settle`].
    unsettled: VecDeque<(u64, Unsettled)>,
    effects: Vec<Effect>,
}

/// What was asked for right after a subscription began.
#[derive(Clone, Debug)]
enum Unsettled {
    Topic(ServiceRef),
    Group(GroupId),
}

impl Core {
    /// Nobody is interested in anything.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            shards,
            topics: HashMap::new(),
            groups: HashMap::new(),
            by_selector: HashMap::new(),
            next_topic: 0,
            next_group: GroupId(1),
            seen: 0,
            bookmark: None,
            told: 0,
            bookmarks: 0,
            unsettled: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    /// What is to be done now.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        for effect in &self.effects {
            if let Effect::Append(push, _) = effect {
                push.is_told_after(self.told);
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// Everything up to here has been told to everyone it concerns.
    pub(crate) fn told(&self) -> Revision {
        self.told
    }

    /// The highest revision heard of.
    pub(crate) fn seen(&self) -> Revision {
        self.seen
    }

    /// Providers that are followed.
    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Sessions of the group in each shard.
    pub(crate) fn sessions(&self, group: GroupId) -> &[u64] {
        self.groups.get(&group).map_or(&[], |group| &group.sessions)
    }

    /// The revision is known after which the group's sessions are told of everything.
    pub(crate) fn is_open(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.confirmed > 0)
    }

    /// What the group watches.
    pub(crate) fn selector(&self, group: GroupId) -> Option<&Selector> {
        self.groups.get(&group).map(|group| &group.selector)
    }

    /// Groups, by the kind of what they watch.
    pub(crate) fn groups_by_kind(&self) -> HashMap<&'static str, u64> {
        let mut counts: HashMap<_, _> = Selector::LABELS.map(|label| (label, 0)).into();
        for group in self.groups.values() {
            *counts.entry(group.selector.label()).or_default() += 1;
        }
        counts
    }

    /// Ends a group that would bring more topics than there may be; 0 is no limit. True when it did. Those that
    /// come later are let in: who watches is not to miss them.
    pub(crate) fn refuse_too_many(&mut self, id: GroupId, interest: &Interest, most: usize) -> bool {
        let Some(group) = self.groups.get(&id) else { return false };
        if most == 0 || group.confirmed > 0 || group.selector.scope().is_none() {
            return false;
        }
        let new = interest.providers.iter().filter(|it| !self.topics.contains_key(*it)).count();
        if self.topics.len().saturating_add(new) <= most {
            return false;
        }
        self.effects.push(Effect::Refused(id, Full::Topics));
        self.close_group(id);
        true
    }

    /// The group is still there.
    pub(crate) fn has(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// A session with this selector may begin when there may be `most` topics; 0 is no limit. What a consumer
    /// or a scope will bring is not known yet and counts as one.
    pub(crate) fn has_room(&self, selector: &Selector, most: usize) -> bool {
        let new = match selector {
            _ if most == 0 || self.by_selector.contains_key(selector) => return true,
            Selector::Consumer(_) | Selector::Scope(_) => 1,
            Selector::Providers(providers) => {
                providers.iter().filter(|it| !self.topics.contains_key(*it)).count()
            }
        };
        self.topics.len().saturating_add(new) <= most
    }

    /// A session begins in the shard that has the fewest of its group; names the group and the shard.
    pub(crate) fn join(&mut self, selector: &Selector) -> (GroupId, usize) {
        let id = match self.by_selector.get(selector) {
            Some(id) => *id,
            None => self.open_group(selector.clone()),
        };
        let Some(group) = self.groups.get_mut(&id) else { return (id, 0) };
        // The rest of equals is spread by the group's number, so that many small groups use all shards.
        let shards = group.sessions.len();
        let best =
            (0..shards).map(|n| (n + id.0 as usize) % shards).min_by_key(|shard| group.sessions[*shard]);
        let shard = best.unwrap_or(0);
        group.sessions[shard] += 1;
        group.empty_since = None;
        (id, shard)
    }

    fn open_group(&mut self, selector: Selector) -> GroupId {
        let id = self.next_group;
        self.next_group.0 += 1;
        self.effects.push(Effect::OpenInterest(id, selector.clone()));
        self.by_selector.insert(selector.clone(), id);
        let group = Group {
            selector,
            providers: BTreeSet::new(),
            leaving: HashMap::new(),
            left: HashMap::new(),
            confirmed: 0,
            changed: Position::default(),
            covered: 0,
            asking: Some(Vec::new()),
            again: false,
            settled: false,
            departed: None,
            sessions: vec![0; self.shards],
            empty_since: None,
        };
        self.groups.insert(id, group);
        id
    }

    /// Sessions are gone from a shard.
    pub(crate) fn left(&mut self, shard: usize, left: SessionsClosed, now: Instant) {
        let Some(group) = self.groups.get_mut(&left.group) else { return };
        if let Some(count) = group.sessions.get_mut(shard) {
            *count = count.saturating_sub(left.sessions);
        }
        if group.sessions.iter().all(|count| *count == 0) {
            group.empty_since = Some(now);
        }
    }

    /// Forgets groups that have been empty for a while.
    pub(crate) fn forget_empty(&mut self, now: Instant) {
        let empty = |group: &Group| group.empty_since.is_some_and(|since| now >= since + LINGER);
        let gone: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| empty(group)).map(|(id, _)| *id).collect();
        for id in gone {
            self.close_group(id);
        }
    }

    fn close_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.remove(&id) else { return };
        self.by_selector.remove(&group.selector);
        self.effects.extend([Effect::CloseInterest(id), Effect::Opened(id)]);
        for provider in &group.providers {
            self.leave_topic(id, provider);
        }
    }

    fn end_group(&mut self, id: GroupId, reason: Reason) {
        if self.groups.contains_key(&id) {
            self.effects.push(Effect::End(id, reason));
            self.close_group(id);
        }
    }
}

#[cfg(test)]
#[path = "core/tests.rs"]
mod tests;
