//! What happens to providers: events, and answers to questions about them, on their way to the groups.

use std::sync::Arc;

use shared::event::{Action, InstanceEvent, Position};
use shared::model::ServiceRef;

use super::{Core, Effect, SETTLED_AFTER, Slot, Unsettled, Want};
use crate::hub::GroupId;
use crate::hub::push::Push;
use crate::upstream::Cause;
use crate::upstream::topic::{Fate, Member, Replayed, Topic};

impl Core {
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
            let leaving = self.groups.get(&group).and_then(|it| it.leaving.get(provider));
            let until = leaving.map(|it| Position::end_of(it.until));
            if base >= since {
                topic.members.insert(group, Member { base, until, closed: false });
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
            let want = Want { provider: provider.clone(), since: topic.at(), snapshot: topic.needs_state() };
            self.effects.push(Effect::Replay(Cause::Again, vec![want]));
        }
        again.differences
    }

    /// What a group that came late to a topic has missed.
    pub(crate) fn on_caught_up(&mut self, id: GroupId, provider: &ServiceRef, replayed: Replayed) {
        let Some(Slot::Live(topic)) = self.topics.get_mut(provider) else { return };
        let at = topic.at();
        let Some(member) = topic.members.get_mut(&id) else { return };
        let until = member.until;
        let base = std::mem::replace(member, Member { base: at, until, closed: false }).base;
        let missed = if replayed.continuous && replayed.at >= at {
            let missed = |place: Position| place > base && place <= until.map_or(at, |until| at.min(until));
            let events = replayed.events.iter().filter(|event| missed(event.at));
            events.map(|event| Arc::new(Push::of(topic.id, event))).collect()
        } else {
            topic.written_after(base.rev)
        };
        self.effects.extend(missed.into_iter().map(|push| Effect::Append(push, vec![id])));
    }
}

/// Adds a group to a live topic: with what happened since its base, or after having asked for that.
pub(super) fn join_live(
    topic: &mut Topic,
    provider: ServiceRef,
    id: GroupId,
    base: Position,
    effects: &mut Vec<Effect>,
) {
    match topic.since(base) {
        Some(missed) => {
            effects.extend(missed.into_iter().map(|push| Effect::Append(push, vec![id])));
            topic.members.insert(id, Member { base: base.max(topic.at()), until: None, closed: false });
        }
        None => {
            topic.members.insert(id, Member { base, until: None, closed: true });
            effects.push(Effect::CatchUp(id, Want { provider, since: base, snapshot: false }));
        }
    }
}

fn append(topic: &Topic, pushes: Vec<Arc<Push>>, effects: &mut Vec<Effect>) {
    for push in pushes {
        let (mut groups, mut late) = (Vec::new(), Vec::new());
        for (id, member) in &topic.members {
            if member.closed || push.at <= member.base {
                continue;
            }
            match member.until {
                Some(until) if push.at > until => late.push((*id, until)),
                Some(_) | None => groups.push(*id),
            }
        }
        if push.is_found() && push.action == Action::Delete {
            // A delete that only a comparison showed has no place of its own: who is about to leave the provider
            // is told that the instance went at the latest with it. What may come after that, when the provider
            // is of interest again, comes later.
            effects.extend(
                late.into_iter().map(|(id, until)| Effect::Append(went_with(&push, until), vec![id])),
            );
        }
        if !groups.is_empty() {
            effects.push(Effect::Append(push, groups));
        }
    }
}

fn went_with(push: &Push, until: Position) -> Arc<Push> {
    Arc::new(Push::found(push.topic, until, push.action, push.key.clone(), push.instance.clone()))
}
