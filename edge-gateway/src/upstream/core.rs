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

use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef};

use super::topic::{Fate, Member, Replayed, Topic};
use super::{Cause, Selector};
use crate::hub::push::Push;
use crate::hub::{GroupId, Left};
use crate::session::close::Reason;

#[cfg(test)]
mod model;
mod preface;

pub(crate) use preface::Preface;

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
    /// Listen to the consumer's interest, then ask for it.
    OpenInterest(GroupId, ServiceRef),
    /// Ask for it again.
    AskInterest(GroupId, ServiceRef),
    /// The group's view has begun, or the group has ended: who joined it can be told.
    Opened(GroupId),
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

/// A change of a consumer's interest.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterestChange {
    pub rev: Revision,
    pub added: Vec<ServiceRef>,
    pub removed: Vec<ServiceRef>,
    pub deleted: bool,
}

#[derive(Debug)]
struct Group {
    selector: Selector,
    providers: BTreeSet<ServiceRef>,
    /// Of these, those that an answer does not name any more: left when everything up to its revision was told.
    leaving: HashMap<ServiceRef, Revision>,
    /// How far those that were left had been told, where that is further than the last answer.
    left: HashMap<ServiceRef, Position>,
    /// The revision of the last answer about the interest; 0 before the first.
    confirmed: Revision,
    /// The revision of the last change; an earlier one is a repetition.
    changed: Revision,
    /// The answer is awaited; changes that come meanwhile.
    asking: Option<Vec<InterestChange>>,
    /// Something was lost meanwhile, which the answer may be too old to know.
    again: bool,
    /// Sessions in each shard.
    sessions: Vec<u64>,
    empty_since: Option<Instant>,
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
            next_group: 1,
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

