//! The state machine of topics and groups: facts go in, [`Effect`]s come out.
//!
//! ```text
//! join  ──▶ group (requests its interest) ──▶ topics (loaded, with the events since the interest began)
//! event ──▶ topic ──▶ its groups, if the event is newer than their interest
//! ```
//!
//! The tracker promises that each group receives every change of its providers since they came into its
//! interest: once, in each provider's order, whatever the bus loses, repeats or reorders, and however late
//! replicas reply. It relies on three rules of the caller:
//!
//! - Effects are carried out in order, and a subscription is in place before its request is sent.
//! - A request is answered only by a replica that has reached [`Tracker::seen`] at the time of the request.
//! - Every request is answered at some time. A request that fails is made again by the caller.
//!
//! A group's interest has a revision. Changes of the interest that arrive while it is being requested are
//! kept, and those newer than the reply are applied to it. So none is lost, whichever comes first.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::event::Position;
use shared::model::{Instance, Revision, ServiceKey, ServiceRef};

use crate::message::InterestChange;
use crate::reply::{InterestReply, Want};
use crate::topic::Topic;
use crate::{Cause, GroupId, Push, Selector};

mod confirmed;
mod departures;
mod interest;
mod members;
mod missed;
mod preface;
mod providers;
mod reach;
mod reads;
mod repair;
mod restore;
mod shown;

pub use confirmed::Confirmed;
pub use departures::{Departures, RecordOutcome};
pub use missed::MissedEvents;
pub use preface::{Missing, Preface, ResumePoint};
pub use providers::Fates;
pub use reach::{Reach, ReachedGroups};
pub use repair::BookmarkOutcome;

/// The time for which a group without sessions is kept. Watchers that reconnect within it find everything in
/// place.
const LINGER: Duration = Duration::from_secs(10);

/// The number of bookmarks after which a new subscription is verified. The first one may have been sent
/// before the subscription began, so only the second proves how far the publisher had come by then.
const VERIFY_AFTER_BOOKMARKS: u64 = 2;

/// The most changes that are kept while an interest is being requested: more than a replica makes during a
/// reply. The oldest is dropped first, because the reply most likely contains it.
const MOST_KEPT_CHANGES: usize = 4096;

/// The most services that all kept changes may name together: some 15 MB.
const MOST_KEPT_SERVICES: usize = 65_536;

/// Something for the gateway to do.
#[derive(Debug)]
pub enum Effect {
    /// Subscribe to changes of the group's interest, then request the interest.
    OpenInterest(GroupId, Selector),
    /// Request the group's interest again.
    RequestInterest(GroupId, Selector),
    /// The group's view has begun, or the group has ended. Sessions that wait for either may go on.
    GroupOpened(GroupId),
    /// The group would follow too many topics and has been closed. Sessions that wait for it are refused.
    RefuseGroup(GroupId),
    /// Unsubscribe from changes of the group's interest.
    CloseInterest(GroupId),
    /// Subscribe to the providers' events, then request the events since, and the instances.
    OpenTopics(Vec<Want>),
    /// Unsubscribe from the provider's events.
    CloseTopic(ServiceRef),
    /// Request the events of topics that are followed already.
    RequestReplay(Cause, Vec<Want>),
    /// Request older events of a topic for one group that has joined it late.
    CatchUp(GroupId, Want),
    /// Deliver a change to groups.
    Deliver(Arc<Push>, Vec<GroupId>),
    /// Close all sessions of the group: its consumer does not exist.
    EndGroup(GroupId),
}

/// The state that a replica is asked to compare with its own.
#[derive(Clone, Debug)]
pub struct Digests {
    /// The digest of each topic.
    pub topics: Vec<(ServiceRef, u64)>,
    /// The consumers that are believed to exist, each with its group.
    pub consumers: Vec<(GroupId, ServiceRef)>,
}

/// A copy of everything that is followed, for comparison with other processes. Instances are shared, not
/// copied.
#[derive(Debug)]
pub struct Contents {
    /// Everything up to this revision is contained.
    pub revision: Revision,
    /// Every provider that has been loaded, in arbitrary order.
    pub providers: Vec<ProviderContents>,
}

