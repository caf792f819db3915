//! One provider as a gateway follows it: position, instances, recent changes.
//!
//! In: events of the bus and replays of replicas, in any order, repeated or missing. Out: pushes in the
//! provider's order, each change once. A gap is never guessed over: an event behind it is held until a replay
//! has filled the gap. The topic only says that a replay is needed; the tracker requests it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shared::event::{Action, InstanceEvent, Position, digest_of};
use shared::model::{Instance, Revision, ServiceKey};

use crate::reply::TopicReplay;
use crate::{GroupId, Push};

mod held;
mod reading;
mod recent;

use held::HeldEvents;
use reading::Reading;
use recent::Recent;

/// The outcome of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The event was the next one and has been applied.
    Applied,
    /// The event was known already.
    Duplicate,
    /// The event's predecessor is missing. The event is held, and a replay is needed.
    Gap,
}

/// The state of the replay request for a topic. At most one is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Nothing is being requested.
    Idle,
    /// A reply is awaited.
    Pending,
    /// A reply is awaited, and the request must be repeated after it: something was lost in the meantime, and
    /// the reply may be too old to contain it.
    PendingThenRepeat,
}

impl Request {
    pub(crate) fn is_idle(self) -> bool {
        self == Self::Idle
    }

    /// Marks a pending request as one to repeat. False when none is pending, so that the caller requests now.
    pub(crate) fn repeat_if_pending(&mut self) -> bool {
        if self.is_idle() {
            return false;
        }
        *self = Self::PendingThenRepeat;
        true
    }
}

/// The history to which the known instances belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The store's present history.
    Live,
    /// A history that a restore of the store has undone. A snapshot must come before events mean anything.
    Restored,
}

/// The part of a topic's order that a group receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Only changes after this position are delivered: earlier ones precede the group's interest.
    pub(crate) base: Position,
    /// Every change after this position that the topic knows has been delivered, unless it is beyond `until`.
    pub(crate) followed_after: Position,
    /// Only changes up to this position are delivered, if set: the provider has left the group's interest
    /// there.
    pub(crate) until: Option<Position>,
    /// Nothing is delivered while older changes are being fetched for this group.
    pub(crate) catching_up: bool,
    pub(crate) known: Known,
    /// Once the topic has reached this revision, every instance is delivered as created, if set, but for
    /// those whose creation was delivered: the provider came into the group's interest there, and clients may
    /// not know what was there before.
    pub(crate) shown_at: Option<Revision>,
}

/// The instances of a topic that the clients of a group know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The instances that a find has shown, with every change that is delivered.
    Followed,
    /// The same, until the topic has passed the group's `until`: then they are delivered as deleted.
    Leaving,
    /// None: those that were left when the provider left were delivered as deleted.
    Gone,
}

impl Member {
    /// A member that receives the changes after `base`.
    pub(crate) fn after(base: Position) -> Self {
        Self {
            base,
            followed_after: base,
            until: None,
            catching_up: false,
            known: Known::Followed,
            shown_at: None,
        }
    }

    /// True when the group receives changes as they come.
    pub(crate) fn receives(&self) -> bool {
        !self.catching_up && matches!(self.known, Known::Followed | Known::Leaving)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    /// The revision that wrote the instance.
    mod_rev: Revision,
    instance: Arc<Instance>,
}

/// The outcome of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplayOutcome {
    /// A replay must be requested once more: this one did not suffice, or something was lost while it was
    /// awaited.
    pub(crate) repeat: bool,
    /// The number of differences that only comparing the snapshot showed.
    pub(crate) differences: u64,
}

/// The state of one provider.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: u32,
    pub(crate) members: HashMap<GroupId, Member>,
    pub(crate) request: Request,
    /// The state was requested again after the subscription began, or after a loss. When in addition nothing
    /// is being requested, nothing that was published up to the last bookmark is missing.
    pub(crate) verified: bool,
    key: Option<Arc<ServiceKey>>,
    at: Position,
    /// Nothing happened between `at` and this position, by the word of a bookmark.
    quiet_until: Position,
    instances: HashMap<String, Entry>,
    digest: u64,
    recent: Recent,
    held: HeldEvents,
    origin: Origin,
    /// Parts of an instance are missing, or were at some time.
    shortened: bool,
    /// The instances as finds read them, while they do.
    // Boxed, because few services are read and every topic would pay for the size.
    pub(crate) read: Option<Box<Reading>>,
}