    /// Topics and groups.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.topics.len(), self.groups.len())
    }

    /// Sessions of the group in each shard.
    pub(crate) fn sessions(&self, group: GroupId) -> &[u64] {
        self.groups.get(&group).map_or(&[], |group| &group.sessions)
    }

    /// The revision is known after which the group's sessions are told of everything.
    pub(crate) fn is_open(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.confirmed > 0)
    }

    /// The group is still there.
    pub(crate) fn has(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// A session with this selector may begin when there may be `most` topics; 0 is no limit. What a consumer
    /// will bring is not known yet and counts as one.
    pub(crate) fn has_room(&self, selector: &Selector, most: usize) -> bool {
        let new = match selector {
            _ if most == 0 || self.by_selector.contains_key(selector) => return true,
            Selector::Consumer(_) => 1,
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
        let best = (0..shards).map(|n| (n + id as usize) % shards).min_by_key(|shard| group.sessions[*shard]);
        let shard = best.unwrap_or(0);
        group.sessions[shard] += 1;
        group.empty_since = None;
        (id, shard)
    }

    fn open_group(&mut self, selector: Selector) -> GroupId {
        let id = self.next_group;
        self.next_group += 1;
        self.effects.push(Effect::OpenInterest(id, selector.consumer().clone()));
        self.by_selector.insert(selector.clone(), id);
        let group = Group {
            selector,
            providers: BTreeSet::new(),
            leaving: HashMap::new(),
            left: HashMap::new(),
            confirmed: 0,
            changed: 0,
            asking: Some(Vec::new()),
            again: false,
            sessions: vec![0; self.shards],
            empty_since: None,
        };
        self.groups.insert(id, group);
        id
    }

    /// Sessions are gone from a shard.
    pub(crate) fn left(&mut self, shard: usize, left: Left, now: Instant) {
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

    /// A consumer's interest was told.
    pub(crate) fn on_interest(&mut self, id: GroupId, answer: Interest) {
        self.seen = self.seen.max(answer.rev);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(kept) = group.asking.take() else { return };
        let first = group.confirmed == 0;
        if first {
            self.unsettled.push_back((self.bookmarks + SETTLED_AFTER, Unsettled::Group(id)));
        }
        let providers: BTreeSet<ServiceRef> = match &group.selector {
            Selector::Consumer(_) if !answer.exists => return self.end_group(id, Reason::NoService),
            Selector::Consumer(_) => answer.providers.into_iter().collect(),
            // For these the answer only tells the revision.
            Selector::Providers(providers) => providers.iter().cloned().collect(),
        };
        // When the interest grew while we did not hear of it, what happened since we last knew is told.
        let base = Position::end_of(if first { answer.rev } else { group.confirmed.max(group.changed) });
        group.confirmed = answer.rev.max(1);
        if first {
            self.effects.push(Effect::Opened(id));
        }
        let removed: Vec<_> = group.providers.difference(&providers).cloned().collect();
        let added: Vec<_> = providers.difference(&group.providers).cloned().collect();
        group.leaving.retain(|provider, _| !providers.contains(provider));
        // The answer may be ahead of events that are on their way, such as the deletes of a provider that is gone.
        group.leaving.extend(removed.into_iter().map(|provider| (provider, answer.rev)));
        self.change_interest(id, &[], added, base);
        for change in kept {
            if change.rev > answer.rev {
                self.on_interest_change(id, change);
            }
        }
        if let Some(group) = self.groups.get_mut(&id)
            && std::mem::take(&mut group.again)
        {
            group.asking = Some(Vec::new());
            self.effects.push(Effect::AskInterest(id, group.selector.consumer().clone()));
        }
    }

    /// A consumer's interest changed.
    pub(crate) fn on_interest_change(&mut self, id: GroupId, change: InterestChange) {
        self.seen = self.seen.max(change.rev);
        let Some(group) = self.groups.get_mut(&id) else { return };
        if change.deleted {
            return self.end_group(id, Reason::NoService);
        }
        if let Some(kept) = &mut group.asking {
            if kept.len() == KEPT {
                kept.remove(0);
            }
            return kept.push(change);
        }
        let known = change.rev <= group.confirmed || change.rev < group.changed;
        if known || matches!(group.selector, Selector::Providers(_)) {
            return;
        }
        group.changed = change.rev;
        // What was committed together with the new interest belongs to it.
        let base = Position::end_of(change.rev.saturating_sub(1));
        self.change_interest(id, &change.removed, change.added, base);
    }

    fn change_interest(
        &mut self,
        id: GroupId,
        removed: &[ServiceRef],
        added: Vec<ServiceRef>,
        base: Position,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        added.iter().chain(removed).for_each(|provider| _ = group.leaving.remove(provider));
        // What was told last of a provider that is gone, its deletes, may be among what is being asked for.
        let is_asked_for = |it: &ServiceRef| matches!(self.topics.get(it), Some(Slot::Live(t)) if t.asking);
        let (unsettled, removed): (Vec<_>, Vec<_>) = removed.iter().partition(|it| is_asked_for(it));
        group.leaving.extend(
            unsettled
                .into_iter()
                .filter(|provider| group.providers.contains(*provider))
                .map(|provider| (provider.clone(), group.changed)),
        );
        let added: Vec<_> =
            added.into_iter().filter(|provider| group.providers.insert(provider.clone())).collect();
        let removed: Vec<_> =
            removed.into_iter().filter(|provider| group.providers.remove(*provider)).collect();
        let (mut left, confirmed) = (std::mem::take(&mut group.left), group.confirmed);
        for provider in removed {
            // Events have channels of their own: some that came later may have been told already.
            let told = match self.topics.get(provider) {
                Some(Slot::Live(topic)) => Some(topic.at()),
                Some(Slot::Loading { members, .. }) => members.get(&id).copied(),
                None => None,
            };
            left.extend(told.map(|told| (provider.clone(), told)));
            self.leave_topic(id, provider);
        }
        let mut wanted = Vec::new();
        for provider in added {
            let base = left.remove(&provider).map_or(base, |told| told.max(base));
            match self.topics.get_mut(&provider) {
                None => {
                    self.next_topic += 1;
                    let members = HashMap::from([(id, base)]);
                    let slot = Slot::Loading { id: self.next_topic, since: base, members, again: false };
                    self.topics.insert(provider.clone(), slot);
                    wanted.push(Want { provider, since: base, snapshot: true });
                }
                Some(Slot::Loading { members, .. }) => {
                    members.insert(id, base);
                }
                Some(Slot::Live(topic)) => join_live(topic, provider, id, base, &mut self.effects),
            }
        }
        left.retain(|_, told| told.rev > confirmed);
        if let Some(group) = self.groups.get_mut(&id) {
            group.left = left;
        }
        if !wanted.is_empty() {
            self.effects.push(Effect::OpenTopics(wanted));
        }
    }

    fn leave_topic(&mut self, id: GroupId, provider: &ServiceRef) {
        let unused = match self.topics.get_mut(provider) {
            None => return,
            Some(Slot::Loading { members, .. }) => {
                members.remove(&id);
                members.is_empty()
            }
            Some(Slot::Live(topic)) => {
                topic.members.remove(&id);
                topic.members.is_empty()
            }
        };
        if unused {
            self.topics.remove(provider);
            self.effects.push(Effect::CloseTopic(provider.clone()));
        }
    }

    /// A provider that was being opened from `since` is there. False when nobody waits for it any more.
    pub(crate) fn on_loaded(&mut self, provider: &ServiceRef, since: Position, replayed: Replayed) -> bool {
        self.seen = self.seen.max(replayed.at.rev);
        let Some(slot) = self.topics.get_mut(provider) else { return false };
        let Slot::Loading { id, since: wanted, members, again } = slot else { return false };
        if since > *wanted {
            return false;
        }
        let mut out = Vec::new();
        let mut topic = Topic::load(*id, since, replayed, &mut out);
        if *again {
            topic.asking = true;
            let want = Want { provider: provider.clone(), since: topic.at(), snapshot: false };
            self.effects.push(Effect::Replay(Cause::Again, vec![want]));
        }
        let members = std::mem::take(members);
        for (group, base) in members {
            if base >= since {
                topic.members.insert(group, Member { base, closed: false });
            } else {
                join_live(&mut topic, provider.clone(), group, base, &mut self.effects);
            }
        }
        append(&topic, out, &mut self.effects);
        *slot = Slot::Live(topic);
        self.unsettled.push_back((self.bookmarks + SETTLED_AFTER, Unsettled::Topic(provider.clone())));
        true
    }

    /// An event came over the bus.
    pub(crate) fn on_event(&mut self, mut event: InstanceEvent) -> Option<Fate> {
        self.seen = self.seen.max(event.at.rev);
        let Some(Slot::Live(topic)) = self.topics.get_mut(&event.provider) else { return None };
        // A publisher that began at a revision does not know what came last before it. Bookmarks say that it was
        // published; unless something may have been lost since, it has arrived.
        let covered = event.prev == Position::end_of(event.prev.rev) && Some(event.prev.rev) <= self.bookmark;
        if covered && !topic.asking && self.unsettled.is_empty() {
            event.prev = event.prev.min(topic.at());
        }
        let provider = event.provider.clone();
        let mut out = Vec::new();
        let fate = topic.on_event(event, &mut out);
        append(topic, out, &mut self.effects);
        if fate == Fate::Gap && !std::mem::replace(&mut topic.asking, true) {
            let want = Want { provider, since: topic.at(), snapshot: false };
            self.effects.push(Effect::Replay(Cause::Gap, vec![want]));
        }
        Some(fate)
    }

    /// A provider was asked for again, and here is the answer; the number of differences found by comparison.
    pub(crate) fn on_replayed(&mut self, provider: &ServiceRef, since: Position, replayed: Replayed) -> u64 {
        self.seen = self.seen.max(replayed.at.rev);
        let Some(Slot::Live(topic)) = self.topics.get_mut(provider) else { return 0 };
        if since > topic.at() {
            // Asked for an earlier topic of this provider that knew more; this one has its own answer coming.
            return 0;
        }
        let mut out = Vec::new();
        let again = topic.on_replayed(replayed, &mut out);
        append(topic, out, &mut self.effects);
        if std::mem::take(&mut topic.again) || again.needed {
            topic.asking = true;
            let want = Want { provider: provider.clone(), since: topic.at(), snapshot: false };
            self.effects.push(Effect::Replay(Cause::Again, vec![want]));
        }
        again.differences
    }

    /// What a group that came late to a topic has missed.
    pub(crate) fn on_caught_up(&mut self, id: GroupId, provider: &ServiceRef, replayed: Replayed) {
        let Some(Slot::Live(topic)) = self.topics.get_mut(provider) else { return };
        let at = topic.at();
        let Some(member) = topic.members.get_mut(&id) else { return };
        let base = std::mem::replace(member, Member { base: at, closed: false }).base;
        let missed = if replayed.continuous && replayed.at >= at {
            let events = replayed.events.iter().filter(|event| event.at > base && event.at <= at);
            events.map(|event| Arc::new(Push::of(topic.id, event))).collect()
        } else {
            topic.written_after(base.rev)
        };
        self.effects.extend(missed.into_iter().map(|push| Effect::Append(push, vec![id])));
    }

    /// The publisher's progress: everything in (since, rev] was published. True when that shows a loss.
    pub(crate) fn on_bookmark(&mut self, rev: Revision, since: Revision) -> bool {
        let lost = self.bookmark.is_some_and(|known| since > known);
        self.bookmark = Some(self.bookmark.unwrap_or(0).max(rev));
        self.seen = self.seen.max(rev);
        self.bookmarks += 1;
        if lost {
            // Changes of interest are lost with the events. This asks for all that was to be settled, too.
            self.resync(Cause::Bookmark);
        } else {
            self.settle(rev);
            self.leave(rev);
            if self.is_settled() {
                self.told = self.told.max(rev);
            }
        }
        lost
    }

    /// Leaves the providers that answers did not name any more, now that everything up to then was told.
    fn leave(&mut self, rev: Revision) {
        let asking = |topics: &HashMap<ServiceRef, Slot>, provider: &ServiceRef| match topics.get(provider) {
            Some(Slot::Live(topic)) => topic.asking,
            Some(Slot::Loading { .. }) => true,
            None => false,
        };
        let mut left = Vec::new();
        for (id, group) in &mut self.groups {
            let ready = |provider: &ServiceRef, at: &Revision| *at <= rev && !asking(&self.topics, provider);
            let ready: Vec<_> = group.leaving.extract_if(|provider, at| ready(provider, at)).collect();
            for (provider, _) in ready {
                group.providers.remove(&provider);
                if let Some(Slot::Live(topic)) = self.topics.get(&provider) {
                    group.left.insert(provider.clone(), topic.at());
                }
                left.push((*id, provider));
            }
        }
        for (id, provider) in left {
            self.leave_topic(id, &provider);
        }
    }

    /// How far providers and interests have come, says the publisher. Asks for those that are behind; how many.
    pub(crate) fn on_reached(
        &mut self,
        providers: impl Iterator<Item = (ServiceRef, Position)>,
        consumers: impl Iterator<Item = (ServiceRef, Position)>,
    ) -> usize {
        let (mut wanted, mut behind) = (Vec::new(), 0);
        for (provider, at) in providers {
            match self.topics.get_mut(&provider) {
                None => {}
                // The answer under way may be older.
                Some(Slot::Loading { again, .. }) => *again = true,
                Some(Slot::Live(topic)) if topic.at() >= at => {}
                Some(Slot::Live(topic)) if topic.asking => topic.again = true,
                Some(Slot::Live(topic)) => {
                    topic.asking = true;
                    wanted.push(Want { provider, since: topic.at(), snapshot: false });
                }
            }
        }
        for (consumer, at) in consumers {
            let Some(id) = self.by_selector.get(&Selector::Consumer(consumer.clone())) else { continue };
            let Some(group) = self.groups.get_mut(id) else { continue };
            match &group.asking {
                Some(kept) => group.again |= kept.iter().all(|change| change.rev < at.rev),
                None if group.confirmed.max(group.changed) >= at.rev => {}
                None => {
                    behind += 1;
                    group.asking = Some(Vec::new());
                    self.effects.push(Effect::AskInterest(*id, consumer));
                }
            }
        }
        behind += wanted.len();
        if !wanted.is_empty() {
            self.effects.push(Effect::Replay(Cause::Bookmark, wanted));
        }
        behind
    }

    /// Asks once more for what was asked for when a subscription began or messages were lost. A replica that was
    /// behind the publisher may have answered: what it did not know yet may have been published before the
    /// subscription was there. By the publisher's progress since then it is known how far an answer must reach.
    fn settle(&mut self, rev: Revision) {
        let mut wanted = Vec::new();
        while let Some((due, _)) = self.unsettled.front()
            && *due <= self.bookmarks
        {
            let Some((_, what)) = self.unsettled.pop_front() else { break };
            match what {
                Unsettled::Topic(provider) => match self.topics.get_mut(&provider) {
                    Some(Slot::Loading { .. }) | None => {}
                    Some(Slot::Live(topic)) if topic.asking => topic.again = true,
                    Some(Slot::Live(topic)) if topic.at().rev < rev => {
                        topic.asking = true;
                        wanted.push(Want { provider, since: topic.at(), snapshot: false });
                    }
                    Some(Slot::Live(_)) => {}
                },
                Unsettled::Group(id) => match self.groups.get_mut(&id) {
                    Some(group) if group.asking.is_some() => group.again = true,
                    Some(group) if group.confirmed < rev => {
                        group.asking = Some(Vec::new());
                        self.effects.push(Effect::AskInterest(id, group.selector.consumer().clone()));
                    }
                    Some(_) | None => {}
                },
            }
        }
        if !wanted.is_empty() {
            self.effects.push(Effect::Replay(Cause::Again, wanted));
        }
    }

    /// Messages may have been lost: everything is asked for again.
    pub(crate) fn resync(&mut self, cause: Cause) {
        let due = self.bookmarks + SETTLED_AFTER;
        let topics = self.topics.keys().cloned().map(Unsettled::Topic);
        // Whatever waited already is among them.
        self.unsettled =
            topics.chain(self.groups.keys().copied().map(Unsettled::Group)).map(|it| (due, it)).collect();
        self.resync_topics(cause);
        for (id, group) in &mut self.groups {
            if group.asking.is_some() {
                group.again = true;
            } else {
                group.asking = Some(Vec::new());
                self.effects.push(Effect::AskInterest(*id, group.selector.consumer().clone()));
            }
        }
    }

    fn resync_topics(&mut self, cause: Cause) {
        let mut wanted = Vec::new();
        for (provider, slot) in &mut self.topics {
            match slot {
                // The answer under way may be older than what was lost.
                Slot::Loading { again, .. } => *again = true,
                Slot::Live(topic) if topic.asking => topic.again = true,
                Slot::Live(topic) => {
                    topic.asking = true;
                    wanted.push(Want { provider: provider.clone(), since: topic.at(), snapshot: false });
                }
            }
        }
        if !wanted.is_empty() {
            self.effects.push(Effect::Replay(cause, wanted));
        }
    }

    /// The sums of all providers, and all consumers, for comparison with a replica.
    pub(crate) fn digests(&self) -> Digests {
        let live = self.topics.iter().filter_map(|(provider, slot)| match slot {
            Slot::Live(topic) if !topic.asking => Some((provider.clone(), topic.digest())),
            Slot::Live(_) | Slot::Loading { .. } => None,
        });
        let consumers = self.groups.iter().filter_map(|(id, group)| match &group.selector {
            Selector::Consumer(consumer) => Some((*id, consumer.clone())),
            Selector::Providers(_) => None,
        });
        Digests { entries: live.collect(), consumers: consumers.collect() }
    }

    /// These providers' sums, as they were sent, differ from the replica's; those that have not moved since are
    /// compared in full.
    pub(crate) fn on_differing(&mut self, differing: Vec<(ServiceRef, u64)>) {
        let mut wanted = Vec::new();
        for (provider, digest) in differing {
            if let Some(Slot::Live(topic)) = self.topics.get_mut(&provider)
                && topic.digest() == digest
                && !std::mem::replace(&mut topic.asking, true)
            {
                wanted.push(Want { since: topic.at(), provider, snapshot: true });
            }
        }
        if !wanted.is_empty() {
            self.effects.push(Effect::Replay(Cause::Digest, wanted));
        }
    }

    /// A consumer does not exist any more.
    pub(crate) fn on_consumer_gone(&mut self, id: GroupId) {
        self.end_group(id, Reason::NoService);
    }
}

/// Adds a group to a live topic: with what happened since its base, or after having asked for that.
fn join_live(
    topic: &mut Topic,
    provider: ServiceRef,
    id: GroupId,
    base: Position,
    effects: &mut Vec<Effect>,
) {
    match topic.since(base) {
        Some(missed) => {
            effects.extend(missed.into_iter().map(|push| Effect::Append(push, vec![id])));
            topic.members.insert(id, Member { base: base.max(topic.at()), closed: false });
        }
        None => {
            topic.members.insert(id, Member { base, closed: true });
            effects.push(Effect::CatchUp(id, Want { provider, since: base, snapshot: false }));
        }
    }
}

fn append(topic: &Topic, pushes: Vec<Arc<Push>>, effects: &mut Vec<Effect>) {
    for push in pushes {
        let wants = |member: &Member| !member.closed && push.at > member.base;
        let groups: Vec<GroupId> =
            topic.members.iter().filter(|(_, member)| wants(member)).map(|(id, _)| *id).collect();
        if !groups.is_empty() {
            effects.push(Effect::Append(push, groups));
        }
    }
}

#[cfg(test)]
#[path = "core/tests.rs"]
mod tests;
