//! What happens to providers: events, and answers to questions about them, on their way to the groups.

use std::sync::Arc;

use shared::event::{InstanceEvent, Position};
use shared::model::ServiceRef;

use super::{Core, Effect, SETTLED_AFTER, Slot, Unsettled, Want};
use crate::push::Push;
use crate::upstream::topic::{Fate, Member, Replayed, Topic};
use crate::watch::Cause;
use crate::watch::GroupId;

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
        append(&mut topic, provider, out, &mut self.effects);
        *slot = Slot::Live(topic);
        self.unsettled.push_back((self.bookmarks + SETTLED_AFTER, Unsettled::Topic(provider.clone())));
        true
    }

    /// An event came over the bus.
    pub(crate) fn on_event(&mut self, event: InstanceEvent) -> Option<Fate> {
        self.seen = self.seen.max(event.at.rev);
        let Some(Slot::Live(topic)) = self.topics.get_mut(&event.provider) else { return None };
        // A publisher that began at a revision does not know what came last before it. Bookmarks say that it was
        // published; unless something may have been lost since, it has arrived.
        topic.heard(self.bookmark.unwrap_or(0));
        let provider = event.provider.clone();
        let mut out = Vec::new();
        let fate = topic.on_event(event, &mut out);
        append(topic, &provider, out, &mut self.effects);
        if fate == Fate::Gap && !std::mem::replace(&mut topic.asking, true) {
            let want = Want { provider, since: topic.certain(), snapshot: false };
            self.effects.push(Effect::Replay(Cause::Gap, vec![want]));
        }
        Some(fate)
    }

    /// A provider was asked for again, and here is the answer; the number of differences found by comparison.
    pub(crate) fn on_replayed(&mut self, provider: &ServiceRef, since: Position, replayed: Replayed) -> u64 {
        self.seen = self.seen.max(replayed.at.rev);
        let Some(Slot::Live(topic)) = self.topics.get_mut(provider) else { return 0 };
        if since > topic.certain() {
            // Asked for an earlier topic of this provider that knew more; this one has its own answer coming.
            return 0;
        }
        let mut out = Vec::new();
        let again = topic.on_replayed(replayed, &mut out);
        append(topic, provider, out, &mut self.effects);
        if std::mem::take(&mut topic.again) || again.needed {
            topic.asking = true;
            let want =
                Want { provider: provider.clone(), since: topic.certain(), snapshot: topic.needs_state() };
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
        // What came while the replica answered is known here.
        let later = replayed.continuous.then(|| topic.since(replayed.at)).flatten();
        let missed: Vec<Arc<Push>> = match later {
            Some(later) => {
                let told = replayed.events.iter().filter(|event| event.at <= at);
                let told = told.map(|event| Arc::new(Push::of(topic.id, event))).chain(later);
                told.filter(|push| push.at > base && until.is_none_or(|until| push.at <= until)).collect()
            }
            None => topic.written_after(base.rev),
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

/// Tells the members of a topic what happened, each what is of interest to it.
fn append(topic: &mut Topic, provider: &ServiceRef, pushes: Vec<Arc<Push>>, effects: &mut Vec<Effect>) {
    let stayed = stay_for_found(topic, provider, &pushes, effects);
    for push in pushes {
        let wants = |id: &GroupId, member: &Member| {
            let open = !member.closed && push.at > member.base && !stayed.contains(id);
            open && member.until.is_none_or(|until| push.at <= until)
        };
        let wanting = topic.members.iter().filter(|(id, member)| wants(id, member));
        let groups: Vec<GroupId> = wanting.map(|(id, _)| *id).collect();
        if !groups.is_empty() {
            effects.push(Effect::Append(push, groups));
        }
    }
}

/// What only a comparison showed has no place of its own. A delete may have been before the provider was left; what is
/// there may be of another life of the provider, and what was there before was deleted with the one that was left. Who
/// is about to leave stays a little longer and is told everything up to it. Those who do; they are told here.
fn stay_for_found(
    topic: &mut Topic,
    provider: &ServiceRef,
    pushes: &[Arc<Push>],
    effects: &mut Vec<Effect>,
) -> Vec<GroupId> {
    let is_late = |until: Position| pushes.iter().any(|it| it.is_found() && it.at > until);
    let late = |(id, member): (&GroupId, &Member)| {
        member
            .until
            .filter(|until| !member.closed && is_late(*until))
            .map(|until| (*id, until.max(member.base)))
    };
    let late: Vec<(GroupId, Position)> = topic.members.iter().filter_map(late).collect();
    for (id, told) in &late {
        join_live(topic, provider.clone(), *id, *told, effects);
    }
    late.into_iter().map(|(id, _)| id).collect()
}