/// A provider in [`Contents`].
#[derive(Debug)]
pub struct ProviderContents {
    /// The provider.
    pub service: ServiceRef,
    /// The provider's name, once known.
    pub key: Option<Arc<ServiceKey>>,
    /// The instances, each with the revision that wrote it.
    pub instances: Vec<(Arc<Instance>, Revision)>,
}

#[derive(Debug)]
struct Group {
    selector: Selector,
    /// The providers that the group follows, including those in `leaving`.
    providers: BTreeSet<ServiceRef>,
    /// Providers that have left the interest, and are followed until everything up to their departure is
    /// delivered.
    leaving: HashMap<ServiceRef, Leaving>,
    /// The position up to which each provider was delivered before the group stopped following it, if that is
    /// beyond the last reply about the interest. A provider that comes back continues from there.
    delivered_before_leaving: HashMap<ServiceRef, Position>,
    /// Providers whose instances were delivered as deleted a moment ago, each with the number of the bookmark
    /// at that time. If one comes back, a find may have shown its instances before these deletes arrived.
    gone_lately: HashMap<ServiceRef, u64>,
    /// The number of the bookmark at which a session last began by forgetting everything, for the same
    /// reason.
    voided_at: Option<u64>,
    /// The revision of the last reply about the interest; `None` before the first.
    interest_rev: Option<Revision>,
    /// The position of the last change of the interest. An earlier change is a repetition.
    last_change: Position,
    /// Every provider that came or left up to this revision is known.
    interest_complete_to: Revision,
    request: InterestRequest,
    /// The interest was requested again after the subscription began, or after a loss. When in addition
    /// nothing is being requested, no change of the interest up to the last bookmark is missing.
    verified: bool,
    /// Providers that left, for sessions that resume; `None` until one needs them.
    departures: Option<Departures>,
    /// The number of sessions in each shard.
    sessions: Vec<u64>,
    /// Finds of the consumer are answered here, so the group stays without sessions.
    held: bool,
    /// The interest had no change between this revision and the last reply, if the replica said so.
    unchanged_since: Option<Revision>,
    empty_since: Option<Instant>,
    /// Everything up to this revision has been delivered to the group, as of the last bookmark.
    confirmed: Revision,
    /// No replica answered the first request about the interest with an older state.
    asked_at: Revision,
}

/// The state of the request for a group's interest. At most one is under way.
#[derive(Debug)]
enum InterestRequest {
    /// Nothing is being requested.
    Idle,
    /// A reply is awaited.
    Pending {
        /// Changes that have arrived meanwhile, in order of arrival.
        kept: VecDeque<InterestChange>,
        /// The interest must be requested again after the reply, which may be too old to contain a loss.
        repeat: bool,
    },
}

impl InterestRequest {
    /// A request that has just been made.
    fn begin() -> Self {
        Self::Pending { kept: VecDeque::new(), repeat: false }
    }

    fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Marks a pending request as one to repeat. False when none is pending, so that the caller requests now.
    fn repeat_if_pending(&mut self) -> bool {
        match self {
            Self::Idle => false,
            Self::Pending { repeat, .. } => {
                *repeat = true;
                true
            }
        }
    }
}

/// A provider that has left a group's interest and is still followed.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    /// The revision at which it left.
    until: Revision,
    /// The position up to which it had been delivered when the departure became known.
    delivered: Position,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every slot is live, and a box would be one more way to it"
)]
#[derive(Debug)]
enum Slot {
    /// The topic is being loaded.
    Loading {
        /// The number that the topic will have.
        id: u32,
        /// The position from which it is requested.
        since: Position,
        /// The groups that wait for it.
        members: HashMap<GroupId, Waiting>,
        /// The topic must be requested again after the reply, which may be too old to contain a loss.
        repeat: bool,
    },
    Live(Topic),
}

/// A group that waits for a topic to be loaded.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The position after which it wants changes.
    base: Position,
    /// It wants every instance as well, once the topic has reached this revision: clients may know none.
    shown: Option<Revision>,
}

/// A subscription that is to be verified.
#[derive(Clone, Debug)]
enum Subscription {
    /// The topic with this number: one that was opened since then for the same provider has another one.
    Topic(ServiceRef, u32),
    Group(GroupId),
}

