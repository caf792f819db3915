//! A store that was restored from a backup: its revisions begin again at an earlier one.
//!
//! Everything that orders belongs to a history that was undone, so all of it is forgotten: positions,
//! bookmarks, how far interests are known. The instances that watchers have received stay, so that the
//! differences are delivered.

use shared::event::Position;
use shared::model::Revision;

use super::{Effect, InterestRequest, Slot, Tracker};
use crate::Cause;
use crate::reply::Want;

impl Tracker {
    /// The store has gone back to `rev`. The caller drops every request that is under way: their replies are
    /// of the old history. Everything that is needed is requested again.
    pub fn restore(&mut self, rev: Revision) {
        self.seen = rev;
        self.confirmed = Revision::ZERO;
        self.behind = self.groups.keys().copied().collect();
        self.bookmark = None;
        self.mark_unverified();
        self.reads.restore();
        // Departures that are still due are told with the states of the new history.
        self.awaited.clear();
        for (id, group) in &mut self.groups {
            group.leaving.clear();
            group.delivered_before_leaving.clear();
            group.gone_lately.clear();
            group.departures = None;
            group.request = InterestRequest::begin();
            group.last_change = Position::default();
            group.interest_complete_to = Revision::ZERO;
            group.unchanged_since = None;
            group.confirmed = Revision::ZERO;
            group.asked_at = rev;
            let selector = group.selector.clone();
            self.effects.push(match group.interest_rev {
                // The request that was dropped would have subscribed as well.
                None => Effect::OpenInterest(*id, selector),
                Some(_) => Effect::RequestInterest(*id, selector),
            });
            // The group stays open. Revision 1 precedes everything that will be committed.
            group.interest_rev = group.interest_rev.map(|_| Revision::new(1));
        }
        let mut to_open = Vec::new();
        let mut to_request = Vec::new();
        for (provider, slot) in &mut self.topics {
            let want = Want { provider: provider.clone(), since: Position::default(), snapshot: true };
            match slot {
                Slot::Loading { since, members, repeat, .. } => {
                    *since = Position::default();
                    *repeat = false;
                    for waiting in members.values_mut() {
                        waiting.base = Position::default();
                        waiting.shown = waiting.shown.map(|_| Revision::ZERO);
                    }
                    to_open.push(want);
                }
                Slot::Live(topic) => {
                    topic.restore();
                    to_request.push(want);
                }
            }
        }
        if !to_open.is_empty() {
            self.effects.push(Effect::OpenTopics(to_open));
        }
        self.push_replay(Cause::Restored, to_request);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use shared::model::{ServiceRef, Tenant};

    use super::*;
    use crate::Selector;
    use crate::reply::InterestReply;

    #[test]
    fn confirmation_of_the_undone_history_does_not_count() {
        let mut tracker = Tracker::new(1);
        let consumer = ServiceRef::new(Tenant::default(), "c");
        let id = tracker.join(&Selector::Consumer(consumer)).0;
        let interest_at =
            |rev| InterestReply { exists: true, rev: Revision::new(rev), ..InterestReply::default() };
        tracker.on_interest(id, interest_at(20));
        for rev in 20..24 {
            tracker.advance(Revision::new(rev), Revision::new(20));
        }
        tracker.on_interest(id, interest_at(23));
        tracker.restore(Revision::new(10));
        tracker.on_interest(id, interest_at(10));
        tracker.advance(Revision::new(15), Revision::new(10));
        let since = Revision::new(14);
        assert!(tracker.preface(id, since, &HashMap::new()).is_none(), "the reply may be older than 14");
        tracker.verify_now(id, since);
        tracker.on_interest(id, interest_at(15));
        assert!(tracker.preface(id, since, &HashMap::new()).is_some());
    }
}