impl Topic {
    /// Makes a topic from the first replay, which was requested from `since`. Changes after `since` go to
    /// `out`.
    pub(crate) fn load(id: u32, since: Position, replay: TopicReplay, out: &mut Vec<Arc<Push>>) -> Self {
        // A provider that did not change after `since` has an older position, and is complete up to `since`
        // all the same.
        let at = replay.at.max(since);
        // A service that has been deleted meanwhile has no name any more, but its events have, and members
        // that left before are told of what was left then.
        let key = replay.key.or_else(|| replay.events.last().map(|event| event.key.clone()));
        let mut topic = Self {
            id,
            members: HashMap::new(),
            request: Request::Idle,
            verified: false,
            key,
            at,
            quiet_until: Position::default(),
            instances: HashMap::new(),
            digest: 0,
            // A replay with a hole cannot vouch for the changes before its state.
            recent: Recent::starting_after(if replay.continuous { since } else { at }),
            held: HeldEvents::default(),
            origin: Origin::Live,
            shortened: replay.shortened || replay.events.iter().any(|event| event.via.shortened),
            read: None,
        };
        let snapshot = replay.snapshot.unwrap_or_default();
        if replay.continuous {
            for event in replay.events.iter().filter(|event| event.at > since) {
                topic.note(Arc::new(Push::from_event(id, event)), out);
            }
        } else if let Some(key) = topic.key.clone() {
            // The events are not known, so deletes cannot be told. Each instance that was written since is
            // sent once.
            for (instance, _) in snapshot.iter().filter(|(_, mod_rev)| *mod_rev > since.rev) {
                let push = Push::difference(id, replay.at, Action::Update, key.clone(), instance.clone());
                out.push(Arc::new(push));
            }
        }
        for (instance, mod_rev) in snapshot {
            topic.put(instance, mod_rev);
        }
        topic
    }

    /// Everything up to this position has been applied.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// Nothing is missing up to this position. It is beyond [`Topic::at`] when a bookmark has shown that
    /// nothing happened since. A request starts here: a replica that listed the store recently may have no
    /// history of the quiet time, and would answer an earlier position with a state instead of events.
    pub(crate) fn complete_to(&self) -> Position {
        self.at.max(self.quiet_until)
    }

    /// A bookmark has covered `rev`, and everything that was published before that bookmark has been applied.
    pub(crate) fn note_bookmark(&mut self, rev: Revision) {
        // Without verification, or while a reply is awaited, a missing event may still be on its way.
        if self.verified && self.request.is_idle() {
            self.quiet_until = self.quiet_until.max(Position::end_of(rev));
        }
    }

    /// True after a restore, until a snapshot of the new history has arrived: events alone cannot repair the
    /// topic.
    pub(crate) fn needs_snapshot(&self) -> bool {
        self.origin == Origin::Restored
    }

    /// True when nothing that was published up to the last bookmark is missing, and the instances are whole.
    pub(crate) fn is_sound(&self) -> bool {
        self.verified && self.is_settled() && !self.shortened
    }

    /// True when nothing is being requested that may be missing.
    pub(crate) fn is_settled(&self) -> bool {
        self.request.is_idle() && self.origin == Origin::Live
    }

    /// The sum over the instances that gateways and replicas compare.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The provider's name, once it is known.
    pub(crate) fn key(&self) -> Option<&Arc<ServiceKey>> {
        self.key.as_ref()
    }

    /// The present instances, each with the revision that wrote it. The order is arbitrary.
    pub(crate) fn instances(&self) -> impl Iterator<Item = (&Arc<Instance>, Revision)> {
        self.instances.values().map(|entry| (&entry.instance, entry.mod_rev))
    }

    /// A present instance, with the revision that wrote it.
    pub(crate) fn instance(&self, id: &str) -> Option<(&Arc<Instance>, Revision)> {
        self.instances.get(id).map(|entry| (&entry.instance, entry.mod_rev))
    }

    /// Applies an event of the bus, or holds it when its predecessor is missing.
    pub(crate) fn on_event(&mut self, event: InstanceEvent, out: &mut Vec<Arc<Push>>) -> Fate {
        if event.at <= self.at {
            return Fate::Duplicate;
        }
        if !self.is_next(event.prev) {
            self.held.add(event);
            return Fate::Gap;
        }
        self.apply(&event, out);
        self.apply_held(out);
        Fate::Applied
    }