/// All topics and groups of a gateway.
#[derive(Debug)]
pub struct Tracker {
    shards: usize,
    topics: HashMap<ServiceRef, Slot>,
    groups: HashMap<GroupId, Group>,
    by_selector: HashMap<Selector, GroupId>,
    next_topic: u32,
    next_group: GroupId,
    seen: Revision,
    /// The revision of the latest bookmark.
    bookmark: Option<Revision>,
    /// The confirmed revision of the groups that are in step.
    confirmed: Revision,
    /// The groups that are not in step: of each, something up to `confirmed` may be missing.
    behind: HashSet<GroupId>,
    /// The number of bookmarks so far.
    bookmarks: u64,
    /// Subscriptions to verify, each with the number of the bookmark at which that is due, in order.
    unverified: VecDeque<(u64, Subscription)>,
    /// The groups whose scope does not take every service of its tenant.
    narrow: HashSet<GroupId>,
    /// Groups that are told of every instance of a provider once its topic has reached a revision.
    awaited: Vec<(Revision, GroupId, ServiceRef)>,
    reads: reads::Reads,
    effects: Vec<Effect>,
}

impl Tracker {
    /// A tracker without topics and groups, for a gateway with this number of shards.
    pub fn new(shards: usize) -> Self {
        Self {
            shards,
            topics: HashMap::new(),
            groups: HashMap::new(),
            by_selector: HashMap::new(),
            next_topic: 0,
            next_group: GroupId::FIRST,
            seen: Revision::ZERO,
            bookmark: None,
            confirmed: Revision::ZERO,
            behind: HashSet::new(),
            bookmarks: 0,
            unverified: VecDeque::new(),
            narrow: HashSet::new(),
            awaited: Vec::new(),
            reads: reads::Reads::default(),
            effects: Vec::new(),
        }
    }

    /// The revision at which the group's interest is known, for the next request about it.
    pub fn interest_known_at(&self, group: GroupId) -> Option<Revision> {
        let group = self.groups.get(&group)?;
        // The bookmarks that confirmed this revision would have named a later change of the interest.
        Some(group.interest_rev?.max(group.confirmed))
    }

    /// The highest revision that any message has mentioned.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// The number of providers that are followed.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// True when the provider is followed and has been loaded.
    pub fn is_live(&self, provider: &ServiceRef) -> bool {
        matches!(self.topics.get(provider), Some(Slot::Live(_)))
    }

    /// The number of the group's sessions in each shard. Empty when there is no such group.
    pub fn sessions(&self, group: GroupId) -> &[u64] {
        self.groups.get(&group).map_or(&[], |group| &group.sessions)
    }

