//! Events and replays of providers, on their way to the groups.

use std::sync::Arc;

use shared::event::{InstanceEvent, Position};
use shared::model::ServiceRef;

use super::repair::request_replay;
use super::shown::settle;
use super::{Effect, Slot, Subscription, Tracker, VERIFY_AFTER_BOOKMARKS, Waiting};
use crate::reply::{TopicReplay, Want};
use crate::topic::{Fate, Known, Member, Request, Topic};
use crate::{Cause, GroupId, Push};

/// The outcome of a batch of events, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Events that were applied.
    pub applied: u64,
    /// Events that were known already.
    pub duplicate: u64,
    /// Events whose predecessor is missing.
    pub gap: u64,
    /// Events of providers that nobody follows.
    pub unwatched: u64,
}

impl Fates {
    fn count(&mut self, fate: Option<Fate>) {
        match fate {
            Some(Fate::Applied) => self.applied += 1,
            Some(Fate::Duplicate) => self.duplicate += 1,
            Some(Fate::Gap) => self.gap += 1,
            None => self.unwatched += 1,
        }
    }
}

impl Tracker {
    /// A replica has replied about a provider that was being opened from `since`. Returns false when nobody
    /// waits for the provider any more; the caller then drops the subscription.
    pub fn on_loaded(&mut self, provider: &ServiceRef, since: Position, replay: TopicReplay) -> bool {
        self.seen = self.seen.max(replay.at.rev);
        let Some(slot) = self.topics.get_mut(provider) else { return false };
        let Slot::Loading { id, since: wanted, members, repeat } = slot else { return false };
        if since > *wanted {
            // The reply belongs to an earlier topic of this provider, and does not reach back far enough.
            return false;
        }
        let mut out = Vec::new();
        let has_history = replay.continuous;
        let mut topic = Topic::load(*id, since, replay, &mut out);
        let at = topic.at();
        if *repeat {
            topic.request = Request::Pending;
            let want = Want { provider: provider.clone(), since: topic.at(), snapshot: false };
            self.effects.push(Effect::RequestReplay(Cause::Again, vec![want]));
        }
        for (group, Waiting { base, shown }) in std::mem::take(members) {
            let of = self.groups.get(&group);
            let leaving = of.and_then(|group| group.leaving.get(provider));
            let until = leaving.map(|leaving| Position::end_of(leaving.until));
            let is_consumer = of.is_some_and(|group| group.selector.consumer().is_some());
            if base >= since {
                let known = if until.is_some() && is_consumer { Known::Leaving } else { Known::Followed };
                topic.members.insert(group, Member { until, known, ..Member::after(base) });
            } else {
                join_topic(&mut topic, provider.clone(), group, base, &mut self.effects);
            }
            if let Some(member) = topic.members.get_mut(&group) {
                member.shown_at = shown;
                // Everything that is there will be told as created. Told as the difference to an unknown time
                // before, it would come twice.
                if shown.is_some() && !has_history && member.until.is_none() {
                    member.base = member.base.max(at);
                    member.followed_after = member.followed_after.max(at);
                }
            }
        }
        deliver(&mut topic, provider, out, &mut self.effects);
        if self.reads.has(provider) {
            topic.start_reading();
            self.reads.touch(provider);
        }
        let due = self.bookmarks + VERIFY_AFTER_BOOKMARKS;
        self.unverified.push_back((due, Subscription::Topic(provider.clone(), topic.id)));
        *slot = Slot::Live(topic);
        true
    }

    /// Applies events of the bus in the order of their positions. Each subject has a channel of its own, so
    /// they arrive in any order.
    pub fn on_events(&mut self, mut events: Vec<InstanceEvent>) -> Fates {
        events.sort_by_key(|event| event.at);
        let mut fates = Fates::default();
        for event in events {
            fates.count(self.on_event(event));
        }
        fates
    }

    /// Applies one event of the bus. `None` when nobody follows its provider.
    pub fn on_event(&mut self, event: InstanceEvent) -> Option<Fate> {
        self.seen = self.seen.max(event.at.rev);
        let Some(Slot::Live(topic)) = self.topics.get_mut(&event.provider) else { return None };
        // A new publisher does not know a provider's event before its own term, and names the end of a
        // revision instead. The last bookmark proves that everything up to there was published and has been
        // applied.
        topic.note_bookmark(self.bookmark.unwrap_or_default());
        let provider = event.provider.clone();
        let mut out = Vec::new();
        let fate = topic.on_event(event, &mut out);
        deliver(topic, &provider, out, &mut self.effects);
        if topic.read.is_some() {
            self.reads.touch(&provider);
        }
        if fate == Fate::Gap && topic.request.is_idle() {
            let want = request_replay(topic, provider);
            self.effects.push(Effect::RequestReplay(Cause::Gap, vec![want]));
        }
        Some(fate)
    }

    /// A replica has replied about a provider that was requested again from `since`. Returns the number of
    /// differences that only comparing states showed.
    pub fn on_replay(&mut self, provider: &ServiceRef, since: Position, replay: TopicReplay) -> u64 {
        self.seen = self.seen.max(replay.at.rev);
        let Some(Slot::Live(topic)) = self.topics.get_mut(provider) else { return 0 };
        if since > topic.complete_to() {
            // The reply belongs to an earlier topic of this provider, which knew more. This one has its own
            // request under way.
            return 0;
        }
        let mut out = Vec::new();
        let outcome = topic.on_replay(replay, &mut out);
        if topic.read.is_some() {
            self.reads.touch(provider);
        }
        deliver(topic, provider, out, &mut self.effects);
        if outcome.repeat {
            let snapshot = topic.needs_snapshot();
            let want = Want { snapshot, ..request_replay(topic, provider.clone()) };
            self.effects.push(Effect::RequestReplay(Cause::Again, vec![want]));
        }
        outcome.differences
    }