    /// The store was restored from a backup. The known instances stay, because watchers know them too, but
    /// they have no position in the new history. A snapshot of that history must follow; the differences are
    /// then delivered.
    pub(crate) fn restore(&mut self) {
        self.at = Position::default();
        self.quiet_until = Position::default();
        self.request = Request::Pending;
        self.verified = false;
        self.recent = Recent::default();
        self.held = HeldEvents::default();
        self.origin = Origin::Restored;
        for member in self.members.values_mut() {
            // A provider that has left may be of interest in the new history. If not, it leaves once more.
            let is_unknown = member.shown_at.is_some() || member.known == Known::Gone;
            let shown_at = is_unknown.then_some(Revision::ZERO);
            *member = Member { shown_at, ..Member::after(Position::default()) };
        }
    }

    /// Applies a replay that was requested from a position which this topic had reached, and ends the
    /// request.
    pub(crate) fn on_replay(&mut self, replay: TopicReplay, out: &mut Vec<Arc<Push>>) -> ReplayOutcome {
        self.shortened |= replay.shortened;
        let lost_meanwhile = self.request == Request::PendingThenRepeat;
        self.request = Request::Idle;
        let events_were_dropped = self.held.take_dropped();
        let says_nothing = !replay.continuous && replay.snapshot.is_none();
        let lacks_snapshot = self.needs_snapshot() && replay.snapshot.is_none();
        let mut repeat = lost_meanwhile || events_were_dropped || says_nothing || lacks_snapshot;
        if replay.key.is_some() {
            self.key = replay.key;
        }
        if replay.continuous && self.origin == Origin::Live {
            for event in replay.events {
                if event.at > self.at {
                    self.apply(&event, out);
                }
            }
            self.at = self.at.max(replay.at);
        }
        let mut differences = 0;
        if let Some(snapshot) = replay.snapshot {
            if self.at > replay.at && !self.recent.is_complete_after(replay.at) {
                // The topic is ahead of the snapshot, and has forgotten which instances changed in between:
                // the comparison could undo newer changes.
                repeat = true;
            } else {
                if !replay.continuous && replay.at > self.at {
                    self.recent.applied_snapshot_at(replay.at);
                }
                differences = self.compare(snapshot, replay.at, out);
                self.origin = Origin::Live;
                self.at = self.at.max(replay.at);
            }
        }
        self.apply_held(out);
        repeat |= !self.held.is_empty();
        ReplayOutcome { repeat, differences }
    }

    /// The changes after `base`, if they are still known.
    pub(crate) fn since(&self, base: Position) -> Option<Vec<Arc<Push>>> {
        if base >= self.at {
            return Some(Vec::new());
        }
        self.recent.is_complete_after(base).then(|| self.recent.after(base).cloned().collect())
    }

    /// The changes after `base` that are still known; older ones may be missing.
    pub(crate) fn latest_after(&self, base: Position) -> impl Iterator<Item = &Arc<Push>> {
        self.recent.after(base)
    }

    /// Remembers the changes after `base`, all of them, that were fetched because this topic did not know the
    /// first ones.
    pub(crate) fn remember(&mut self, base: Position, changes: &[Arc<Push>]) {
        self.recent.add_older(base, changes);
    }

    /// The changes after `base`, if every one of them is known with its own position. A session that received
    /// changes from another gateway needs this: it may have received a change, at its own position, that this
    /// gateway only knows as a difference.
    pub(crate) fn exact_since(&self, base: Position) -> Option<Vec<Arc<Push>>> {
        let pushes = self.since(base).filter(|_| self.recent.is_exact_after(base))?;
        if pushes.iter().any(|push| push.is_difference()) { None } else { Some(pushes) }
    }

    /// The instances that were written after `rev`, as updates. For a group that is so far behind that the
    /// events are not known any more.
    pub(crate) fn written_after(&self, rev: Revision) -> Vec<Arc<Push>> {
        let Some(key) = &self.key else { return Vec::new() };
        let mut newer: Vec<&Entry> = self.instances.values().filter(|entry| entry.mod_rev > rev).collect();
        newer.sort_by_key(|entry| entry.mod_rev);
        let mut pushes = Vec::with_capacity(newer.len());
        for entry in newer {
            let instance = entry.instance.clone();
            pushes.push(Arc::new(Push::difference(self.id, self.at, Action::Update, key.clone(), instance)));
        }
        pushes
    }

    /// True if an event whose predecessor is `prev` can be applied now.
    fn is_next(&self, prev: Position) -> bool {
        // A new publisher does not know the provider's last event and sends the end of a revision
        // instead. That is as good when a bookmark has covered the revision.
        prev <= self.at || (prev == Position::end_of(prev.rev) && prev <= self.quiet_until)
    }

    /// Applies held events up to the next gap.
    fn apply_held(&mut self, out: &mut Vec<Arc<Push>>) {
        while let Some(next) = self.held.first() {
            if next.at > self.at && !self.is_next(next.prev) {
                return;
            }
            let Some(event) = self.held.take_first() else { return };
            if event.at > self.at {
                self.apply(&event, out);
            }
        }
    }

