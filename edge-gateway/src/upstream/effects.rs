//! Carrying out the tracker's effects: pushes for the shards, and requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use follow::Effect;
use follow::reply::Want;

use super::Upstream;
use super::request::Request;
use crate::close::Reason;
use crate::fanout::ToShard;
use crate::push::Push;
use crate::trace;
use crate::watch::{Cause, Full, GroupId};

impl Upstream {
    pub(super) async fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver(push, groups) => self.deliver(push, groups).await,
            Effect::EndGroup(group) => {
                for shard in &self.shards {
                    shard.send(ToShard::End { group, reason: Reason::NoService }).await;
                }
            }
            Effect::OpenInterest(group, selector) => {
                let is_subscribed =
                    selector.tenant_of_changes().is_some_and(|tenant| self.feeds.add(group, tenant));
                self.start_interest(
                    group,
                    if is_subscribed {
                        Request::Interest { group, selector, known_at: None, jitter: Duration::ZERO }
                    } else {
                        Request::OpenInterest(group, selector)
                    },
                );
            }
            Effect::RequestInterest(group, selector) => {
                let jitter = self.config.resync_jitter;
                let known_at = self.tracker.interest_known_at(group);
                self.start_interest(group, Request::Interest { group, selector, known_at, jitter });
            }
            Effect::GroupOpened(group) => {
                self.holds.opened(group, Ok(()));
                for (admission, joined) in self.opening.remove(&group).into_iter().flatten() {
                    // A session that has stopped waiting is released by the shard after a while.
                    let _ = admission.send(Ok(joined));
                }
            }
            Effect::RefuseGroup(group) => self.refuse(group, Full::Topics).await,
            Effect::CloseInterest(group) => {
                self.names.free(group);
                self.holds.ended(group);
                self.feeds.remove(group);
                if let Some(subscription) = self.interests.remove(&group) {
                    subscription.abort();
                }
                // Its reply would only be dropped, and a retry against an absent control plane would go on
                // for ever.
                if let Some(request) = self.interest_requests.remove(&group) {
                    request.abort();
                }
            }
            Effect::OpenTopics(wants) => {
                for wants in batches(wants, self.config.replay_batch) {
                    self.start(Request::OpenTopics(wants));
                }
            }
            Effect::CloseTopic(provider) => {
                if let Some(subscription) = self.topics.remove(&provider) {
                    subscription.abort();
                }
            }
            Effect::RequestReplay(cause, wants) => {
                self.metrics.resync(cause, wants.len() as u64);
                let jitter = match cause {
                    // One provider lacks one event, and its watchers wait. Nothing makes other gateways ask
                    // now too.
                    Cause::Gap => Duration::ZERO,
                    Cause::Link | Cause::Bookmark | Cause::Digest | Cause::Again | Cause::Restored => {
                        self.config.resync_jitter
                    }
                };
                for wants in batches(wants, self.config.replay_batch) {
                    self.start(Request::Replay { wants, jitter });
                }
            }
            Effect::CatchUp(group, want) => self.start(Request::CatchUp(group, want)),
        }
    }

    async fn deliver(&mut self, push: Arc<Push>, groups: Vec<GroupId>) {
        // Before the shards: a client that reacts to the push must find that its read asks for this revision
        // at least.
        self.pushed.fetch_max(push.at.rev.get(), Ordering::Relaxed);
        if let Some(cause) = &push.via.trace {
            let now = self.clock.micros();
            if let Some(span) = trace::dispatched(cause, push.via.received_at, push.at.rev.get(), now) {
                push.set_dispatch_span(span);
            }
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let has_sessions = |group: &&GroupId| {
                self.tracker.sessions(**group).get(number).is_some_and(|sessions| *sessions > 0)
            };
            // Most groups have sessions in few shards. A shard without any must not be woken for every event.
            let groups: Vec<GroupId> = groups.iter().filter(has_sessions).copied().collect();
            if !groups.is_empty() {
                shard.send(ToShard::Append { push: push.clone(), groups }).await;
            }
        }
    }

    /// Starts a request whose reply comes back to [`Upstream::on_reply`].
    pub(super) fn start(&mut self, request: Request) {
        self.requests.start(request, &self.resources);
    }

    /// Starts a request about a group's interest, which is cancelled when the group ends.
    fn start_interest(&mut self, group: GroupId, request: Request) {
        let task = self.requests.start(request, &self.resources);
        self.interest_requests.insert(group, task);
    }

    /// Accounts for a request whose task panicked. Requests that are made regularly end here; the reply to
    /// any other is awaited, so the request is made again.
    pub(super) fn on_panicked(&mut self, request: Request) {
        self.metrics.retry();
        match &request {
            Request::Compare(_) => {}
            Request::ConfirmRestore { .. } => self.suspicion.unanswered(),
            Request::OpenInterest(group, _) | Request::Interest { group, .. } => {
                let group = *group;
                // The group may have ended while its task unwound.
                if self.tracker.has(group) {
                    let task = self.requests.start_again(request, &self.resources);
                    self.interest_requests.insert(group, task);
                }
            }
            Request::Bookmarks
            | Request::OpenTopics(_)
            | Request::Replay { .. }
            | Request::CatchUp(..)
            | Request::MissedEvents(..)
            | Request::Departures { .. }
            | Request::ResumeRevision => {
                self.requests.start_again(request, &self.resources);
            }
        }
    }
}

fn batches(mut wants: Vec<Want>, size: usize) -> Vec<Vec<Want>> {
    let size = size.max(1);
    let mut batches = Vec::new();
    while wants.len() > size {
        batches.push(wants.split_off(wants.len() - size));
    }
    batches.push(wants);
    batches
}
