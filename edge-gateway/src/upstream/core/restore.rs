//! The store was restored from a backup: its revisions begin again at an earlier one.
//!
//! Everything that orders is of a history that was undone, so all of it is forgotten: positions, bookmarks, how
//! far interests are known. What watchers were told stays, so that they are told the difference.

use std::collections::HashMap;

use shared::event::Position;
use shared::model::Revision;

use super::{Core, Effect, Slot, Want};
use crate::watch::Cause;

impl Core {
    /// The store has gone back to `rev`. Questions that are under way are of no use any more: who asks them drops
    /// them, all that is needed is asked again.
    pub(crate) fn restore(&mut self, rev: Revision) {
        (self.seen, self.told, self.bookmark) = (rev, 0, None);
        self.unsettle();
        for (id, group) in &mut self.groups {
            (group.leaving, group.left) = (HashMap::new(), HashMap::new());
            group.departed = None;
            (group.asking, group.again) = (Some(Vec::new()), false);
            (group.changed, group.covered) = (Position::default(), 0);
            let selector = group.selector.clone();
            self.effects.push(match group.confirmed {
                0 => Effect::OpenInterest(*id, selector),
                _ => Effect::AskInterest(*id, selector),
            });
            // Earlier than anything that is committed from now on.
            group.confirmed = group.confirmed.min(1);
        }
        let (mut opened, mut asked) = (Vec::new(), Vec::new());
        for (provider, slot) in &mut self.topics {
            let want = Want { provider: provider.clone(), since: Position::default(), snapshot: true };
            match slot {
                Slot::Loading { since, members, again, .. } => {
                    *since = Position::default();
                    *again = false;
                    members.values_mut().for_each(|base| *base = Position::default());
                    opened.push(want);
                }
                Slot::Live(topic) => {
                    topic.restore();
                    asked.push(want);
                }
            }
        }
        if !opened.is_empty() {
            self.effects.push(Effect::OpenTopics(opened));
        }
        if !asked.is_empty() {
            self.effects.push(Effect::Replay(Cause::Restored, asked));
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::model::{ServiceRef, Tenant};

    use super::*;
    use crate::upstream::core::Interest;
    use crate::watch::Selector;

    #[test]
    fn what_was_certain_of_the_history_before_counts_for_nothing_in_the_next() {
        let mut core = Core::new(1);
        let consumer = ServiceRef::new(Tenant::default(), "c");
        let id = core.join(&Selector::Consumer(consumer)).0;
        let answer = |rev| Interest { exists: true, rev, providers: Vec::new() };
        core.on_interest(id, answer(20));
        (20..24).for_each(|rev| _ = core.on_bookmark(rev, 20));
        core.on_interest(id, answer(23));
        core.restore(10);
        core.on_interest(id, answer(10));
        core.on_bookmark(15, 10);
        assert!(core.preface(id, 14, &HashMap::new()).is_none(), "the answer may be older than 14");
        core.hasten(id, 14);
        core.on_interest(id, answer(15));
        assert!(core.preface(id, 14, &HashMap::new()).is_some());
    }
}