    fn apply(&mut self, event: &InstanceEvent, out: &mut Vec<Arc<Push>>) {
        self.at = event.at;
        self.key = Some(event.key.clone());
        self.shortened |= event.via.shortened;
        let known_rev = self.instances.get(&event.instance.instance_id).map(|entry| entry.mod_rev);
        let mut push = Push::from_event(self.id, event);
        match (event.action, known_rev) {
            (Action::Delete, Some(known_rev)) if known_rev <= event.mod_rev => {
                self.take(&event.instance.instance_id);
            }
            (Action::Create | Action::Update, Some(known_rev)) if known_rev < event.mod_rev => {
                // A second CREATE would list the instance twice at clients that append.
                push.action = Action::Update;
                self.put(event.instance.clone(), event.mod_rev);
            }
            (Action::Create | Action::Update, None) => self.put(event.instance.clone(), event.mod_rev),
            // A snapshot has shown the change already. It is remembered without being delivered, because an
            // older snapshot that arrives later may contradict it.
            (Action::Delete, _) | (Action::Create | Action::Update, Some(_)) => {
                return self.recent.add(Arc::new(push));
            }
        }
        self.note(Arc::new(push), out);
    }

    /// Makes the known instances equal to `snapshot`, the state at `at`, except for those that changed after
    /// it. Returns the number of differences.
    fn compare(
        &mut self,
        snapshot: Vec<(Arc<Instance>, Revision)>,
        at: Position,
        out: &mut Vec<Arc<Push>>,
    ) -> u64 {
        let changed_since: HashSet<String> =
            self.recent.after(at).map(|push| push.instance.instance_id.clone()).collect();
        let in_snapshot: HashSet<&str> =
            snapshot.iter().map(|(instance, _)| instance.instance_id.as_str()).collect();
        let gone: Vec<String> = self
            .instances
            .keys()
            .filter(|id| !in_snapshot.contains(id.as_str()) && !changed_since.contains(*id))
            .cloned()
            .collect();
        let position = self.at.max(at);
        let mut differences = 0;
        for id in gone {
            let (Some(entry), Some(key)) = (self.take(&id), self.key.clone()) else { continue };
            let push = Push::difference(self.id, position, Action::Delete, key, entry.instance);
            self.note(Arc::new(push), out);
            differences += 1;
        }
        let mut newer: Vec<(Arc<Instance>, Revision)> = snapshot
            .into_iter()
            .filter(|(instance, mod_rev)| {
                self.is_news(instance, *mod_rev) && !changed_since.contains(&instance.instance_id)
            })
            .collect();
        newer.sort_by_key(|(_, mod_rev)| *mod_rev);
        for (instance, mod_rev) in newer {
            self.put(instance.clone(), mod_rev);
            let Some(key) = self.key.clone() else { continue };
            self.note(Arc::new(Push::difference(self.id, position, Action::Update, key, instance)), out);
            differences += 1;
        }
        differences
    }

    /// True if a snapshot's instance differs from the known one.
    fn is_news(&self, instance: &Arc<Instance>, mod_rev: Revision) -> bool {
        let Some(entry) = self.instances.get(&instance.instance_id) else { return true };
        // Any other revision is news, not only a later one: after a restore the right one may be earlier. It
        // may even be the same revision with other contents, so then the contents decide.
        entry.mod_rev != mod_rev || (self.origin == Origin::Restored && entry.instance != *instance)
    }

    fn note(&mut self, push: Arc<Push>, out: &mut Vec<Arc<Push>>) {
        self.recent.add(push.clone());
        out.push(push);
    }

    fn put(&mut self, instance: Arc<Instance>, mod_rev: Revision) {
        let id = instance.instance_id.clone();
        if let Some(read) = &mut self.read {
            read.put(&instance, mod_rev);
        }
        // The digest is a wrapping sum, so an instance is exchanged in it without visiting the others.
        self.digest = self.digest.wrapping_add(digest_of(&id, mod_rev));
        if let Some(old) = self.instances.insert(id.clone(), Entry { mod_rev, instance }) {
            self.digest = self.digest.wrapping_sub(digest_of(&id, old.mod_rev));
        }
    }

    fn take(&mut self, id: &str) -> Option<Entry> {
        let entry = self.instances.remove(id)?;
        if let Some(read) = &mut self.read {
            read.take(id);
        }
        self.digest = self.digest.wrapping_sub(digest_of(id, entry.mod_rev));
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
