//! How a loss is noticed and made up for: bookmarks, what they name, resyncs, digests.
//!
//! Nothing is asked twice at once. What is asked for while an answer is under way is asked for again after it.

use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};

use super::{Core, Digests, Effect, Group, SETTLED_AFTER, Slot, Unsettled, Want};
use crate::upstream::topic::Topic;
use crate::upstream::{Cause, Selector, Standing};
use crate::watch::GroupId;

impl Core {
    /// The publisher's progress: everything in (since, rev] was published. True when that shows a loss.
    pub(crate) fn on_bookmark(&mut self, rev: Revision, since: Revision) -> bool {
        let lost = self.bookmark.is_some_and(|known| since > known);
        // Who has lost the seat and has not noticed says less than was heard before.
        let rev = self.bookmark.unwrap_or(0).max(rev);
        self.seen = self.seen.max(rev);
        self.bookmarks += 1;
        if lost {
            // Changes of interest are lost with the events. This asks for all that was to be settled, too, from where
            // it was certain before.
            self.resync(Cause::Bookmark);
        }
        self.bookmark = Some(rev);
        if !lost {
            self.settle(rev);
            self.leave(rev);
            if self.is_settled() {
                self.told = self.told.max(rev);
            }
        }
        lost
    }

    /// How far providers, interests and tenants' services have come, says the publisher. Asks for those that are behind; how many.
    pub(crate) fn on_reached(
        &mut self,
        providers: impl Iterator<Item = (ServiceRef, Position)>,
        consumers: impl Iterator<Item = (ServiceRef, Position)>,
        tenants: impl Iterator<Item = (Tenant, Position)>,
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
                    topic.heard(self.bookmark.unwrap_or(0));
                    wanted.push(ask(topic, provider));
                }
            }
        }
        let consumers = consumers
            .filter_map(|(consumer, at)| Some((*self.by_selector.get(&Selector::Consumer(consumer))?, at)));
        let mut told: Vec<(GroupId, Position)> = consumers.collect();
        for (tenant, at) in tenants {
            let of = |group: &Group| group.selector.scope().is_some_and(|scope| scope.tenant == tenant);
            told.extend(self.groups.iter().filter(|(_, group)| of(group)).map(|(id, _)| (*id, at)));
        }
        for (id, at) in told {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            match &group.asking {
                Some(kept) => group.again |= kept.iter().all(|change| change.at < at),
                None if group.known() >= at => {}
                None => {
                    behind += 1;
                    self.effects.push(group.ask(id));
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
                    Some(Slot::Live(topic)) => {
                        topic.settled = true;
                        if topic.asking {
                            topic.again = true;
                        } else if topic.at().whole() < rev {
                            wanted.push(ask(topic, provider));
                        }
                    }
                },
                Unsettled::Group(id) => {
                    let Some(group) = self.groups.get_mut(&id) else { continue };
                    group.settled = true;
                    if group.asking.is_some() {
                        group.again = true;
                    } else if group.confirmed < rev {
                        self.effects.push(group.ask(id));
                    }
                }
            }
        }
        if !wanted.is_empty() {
            self.effects.push(Effect::Replay(Cause::Again, wanted));
        }
    }

    /// Messages may have been lost: everything is asked for again.
    pub(crate) fn resync(&mut self, cause: Cause) {
        self.resync_topics(cause);
        self.unsettle();
        for (id, group) in &mut self.groups {
            if group.asking.is_some() {
                group.again = true;
            } else {
                self.effects.push(group.ask(*id));
            }
        }
    }

    /// All is to be asked for once more. Whatever waited for that already is among it.
    pub(super) fn unsettle(&mut self) {
        for slot in self.topics.values_mut() {
            if let Slot::Live(topic) = slot {
                topic.settled = false;
            }
        }
        self.groups.values_mut().for_each(|group| group.settled = false);
        let due = self.bookmarks + SETTLED_AFTER;
        let topics = self.topics.keys().cloned().map(Unsettled::Topic);
        let groups = self.groups.keys().copied().map(Unsettled::Group);
        self.unsettled = topics.chain(groups).map(|it| (due, it)).collect();
    }

    fn resync_topics(&mut self, cause: Cause) {
        let mut wanted = Vec::new();
        for (provider, slot) in &mut self.topics {
            match slot {
                // The answer under way may be older than what was lost.
                Slot::Loading { again, .. } => *again = true,
                Slot::Live(topic) => {
                    topic.heard(self.bookmark.unwrap_or(0));
                    if topic.asking {
                        topic.again = true;
                    } else {
                        wanted.push(ask(topic, provider.clone()));
                    }
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
            Selector::Providers(_) | Selector::Scope(_) => None,
        });
        Digests { entries: live.collect(), consumers: consumers.collect() }
    }

    /// What is known here, for comparison with others: cheap copies, made into text elsewhere.
    pub(crate) fn standing(&self) -> Standing {
        let live = self.topics.iter().filter_map(|(provider, slot)| match slot {
            Slot::Live(topic) => Some(Standing::of(provider, topic)),
            Slot::Loading { .. } => None,
        });
        Standing { revision: self.told, providers: live.collect() }
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
}

impl Group {
    /// Its interest is asked for from now on; what is to be done for that.
    pub(super) fn ask(&mut self, id: GroupId) -> Effect {
        self.asking = Some(Vec::new());
        Effect::AskInterest(id, self.selector.clone())
    }
}

/// A provider's changes are asked for from now on; what is wanted of it.
pub(super) fn ask(topic: &mut Topic, provider: ServiceRef) -> Want {
    topic.asking = true;
    Want { provider, since: topic.certain(), snapshot: false }
}
