//! Replies of the control plane, on their way to the tracker.

use std::sync::atomic::Ordering;

use bus::Messages;
use follow::reply::InterestReply;
use follow::tracker::Digests;
use futures_util::{FutureExt as _, StreamExt as _};
use shared::model::Revision;
use tracing::{debug, info};

use super::Upstream;
use super::inbox::{Decoded, Source, tagged};
use super::request::Reply;
use super::requester::{Comparison, RequestError};
use crate::watch::GroupId;

impl Upstream {
    /// Applies a reply. Returns the revision to which the store has gone back, if the reply proves that it
    /// has.
    pub(super) fn on_reply(&mut self, reply: Reply) -> Option<Revision> {
        match reply {
            Reply::Bookmarks(messages) => {
                self.bookmarks = Some(messages);
                let is_connected = self.resources.requester.bus.link().borrow().connected;
                self.joined.send_replace(is_connected);
                info!("joined the bus");
            }
            Reply::Interest(group, messages, interest) => self.on_interest(group, messages, interest),
            Reply::TopicsOpened(opened) => {
                for (want, messages, replay) in opened {
                    if self.tracker.on_loaded(&want.provider, want.since, replay) {
                        let (stream, subscription) = tagged(messages, Source::Event);
                        self.messages.push(stream);
                        // A topic that was closed and opened again before this reply has two subscriptions
                        // for a moment.
                        if let Some(old) = self.topics.insert(want.provider, subscription) {
                            old.abort();
                        }
                    }
                }
            }
            Reply::Replay(replays) => {
                for (want, replay) in replays {
                    let differences = self.tracker.on_replay(&want.provider, want.since, replay);
                    self.metrics.repaired(differences);
                }
            }
            Reply::CaughtUp(group, provider, replay) => self.tracker.on_caught_up(group, &provider, replay),
            Reply::MissedEvents(request, replays) => self.resumes.on_events(request, replays),
            Reply::Departures(group, departures) => {
                self.resumes.on_departures(group, Some(departures), &mut self.tracker);
            }
            Reply::ResumeRevision(rev) => self.resumes.on_store_revision(rev),
            Reply::ConfirmRestore { store, seen } => return self.judge_restore(store, seen),
            Reply::Compared(digests, comparison) => self.on_compared(&digests, comparison),
        }
        None
    }

    fn on_interest(&mut self, group: GroupId, messages: Option<Messages>, interest: InterestReply) {
        if let Some(messages) = messages {
            // The group has ended. Dropping the messages unsubscribes.
            if !self.tracker.has(group) {
                return;
            }
            self.take_subscription(group, messages);
        }
        if self.tracker.refuse_too_many(group, &interest, self.config.topics) {
            return;
        }
        // Before the group's first session is admitted: a read that follows must include everything that the
        // session is not sent because it was committed before.
        self.pushed.fetch_max(interest.rev.get(), Ordering::Relaxed);
        self.tracker.on_interest(group, interest);
    }

    /// Takes over the subscription with which a group's interest was opened.
    fn take_subscription(&mut self, group: GroupId, mut messages: Messages) {
        let is_of_consumer =
            self.tracker.selector(group).is_some_and(|selector| selector.tenant_of_changes().is_none());
        if is_of_consumer {
            let (stream, subscription) = tagged(messages, Source::Interest(group));
            self.messages.push(stream);
            self.interests.insert(group, subscription);
        } else if let Some(tenant) = self.feeds.lacking(group) {
            let (stream, subscription) = tagged(messages, Source::Services(tenant.clone()));
            self.messages.push(stream);
            self.feeds.subscribed(&tenant, subscription);
        } else {
            // Another group was faster, and its subscription serves this one too. It may have begun after
            // this group's request was answered; what was published in between has arrived here only.
            while let Some(Some(message)) = tokio::task::unconstrained(messages.next()).now_or_never() {
                if let Some(Decoded::Interest(group, change)) =
                    self.decode(&Source::Interest(group), &message)
                {
                    self.tracker.on_interest_change(group, change);
                }
            }
        }
    }

    fn on_compared(&mut self, digests: &Digests, comparison: Result<Comparison, RequestError>) {
        let comparison = match comparison {
            Ok(comparison) => comparison,
            Err(error) => return debug!(%error, "no replica compared its digests with this gateway's"),
        };
        // An index beyond the list would be a replica's mistake, and is ignored.
        let differing = comparison.differing.iter().filter_map(|index| digests.topics.get(*index as usize));
        self.tracker.on_differing(differing.cloned().collect());
        for index in comparison.gone_consumers {
            if let Some((group, _)) = digests.consumers.get(index as usize) {
                self.tracker.on_consumer_gone(*group);
            }
        }
    }
}
