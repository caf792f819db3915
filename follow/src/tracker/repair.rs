//! Noticing a loss and repairing it: bookmarks, resynchronisation, digests.
//!
//! Nothing is requested twice at the same time. When something must be requested while a reply is awaited, it
//! is requested again after that reply.

use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};

use super::{
    Contents, Digests, Effect, InterestRequest, ProviderContents, Slot, Subscription, Tracker,
    VERIFY_AFTER_BOOKMARKS,
};
use crate::message::Bookmark;
use crate::reply::Want;
use crate::topic::{Request, Topic};
use crate::{Cause, GroupId, Selector};

/// The losses that a bookmark has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookmarkOutcome {
    /// The number of providers and interests that are behind the bookmark. They are being requested.
    pub behind: usize,
    /// A bookmark before this one was lost, and with it perhaps events. Everything is being requested again.
    pub bookmarks_lost: bool,
}

impl Tracker {
    /// Applies a bookmark. Everything that arrived before it must have been applied already.
    pub fn on_bookmark(&mut self, bookmark: Bookmark) -> BookmarkOutcome {
        let Bookmark { rev, since, providers, consumers, tenants, by_find, .. } = bookmark;
        self.reads.advance();
        if !by_find {
            self.reads.raise_floor(rev);
        }
        // The named positions come first: what is behind them is requested, and then does not count as
        // confirmed.
        let interests_behind = self.on_last_changes(consumers, tenants);
        let behind = interests_behind + self.on_last_events(providers);
        let bookmarks_lost = self.advance(rev, since);
        BookmarkOutcome { behind, bookmarks_lost }
    }

    /// Everything in (`since`, `rev`] was published. Returns true when that shows that a bookmark was lost.
    pub(crate) fn advance(&mut self, rev: Revision, since: Revision) -> bool {
        let lost = self.bookmark.is_some_and(|previous| since > previous);
        // A publisher that has lost its seat without noticing may send a lower revision than its successor
        // did.
        let rev = self.bookmark.unwrap_or_default().max(rev);
        self.seen = self.seen.max(rev);
        self.bookmarks += 1;
        if lost {
            // Before the new bookmark is stored, because requests must start where nothing was missing.
            // Interests are requested too: their changes may be lost like events.
            self.resync(Cause::Bookmark);
        }
        self.bookmark = Some(rev);
        if !lost {
            self.verify_due(rev);
            self.tell_shown(rev);
            self.finish_leaving(rev);
            self.confirm(rev);
        }
        lost
    }

    /// Requests the providers whose last published event has not arrived. Returns their number.
    pub(crate) fn on_last_events(&mut self, providers: Vec<(ServiceRef, Position)>) -> usize {
        let mut wants = Vec::new();
        for (provider, at) in providers {
            match self.topics.get_mut(&provider) {
                None => {}
                // The reply may be older than the event.
                Some(Slot::Loading { repeat, .. }) => *repeat = true,
                Some(Slot::Live(topic)) => {
                    let is_behind = topic.at() < at;
                    if is_behind && !topic.request.repeat_if_pending() {
                        topic.note_bookmark(self.bookmark.unwrap_or_default());
                        self.reads.touch(&provider);
                        wants.push(request_replay(topic, provider));
                    }
                }
            }
        }
        let behind = wants.len();
        self.push_replay(Cause::Bookmark, wants);
        behind
    }

    /// Requests the interests whose last published change has not arrived. Returns their number.
    pub(crate) fn on_last_changes(
        &mut self,
        consumers: Vec<(ServiceRef, Position)>,
        tenants: Vec<(Tenant, Position)>,
    ) -> usize {
        let mut published: Vec<(GroupId, Position)> = Vec::new();
        for (consumer, at) in consumers {
            if let Some(id) = self.by_selector.get(&Selector::Consumer(consumer)) {
                published.push((*id, at));
            }
        }
        for (tenant, at) in tenants {
            for (id, group) in &self.groups {
                if group.selector.tenant_of_changes() == Some(&tenant) {
                    published.push((*id, at));
                }
            }
        }
        let mut behind = 0;
        for (id, at) in published {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if let InterestRequest::Pending { kept, repeat } = &mut group.request {
                // A kept change that is as late proves that this one is not missing.
                *repeat |= kept.iter().all(|change| change.at < at);
            } else if group.interest_position() < at {
                behind += 1;
                self.reads.touch_group(id);
                self.effects.push(group.request_interest(id));
            }
        }
        behind
    }