    /// True once the revision is known after which the group receives everything.
    pub fn is_open(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.interest_rev.is_some())
    }

    /// True while the group exists.
    pub fn has(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// The group's selector.
    pub fn selector(&self, group: GroupId) -> Option<&Selector> {
        self.groups.get(&group).map(|group| &group.selector)
    }

    /// The number of groups for each label of a selector.
    pub fn groups_by_kind(&self) -> HashMap<&'static str, u64> {
        let mut counts: HashMap<&'static str, u64> = Selector::LABELS.map(|label| (label, 0)).into();
        for group in self.groups.values() {
            *counts.entry(group.selector.label()).or_default() += 1;
        }
        counts
    }

    /// Closes the group of a scope or a list whose first reply would bring the tracker above `limit` topics;
    /// 0 is no limit. Returns true when it did. A group that is open already may grow beyond the limit,
    /// because its watchers must not miss the providers that come later.
    pub fn refuse_too_many(&mut self, id: GroupId, reply: &InterestReply, limit: usize) -> bool {
        let Some(group) = self.groups.get(&id) else { return false };
        let selector = &group.selector;
        if limit == 0 || group.interest_rev.is_some() || selector.tenant_of_changes().is_none() {
            return false;
        }
        let is_new =
            |provider: &&ServiceRef| selector.may_ask_for(provider) && !self.topics.contains_key(*provider);
        let new = reply.providers.iter().filter(is_new).count();
        if self.topics.len().saturating_add(new) <= limit {
            return false;
        }
        self.effects.push(Effect::RefuseGroup(id));
        self.close_group(id);
        true
    }

    /// True when a session with this selector may begin under a limit of topics; 0 is no limit. The number of
    /// providers of a consumer or scope is not known yet, and counts as one. A list may name followed
    /// services only, or none that exists: its first reply decides.
    pub fn has_room(&self, selector: &Selector, limit: usize) -> bool {
        match selector {
            _ if limit == 0 || self.by_selector.contains_key(selector) => true,
            Selector::Providers(_) => true,
            Selector::Consumer(_) | Selector::Scope(_) => self.topics.len() < limit,
        }
    }

    /// The group of a selector, if there is one.
    pub fn group(&self, selector: &Selector) -> Option<GroupId> {
        self.by_selector.get(selector).copied()
    }

    /// The number of groups.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Adds a session to the group of its selector. Returns the group, and the shard that has the fewest of
    /// the group's sessions.
    pub fn join(&mut self, selector: &Selector) -> (GroupId, usize) {
        let id = match self.by_selector.get(selector) {
            Some(id) => *id,
            None => self.open_group(selector.clone()),
        };
        let Some(group) = self.groups.get_mut(&id) else { return (id, 0) };
        let shards = group.sessions.len();
        // The search starts at another shard for each group. Otherwise the many groups with one session would
        // all use the first shard.
        let candidates = (0..shards).map(|offset| (offset + id.get() as usize) % shards);
        let shard = candidates.min_by_key(|shard| group.sessions[*shard]).unwrap_or(0);
        group.sessions[shard] += 1;
        group.empty_since = None;
        (id, shard)
    }

    fn open_group(&mut self, selector: Selector) -> GroupId {
        let id = self.next_group;
        self.next_group = id.next();
        self.effects.push(Effect::OpenInterest(id, selector.clone()));
        self.by_selector.insert(selector.clone(), id);
        let group = Group {
            selector,
            providers: BTreeSet::new(),
            leaving: HashMap::new(),
            delivered_before_leaving: HashMap::new(),
            gone_lately: HashMap::new(),
            voided_at: None,
            interest_rev: None,
            last_change: Position::default(),
            interest_complete_to: Revision::ZERO,
            request: InterestRequest::begin(),
            verified: false,
            departures: None,
            sessions: vec![0; self.shards],
            held: false,
            unchanged_since: None,
            empty_since: None,
            confirmed: Revision::ZERO,
            asked_at: self.seen,
        };
        self.behind.insert(id);
        if group.selector.is_narrow() {
            self.narrow.insert(id);
        }
        self.groups.insert(id, group);
        id
    }

    /// Sessions of a group have closed in a shard.
    pub fn sessions_closed(&mut self, shard: usize, group: GroupId, sessions: u64, now: Instant) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        if let Some(count) = group.sessions.get_mut(shard) {
            *count = count.saturating_sub(sessions);
        }
        if !group.held && group.sessions.iter().all(|count| *count == 0) {
            group.empty_since = Some(now);
        }
    }

    /// Closes the groups that have been without sessions for ten seconds.
    pub fn forget_empty(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for (id, group) in &self.groups {
            if group.empty_since.is_some_and(|since| now >= since + LINGER) {
                expired.push(*id);
            }
        }
        let has_expired = !expired.is_empty();
        for id in expired {
            self.close_group(id);
        }
        // A burst of watchers of made-up names must not leave the gateway with maps of that size.
        if has_expired {
            give_back(&mut self.topics);
            give_back(&mut self.groups);
            give_back(&mut self.by_selector);
        }
    }

    fn close_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.remove(&id) else { return };
        self.by_selector.remove(&group.selector);
        self.behind.remove(&id);
        self.narrow.remove(&id);
        self.reads.touch_group(id);
        // Sessions that still wait for the group to open must not wait for ever.
        self.effects.extend([Effect::CloseInterest(id), Effect::GroupOpened(id)]);
        for provider in &group.providers {
            self.leave_topic(id, provider);
        }
    }

    fn end_group(&mut self, id: GroupId) {
        if self.groups.contains_key(&id) {
            self.effects.push(Effect::EndGroup(id));
            self.close_group(id);
        }
    }
}

/// Gives back the memory of a map that has become much smaller than it was. The factor is large and some room
/// stays, so that a map whose size swings is not moved again and again.
fn give_back<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 4 * map.len() {
        map.shrink_to(2 * map.len());
    }
}

#[cfg(test)]
mod tests;