    /// A replica has replied with the older events of a topic that a group has joined late.
    pub fn on_caught_up(&mut self, id: GroupId, provider: &ServiceRef, replay: TopicReplay) {
        let Some(Slot::Live(topic)) = self.topics.get_mut(provider) else { return };
        let at = topic.at();
        let Some(member) = topic.members.get_mut(&id) else { return };
        let until = member.until;
        let base = member.base;
        *member = Member { base: at, catching_up: false, ..*member };
        // Then everything that is there will be told as created, so none of it is to be told before.
        let is_told_all = member.shown_at.is_some() && until.is_none();
        // The reply may be older than this topic. The topic itself knows the events in between.
        let later = if replay.continuous { topic.since(replay.at) } else { None };
        let Some(later) = later else {
            if is_told_all {
                if let Some(member) = topic.members.get_mut(&id) {
                    // What another group was told does not count as told to this one.
                    member.followed_after = at;
                }
                return settle(topic, &[], &mut self.effects);
            }
            // Some events are known to nobody. Every instance that was written since is sent once.
            let pushes = topic.written_after(base.rev);
            self.effects.extend(pushes.into_iter().map(|push| Effect::Deliver(push, vec![id])));
            return settle(topic, &[], &mut self.effects);
        };
        let earlier = replay.events.iter().filter(|event| event.at <= at);
        let earlier = earlier.map(|event| Arc::new(Push::from_event(topic.id, event)));
        let pushes: Vec<Arc<Push>> = earlier.chain(later).collect();
        for push in &pushes {
            if push.at > base && until.is_none_or(|until| push.at <= until) {
                self.effects.push(Effect::Deliver(push.clone(), vec![id]));
            }
        }
        // Later messages must leave out the changes that have been delivered here.
        topic.remember(base, &pushes);
        settle(topic, &pushes, &mut self.effects);
    }
}

/// Adds a group to a live topic, and delivers the changes since `base`. If the topic does not know them any
/// more, they are requested, and the group receives nothing until the reply.
pub(super) fn join_topic(
    topic: &mut Topic,
    provider: ServiceRef,
    id: GroupId,
    base: Position,
    effects: &mut Vec<Effect>,
) {
    match topic.since(base) {
        Some(missed) => {
            effects.extend(missed.into_iter().map(|push| Effect::Deliver(push, vec![id])));
            let delivered = base.max(topic.at());
            topic.members.insert(id, Member { followed_after: base, ..Member::after(delivered) });
        }
        None => {
            topic.members.insert(id, Member { catching_up: true, ..Member::after(base) });
            effects.push(Effect::CatchUp(id, Want { provider, since: base, snapshot: false }));
        }
    }
}

/// Delivers changes of a topic to each member that they concern.
fn deliver(topic: &mut Topic, provider: &ServiceRef, pushes: Vec<Arc<Push>>, effects: &mut Vec<Effect>) {
    let Stayed { served, is_settled } = stay_for_differences(topic, provider, &pushes, effects);
    // Nothing is delivered out of them below, so they are kept only for members that need them.
    let applied = if is_settled { Vec::new() } else { pushes.clone() };
    for push in pushes {
        let mut groups = Vec::new();
        for (id, member) in &topic.members {
            let is_wanted = member.receives() && push.at > member.base && !served.contains(id);
            if is_wanted && member.until.is_none_or(|until| push.at <= until) {
                groups.push(*id);
            }
        }
        if !groups.is_empty() {
            effects.push(Effect::Deliver(push, groups));
        }
    }
    if !is_settled {
        settle(topic, &applied, effects);
    }
}

/// The outcome of [`stay_for_differences`].
struct Stayed {
    /// The groups to which everything has been delivered.
    served: Vec<GroupId>,
    /// No member is due anything but changes.
    is_settled: bool,
}

/// Keeps groups that are about to leave the provider, when `pushes` hold a difference beyond the position at
/// which they leave. Returns those groups; everything has been delivered to them.
///
/// A difference found by comparing snapshots has no exact position, so nobody knows whether it happened
/// before or after the provider left the interest: a delete may have come first, and a present instance may
/// belong to a later registration of the same service. Such groups keep following up to the snapshot's
/// position.
fn stay_for_differences(
    topic: &mut Topic,
    provider: &ServiceRef,
    pushes: &[Arc<Push>],
    effects: &mut Vec<Effect>,
) -> Stayed {
    let mut staying = Vec::new();
    let mut is_settled = true;
    for (id, member) in &topic.members {
        is_settled &= member.known == Known::Followed && member.shown_at.is_none();
        let Some(until) = member.until.filter(|_| member.receives()) else { continue };
        if pushes.iter().any(|push| push.is_difference() && push.at > until) {
            staying.push((*id, until.max(member.base)));
        }
    }
    for (id, delivered) in &staying {
        join_topic(topic, provider.clone(), *id, *delivered, effects);
    }
    Stayed { served: staying.into_iter().map(|(id, _)| id).collect(), is_settled }
}