    /// Verifies the subscriptions that are due: requests once more the state that was fetched right after a
    /// (re)subscription. The replica that answered may have lagged behind the publisher, so an event that was
    /// published before the subscription took effect could be in neither. By now it is known how far an
    /// answer has to reach.
    fn verify_due(&mut self, rev: Revision) {
        let mut wants = Vec::new();
        while let Some((due, _)) = self.unverified.front()
            && *due <= self.bookmarks
        {
            let Some((_, subscription)) = self.unverified.pop_front() else { break };
            match subscription {
                Subscription::Topic(provider, id) => {
                    // A topic that is loading again gets an entry of its own when it has loaded.
                    let Some(Slot::Live(topic)) = self.topics.get_mut(&provider) else { continue };
                    if topic.id != id {
                        continue;
                    }
                    topic.verified = true;
                    self.reads.touch(&provider);
                    if !topic.request.repeat_if_pending() && topic.at().whole() < rev {
                        wants.push(request_replay(topic, provider));
                    }
                }
                Subscription::Group(id) => {
                    let Some(group) = self.groups.get_mut(&id) else { continue };
                    group.verified = true;
                    self.reads.touch_group(id);
                    if !group.request.repeat_if_pending() && group.interest_rev.unwrap_or_default() < rev {
                        self.effects.push(group.request_interest(id));
                    }
                }
            }
        }
        self.push_replay(Cause::Again, wants);
    }

    /// Messages may have been lost: requests everything again.
    pub fn resync(&mut self, cause: Cause) {
        self.reads.touch_all();
        self.resync_topics(cause);
        self.mark_unverified();
        for (id, group) in &mut self.groups {
            if !group.request.repeat_if_pending() {
                self.effects.push(group.request_interest(*id));
            }
        }
    }

    /// Schedules the verification of every subscription that has begun. This replaces the schedule so far, which
    /// it contains. One that is beginning gets an entry of its own with its first reply.
    pub(super) fn mark_unverified(&mut self) {
        let due = self.bookmarks + VERIFY_AFTER_BOOKMARKS;
        self.unverified.clear();
        for (provider, slot) in &mut self.topics {
            if let Slot::Live(topic) = slot {
                topic.verified = false;
                self.unverified.push_back((due, Subscription::Topic(provider.clone(), topic.id)));
            }
        }
        for (id, group) in &mut self.groups {
            group.verified = false;
            if group.interest_rev.is_some() {
                self.unverified.push_back((due, Subscription::Group(*id)));
            }
        }
    }

    fn resync_topics(&mut self, cause: Cause) {
        let mut wants = Vec::new();
        for (provider, slot) in &mut self.topics {
            match slot {
                // The reply under way may be older than the loss.
                Slot::Loading { repeat, .. } => *repeat = true,
                Slot::Live(topic) => {
                    topic.note_bookmark(self.bookmark.unwrap_or_default());
                    if !topic.request.repeat_if_pending() {
                        wants.push(request_replay(topic, provider.clone()));
                    }
                }
            }
        }
        self.push_replay(cause, wants);
    }

    pub(super) fn push_replay(&mut self, cause: Cause, wants: Vec<Want>) {
        if !wants.is_empty() {
            self.effects.push(Effect::RequestReplay(cause, wants));
        }
    }

    /// The digests of all topics at rest, and all consumers, to be compared by a replica.
    pub fn digests(&self) -> Digests {
        let mut topics = Vec::with_capacity(self.topics.len());
        for (provider, slot) in &self.topics {
            // A topic with a request under way is known to differ.
            if let Slot::Live(topic) = slot
                && topic.request.is_idle()
            {
                topics.push((provider.clone(), topic.digest()));
            }
        }
        let mut consumers = Vec::new();
        for (id, group) in &self.groups {
            if let Selector::Consumer(consumer) = &group.selector {
                consumers.push((*id, consumer.clone()));
            }
        }
        Digests { topics, consumers }
    }

    /// A copy of everything that is followed. It clones references to the instances, not the instances.
    pub fn contents(&self) -> Contents {
        let mut providers = Vec::with_capacity(self.topics.len());
        for (service, slot) in &self.topics {
            let Slot::Live(topic) = slot else { continue };
            providers.push(ProviderContents {
                service: service.clone(),
                key: topic.key().cloned(),
                instances: topic.instances().map(|(instance, rev)| (instance.clone(), rev)).collect(),
            });
        }
        Contents { revision: self.confirmed(), providers }
    }

    /// A replica's digests of these providers differ from the ones that were sent. Those that have not
    /// changed since are compared in full.
    pub fn on_differing(&mut self, differing: Vec<(ServiceRef, u64)>) {
        let mut wants = Vec::new();
        for (provider, sent_digest) in differing {
            if let Some(Slot::Live(topic)) = self.topics.get_mut(&provider)
                && topic.digest() == sent_digest
                && topic.request.is_idle()
            {
                topic.request = Request::Pending;
                self.reads.touch(&provider);
                // From `at`, not from `complete_to`: the snapshot must be compared with what has been
                // applied.
                wants.push(Want { since: topic.at(), provider, snapshot: true });
            }
        }
        self.push_replay(Cause::Digest, wants);
    }
}

/// Marks a topic as being requested. Returns the want.
pub(super) fn request_replay(topic: &mut Topic, provider: ServiceRef) -> Want {
    topic.request = Request::Pending;
    Want { provider, since: topic.complete_to(), snapshot: false }
}
