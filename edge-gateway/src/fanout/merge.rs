//! The pending pushes of a slow watcher, merged: one per instance, the newest.
//!
//! They are bounded by the number of distinct instances, whatever happens while the watcher does not read.
//! They keep the order of each instance's last change, so within a provider the order of revisions.
//!
//! A merged push waits behind pushes of later changes than its own first one. None of these may confirm that first
//! change, or a client that breaks off between them and resumes would miss it. The same holds for a *life*: changes of
//! an instance that cancelled each other. Until a bookmark covers its end, nothing may confirm its beginning, because a
//! client that resumes between the two is sent the end alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use shared::event::Action;
use shared::model::Revision;

use crate::push::Push;

/// The most lives that are remembered one by one. Beyond them the two oldest count as one, which only confirms less.
const MOST_LIVES: usize = 256;

/// The merged pushes of one watcher.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// The place of the pending push, by topic and instance.
    places: HashMap<(u32, String), u64>,
    order: BTreeMap<u64, Pending>,
    /// In the order of their revisions. None overlaps another.
    lives: VecDeque<Life>,
    next: u64,
    /// The highest revision that a bookmark or a push has confirmed to the watcher, or that was left out before it was
    /// merging. Nothing lower is confirmed afterwards.
    told: Revision,
}

/// Changes of an instance that was not there before, and is not there after them. The watcher is told nothing of it.
#[derive(Debug)]
struct Life {
    first: Revision,
    last: Revision,
}

/// One or more changes of an instance that the watcher has not been sent.
#[derive(Debug)]
struct Pending {
    /// The revision of the first of them.
    first: Revision,
    /// The push of the last of them.
    push: Arc<Push>,
    /// The action of all of them together.
    action: Action,
}

impl Pending {
    /// The revision that the push would confirm if it was not merged.
    fn claim(&self) -> Revision {
        self.push.resume_point().unwrap_or(self.push.at.rev)
    }
}

impl Merged {
    /// Nothing pending yet. Bookmarks up to revision `told` say nothing new to the watcher.
    pub(crate) fn new(told: Revision) -> Self {
        Self { told, ..Self::default() }
    }

    /// Adds a push; true if it was merged into one that was pending.
    pub(crate) fn add(&mut self, push: &Arc<Push>) -> bool {
        // The topic belongs to the key, because two providers may use the same instance id.
        let id = (push.topic, push.instance.instance_id.clone());
        let pending = self.places.remove(&id).and_then(|place| self.order.remove(&place));
        let (first, action) = match &pending {
            None => (push.at.rev, Some(push.action)),
            Some(before) => (before.first.min(push.at.rev), merge(before.action, push.action)),
        };
        match action {
            Some(action) => {
                // The newest change moves to the end, as its revision demands: watchers receive revisions in order.
                self.order.insert(self.next, Pending { first, push: push.clone(), action });
                self.places.insert(id, self.next);
                self.next += 1;
            }
            None => self.remember(Life { first, last: push.at.rev }),
        }
        pending.is_some()
    }

    fn remember(&mut self, mut life: Life) {
        // Those that overlap become one: a client that resumes before one of them must not be within another. Pushes of
        // different providers do not always come in the order of their revisions.
        self.lives.retain(|other| {
            let is_apart = other.last < life.first || life.last < other.first;
            if !is_apart {
                life.first = life.first.min(other.first);
                life.last = life.last.max(other.last);
            }
            is_apart
        });
        let place = self.lives.partition_point(|other| other.first < life.first);
        self.lives.insert(place, life);
        if self.lives.len() > MOST_LIVES
            && let Some(oldest) = self.lives.pop_front()
            && let Some(next) = self.lives.front_mut()
        {
            next.first = oldest.first;
        }
    }

    /// The latest revision that the pushes which are pending now may confirm. Looks at each of them.
    pub(crate) fn limit(&self) -> Revision {
        let first = self.order.values().map(|pending| pending.first).min().unwrap_or_default();
        first.previous()
    }

    /// Notes that a revision was confirmed to the watcher.
    fn confirm(&mut self, rev: Revision) {
        self.told = self.told.max(rev);
        // Only what was confirmed: pushes of a group that is behind confirm nothing, and its bookmarks are lower than theirs.
        self.lives.retain(|life| life.last > self.told);
    }

    /// True when nothing is pending, and a bookmark of revision `confirmed` has covered the end of each life. Only
    /// then may the watcher be sent again what confirms a revision of its own.
    pub(crate) fn is_settled(&mut self, confirmed: Revision) -> bool {
        if self.order.is_empty() {
            self.lives.retain(|life| life.last > confirmed);
        }
        self.order.is_empty() && self.lives.is_empty()
    }

    /// The revision of the bookmark that the watcher may be sent in the place of one of revision `confirmed`. `None` while
    /// pushes are pending, and when it says nothing new.
    pub(crate) fn bookmark(&mut self, confirmed: Revision) -> Option<Revision> {
        let life = self.lives.front().filter(|life| life.first <= confirmed);
        let rev = life.map_or(confirmed, |life| life.first.previous());
        let is_due = self.order.is_empty() && rev > self.told;
        is_due.then(|| {
            self.confirm(rev);
            rev
        })
    }

    /// Takes the oldest pending push, the action to send it with, and the revision that it confirms then: at most
    /// `limit`, which [`Merged::limit`] has told since the last push was added.
    pub(crate) fn pop(&mut self, limit: Revision) -> Option<(Arc<Push>, Action, Revision)> {
        let (_, pending) = self.order.pop_first()?;
        let claim = pending.claim().min(limit);
        let life = self.lives.iter().find(|life| life.first <= claim && claim < life.last);
        let confirmed = life.map_or(claim, |life| life.first.previous());
        self.confirm(confirmed);
        let Pending { push, action, .. } = pending;
        self.places.remove(&(push.topic, push.instance.instance_id.clone()));
        Some((push, action, confirmed))
    }

    /// The number of pending pushes.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

/// The sum of two changes of one instance; `None` when the watcher need not know of either.
fn merge(before: Action, after: Action) -> Option<Action> {
    match (before, after) {
        // The watcher was never sent the create, so it must not be sent the delete.
        (Action::Create, Action::Delete) => None,
        (Action::Create, Action::Create | Action::Update) => Some(Action::Create),
        // The delete was never sent: for the watcher the instance is still there, and has changed.
        (Action::Update | Action::Delete, Action::Create | Action::Update) => Some(Action::Update),
        (Action::Update | Action::Delete, Action::Delete) => Some(Action::Delete),
    }
}

#[cfg(test)]
pub(in crate::fanout) mod tests;
