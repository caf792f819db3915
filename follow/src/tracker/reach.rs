//! The groups that a change concerns, for the proof that all of their watchers have been given it.

use std::sync::Arc;

use shared::event::Action;
use shared::model::{Revision, ServiceKey, ServiceRef};

use super::{Group, Slot, Tracker};
use crate::topic::Known;
use crate::{GroupId, Push};

/// The groups that a change concerns.
#[derive(Debug)]
pub enum Reach {
    /// The change has perhaps not been delivered yet.
    NotYet,
    /// No group follows the provider.
    Nobody,
    /// The change has been delivered to these groups.
    Groups(ReachedGroups),
}

/// The groups that follow a provider.
#[derive(Debug)]
pub struct ReachedGroups {
    /// The number of the topic.
    pub topic: u32,
    /// The provider's name.
    pub key: Arc<ServiceKey>,
    /// Each group, and whether the provider came into its interest only after the change: then the change
    /// was not delivered to it.
    pub groups: Vec<(GroupId, bool)>,
    /// The present state of the instances in question, as an update of each.
    pub state: Vec<Arc<Push>>,
    /// Some of the instances are not there any more, so `state` does not tell of them.
    pub incomplete: bool,
}

impl Tracker {
    /// The groups that a change of the provider concerns, which was committed after `after` and is contained
    /// in `rev`. `instances` are those that it is about.
    pub fn reach(
        &self,
        provider: &ServiceRef,
        after: Revision,
        rev: Revision,
        instances: &[String],
    ) -> Reach {
        let bookmark = self.bookmark.unwrap_or_default();
        // No interest that began before may be on its way, whose groups the change would concern, and no departure.
        if bookmark < rev || self.groups.values().any(|group| group.may_lack(provider, rev, bookmark)) {
            return Reach::NotYet;
        }
        let topic = match self.topics.get(provider) {
            None => return Reach::Nobody,
            Some(Slot::Loading { .. }) => return Reach::NotYet,
            Some(Slot::Live(topic)) if topic.known_to(bookmark) < rev => return Reach::NotYet,
            Some(Slot::Live(topic)) => topic,
        };
        let Some(key) = topic.key().cloned() else { return Reach::NotYet };
        let mut groups = Vec::with_capacity(topic.members.len());
        for (group, member) in &topic.members {
            // A group whose interest the provider has left is not concerned any more.
            if member.until.is_none() && member.known == Known::Followed {
                let is_late = member.catching_up || member.followed_after.rev > after;
                groups.push((*group, is_late));
            }
        }
        let state: Vec<Arc<Push>> =
            instances.iter().filter_map(|id| topic.state_of(id, &key)).map(Arc::new).collect();
        let incomplete = state.len() < instances.len();
        Reach::Groups(ReachedGroups { topic: topic.id, key, groups, state, incomplete })
    }
}

impl Group {
    /// True when it is not known whether a provider was in the interest at `rev`, or when the group may not have
    /// been told that it is not any more.
    fn may_lack(&self, provider: &ServiceRef, rev: Revision, bookmark: Revision) -> bool {
        if self.leaving.get(provider).is_some_and(|leaving| leaving.until <= rev) {
            return true;
        }
        match self.interest_rev {
            // Its sessions have not begun. They begin with what a replica answers that has reached `rev`, or with
            // changes that are still to be delivered.
            None => self.asked_at < rev,
            Some(_) => self.interest_known_to(bookmark) < rev,
        }
    }
}

impl crate::topic::Topic {
    /// The present state of an instance, as an update of it.
    fn state_of(&self, id: &str, key: &Arc<ServiceKey>) -> Option<Push> {
        let (instance, mod_rev) = self.instance(id)?;
        let at = shared::event::Position::first_of(mod_rev);
        Some(Push::difference(self.id, at, Action::Update, key.clone(), instance.clone()))
    }
}
